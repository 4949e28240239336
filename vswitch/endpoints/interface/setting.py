"""Has an interface be as it is asked to be: what differs is set, so that one that root has set up asks for no rights.

It blocks, as the system does all of this for one at a time: a thread calls it. MAC address, MTU and state are set by
ioctl, which is there at once; addresses and bridges by netlink.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from vswitch import interfaces
from vswitch.endpoints.interface import netlink
from vswitch.endpoints.interface.options import Address, InterfaceOptions
from vswitch.errors import RefusedError

MACHINE_ID = "/etc/machine-id"  # machine-id(5)


def apply(name: str, wanted: InterfaceOptions) -> None:
    """Raises RefusedError, which says what root would have to run."""
    if wanted.mac is not None:
        with _asked(f"mac={wanted.mac}", f"ip link set {name} address {wanted.mac}"):
            if interfaces.mac(name) != wanted.mac:
                interfaces.set_mac(name, wanted.mac)
    if wanted.mtu is not None:
        size = "the interface takes none of that size"
        refused = {errno.EINVAL: size, errno.ERANGE: size}
        with _asked(f"mtu={wanted.mtu}", f"ip link set {name} mtu {wanted.mtu}", refused):
            if interfaces.mtu(name) != wanted.mtu:
                interfaces.set_mtu(name, wanted.mtu)
    if wanted.ip:
        _add_addresses(name, wanted.ip)
    if wanted.master is not None:
        _set_master(name, wanted.master)


def bring_up(name: str) -> bool:
    """Answers whether it is up then: this user may not set it up, if it is root's. Raises RefusedError."""
    try:
        interfaces.set_up(name)
    except PermissionError:
        return False
    except OSError as error:
        raise RefusedError(f"cannot be set up: {error.strerror}") from None
    return True


def own_mac(switch: str, endpoint: str) -> str:
    """A stable address for an interface that we make, which no other machine on the LAN has.

    It begins with FE, as QEMU's helper has it: a bridge takes the lowest of its ports' addresses for its own, and that
    is not to change when the interface becomes one of them.
    """
    machine = ""
    with suppress(OSError):
        machine = Path(MACHINE_ID).read_text().strip()
    digest = hashlib.sha256("\0".join(["tap", machine, switch, endpoint]).encode()).digest()
    return "fe:54:00:" + digest[:3].hex(":")


def _add_addresses(name: str, wanted: tuple[Address, ...]) -> None:
    with _asked("ip", f"ip address show dev {name}"):
        there = netlink.addresses(name)
    for address in wanted:
        off = f"IPv6 is off there; have root run: sysctl -w net.ipv6.conf.{name}.disable_ipv6=0"
        refused = {errno.EACCES: off} if address.version == 6 else {}
        if address not in there:
            with _asked(f"ip={address}", f"ip address add {address} dev {name}", refused):
                netlink.add_address(name, address)


def _set_master(name: str, bridge: str) -> None:
    none = f"there is no bridge {bridge}; have root run: ip link add {bridge} type bridge"
    other = f"{bridge} is no bridge"
    refused = {errno.ENODEV: none, errno.EINVAL: other, errno.EOPNOTSUPP: other, errno.ELOOP: other}
    with _asked(f"master={bridge}", f"ip link set {name} master {bridge}", refused):
        if netlink.master(name) != bridge:
            netlink.set_master(name, bridge)


@contextmanager
def _asked(what: str, command: str, refused: Mapping[int, str] | None = None) -> Iterator[None]:
    """Raises RefusedError for an OSError. `command` does the same, and `refused` is what errors mean here."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        why = (refused or {}).get(number) or os.strerror(number)
        if number == errno.EPERM:
            why += f"; have root run: {command}"
        raise RefusedError(f"{what}: {why}") from None
