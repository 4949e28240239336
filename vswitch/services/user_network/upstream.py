"""Queries that this machine's name servers are asked: those of /etc/resolv.conf, as the switch tells it.

They are asked by UDP. What has come by TCP and is answered there truncated, is asked again by TCP (RFC 7766, 5).
"""

import secrets
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from vswitch.protocols import dns
from vswitch.services.user_network.message_stream import MessageStream
from vswitch.services.user_network.resolv_conf import servers

PORT = dns.PORT
TIMEOUT_S = 5.0
PENDING_MAX, PENDING_EACH_MAX = 256, 32
STREAMS_MAX = 32


class _Pending(msgspec.Struct):
    who: bytes
    own_id: bytes
    query: bytes  # with an id that others cannot guess
    answer: Callable[[bytes], None]
    until_s: float
    by_tcp: bool

    def fail(self) -> None:
        self.answer(dns.failure(self.own_id + self.query[2:], dns.SERVFAIL))


class Upstream:
    """One socket for all servers, IPv4 and IPv6 alike, and a connection for each query that takes one."""

    def __init__(self, resolv_conf: str) -> None:
        self.servers = servers(resolv_conf)
        self._pending: dict[bytes, _Pending] = {}  # by id
        self._streams: dict[int, tuple[MessageStream, _Pending]] = {}  # by descriptor
        self._sock = _socket()

    @property
    def wanted(self) -> dict[int, int]:
        """What to wait for, by descriptor."""
        streams = {fileno: stream.events for fileno, (stream, _) in self._streams.items()}
        return streams | {self._sock.fileno(): select.POLLIN}

    def close(self) -> None:
        for stream, _ in self._streams.values():
            stream.close()
        self._streams.clear()
        self._sock.close()

    def ask(
        self, query: bytes, who: bytes, answer: Callable[[bytes], None], now_s: float, *, by_tcp: bool = False
    ) -> bool:
        """Passes a query on; `answer` is called with the response, which may be truncated unless it goes `by_tcp`.
        Answers whether there was room for it, and for one more of the same station."""
        self.expire(now_s)
        pending = [*self._pending.values(), *(pending for _, pending in self._streams.values())]
        same = sum(other.who == who for other in pending)
        if len(pending) >= PENDING_MAX or same >= PENDING_EACH_MAX or len(query) < dns.HEADER:
            return False
        number = secrets.token_bytes(2)
        while number in self._pending:
            number = secrets.token_bytes(2)
        new = _Pending(who, query[:2], number + query[2:], answer, now_s + TIMEOUT_S, by_tcp)
        self._pending[number] = new
        for address in self._addresses():
            with suppress(OSError):
                self._sock.sendto(new.query, address)
        return True

    def serve(self, ready: dict[int, int]) -> None:
        """Hands on what has come."""
        for fileno in ready.keys() & self._streams.keys():
            self._serve_stream(fileno, ready[fileno])
        if self._sock.fileno() in ready:
            self._receive()

    def expire(self, now_s: float) -> None:
        for number, pending in list(self._pending.items()):
            if pending.until_s <= now_s:
                del self._pending[number]
                if pending.by_tcp:
                    pending.fail()
        for fileno, (stream, pending) in list(self._streams.items()):
            if pending.until_s <= now_s:
                del self._streams[fileno]
                stream.close()
                pending.fail()

    def _receive(self) -> None:
        while True:
            try:
                response, address = self._sock.recvfrom(dns.MESSAGE_MAX)
            except OSError:
                return
            if response[:2] not in self._pending or address not in self._addresses():
                continue
            pending = self._pending.pop(response[:2])
            if pending.by_tcp and dns.is_truncated(response):
                self._ask_by_tcp(pending, address)
            else:
                pending.answer(pending.own_id + response[2:])

    def _addresses(self) -> list[Any]:
        """Of those servers that can be reached now."""
        found = []
        for server in self.servers:
            with suppress(OSError):
                found.append(server.address(self._sock, PORT))
        return found

    def _ask_by_tcp(self, pending: _Pending, address: Any) -> None:
        if len(self._streams) >= STREAMS_MAX:
            return pending.fail()
        try:
            sock = socket.socket(self._sock.family, socket.SOCK_STREAM)
        except OSError:
            return pending.fail()
        stream = MessageStream(sock)
        try:
            sock.connect_ex(address)
            stream.send(pending.query)
        except OSError:
            stream.close()
            return pending.fail()
        self._streams[stream.fileno()] = stream, pending
        return None

    def _serve_stream(self, fileno: int, events: int) -> None:
        stream, pending = self._streams[fileno]
        try:
            responses = stream.serve(events)
        except (OSError, ValueError):
            responses, stream.has_ended = [], True
        if not responses and not stream.has_ended:
            return
        del self._streams[fileno]
        stream.close()
        if responses and responses[0][:2] == pending.query[:2]:
            pending.answer(pending.own_id + responses[0][2:])
        else:
            pending.fail()


def _socket() -> socket.socket:
    """One for addresses of both kinds, or where the system has no IPv6, of IPv4."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    try:
        sock = socket.socket(socket.AF_INET6, kind)
    except OSError:
        return socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock
