"""What rules say of where a guest wants to go: of a name, and of an address, a protocol and a port. Pure.

Deny wins. Without a rule that allows, all else passes; with one, nothing else does.
"""

from collections.abc import Collection, Iterable
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


class _Rule:
    def __init__(self, said: settings.Rule) -> None:
        self.text = said.text
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

    def means(self, names: Iterable[Name]) -> bool:
        """Whether it is about one of some names."""
        labels, size = self._labels, len(self._labels)
        if not self._is_below:
            return bool(labels) and labels in names
        return any(len(name) > size and name[-size:] == labels for name in names)

    def is_about(self, wish: Wish, names: Iterable[Name]) -> bool:
        """`names` are those of its address."""
        if self._protocols is not None and wish.protocol not in self._protocols:
            return False
        if self._ports is not None and (wish.port is None or not self._ports[0] <= wish.port <= self._ports[1]):
            return False
        if self._labels:
            return self.means(names)
        return not self._size or (len(wish.ip) == self._size and int.from_bytes(wish.ip) & self._mask == self._first)


class Verdict(msgspec.Struct, frozen=True):
    """`rule` is the one that denies; if it is empty, none allows."""

    rule: str = ""


class Rules:
    """Names are those that were asked for, and aliases, `through` which they have led: who owns an alias allows
    nothing, but what is denied is so by any name."""

    def __init__(self, allow: Iterable[settings.Rule] = (), deny: Iterable[settings.Rule] = ()) -> None:
        self._allow, self._deny = list(map(_Rule, allow)), list(map(_Rule, deny))
        self.are_there = bool(self._allow or self._deny)
        self._only_names = bool(self._allow) and all(rule.is_of_name for rule in self._allow)

    def judge_names(self, asked: Collection[Name], through: Collection[Name] = ()) -> Verdict | None:
        """Why a guest may not know what is behind names; None if it may, also where an address may be allowed for
        itself."""
        for rule in self._deny:
            if rule.is_of_all and rule.means([*asked, *through]):
                return Verdict(rule.text)
        return Verdict() if self._only_names and not any(rule.means(asked) for rule in self._allow) else None

    def judge(self, wish: Wish, asked: Collection[Name] = (), through: Collection[Name] = ()) -> Verdict | None:
        """Why a packet may not go to an address with these names; None if it may."""
        names, embedded = [*asked, *through], _embedded(wish)
        for rule in self._deny:
            if rule.is_about(wish, names) or (embedded is not None and rule.is_about(embedded, ())):
                return Verdict(rule.text)
        return Verdict() if self._allow and not any(rule.is_about(wish, asked) for rule in self._allow) else None


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
