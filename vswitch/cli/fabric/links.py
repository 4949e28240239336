"""The kernel's network interfaces, as `ip` tells them in JSON."""

import subprocess
from typing import TypeVar

import msgspec

from vswitch.errors import RefusedError

T = TypeVar("T")


class KindData(msgspec.Struct, frozen=True):
    """`id` and `learning` are a VXLAN device's, `type` a TUN or TAP device's."""

    id: int = 0
    learning: bool = True
    type: str | None = None


class PortData(msgspec.Struct, frozen=True):
    learning: bool = True


class Info(msgspec.Struct, frozen=True):
    """What kind of interface; and of a port of a bridge, what that has set."""

    info_kind: str = ""
    info_data: KindData = KindData()
    info_slave_data: PortData = PortData()


class Link(msgspec.Struct, frozen=True):
    """Nothing is said of one that `ip` leaves out. `flags` of a TAP device have NO-CARRIER if nobody has it open."""

    ifname: str = ""
    mtu: int = 0
    flags: tuple[str, ...] = ()
    master: str | None = None
    linkinfo: Info = Info()

    @property
    def is_up(self) -> bool:
        return "UP" in self.flags

    @property
    def is_tap(self) -> bool:
        return self.linkinfo.info_kind == "tun" and self.linkinfo.info_data.type == "tap"

    @property
    def vxlan(self) -> KindData | None:
        return self.linkinfo.info_data if self.linkinfo.info_kind == "vxlan" else None


class Route(msgspec.Struct, frozen=True):
    dev: str


def all_links() -> dict[str, Link]:
    """By name. Raises RefusedError."""
    return by_name(_ask("-details", "link", "show"))


def by_name(answer: bytes) -> dict[str, Link]:
    """The same, of what `ip` prints. Raises RefusedError."""
    found = _read(answer, list[Link])
    return {link.ifname: link for link in found if link.ifname}


def way_to(address: str) -> str | None:
    """The interface that leads to an address; None if there is no way."""
    try:
        routes = _read(_ask("route", "get", address), list[Route])
    except RefusedError:
        return None
    return routes[0].dev if routes else None


def _ask(*words: str) -> bytes:
    try:
        done = subprocess.run(
            ["ip", "-json", *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=True
        )
    except FileNotFoundError:
        raise RefusedError("there is no ip: install iproute2") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise RefusedError(f"ip {' '.join(words)}: {error}") from None
    return done.stdout


def _read(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer or b"[]", type=kind)
    except msgspec.DecodeError as error:
        raise RefusedError(f"ip answers as none does that is known here: {str(error)[:200]}") from None
