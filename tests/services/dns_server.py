"""A name server of this machine's, for tests, by UDP and TCP at one port of loopback."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vswitch.protocols import dns

TC = 0x02


class DnsServer:
    """Every step is taken by the test."""

    def __init__(self, udp: socket.socket, tcp: socket.socket) -> None:
        self.udp, self.tcp = udp, tcp
        self.port: int = udp.getsockname()[1]

    def answer(self, flags: int, rest: bytes = b"") -> bytes:
        """Has the next query by UDP answered; answers what it was."""
        query, peer = self.udp.recvfrom(5000)
        self.udp.sendto(query[:2] + bytes([0x80 | flags]) + query[3:] + rest, peer)
        return query

    @contextmanager
    def accept(self) -> Iterator[socket.socket]:
        connection, _ = self.tcp.accept()
        with connection:
            connection.settimeout(20)
            yield connection

    def answer_by_tcp(self, rest: bytes = b"") -> bytes:
        with self.accept() as connection:
            framing = dns.Framing()
            while not (queries := framing.feed(connection.recv(5000))):
                pass
            (query,) = queries
            connection.sendall(dns.framed(query[:2] + b"\x80" + query[3:] + rest))
            return query


def bound_pair(family: int, address: tuple[Any, ...]) -> tuple[socket.socket, socket.socket]:
    """Sockets of UDP and TCP at one port, any that is free for both."""
    while True:
        udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
        udp.bind(address)
        try:
            tcp.bind(udp.getsockname())
            return udp, tcp
        except OSError as error:
            udp.close()
            tcp.close()
            if error.errno != errno.EADDRINUSE:
                raise


@contextmanager
def dns_server(family: int = socket.AF_INET, address: tuple[Any, ...] = ("127.0.0.1", 0)) -> Iterator[DnsServer]:
    udp, tcp = bound_pair(family, address)
    with udp, tcp:
        tcp.listen()
        udp.settimeout(20)
        tcp.settimeout(20)
        yield DnsServer(udp, tcp)
