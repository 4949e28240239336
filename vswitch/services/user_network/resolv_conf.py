"""The name servers that resolv.conf(5) names, and how a socket reaches them."""

import fcntl
import ipaddress
import socket
import struct
from typing import Any

import msgspec

from vswitch.services.user_network.settings import Address

MOST = 3  # as resolv.conf(5) has it
_SIOCGIFINDEX = 0x8933  # Linux include/uapi/linux/sockios.h
_NAME_MAX = 15  # bytes of an interface's name
_INDEX_MAX = (1 << 31) - 1
_IFREQ = struct.Struct("16si20x")


class Server(msgspec.Struct, frozen=True):
    """`scope` is the interface that a link-local address is of: its name or its number (RFC 4007, 11)."""

    ip: Address
    scope: str = ""

    def address(self, sock: socket.socket, port: int) -> Any:
        """As a socket of its family takes it, and gives it as a peer's. Raises OSError if it reaches no such address,
        or there is no such interface now."""
        if sock.family == socket.AF_INET:
            if self.ip.version == 6:
                raise OSError("this system has no IPv6")
            return str(self.ip), port
        if self.ip.version == 4:
            return f"::ffff:{self.ip}", port, 0, 0
        host = socket.inet_ntop(socket.AF_INET6, self.ip.packed)  # which writes some otherwise than Python does
        return host, port, 0, _index(sock, self.scope) if self.scope else 0


def servers(text: str) -> list[Server]:
    """What nobody can be asked at is left out; if nothing is left, it is this machine, as resolv.conf(5) has it."""
    lines = (line.split() for line in text.splitlines())
    named = (_server(words[1]) for words in lines if len(words) >= 2 and words[0] == "nameserver")
    return [server for server in named if server is not None][:MOST] or [Server(ipaddress.IPv4Address("127.0.0.1"))]


def _server(text: str) -> Server | None:
    host, _, scope = text.partition("%")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if ip.is_multicast or (ip.version == 4 and "%" in text):
        return None
    if ip.version == 4 or not ip.is_link_local:  # a scope means nothing there
        return Server(getattr(ip, "ipv4_mapped", None) or ip)
    return Server(ip, scope) if _is_scope(scope) else None


def _is_scope(text: str) -> bool:
    if text.isascii() and text.isdecimal():
        return len(text) <= 10 and 0 < int(text) <= _INDEX_MAX
    return 0 < len(text.encode(errors="replace")) <= _NAME_MAX and text.isprintable() and "/" not in text


def _index(sock: socket.socket, scope: str) -> int:
    """An interface's number. Not by if_nametoindex(3), which may want a unix socket. Raises OSError."""
    if scope.isascii() and scope.isdecimal():
        return int(scope)
    request = _IFREQ.pack(scope.encode(errors="replace"), 0)
    return int(_IFREQ.unpack(fcntl.ioctl(sock, _SIOCGIFINDEX, request))[1])
