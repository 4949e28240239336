"""Forwards: ports of this machine's, each of which leads to a guest's, wherever that guest is."""

import socket
from collections.abc import Callable
from ipaddress import IPv4Address

import msgspec

from vswitch.services.user_network.leases import Lease, Leases
from vswitch.services.user_network.nat import Nat
from vswitch.services.user_network.settings import Forward
from vswitch.services.user_network.slirp import Forwarding


class Served(msgspec.Struct, frozen=True):
    """What the switch is told: where a forward leads now, if anywhere, or why it cannot."""

    number: int
    ip: str = ""
    problem: str = ""


class _Known:
    def __init__(self, forward: Forward, sock: socket.socket) -> None:
        self.forward, self.sock = forward, sock
        self.mac, self.ip = b"", IPv4Address(0)  # of the guest it leads to
        self.forwarding: Forwarding | None = None


class Forwards:
    """By the numbers that the switch gives them. `tell` is told where each leads, whenever that changes."""

    def __init__(self, nat: Nat, leases: Leases, tell: Callable[[Served], None]) -> None:
        self._nat = nat
        self._leases = leases
        self._tell = tell
        self._known: dict[int, _Known] = {}

    def add(self, forward: Forward, sock: socket.socket, now_s: float) -> None:
        """`sock` is bound to what leads to the guest. Where that is, is told in any case."""
        self.remove(forward.number)
        known = self._known[forward.number] = _Known(forward, sock)
        for lease in self._leases.current(now_s):
            if _means(forward, lease):
                return self._lead(known, bytes.fromhex(lease.mac.replace(":", "")), lease.ip)
        return self._tell(Served(forward.number))

    def remove(self, number: int) -> None:
        known = self._known.pop(number, None)
        if known is not None:
            self._stop(known)
            known.sock.close()

    def leased(self, mac: bytes, lease: Lease, now_s: float) -> None:
        """A guest has a lease: what means it leads to it, unless another has the name, or was first."""
        for known in self._known.values():
            if _means(known.forward, lease) and not self._is_anothers(known, mac, now_s):
                self._lead(known, mac, lease.ip)

    def came(self, mac: bytes, ip: IPv4Address, now_s: float) -> None:
        """A guest is at an address, which it may have given itself."""
        lease = self._leases.of(mac.hex(":"))
        if lease is not None and lease.ip == ip:
            self.leased(mac, lease, now_s)
            return
        for known in self._known.values():
            if known.forward.guest == str(ip):
                self._lead(known, mac, ip)

    def close(self) -> None:
        for number in list(self._known):
            self.remove(number)

    def _is_anothers(self, known: _Known, mac: bytes, now_s: float) -> bool:
        if known.forwarding is None or known.mac == mac:
            return False
        lease = self._leases.of(known.mac.hex(":"))
        return lease is not None and lease.until_s > now_s and _means(known.forward, lease)

    def _lead(self, known: _Known, mac: bytes, ip: IPv4Address) -> None:
        if known.forwarding is not None and (known.mac, known.ip) == (mac, ip):
            return
        self._stop(known)
        forward = known.forward
        try:
            stack = self._nat.stack_at(mac, ip)
            known.forwarding = stack.forward(known.sock, (ip, forward.guest_port), udp=forward.udp)
        except OSError as error:
            self._tell(Served(forward.number, problem=str(error.strerror)))
            return
        known.mac, known.ip = mac, ip
        self._tell(Served(forward.number, str(ip)))

    def _stop(self, known: _Known) -> None:
        if known.forwarding is not None:
            known.forwarding.stop()
            known.forwarding = None


def _means(forward: Forward, lease: Lease) -> bool:
    return not forward.guest or forward.guest in (lease.name, lease.port, str(lease.ip))
