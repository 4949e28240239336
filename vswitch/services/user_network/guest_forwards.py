"""Servers that guests reach, and that are not there: TCP to an address and port. Those of `guestfwd=` (QEMU's), and the
name server.

What a guest sends there goes on to a socket of ours on loopback, by the NAT, and comes back with the server's address.
Who connects to that socket otherwise is turned away.
"""

import select
import socket
from collections.abc import Callable
from contextlib import suppress

from vswitch.protocols import inet
from vswitch.services.user_network.packet import TCP, Packet
from vswitch.services.user_network.settings import Address, Server

_LOOPBACK = {4: "127.0.0.1", 6: "::1"}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


Take = Callable[[bytes, socket.socket, float], None]


class GuestForwards:
    def __init__(self) -> None:
        self._listeners: dict[int, tuple[socket.socket, Take]] = {}  # by descriptor
        self._inward: dict[bytes, bytes] = {}  # address and port of a server, and of its socket
        self._outward: dict[bytes, bytes] = {}
        self.addresses: set[Address] = set()

    def add(self, server: Server, take: Take) -> None:
        """`take` is given who connects to it, the connection, which is closed then, and the time. Raises OSError."""
        ip = server.address
        listener = socket.create_server((_LOOPBACK[ip.version], 0), family=_FAMILY[ip.version])
        listener.setblocking(False)
        self._listeners[listener.fileno()] = listener, take
        there = ip.packed + server.port.to_bytes(2)
        here = _packed(listener.getsockname())
        self._inward[there], self._outward[here] = here, there
        self.addresses.add(ip)

    @property
    def wanted(self) -> dict[int, int]:
        """What to wait for, by descriptor."""
        return dict.fromkeys(self._listeners, select.POLLIN)

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

    def serve(self, ready: dict[int, int], owner_of: Callable[[object], bytes | None], now_s: float) -> None:
        """Takes in who has connected, if it is a guest: whose socket a name is, `owner_of` says."""
        for fileno in ready.keys() & self._listeners.keys():
            listener, take = self._listeners[fileno]
            with suppress(OSError):  # it is gone again
                connection, peer = listener.accept()
                with connection:
                    mac = owner_of(peer)
                    if mac is not None:
                        take(mac, connection, now_s)

    def close(self) -> None:
        for listener, _ in self._listeners.values():
            listener.close()


def _packed(name: tuple[str, int]) -> bytes:
    """As packets have it: address and port."""
    host, port, *_ = name
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host) + port.to_bytes(2)
