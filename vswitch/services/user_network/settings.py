"""What a user network is told by the switch, in JSON: settings when it starts, and then words."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import msgspec

from vswitch.services.user_network.leases import Lease

Address = IPv4Address | IPv6Address


class Found(msgspec.Struct, frozen=True, tag="found", array_like=True):
    """Behind which port a station is; empty if it is behind none, or may have no lease there. Its name `is_taken` if a
    port of another one has it."""

    mac: str
    port: str
    name: str = ""
    is_taken: bool = False


class Servers(msgspec.Struct, frozen=True, tag="servers", array_like=True):
    """What resolv.conf says."""

    text: str


class Forward(msgspec.Struct, frozen=True, tag="forward", array_like=True):
    """What leads to a port of a guest's, with a bound socket; `guest` is an address, a name, or empty: the first."""

    number: int
    guest: str
    guest_port: int
    udp: bool = False


class Unforward(msgspec.Struct, frozen=True, tag="unforward", array_like=True):
    number: int


class Hello(msgspec.Struct, frozen=True, tag="hello", array_like=True):
    """It asks for a sign of life."""


class Listen(msgspec.Struct, frozen=True, tag="listen", array_like=True):
    """A bound socket, where programs of this machine ask for guests' names."""


class Serve(msgspec.Struct, frozen=True, tag="serve", array_like=True):
    """A server that is not there, anywhere."""

    number: int
    ip: str
    port: int


class Name(msgspec.Struct, frozen=True, tag="name", array_like=True):
    """What a name stands for, whatever others know of it."""

    name: str
    ips: tuple[str, ...]


class Count(msgspec.Struct, frozen=True, tag="count", array_like=True):
    """It asks what is counted; the answer has this number."""

    number: int


class Rule(msgspec.Struct, frozen=True):
    """About what guests reach outside, and as it is written. `name` is a domain name, or `*.` and one; what is empty
    means all."""

    text: str
    protocol: str = ""  # tcp, udp, icmp
    network: str = ""
    name: str = ""
    ports: tuple[int, int] | None = None


class Rules(msgspec.Struct, frozen=True, tag="rules", array_like=True):
    """All there are from now on."""

    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]


Said = Found | Servers | Forward | Unforward | Hello | Listen | Serve | Name | Count | Rules


class Server(msgspec.Struct, frozen=True):
    """Where guests find one that is not there."""

    ip: str
    port: int

    @property
    def address(self) -> Address:
        return ip_address(self.ip)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`host` is the gateway, as QEMU calls it, `mac` its address. Those with a 6 are of IPv6. Leases are those
    it has given before."""

    network: IPv4Network
    host: IPv4Address
    dns: IPv4Address
    dhcpstart: IPv4Address
    mac: bytes
    domainname: str = "lan"
    dnssearch: tuple[str, ...] = ()
    hostname: str = ""
    tftp: bytes = b""  # a path
    tftp_server_name: str = ""
    bootfile: str = ""
    mtu: int = 1500
    lease_s: float = 86400.0
    ipv4: bool = True
    ipv6: bool = True
    network6: IPv6Network = IPv6Network("fec0::/64")
    host6: IPv6Address = IPv6Address("fec0::2")
    dns6: IPv6Address = IPv6Address("fec0::3")
    dhcp: bool = True
    restrict: bool = False
    internet: bool = True
    host_access: bool = False
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    resolv_conf: str = ""
    reserve: dict[str, IPv4Address] = {}
    leases: tuple[Lease, ...] = ()
    servers: tuple[Server, ...] = ()

    @property
    def is_closed(self) -> bool:
        """Whether nothing gets out. With `restrict`, guests are told of no way out either."""
        return self.restrict or not self.internet


def _to_text(value: object) -> str:
    return str(value)


def _from_text(kind: Any, value: Any) -> Any:
    return kind(value)


def write(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_to_text)


def read(data: bytes) -> Settings:
    return msgspec.json.decode(data, type=Settings, dec_hook=_from_text)


def heard(data: bytes) -> Said:
    said: Said = msgspec.json.decode(data, type=Said)
    return said


def leases(data: bytes) -> list[Lease]:
    return msgspec.json.decode(data, type=list[Lease], dec_hook=_from_text)
