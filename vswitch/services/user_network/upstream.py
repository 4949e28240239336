"""Queries that this machine's name servers are asked: those of /etc/resolv.conf, whatever it says at the time."""

import ipaddress
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

PORT = 53
TIMEOUT_S = 5.0
PENDING_MAX = 256
SERVERS_MAX = 3  # as resolv.conf(5) has it
RESPONSE_MAX = 65535


class _Pending(msgspec.Struct):
    own_id: bytes
    query: bytes
    answer: Callable[[bytes], None]
    until_s: float
    tried: int = 0


class Upstream:
    """One socket for all servers, IPv4 and IPv6 alike; each query has an id that others cannot guess."""

    def __init__(self, resolv_conf: str) -> None:
        self._path = resolv_conf
        self._changed: tuple[int, int] | None = None
        self._servers: list[tuple[str, int]] = []
        self._pending: dict[bytes, _Pending] = {}
        self._sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def ask(self, query: bytes, answer: Callable[[bytes], None], now_s: float) -> bool:
        """Passes a query on; `answer` is called with the response. Answers whether there was room for it."""
        self.expire(now_s)
        if len(self._pending) >= PENDING_MAX or len(query) < 12:
            return False
        number = secrets.token_bytes(2)
        while number in self._pending:
            number = secrets.token_bytes(2)
        pending = _Pending(query[:2], number + query[2:], answer, now_s + TIMEOUT_S)
        self._pending[number] = pending
        self._send(pending)
        return True

    def receive(self) -> None:
        """Hands on what has come."""
        while True:
            try:
                response, (host, port, *_) = self._sock.recvfrom(RESPONSE_MAX)
            except OSError:
                return
            if (host, port) in self._servers and (pending := self._pending.pop(response[:2], None)) is not None:
                pending.answer(pending.own_id + response[2:])

    def expire(self, now_s: float) -> None:
        for number, pending in list(self._pending.items()):
            if pending.until_s <= now_s:
                del self._pending[number]

    def _send(self, pending: _Pending) -> None:
        self._look()
        for server in self._servers:
            with suppress(OSError):
                self._sock.sendto(pending.query, server)

    def _look(self) -> None:
        with suppress(OSError):
            found = os.stat(self._path)
            changed = found.st_mtime_ns, found.st_ino
            if changed != self._changed:
                self._servers = servers(Path(self._path).read_text(errors="replace"))
                self._changed = changed


def servers(text: str) -> list[tuple[str, int]]:
    """What resolv.conf(5) names, as addresses of an IPv6 socket."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            with suppress(ValueError):
                ip = ipaddress.ip_address(words[1].partition("%")[0])
                found.append((f"::ffff:{ip}" if ip.version == 4 else str(ip), PORT))
    return found[:SERVERS_MAX] or [("::ffff:127.0.0.1", PORT)]
