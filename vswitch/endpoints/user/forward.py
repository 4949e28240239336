"""A forward as QEMU writes one (`hostfwd=`, net/slirp.c): what leads from this machine to a port of a guest's."""

import ipaddress
import re
from contextlib import suppress
from typing import Any

import msgspec

from vswitch import values
from vswitch.errors import InputError

MOST = 256  # of a network
EXAMPLE = "tcp:127.0.0.1:2222-web:22"
_INET = re.compile(r"(tcp|udp):(\[[^\]]*\]|[^:\[]*):([0-9]{1,5})-(\[[^\]]*\]|[^:\[]*):([0-9]{1,5})")
_IPV4 = re.compile(r"[0-9.]+")
_UNIX = re.compile(r"unix:(.*/[^/-]+)-([^/:]*):([0-9]{1,5})", re.DOTALL)


class Forward(msgspec.Struct, frozen=True):
    """To a guest by address or name, or to the first that has a lease. `host` is an address, or for `unix` a path."""

    kind: str  # tcp, udp, or unix: a stream from a socket at a path
    host: str
    host_port: int  # 0: any that is free
    guest: str
    guest_port: int

    @property
    def here(self) -> str:
        """Where it comes from, as QEMU's `hostfwd_remove` has it."""
        if self.kind == "unix":
            return f"unix:{self.host}"
        return f"{self.kind}:{_bracketed(self.host)}:{self.host_port}"

    @property
    def is_of_ipv6(self) -> bool:
        """Then it leads to a guest's IPv6 address."""
        return self.kind != "unix" and ":" in self.host

    def __str__(self) -> str:
        return f"{self.here}-{_bracketed(self.guest)}:{self.guest_port}"

    def check(self, *, insecure: bool) -> None:
        """Whether it may be. Raises InputError."""
        if self.kind != "unix" and not ipaddress.ip_address(self.host).is_loopback and not insecure:
            raise InputError(
                f"{self.here}: anyone on the network could connect; add insecure=yes if that is meant, or use 127.0.0.1"
            )


def read(value: Any) -> Forward:
    """[tcp|udp]:[HOST]:PORT-[GUEST]:PORT or unix:/PATH-[GUEST]:PORT; HOST is loopback by default. Raises InputError."""
    text = values.text(value, EXAMPLE)
    if match := _UNIX.fullmatch(text):
        path, guest, guest_port = match.groups()
        if not path.startswith("/"):
            raise InputError(f"{values.shown(path)} is no absolute path; write it like unix:/run/web.sock-web:80")
        return Forward("unix", values.check_unix_path(path), 0, *_guest(guest, guest_port))
    match = _INET.fullmatch(text)
    if match is None:
        raise InputError(f"{values.shown(text)} is no forward; write it like {EXAMPLE}")
    kind, host, host_port, guest, guest_port = match.groups()
    host = _address(host) if host else "::1" if guest.startswith("[") else "127.0.0.1"
    if guest.startswith("[") if ":" not in host else _IPV4.fullmatch(guest):
        raise InputError(f"{host} leads to addresses of its own kind, and {guest} is of the other")
    return Forward(kind, host, _port(host_port, 0), *_guest(guest, guest_port))


def names(text: str) -> set[str]:
    """How a forward is written that somebody means: as here, or if it can be read, as we write it; in full or up to the
    `-`."""
    found = {text}
    with suppress(InputError):
        found.add(str(read(text)))
    with suppress(InputError):
        found.add(read(f"{text}-:1").here)
    return found


def _address(host: str) -> str:
    """One of IPv6 is in brackets."""
    try:
        if host.startswith("["):
            return str(ipaddress.IPv6Address(host[1:-1].partition("%")[0]))
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise InputError(
            f"{values.shown(host)} is not an IP address of this machine; write [::1] or 127.0.0.1"
        ) from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port(text: str, least: int) -> int:
    if not least <= int(text) <= 65535:
        raise InputError(f"port {text} is out of range; {least} to 65535")
    return int(text)


def _guest(guest: str, port: str) -> tuple[str, int]:
    if guest.startswith("["):
        return _address(guest), _port(port, 1)
    return values.check_name(guest) if guest else "", _port(port, 1)
