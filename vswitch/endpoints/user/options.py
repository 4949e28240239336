"""The parameters of user://, named as QEMU's `-netdev user` names them (qemu-options.hx), and some of ours.

Where nothing is said, addresses are those that QEMU has: the second of the network for the gateway, the third for the
name server, those from the 15th on for guests.
"""

import os
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import msgspec

from vswitch import values
from vswitch.endpoints.user import dns_place, egress, forward, guest_forward
from vswitch.endpoints.user.dns_place import Place
from vswitch.endpoints.user.egress import Rule
from vswitch.endpoints.user.forward import Forward
from vswitch.endpoints.user.guest_forward import Address, GuestForward
from vswitch.errors import InputError
from vswitch.ports.policy import mac_text, read_mac
from vswitch.values import FLAG, TEXT, Parameter

MTU_DEFAULT, MTU_MIN, MTU_MAX = 1500, 576, 65520
DOMAIN_DEFAULT = "lan"
PREFIX_MIN, PREFIX_MAX = 20, 27
NETWORK6_DEFAULT, PREFIX6 = IPv6Network("fec0::/64"), 64
MTU6_MIN = 1280  # RFC 8200, 5

BOOT_TEXT_MAX = 255
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class Reservation(msgspec.Struct, frozen=True):
    """An address that only one station gets: by its MAC address, or by its port's name."""

    who: str
    ip: IPv4Address

    def __str__(self) -> str:
        return f"{self.who}@{self.ip}"


