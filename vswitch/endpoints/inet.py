"""Internet addresses: names to addresses, what is loopback, and who may bind beyond it."""

import errno
import fcntl
import ipaddress
import os
import re
import socket
import struct
from typing import Any

from vswitch.endpoints.sock_diag import plain_address
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError, RefusedError

_ADVICE = {
    errno.EADDRINUSE: "stop what listens there or use another port",
    errno.EADDRNOTAVAIL: "use an address of this machine",
    errno.EACCES: "use a port from 1024 on",
}
_SIOCGIFADDR = 0x8915  # Linux include/uapi/linux/sockios.h


async def resolve(host: str, port: int, kind: socket.SocketKind) -> list[tuple[int, Any]]:
    """Family and address of a host's port, each that it has. Raises OSError.

    IPv4 ones come first: they are all that QEMU's socket netdev knows.
    """
    import trio  # not by commands that only print

    try:
        found = await trio.socket.getaddrinfo(host, port, type=kind)
    except socket.gaierror as error:
        said = f"{error.strerror}; check how {host} is written, or write an IP address"
        raise socket.gaierror(error.errno, said) from None
    addresses = dict.fromkeys((int(family), address) for family, _, _, _, address in found)
    return sorted(addresses, key=lambda each: each[0] != socket.AF_INET)


async def resolve_alike(what: str, host: str, port: int, family: int) -> Any:
    """The address of a host's port that is of a family; errors say `what` it is. Raises InputError, RefusedError."""
    try:
        found = await resolve(host, port, socket.SOCK_DGRAM)
    except OSError as error:
        raise RefusedError(f"{what}: {error.strerror}") from None
    address = next((address for of, address in found if of == family), None)
    if address is None:
        raise InputError(f"{what}: one end is IPv4 and the other IPv6; write both alike")
    return address


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


async def bind_all(config: EndpointConfig, kind: socket.SocketKind, protocol: int = 0) -> list[socket.socket]:
    """A socket for each address that `config` names, one at least; all have the same port.

    Raises InputError for an address beyond loopback that was not asked for as such, and RefusedError; PermissionError
    where only root may have sockets of that kind.
    """
    try:
        addresses = await resolve(config.host, config.port, socket.SOCK_DGRAM if protocol else kind)
    except OSError as error:
        raise RefusedError(f"cannot listen on {config.url}: {error.strerror}") from None
    if not all(is_loopback(address[0]) for _, address in addresses) and not (config.insecure or config.tls):
        instead = (
            "add tls= or, if that is meant, insecure=yes"
            if config.scheme == "tcp"
            else "add insecure=yes if that is meant"
        )
        raise InputError(f"{config.url}: anyone on the network could connect; {instead}, or use 127.0.0.1")
    socks: list[socket.socket] = []
    for family, address in addresses:
        try:
            port = socks[0].getsockname()[1] if socks else address[1]
            socks.append(bind_to(family, (address[0], port, *address[2:]), kind, protocol))
        except OSError as error:
            if protocol and isinstance(error, PermissionError):
                raise
            if error.errno == errno.EADDRNOTAVAIL and (socks or address is not addresses[-1][1]):
                continue  # such as ::1 where there is no IPv6
            for sock in socks:
                sock.close()
            raise RefusedError(f"cannot listen on {config.url}: {reason(error)}") from None
    return socks


async def bind(config: EndpointConfig, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
    """The first of them."""
    first, *others = await bind_all(config, kind, protocol)
    for other in others:
        other.close()
    return first


def bind_to(family: int, address: Any, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
    """A socket at one address. Raises OSError."""
    sock = socket.socket(family, kind, protocol)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not protocol:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def reason(error: OSError) -> str:
    """Why an address cannot be had, and what to do about it."""
    advice = _ADVICE.get(error.errno or 0)
    return f"{plain_reason(error)}; {advice}" if advice else plain_reason(error)


def plain_reason(error: OSError) -> str:
    """Why an address cannot be had, or reached."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
