"""The sockets of tunnels: how they treat what is too long, from which ports they send, which group they are in."""

import contextlib
import errno
import random
import socket
import struct
from typing import Any

from vswitch.dataplane.tunnel import SOL_UDP, UDP_GRO, UDP_SEGMENT
from vswitch.endpoints import socket_filter

RECEIVE_BUFFER = 1 << 22
SEND_BUFFER = 1 << 20
SENDERS = 8  # sockets that flows are spread over
PORTS = range(49152, 65536)  # RFC 7348, 5
TRIES = 50

# Linux include/uapi/linux/in.h and in6.h
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_DONT, _PMTUDISC_DO = 0, 2
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29
_MULTICAST_HOPS = 1


def sockaddr(family: int, address: Any) -> bytes:
    """A socket address as the system has it."""
    head = struct.pack("=H", family) + struct.pack("!H", address[1])
    if family == socket.AF_INET:
        return head + socket.inet_aton(address[0]) + bytes(8)
    packed = socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0])
    return head + bytes(4) + packed + struct.pack("=I", address[3])


def address_of(name: bytes) -> tuple[int, Any]:
    """The family and the address, the other way round; from an IPv4 one's last eight bytes on it may be cut off."""
    (family,), (port,) = struct.unpack("=H", name[:2]), struct.unpack("!H", name[2:4])
    if family == socket.AF_INET:
        return family, (socket.inet_ntoa(name[4:8]), port)
    (scope,) = struct.unpack("=I", name[24:28])
    host = socket.inet_ntop(socket.AF_INET6, name[8:24])
    if scope:
        with contextlib.suppress(OSError):
            host += f"%{socket.if_indextoname(scope)}"
    return family, (host, port, 0, scope)


def key(name: bytes, *, any_port: bool) -> bytes:
    """By what the data plane knows who has an address (TunnelSocket)."""
    known = name[:8] if name[:2] == struct.pack("=H", socket.AF_INET) else name
    return known[:2] + b"\0\0" + known[4:] if any_port else known


def can_segment(sock: socket.socket) -> bool:
    """Whether the system cuts messages up into datagrams; Linux does from 4.18 on, for UDP."""
    try:
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return sock.type == socket.SOCK_DGRAM


def set_up(sock: socket.socket, *, fragment: bool) -> None:
    """Have a socket refuse what is too long for its path (EMSGSIZE), or have it cut up on the way. Raises OSError.

    Datagrams of one length, one after another, are received as one message where the system does that (Linux 5.0, UDP).
    """
    how = _PMTUDISC_DONT if fragment else _PMTUDISC_DO
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, how)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, how)
    with contextlib.suppress(OSError):
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    sock.setblocking(False)


def senders(stack: contextlib.ExitStack, family: int, address: Any, *, fragment: bool) -> list[socket.socket]:
    """Sockets at ports of their own, which only send. Raises OSError."""
    found = []
    for _ in range(SENDERS):
        sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        socket_filter.take_nothing(sock)
        set_up(sock, fragment=fragment)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        _bind_somewhere(sock, address)
        found.append(sock)
    return found


def _bind_somewhere(sock: socket.socket, address: Any) -> None:
    for port in random.sample(PORTS, TRIES):
        try:
            return sock.bind((address[0], port, *address[2:]))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no port from 49152 on is free")


class Interface:
    """Where a group is: an interface, by its IPv4 address, or by its number, which IPv6 needs."""

    def __init__(self, address: str, index: int) -> None:
        self._address = address
        self._index = index

    def send_by(self, sock: socket.socket, *, loop: bool) -> None:
        """Have a socket send to groups there. Raises OSError."""
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _MULTICAST_HOPS)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, loop)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, self._mreqn("0.0.0.0"))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _MULTICAST_HOPS)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)

    def join(self, stack: contextlib.ExitStack, family: int, group: str, port: int) -> socket.socket:
        """A socket that receives what is sent to a group there. Raises OSError."""
        sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        only_joined(sock)
        if family == socket.AF_INET6:
            sock.bind((group, port, 0, self._index))
            request = socket.inet_pton(family, group) + struct.pack("=I", self._index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        else:
            sock.bind((group, port))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, self._mreqn(group))
        return sock

    def _mreqn(self, group: str) -> bytes:
        """A struct ip_mreqn (ip(7))."""
        return struct.pack("=4s4si", socket.inet_aton(group), socket.inet_aton(self._address), self._index)


def only_joined(sock: socket.socket) -> None:
    """Have a socket not get what is for groups that others have joined. Raises OSError."""
    if sock.family == socket.AF_INET6:
        with contextlib.suppress(OSError):  # Linux 4.20
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
