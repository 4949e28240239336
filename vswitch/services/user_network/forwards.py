"""Forwards: ports of this machine's, each of which leads to a guest's, wherever that guest is."""

import socket
from collections.abc import Callable
from ipaddress import ip_address

import msgspec

from vswitch.services.user_network.leases import Lease, Leases, mac_bytes
from vswitch.services.user_network.nat import Nat
from vswitch.services.user_network.neighbors import Neighbors
from vswitch.services.user_network.settings import Address, Forward
from vswitch.services.user_network.slirp import Forwarding


class Served(msgspec.Struct, frozen=True):
    """What the switch is told: where a forward leads now, if anywhere, or why it cannot; `mac` is that guest's."""

    number: int
    ip: str = ""
    problem: str = ""
    mac: str = ""


class _Known:
    def __init__(self, forward: Forward, sock: socket.socket) -> None:
        self.forward, self.sock = forward, sock
        self.is_of_ipv6 = sock.family == socket.AF_INET6
        self.mac, self.ip = b"", ""  # of the guest it leads to
        self.forwarding: Forwarding | None = None


class Forwards:
    """By the numbers that the switch gives them. `tell` is told where each leads, whenever that changes."""

    def __init__(self, nat: Nat, leases: Leases, neighbors: Neighbors, tell: Callable[[Served], None]) -> None:
        self._nat = nat
        self._leases = leases
        self._neighbors = neighbors
        self._tell = tell
        self._known: dict[int, _Known] = {}

    def add(self, forward: Forward, sock: socket.socket, now_s: float) -> None:
        """`sock` is bound; one of IPv6 leads to a guest's IPv6 address. Where that is, is told in any case."""
        self.remove(forward.number)
        known = self._known[forward.number] = _Known(forward, sock)
        by_port = sorted(self._leases.current(now_s), key=lambda lease: lease.port != forward.guest)
        for lease in by_port:
            if self._lead_to(known, mac_bytes(lease.mac), lease):
                return None
        ip = _address(forward.guest)
        mac = None if ip is None else self._nat.whose(ip) or self._neighbors.whose(ip)
        if ip is not None and mac is not None and known.is_of_ipv6 == (ip.version == 6):
            return self._lead(known, mac, ip)
        return self._tell(Served(forward.number))

    def remove(self, number: int) -> None:
        known = self._known.pop(number, None)
        if known is not None:
            self._stop(known)
            known.sock.close()
            self._tell(Served(number))

    def leased(self, mac: bytes, lease: Lease, now_s: float) -> None:
        """A guest has a lease: what means it leads to it, unless another has the name, or was first."""
        for known in self._known.values():
            is_by_name = _address(known.forward.guest) is None
            if known.mac == mac and known.forwarding is not None and is_by_name and not _means(known.forward, lease):
                self._stop(known)  # it has another name now
                self._tell(Served(known.forward.number))
            elif not self._is_anothers(known, mac, lease, now_s):
                self._lead_to(known, mac, lease)

    def came(self, mac: bytes, ip: Address, now_s: float) -> None:
        """A guest is at an address, which it may have given itself."""
        lease = self._leases.of(mac.hex(":"))
        if lease is not None and lease.until_s > now_s and (ip == lease.ip or ip.version == 6):
            self.leased(mac, lease, now_s)
        for known in self._known.values():
            is_meant = known.forward.guest == str(ip) and known.is_of_ipv6 == (ip.version == 6)
            is_anothers = known.forwarding is not None and self._nat.has_been_heard(known.mac, ip, now_s)
            if is_meant and (known.mac == mac or not is_anothers):
                self._lead(known, mac, ip)

    def close(self) -> None:
        for number in list(self._known):
            self.remove(number)

    def _is_anothers(self, known: _Known, mac: bytes, lease: Lease, now_s: float) -> bool:
        """Whether a forward stays with another guest. A port's name means who is behind that port, before anybody who
        is called so."""
        if known.forwarding is None or known.mac == mac:
            return False
        other = self._leases.of(known.mac.hex(":"))
        if other is None or other.until_s <= now_s or not _means(known.forward, other):
            return False
        return other.port == known.forward.guest or lease.port != known.forward.guest

    def _lead_to(self, known: _Known, mac: bytes, lease: Lease) -> bool:
        """Answers whether it means who has a lease, and an address of its kind."""
        ips: list[Address] = [*self._neighbors.of(mac)] if known.is_of_ipv6 else [lease.ip]
        if not ips or not _means(known.forward, lease):
            return False
        self._lead(known, mac, ips[0])
        return True

    def _lead(self, known: _Known, mac: bytes, ip: Address) -> None:
        if known.forwarding is not None and (known.mac, known.ip) == (mac, str(ip)):
            return
        self._stop(known)
        forward = known.forward
        try:
            stack = self._nat.stack_at(mac, ip)
            known.forwarding = stack.forward(known.sock, (ip, forward.guest_port), udp=forward.udp)
        except OSError as error:
            self._tell(Served(forward.number, problem=str(error.strerror)))
            return
        known.mac, known.ip = mac, str(ip)
        self._tell(Served(forward.number, str(ip), mac=mac.hex(":")))

    def _stop(self, known: _Known) -> None:
        if known.forwarding is not None:
            known.forwarding.stop()
            known.forwarding = None
            self._nat.forget_askers(known.mac, known.forward.guest_port)


def _means(forward: Forward, lease: Lease) -> bool:
    return not forward.guest or forward.guest in (lease.name, lease.port, str(lease.ip))


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
