"""Servers that guests reach in their network, and that are not there (QEMU's `guestfwd=`): TCP to an address and port.

What a guest sends there goes on to a socket of ours on loopback, by the NAT, and comes back with the server's address.
Who connects to that socket otherwise is turned away.
"""

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress

from vswitch.protocols import inet
from vswitch.services.user_network.packet import TCP, Packet
from vswitch.services.user_network.settings import Address, Server
from vswitch.services.user_network.slirp import Stack

_LOOPBACK = {4: "127.0.0.1", 6: "::1"}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class GuestForwards:
    """`hand_over` takes the number of a server, and a connection to it."""

    def __init__(self, servers: Iterable[Server], hand_over: Callable[[int, socket.socket], None]) -> None:
        self._hand_over = hand_over
        self._listeners: dict[int, tuple[int, socket.socket]] = {}  # by descriptor, with the server's number
        self._inward: dict[bytes, bytes] = {}  # address and port of a server, and of its socket
        self._outward: dict[bytes, bytes] = {}
        self.addresses: set[Address] = set()
        for number, server in enumerate(servers):
            ip = server.address
            listener = socket.create_server((_LOOPBACK[ip.version], 0), family=_FAMILY[ip.version])
            listener.setblocking(False)
            self._listeners[listener.fileno()] = number, listener
            there = ip.packed + server.port.to_bytes(2)
            here = _packed(listener.getsockname())
            self._inward[there], self._outward[here] = here, there
            self.addresses.add(ip)

    @property
    def filenos(self) -> Iterable[int]:
        return self._listeners.keys()

    def inward(self, frame: bytes, packet: Packet) -> bytes | None:
        """What a guest sends to a server, as it is sent to its socket; None if it is for no server."""
        if not self._inward or packet.protocol != TCP or packet.is_fragment:
            return None
        here = self._inward.get(packet.target + packet.ports(frame)[2:])
        return None if here is None else inet.readdressed(frame, packet.at, target=here)

    def outward(self, frame: bytes, packet: Packet) -> bytes:
        """What the NAT has for a guest: from the server, if it is from its socket."""
        if not self._outward or packet.protocol != TCP or packet.is_fragment:
            return frame
        there = self._outward.get(packet.source + packet.ports(frame)[:2])
        return frame if there is None else inet.readdressed(frame, packet.at, source=there)

    def accept(self, fileno: int, stacks: Iterable[Stack]) -> None:
        """Somebody has connected."""
        number, listener = self._listeners[fileno]
        with suppress(OSError):  # it is gone again
            connection, peer = listener.accept()
            with connection:
                if peer in _names(fd for stack in stacks for fd in stack.opened):
                    self._hand_over(number, connection)

    def close(self) -> None:
        for _, listener in self._listeners.values():
            listener.close()


def _packed(name: tuple[str, int]) -> bytes:
    """As packets have it: address and port."""
    host, port, *_ = name
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host) + port.to_bytes(2)


def _names(descriptors: Iterable[int]) -> set[object]:
    """What sockets are called that somebody else has."""
    found = set()
    for fd in descriptors:
        with suppress(OSError):
            sock = socket.socket(fileno=fd)
            try:
                found.add(sock.getsockname())
            finally:
                sock.detach()
    return found
