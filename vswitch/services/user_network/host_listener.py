"""Where programs of this machine ask for guests' names: sockets that the switch has bound, by UDP and TCP."""

import select
import socket
from contextlib import suppress

from vswitch.protocols import dns
from vswitch.services.user_network.dns_streams import DnsStreams, Say
from vswitch.services.user_network.zones import Zones

BATCH = 64  # queries, or connections, that are taken at a time
QUERY_MAX = 4096  # bytes


class HostListener:
    def __init__(self, zones: Zones) -> None:
        self._zones = zones
        self._sockets: dict[int, socket.socket] = {}  # by descriptor
        self._streams = DnsStreams(self._answer_stream, lambda reason, who: None)

    @property
    def wanted(self) -> dict[int, int]:
        """What to wait for, by descriptor."""
        return self._streams.wanted | dict.fromkeys(self._sockets, select.POLLIN)

    def add(self, sock: socket.socket) -> None:
        """Takes over one that is bound, and if it is of TCP, listens."""
        sock.setblocking(False)
        self._sockets[sock.fileno()] = sock

    def serve(self, ready: dict[int, int], now_s: float) -> None:
        self._streams.serve(ready, now_s)
        for fileno in ready.keys() & self._sockets.keys():
            sock = self._sockets[fileno]
            with suppress(OSError):  # there is no more
                for _ in range(BATCH):
                    if sock.type == socket.SOCK_STREAM:
                        self._accept(sock, now_s)
                    else:
                        self._answer_datagram(sock, now_s)

    def tick(self, now_s: float) -> None:
        self._streams.tick(now_s)

    def close(self) -> None:
        self._streams.close()
        for sock in self._sockets.values():
            sock.close()

    def _accept(self, sock: socket.socket, now_s: float) -> None:
        connection, peer = sock.accept()
        self._streams.add(connection, repr(peer).encode(), now_s)

    def _answer_datagram(self, sock: socket.socket, now_s: float) -> None:
        query, peer = sock.recvfrom(QUERY_MAX)
        with suppress(ValueError):
            sock.sendto(self._zones.answer(query, now_s), peer)

    def _answer_stream(self, query: bytes, who: bytes, say: Say, now_s: float) -> None:
        try:
            say(self._zones.answer(query, now_s))
        except ValueError:
            say(dns.failure(query, dns.FORMERR))
