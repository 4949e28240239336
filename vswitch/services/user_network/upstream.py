"""Queries that this machine's name servers are asked: those of /etc/resolv.conf, as the switch tells it."""

import ipaddress
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec

PORT = 53
TIMEOUT_S = 5.0
PENDING_MAX, PENDING_EACH_MAX = 256, 32
SERVERS_MAX = 3  # as resolv.conf(5) has it
RESPONSE_MAX = 65535


class _Pending(msgspec.Struct):
    who: bytes
    own_id: bytes
    query: bytes
    answer: Callable[[bytes], None]
    until_s: float


class Upstream:
    """One socket for all servers, IPv4 and IPv6 alike; each query has an id that others cannot guess."""

    def __init__(self, resolv_conf: str) -> None:
        self.servers = servers(resolv_conf)
        self._pending: dict[bytes, _Pending] = {}
        self._sock = _socket()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def ask(self, query: bytes, who: bytes, answer: Callable[[bytes], None], now_s: float) -> bool:
        """Passes a query on; `answer` is called with the response. Answers whether there was room for it, and for one
        more of the same station."""
        self.expire(now_s)
        same = sum(pending.who == who for pending in self._pending.values())
        if len(self._pending) >= PENDING_MAX or same >= PENDING_EACH_MAX or len(query) < 12:
            return False
        number = secrets.token_bytes(2)
        while number in self._pending:
            number = secrets.token_bytes(2)
        pending = _Pending(who, query[:2], number + query[2:], answer, now_s + TIMEOUT_S)
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
            if (host, port) in map(self._of_socket, self.servers) and (
                pending := self._pending.pop(response[:2], None)
            ) is not None:
                pending.answer(pending.own_id + response[2:])

    def expire(self, now_s: float) -> None:
        for number, pending in list(self._pending.items()):
            if pending.until_s <= now_s:
                del self._pending[number]

    def _of_socket(self, server: tuple[str, int]) -> tuple[str, int]:
        host, port = server
        return (host.removeprefix("::ffff:") if self._sock.family == socket.AF_INET else host), port

    def _send(self, pending: _Pending) -> None:
        for server in self.servers:
            with suppress(OSError):
                self._sock.sendto(pending.query, self._of_socket(server))


def _socket() -> socket.socket:
    """One for addresses of both kinds, or where the system has no IPv6, of IPv4."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    try:
        sock = socket.socket(socket.AF_INET6, kind)
    except OSError:
        return socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock


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
