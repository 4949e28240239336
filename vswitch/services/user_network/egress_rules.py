"""What rules say of where a guest wants to go: of a name, and of an address, a protocol and a port. Pure.

Deny wins. Without a rule that allows, all else passes; with one, nothing else does.
"""

from collections.abc import Collection, Sequence
from ipaddress import ip_network

import msgspec

from vswitch.protocols import inet, inet6
from vswitch.protocols.dns_records import Name
from vswitch.services.user_network import settings
from vswitch.services.user_network.packet import ICMP, TCP

_PROTOCOLS = {"tcp": {TCP}, "udp": {inet.UDP}, "icmp": {ICMP, inet6.ICMPV6}}
_SIXTOFOUR, _TEREDO, _NAT64 = b"\x20\x02", b"\x20\x01\0\0", bytes.fromhex("0064ff9b") + bytes(8)


class Wish(msgspec.Struct, frozen=True):
    """Where a packet is to go; `port` is None if its protocol has none."""

    protocol: int
    ip: bytes
    port: int | None


class Rule:
    """`number` is which one it is of its list."""

    def __init__(self, number: int, said: settings.Rule) -> None:
        self.number = number
        self._protocols = _PROTOCOLS.get(said.protocol)
        self._ports = said.ports
        self._size = 0
        if said.network:
            network = ip_network(said.network)
            self._size = len(network.network_address.packed)
            self._first, self._mask = int(network.network_address), int(network.netmask)
        self._is_below = said.name.startswith("*.")
        self._labels: Name = tuple(said.name.removeprefix("*.").encode().split(b".")) if said.name else ()

    @property
    def is_of_name(self) -> bool:
        return bool(self._labels)

    @property
    def is_of_all(self) -> bool:
        """Of what it is about, whatever the protocol and the port."""
        return self._protocols is None and self._ports is None

    def means(self, name: Name) -> bool:
        """Whether it is about a name."""
        if not self._labels or not self._is_below:
            return bool(self._labels) and name == self._labels
        return len(name) > len(self._labels) and name[-len(self._labels) :] == self._labels

    def is_about(self, wish: Wish, named: Collection[int]) -> bool:
        """`named` are the rules that are about its address by a name."""
        if self._protocols is not None and wish.protocol not in self._protocols:
            return False
        if self._ports is not None and (wish.port is None or not self._ports[0] <= wish.port <= self._ports[1]):
            return False
        if self._labels:
            return self.number in named
        return not self._size or (len(wish.ip) == self._size and int.from_bytes(wish.ip) & self._mask == self._first)


class Verdict(msgspec.Struct, frozen=True):
    """`rule` is the number of the one that denies; without it, none allows."""

    rule: int | None = None


class Rules:
    def __init__(self, allow: Sequence[settings.Rule], deny: Sequence[settings.Rule]) -> None:
        self._allow = [Rule(number, said) for number, said in enumerate(allow)]
        self._deny = [Rule(number, said) for number, said in enumerate(deny)]
        self._only_names = bool(allow) and all(rule.is_of_name for rule in self._allow)

    def allowing(self, name: Name) -> list[int]:
        return [rule.number for rule in self._allow if rule.means(name)]

    def denying(self, names: Collection[Name]) -> list[int]:
        return [rule.number for rule in self._deny if any(map(rule.means, names))]

    def judge_names(self, names: Collection[Name], *, is_allowed: bool) -> Verdict | None:
        """Why a guest may not know what is behind names, of which one leads to the next; None if it may.
        `is_allowed` if a rule allows the first: no need for that where an address may be allowed for itself."""
        for number in self.denying(names):
            if self._deny[number].is_of_all:
                return Verdict(number)
        return None if is_allowed or not self._only_names else Verdict()

    def judge(self, wish: Wish, allowed: Collection[int] = (), denied: Collection[int] = ()) -> Verdict | None:
        """Why a packet may not go; None if it may. `allowed` and `denied` are the rules about names of its address."""
        embedded = _embedded(wish)
        for rule in self._deny:
            if rule.is_about(wish, denied) or (embedded is not None and rule.is_about(embedded, ())):
                return Verdict(rule.number)
        if not self._allow or any(rule.is_about(wish, allowed) for rule in self._allow):
            return None
        return Verdict()


def _embedded(wish: Wish) -> Wish | None:
    """The IPv4 address that an IPv6 one leads to by 6to4 (RFC 3056), Teredo (RFC 4380) or NAT64 (RFC 6052)."""
    ip = wish.ip
    if len(ip) == 4:
        return None
    if ip[:2] == _SIXTOFOUR:
        return Wish(wish.protocol, ip[2:6], wish.port)
    if ip[:4] == _TEREDO:
        return Wish(wish.protocol, bytes(byte ^ 0xFF for byte in ip[12:]), wish.port)
    return Wish(wish.protocol, ip[12:], wish.port) if ip[:12] == _NAT64 else None
