"""Internet addresses: names to addresses, what is loopback, and who may bind beyond it."""

import errno
import fcntl
import ipaddress
import os
import re
import socket
import struct
from typing import Any

import trio

from vswitch.endpoints.sock_diag import plain_address
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError, RefusedError

_SIOCGIFADDR = 0x8915  # Linux include/uapi/linux/sockios.h


async def resolve(host: str, port: int, kind: socket.SocketKind) -> tuple[socket.AddressFamily, Any]:
    """Family and address of a host's port. Raises OSError.

    Of a name with several addresses an IPv4 one, which is all that QEMU's socket netdev knows.
    """
    found = await trio.socket.getaddrinfo(host, port, type=kind)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def is_loopback(host: str) -> bool:
    """Whether a numeric address is this machine's own."""
    return ipaddress.ip_address(plain_address((host, 0))[0].partition("%")[0]).is_loopback


def interface_address(iface: str) -> str | None:
    """The IPv4 address of an interface that is given by address or by name, or None if it has none."""
    if re.fullmatch(r"[0-9.]+", iface):
        return iface
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", iface.encode()))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def text(address: Any) -> str:
    """A socket address for people."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def bind(config: EndpointConfig, kind: socket.SocketKind) -> socket.socket:
    """A socket bound to what `config` names.

    Raises InputError for an address beyond loopback that was not asked for as such, and RefusedError.
    """
    try:
        family, address = await resolve(config.host, config.port, kind)
    except OSError as error:
        raise RefusedError(f"cannot listen on {config.url}: {error.strerror}") from None
    if not is_loopback(address[0]) and not config.insecure:
        raise InputError(
            f"{config.url}: anyone on the network could connect; add insecure=yes if that is meant, or use 127.0.0.1"
        )
    sock = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise RefusedError(f"cannot listen on {config.url}: {reason(error)}") from None
    return sock


def reason(error: OSError) -> str:
    """Why an address cannot be had, and what to do about it."""
    hint = "; stop what listens there or use another port" if error.errno == errno.EADDRINUSE else ""
    return (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)) + hint