class UserOptions(msgspec.Struct, frozen=True):
    """What is asked for; None is as QEMU has it."""

    host: IPv4Address | None = None
    dns: IPv4Address | None = None
    dhcpstart: IPv4Address | None = None
    mac: int | None = None
    domainname: str = DOMAIN_DEFAULT
    mtu: int = MTU_DEFAULT
    dhcp: bool = True
    restrict: bool = False
    internet: bool = True
    host_access: bool = False
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    hostfwd: tuple[Forward, ...] = ()
    guestfwd: tuple[GuestForward, ...] = ()
    smb: str | None = None
    smbserver: IPv4Address | None = None
    reserve: tuple[Reservation, ...] = ()
    leases: str | None = None
    tftp: str | None = None
    bootfile: str = ""
    tftp_server_name: str = ""
    hostname: str = ""
    dnssearch: tuple[str, ...] = ()
    dns_listen: Place | None = None
    ipv4: bool = True
    ipv6: bool = True
    ipv6_net: IPv6Network = NETWORK6_DEFAULT
    ipv6_host: IPv6Address | None = None
    ipv6_dns: IPv6Address | None = None

    @property
    def host6(self) -> IPv6Address:
        return self.ipv6_host or self.ipv6_net.network_address + 2

    @property
    def dns6(self) -> IPv6Address:
        return self.ipv6_dns or self.ipv6_net.network_address + 3

    def host_in(self, network: IPv4Network) -> IPv4Address:
        return self.host or network.network_address + 2

    def dns_in(self, network: IPv4Network) -> IPv4Address:
        return self.dns or network.network_address + 3

    def smbserver_in(self, network: IPv4Network) -> IPv4Address:
        return self.smbserver or network.network_address + 4

    def dhcpstart_in(self, network: IPv4Network) -> IPv4Address:
        return self.dhcpstart or network.network_address + 15

    def taken(self, network: IPv4Network) -> set[Address]:
        """Addresses that no guest has."""
        smb: set[Address] = set() if self.smb is None else {self.smbserver_in(network)}
        return self._own(network) | smb | {server.address(network) for server in self.guestfwd}

    def _own(self, network: IPv4Network) -> set[Address]:
        return {self.host_in(network), self.dns_in(network), self.host6, self.dns6}

    def absolute(self) -> "UserOptions":
        """The same, with paths that hold in any working directory."""
        paths = {name: getattr(self, name) for name in ("leases", "tftp", "smb")}
        absolute = {name: os.path.abspath(path) for name, path in paths.items() if path is not None}
        return msgspec.structs.replace(self, **absolute)

    def check(self, network: IPv4Network, *, insecure: bool) -> None:
        """Whether addresses are in a network, and what listens does so on loopback, unless it is `insecure`. Raises
        InputError."""
        for name in ("host", "dns", "dhcpstart"):
            address = getattr(self, f"{name}_in")(network)
            if address not in network or address in (network.network_address, network.broadcast_address):
                raise InputError(f"{name}: {address} is no station's address in {network}", name)
        if self.host_in(network) == self.dns_in(network):
            raise InputError(f"dns: {self.dns_in(network)} is the gateway already", "dns")
        self._check6()
        self._check_egress(self.host_in(network))
        own = self._own(network)
        for server in self.guestfwd:
            server.check(network, self.ipv6_net, own)
        if self.smbserver is not None and self.smb is None:
            raise InputError("smbserver goes with smb; add one, or leave it out", "smbserver")
        if self.smb is not None and (self.smbserver_in(network) not in network or self.smbserver_in(network) in own):
            raise InputError(f"smbserver: {self.smbserver_in(network)} is no free address in {network}", "smbserver")
        for reserved in self.reserve:
            edges = (network.network_address, network.broadcast_address)
            if reserved.ip not in network or reserved.ip in self.taken(network) or reserved.ip in edges:
                raise InputError(f"reserve: {reserved.ip} is no guest's address in {network}", "reserve")
        if self.dns_listen is not None:
            self.dns_listen.check(insecure=insecure)
        for wanted in self.hostfwd:
            try:
                wanted.check(insecure=insecure)
                if not (self.ipv6 if wanted.is_of_ipv6 else self.ipv4):
                    raise InputError(f"{wanted} leads to an address of a version that there is not")
            except InputError as error:
                raise InputError(f"hostfwd: {error}", "hostfwd") from None

    def _check_egress(self, host: IPv4Address) -> None:
        if self.allow and self.restrict:
            raise InputError("allow: restrict=yes lets nothing out; leave one of them", "allow")
        for parameter, rules in (("allow", self.allow), ("deny", self.deny)):
            for rule in rules:
                if f".{rule.name}".endswith(f".{self.domainname}"):
                    about = f"{rule.name} is in this network, and rules are about what is outside"
                    raise InputError(f"{parameter}: {about}; the gateway is {host}", parameter)

    def _check6(self) -> None:
        if not self.ipv4 and not self.ipv6:
            raise InputError("ipv6: a network of neither version has no guests; leave one of them", "ipv6")
        if self.ipv6 and self.mtu < MTU6_MIN:
            raise InputError(f"mtu: IPv6 takes {MTU6_MIN} at least; add ipv6=no", "mtu")
        for name, ip in (("ipv6-host", self.host6), ("ipv6-dns", self.dns6)):
            if ip not in self.ipv6_net or ip == self.ipv6_net.network_address:
                raise InputError(f"{name}: {ip} is no station's address in {self.ipv6_net}", name)
        if self.host6 == self.dns6:
            raise InputError(f"ipv6-dns: {self.dns6} is the gateway already", "ipv6-dns")


def read_network(text: str) -> IPv4Network:
    """The network that a URL names. Raises InputError."""
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise InputError(f"{error}; write a network like user://10.0.2.0/24") from None
    if not PREFIX_MIN <= network.prefixlen <= PREFIX_MAX:
        raise InputError(f"{text}: a network has {PREFIX_MIN} to {PREFIX_MAX} bits; write one like user://10.0.2.0/24")
    if network.is_loopback or network.is_multicast or network.is_reserved or network.network_address == IPv4Address(0):
        raise InputError(f"{text}: no guest can have such addresses; write a network like user://10.0.2.0/24")
    return network


def written(options: UserOptions) -> Iterator[tuple[str, str]]:
    """What is not as usual: parameters by name, and their texts; one for each forward."""
    for field in msgspec.structs.fields(UserOptions):
        name, value = _NAMES[field.name], getattr(options, field.name)
        if value == field.default:
            continue
        if isinstance(value, tuple):
            yield from ((name, str(item)) for item in value)
        elif isinstance(value, bool):
            yield name, "yes" if value else "no"
        else:
            yield name, mac_text(value) if name == "mac" else str(value)


