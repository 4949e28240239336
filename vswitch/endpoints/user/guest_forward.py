"""Servers in a user network that are programs, sockets or ports of this machine (QEMU's `guestfwd=`, net/slirp.c)."""

import ipaddress
import re
import shlex
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import msgspec

from vswitch import values
from vswitch.errors import InputError

EXAMPLE = "tcp:10.0.2.100:1234-cmd:/usr/bin/cat"
MOST = 64  # of a network, and connections of it at a time
_FORM = re.compile(r"(?:tcp)?:(\[[^\]]*\]|[^:]*):([0-9]{1,5})-(cmd|tcp|unix):(.+)", re.DOTALL)
_PORT = re.compile(r"(\[[^\]]*\]|[^:]*):([0-9]{1,5})")

Address = IPv4Address | IPv6Address


class GuestForward(msgspec.Struct, frozen=True):
    """`server` and `port` are where guests find it; without a server, it is the fourth of the network. Each connection
    is one of a command, whose input and output it is, or to a TCP port or a unix socket."""

    server: str
    port: int
    kind: str  # cmd, tcp, unix
    target: str

    def __str__(self) -> str:
        server = f"[{self.server}]" if ":" in self.server else self.server
        return f"tcp:{server}:{self.port}-{self.kind}:{self.target}"

    def address(self, network: IPv4Network) -> Address:
        return ipaddress.ip_address(self.server) if self.server else network.network_address + 4

    def check(self, network: IPv4Network, network6: IPv6Network, taken: set[Address]) -> None:
        """Whether the server is in the network. Raises InputError."""
        ip = self.address(network)
        if ip not in (network if ip.version == 4 else network6) or ip in taken:
            raise InputError(f"guestfwd: {ip} is no free address in {network if ip.version == 4 else network6}")


def read(value: Any) -> GuestForward:
    """[tcp]:[SERVER]:PORT-cmd:COMMAND, or -tcp:HOST:PORT, or -unix:/PATH. Raises InputError."""
    text = values.text(value, EXAMPLE)
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(
            f"{values.shown(text)} leads nowhere; write it like {EXAMPLE}, or -tcp:HOST:PORT, or -unix:/PATH"
        )
    server, port, kind, target = match.groups()
    _check_target(kind, target)
    return GuestForward(_server(server), _port(port), kind, target)


def _check_target(kind: str, target: str) -> None:
    if kind == "unix":
        values.check_unix_path(target)
        if not target.startswith("/"):
            raise InputError(f"{values.shown(target)} is no absolute path")
    elif kind == "tcp":
        match = _PORT.fullmatch(target)
        if match is None or not match[1]:
            raise InputError(f"{values.shown(target)} is no host and port; write it like 127.0.0.1:8080")
        _port(match[2])
    else:
        try:
            words = shlex.split(target)
        except ValueError as error:
            raise InputError(f"{values.shown(target)} is no command: {error}") from None
        if not words or "\0" in target:
            raise InputError(f"{values.shown(target)} is no command")


def _server(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]"))) if text else ""
    except ValueError:
        raise InputError(f"{values.shown(text)} is not an IP address; one of IPv6 goes in brackets") from None


def _port(text: str) -> int:
    if not 1 <= int(text) <= 65535:
        raise InputError(f"port {text} is out of range; 1 to 65535")
    return int(text)
