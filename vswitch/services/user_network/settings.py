"""What a user network is told when it starts, in JSON."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

from vswitch.services.user_network.leases import Lease


class Forward(msgspec.Struct, frozen=True):
    """A port of this machine's that leads to one of a guest's; `guest` is an address, a name, or empty: the first."""

    host: str
    host_port: int
    guest: str
    guest_port: int
    udp: bool = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`host` is the gateway, as QEMU calls it; `mac` its address. Leases are those it has given before."""

    network: IPv4Network
    host: IPv4Address
    dns: IPv4Address
    dhcpstart: IPv4Address
    mac: bytes
    domainname: str = "lan"
    mtu: int = 1500
    lease_s: float = 86400.0
    dhcp: bool = True
    restrict: bool = False
    host_access: bool = False
    resolv_conf: str = ""
    forwards: tuple[Forward, ...] = ()
    reserve: dict[str, IPv4Address] = {}
    leases: tuple[Lease, ...] = ()


def _to_text(value: object) -> str:
    return str(value)


def _from_text(kind: Any, value: Any) -> Any:
    return kind(value)


def write(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_to_text)


def read(data: bytes) -> Settings:
    return msgspec.json.decode(data, type=Settings, dec_hook=_from_text)