def _address(value: Any) -> IPv4Address:
    text = values.text(value, "10.0.2.2")
    try:
        return IPv4Address(text)
    except ValueError:
        raise InputError(f"{values.shown(text)} is not an IPv4 address; write it like 10.0.2.2") from None


def _domain(value: Any) -> str:
    text = values.text(value, DOMAIN_DEFAULT)
    if len(text) > 190 or not _DOMAIN.fullmatch(text):
        raise InputError(f"{values.shown(text)} cannot be a domain's name; write it like {DOMAIN_DEFAULT}")
    return text.lower()


def _domains(value: Any) -> tuple[str, ...]:
    return tuple(map(_domain, values.items(value, "example.com")))


def _hostname(value: Any) -> str:
    text = values.text(value, "web").lower()
    if not _LABEL.fullmatch(text):
        raise InputError(f"{values.shown(text)} cannot be a host's name; write it like web")
    return text


def _boot_text(value: Any) -> str:
    """What DHCP carries: bytes that are not all of a message."""
    text = values.text(value, "pxelinux.0")
    if not 0 < len(text.encode(errors="surrogateescape")) <= BOOT_TEXT_MAX or not text.isprintable():
        raise InputError(f"needs 1 to {BOOT_TEXT_MAX} bytes that can be printed; write it like pxelinux.0")
    return text


def _forwards(value: Any) -> tuple[Forward, ...]:
    found = tuple(dict.fromkeys(map(forward.read, values.items(value, forward.EXAMPLE))))
    if len(found) > forward.MOST:
        raise InputError(f"{len(found)} forwards are too many; there may be {forward.MOST}")
    places = [item.here for item in found]
    for place in places:
        if places.count(place) > 1 and not place.endswith(":0"):
            raise InputError(f"{place} leads to several; name each place once")
    return found


def _rules(value: Any) -> tuple[Rule, ...]:
    found = tuple(dict.fromkeys(map(egress.read, values.items(value, egress.EXAMPLE))))
    if len(found) > egress.MOST:
        raise InputError(f"{len(found)} rules are too many; there may be {egress.MOST}")
    return found


def _servers(value: Any) -> tuple[GuestForward, ...]:
    """Without commas between them, as commands have some."""
    found = tuple(map(guest_forward.read, value if isinstance(value, list | tuple) else [value]))
    places = [(server.server, server.port) for server in found]
    if len(set(places)) < len(places):
        raise InputError("two are at the same address and port; name each once")
    if len(found) > guest_forward.MOST:
        raise InputError(f"{len(found)} servers are too many; there may be {guest_forward.MOST}")
    return found


def _path(value: Any) -> str:
    text = values.text(value, "/var/lib/lab.leases")
    if not text or "\0" in text:
        raise InputError("needs a file; write it like /var/lib/lab.leases")
    return text


def _share(value: Any) -> str:
    """What a configuration of Samba can name: it is a line, in which % and ; mean something."""
    text = _path(value)
    if not text.isprintable() or set(text) & set("%;#\"'"):
        raise InputError(f"{values.shown(text)} cannot be shared; use a path without signs like % and ;")
    return text


def _reservations(value: Any) -> tuple[Reservation, ...]:
    found = tuple(map(_reservation, values.items(value, "web@10.0.2.50")))
    for names in ([item.who for item in found], [str(item.ip) for item in found]):
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{name} is reserved twice; name each once")
    return found


def _reservation(value: Any) -> Reservation:
    who, _, ip = values.text(value, "web@10.0.2.50").partition("@")
    return Reservation(mac_text(read_mac(who)) if who.count(":") == 5 else values.check_name(who), _address(ip))


def _network6(value: Any) -> IPv6Network:
    text = values.text(value, str(NETWORK6_DEFAULT))
    try:
        network = IPv6Network(text)
    except ValueError as error:
        raise InputError(f"{error}; write it like {NETWORK6_DEFAULT}") from None
    if network.prefixlen != PREFIX6 or network.is_multicast or network.is_link_local or network.is_loopback:
        raise InputError(
            f"{text}: guests make their own addresses in a network of {PREFIX6} bits, like {NETWORK6_DEFAULT}"
        )
    return network


