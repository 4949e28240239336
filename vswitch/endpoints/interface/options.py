"""The parameters of tap://: what is asked of the interface, and where its device comes from.

Some are named as QEMU's `-netdev tap` and `-netdev bridge` name them (qemu-options.hx), the others as ip-link(8) does.
"""

import os
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any, TypeAlias

import msgspec

from vswitch import values
from vswitch.errors import InputError
from vswitch.ports.policy import mac_text, read_mac
from vswitch.values import FLAG, TEXT, Parameter, interface_name

Address: TypeAlias = IPv4Interface | IPv6Interface

BRIDGE_DEFAULT = "br0"  # as QEMU's
MTU_MIN, MTU_MAX = 68, 65521  # of a TAP device (Linux drivers/net/tun.c)
MTU6_MIN = 1280  # RFC 8200, 5
ADDRESSES_MAX = 64
DESCRIPTOR_MAX = 9_999_999
EXAMPLE = "10.0.0.1/24"
HELPER_EXAMPLE = "/usr/lib/qemu/qemu-bridge-helper"


class InterfaceOptions(msgspec.Struct, frozen=True):
    """What is asked for; None is as it comes. The path of `helper` is empty where it is to be found."""

    helper: str | None = None
    br: str = BRIDGE_DEFAULT
    mac: str | None = None
    mtu: int | None = None
    ip: tuple[Address, ...] = ()
    master: str | None = None
    ifup: str | None = None
    ifdown: str | None = None
    offload: bool = True

    def absolute(self) -> "InterfaceOptions":
        """The same, with paths that hold in any working directory."""
        paths = {name: getattr(self, name) for name in ("helper", "ifup", "ifdown")}
        return msgspec.structs.replace(self, **{name: os.path.abspath(path) for name, path in paths.items() if path})

    def check(self, name: str) -> None:
        """Whether they go together, and with an interface's name, which is empty where none is said. Raises
        InputError."""
        if self.helper is None:
            if not name:
                raise InputError(
                    "the interface is missing; write tap://tap0, or tap://?helper for a bridge of this host"
                )
            if self.br != BRIDGE_DEFAULT:
                raise InputError("br goes with helper; add it, or write master=", "br")
        elif name:
            raise InputError(f"helper: the device is the helper's, which names it; write tap://?helper&br={self.br}")
        else:
            for parameter in ("mac", "mtu", "ip", "master"):
                if getattr(self, parameter):
                    raise InputError(f"{parameter}: the helper sets its device up like its bridge", parameter)
        if self.ip and self.master is not None:
            raise InputError(f"ip: a port of a bridge has no address; give it to {self.master} itself", "ip")
        if self.mtu is not None and self.mtu < MTU6_MIN and any(address.version == 6 for address in self.ip):
            raise InputError(f"mtu: IPv6 takes {MTU6_MIN} at least", "mtu")


def says(options: InterfaceOptions) -> Iterator[tuple[str, str]]:
    """The parameters that say which device is meant, and their texts."""
    if options.helper is not None:
        yield "helper", options.helper or "yes"
        yield "br", options.br


def written(options: InterfaceOptions) -> Iterator[tuple[str, str]]:
    """What is not as usual: parameters by name, and their texts; one for each address. Without those of `says`."""
    for name in ("mac", "mtu", "master", "ifup", "ifdown"):
        if (value := getattr(options, name)) is not None:
            yield name, str(value)
    yield from (("ip", str(address)) for address in options.ip)
    if not options.offload:
        yield "offload", "no"


def read_descriptor(value: Any) -> int:
    """The number of a descriptor. Raises InputError."""
    return values.number(value, 0, DESCRIPTOR_MAX)


def _helper(value: Any) -> str | None:
    """A path, or whether there is to be one."""
    if isinstance(value, str) and "/" in value:
        return _path(value)
    try:
        return "" if values.flag(value) else None
    except InputError:
        raise InputError(
            f"{values.shown(value)} is no path; write helper alone, or one like {HELPER_EXAMPLE}"
        ) from None


def _path(value: Any) -> str:
    text = values.text(value, "/etc/qemu-ifup")
    if not text or "\0" in text:
        raise InputError("needs a program; write it like /etc/qemu-ifup")
    return text


def _bridge(value: Any) -> str:
    return interface_name(values.text(value, BRIDGE_DEFAULT))


def _addresses(value: Any) -> tuple[Address, ...]:
    found = tuple(dict.fromkeys(map(_address, values.items(value, EXAMPLE))))
    if len(found) > ADDRESSES_MAX:
        raise InputError(f"{len(found)} addresses are too many; there may be {ADDRESSES_MAX}")
    return found


def _address(value: Any) -> Address:
    try:
        if not isinstance(value, str) or "/" not in value or "%" in value:
            raise ValueError
        address = ip_interface(value)
    except ValueError:
        raise InputError(f"{values.shown(value)} is not an address with its prefix; write it like {EXAMPLE}") from None
    if address.ip.is_multicast or address.ip.is_unspecified or address.ip.is_loopback:
        raise InputError(f"{value} is no station's address; write one like {EXAMPLE}")
    return address


_MTU = values.also_text(values.numbers(MTU_MIN, MTU_MAX))
_HELPER = {"anyOf": [*values.FLAG["anyOf"], {"type": "string", "pattern": "/"}]}

PARAMETERS: dict[str, Parameter] = {
    "fd": Parameter(
        read_descriptor,
        values.also_text(values.numbers(0, DESCRIPTOR_MAX)),
        "An open device, without a name: as fd://N.",
    ),
    "helper": Parameter(_helper, _HELPER, "QEMU's helper makes the device, in a bridge: true, or its path."),
    "br": Parameter(_bridge, TEXT, "The bridge that the helper puts it into: br0."),
    "mac": Parameter(
        lambda value: mac_text(read_mac(value)), TEXT, "The interface's MAC address: one of its own, if we make it."
    ),
    "mtu": Parameter(lambda value: values.number(value, MTU_MIN, MTU_MAX), _MTU, "Bytes of a packet: 1500."),
    "ip": Parameter(_addresses, values.several(TEXT), "The interface's addresses: 10.0.0.1/24, fd00::1/64."),
    "master": Parameter(_bridge, TEXT, "The bridge of this machine that the interface becomes a port of."),
    "offload": Parameter(values.flag, FLAG, "False: the kernel sums and cuts what it sends itself."),
    "ifup": Parameter(_path, TEXT, "A program that is run with the interface's name when it is there."),
    "ifdown": Parameter(_path, TEXT, "A program that is run with the interface's name before it goes."),
}
