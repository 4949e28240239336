"""A forward as QEMU writes one (`hostfwd=`, net/slirp.c): what leads from this machine to a port of a guest's."""

import ipaddress
import re
from typing import Any

import msgspec

from vswitch import values
from vswitch.errors import InputError

MOST = 256  # of a network
EXAMPLE = "tcp:127.0.0.1:2222-web:22"
_INET = re.compile(r"(tcp|udp):(\[[^\]]*\]|[^:]*):([0-9]{1,5})-([^:]*):([0-9]{1,5})")
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
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}:{host}:{self.host_port}"

    def __str__(self) -> str:
        return f"{self.here}-{self.guest}:{self.guest_port}"

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
    return Forward(kind, _address(host or "127.0.0.1"), _port(host_port, 0), *_guest(guest, guest_port))


def _address(host: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise InputError(f"{values.shown(host)} is not an IPv4 address of this machine") from None


def _port(text: str, least: int) -> int:
    if not least <= int(text) <= 65535:
        raise InputError(f"port {text} is out of range; {least} to 65535")
    return int(text)


def _guest(guest: str, port: str) -> tuple[str, int]:
    return values.check_name(guest) if guest else "", _port(port, 1)