def _address6(value: Any) -> IPv6Address:
    text = values.text(value, "fec0::2")
    try:
        return IPv6Address(text)
    except ValueError:
        raise InputError(f"{values.shown(text)} is not an IPv6 address; write it like fec0::2") from None


_MTU = values.also_text(values.numbers(MTU_MIN, MTU_MAX))

PARAMETERS: dict[str, Parameter] = {
    "host": Parameter(_address, TEXT, "The gateway's address: the second of the network."),
    "dns": Parameter(_address, TEXT, "The name server's address: the third."),
    "dhcpstart": Parameter(_address, TEXT, "The first address that is given to guests: the 15th."),
    "mac": Parameter(read_mac, TEXT, "The gateway's MAC address: 52:55 and its IPv4 address."),
    "domainname": Parameter(_domain, TEXT, "Guests are NAME in this domain to each other: lan."),
    "mtu": Parameter(
        lambda value: values.number(value, MTU_MIN, MTU_MAX), _MTU, "Bytes of a packet, told by DHCP: 1500."
    ),
    "ipv4": Parameter(values.flag, FLAG, "False: without IPv4."),
    "ipv6": Parameter(values.flag, FLAG, "False: without IPv6."),
    "ipv6-net": Parameter(_network6, TEXT, "The IPv6 network: fec0::/64."),
    "ipv6-host": Parameter(_address6, TEXT, "The gateway's address in it: the second."),
    "ipv6-dns": Parameter(_address6, TEXT, "The name server's: the third."),
    "dhcp": Parameter(values.flag, FLAG, "False: gives no addresses out."),
    "restrict": Parameter(values.flag, FLAG, "Guests reach this network only, neither this machine nor others."),
    "internet": Parameter(
        values.flag, FLAG, "False: outside is only what a program makes up (VSwitch.user_networks.serve)."
    ),
    "host_access": Parameter(values.flag, FLAG, "Guests reach services on this machine's loopback, at the gateway."),
    "allow": Parameter(
        _rules, values.several(TEXT), "All that guests reach outside: deb.debian.org:443, 10.0.0.0/8, udp:123."
    ),
    "deny": Parameter(_rules, values.several(TEXT), "What guests do not reach outside, written like allow."),
    "reserve": Parameter(
        _reservations, values.several(TEXT), "An address for a port or a MAC address only: web@10.0.2.50."
    ),
    "hostfwd": Parameter(
        _forwards, values.several(TEXT), "A port of this machine's leads to a guest's: tcp:127.0.0.1:2222-web:22."
    ),
    "guestfwd": Parameter(
        _servers,
        values.several(TEXT),
        "A server in the network is a command, or leads to a port or a socket: tcp:10.0.2.100:1234-cmd:/usr/bin/cat.",
    ),
    "smb": Parameter(_share, TEXT, "A folder that guests find at smbserver, read and write."),
    "smbserver": Parameter(_address, TEXT, "Where: the fourth address of the network."),
    "leases": Parameter(_path, TEXT, "A file that leases are kept in."),
    "tftp": Parameter(_path, TEXT, "A folder whose files guests get by TFTP from the gateway."),
    "bootfile": Parameter(_boot_text, TEXT, "The file that guests boot which do so from the network."),
    "tftp-server-name": Parameter(_boot_text, TEXT, "Where they get it, by DHCP option 66."),
    "hostname": Parameter(_hostname, TEXT, "What a guest is called that says no name."),
    "dns_listen": Parameter(
        dns_place.read, TEXT, "Where programs of this machine ask for guests' names: 127.0.0.1:5300."
    ),
    "dnssearch": Parameter(_domains, values.several(TEXT), "Domains that guests look names up in, too."),
}

_NAMES = {name.replace("-", "_"): name for name in PARAMETERS}  # as UserOptions has them


def field(name: str) -> str:
    """What a parameter is called in UserOptions."""
    return name.replace("-", "_")
