"""Whose the other end of a loopback TCP connection is, asked of the kernel by sock_diag(7).

One exact look-up in the kernel's table, whatever the number of connections; no privilege is needed. See
Linux include/uapi/linux/inet_diag.h and sock_diag.h for the structures.
"""

import ipaddress
import os
import socket
import struct

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_ALL_STATES = 0xFFFF_FFFF
_NO_COOKIE = b"\xff" * 8

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, pid
_REQUEST = struct.Struct("=BBBBI")  # inet_diag_req_v2: family, protocol, ext, pad, states
_SOCKET_ID = struct.Struct("!HH16s16sI8s")  # inet_diag_sockid: ports, addresses, interface, cookie
_REPLY = struct.Struct("=BBBB48sIIIII")  # inet_diag_msg: …, expires, rqueue, wqueue, uid, inode


def peer_uid(connection: socket.socket) -> int | None:
    """The user who has the other end of `connection`, or None if nobody has it open any more.

    A socket that its process has closed already belongs to nobody: old kernels report user 0 for it.
    """
    here, there = connection.getsockname(), connection.getpeername()
    family = connection.family
    mapped = ipaddress.ip_address(there[0].partition("%")[0])
    if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped is not None:
        found = _look_up(socket.AF_INET, _unmapped(there), _unmapped(here))
        if found is not None:
            return found
    return _look_up(family, there, here)


def may_enter(connection: socket.socket) -> bool:
    """Whether a loopback connection comes from a process of this user's or root's; no, if that cannot be told."""
    try:
        return peer_uid(connection) in (0, os.geteuid())
    except OSError:
        return False


def _unmapped(address: tuple[str, int]) -> tuple[str, int]:
    ip = ipaddress.IPv6Address(address[0].partition("%")[0])
    return (str(ip.ipv4_mapped), address[1])


def _look_up(family: int, source: tuple[str, int], destination: tuple[str, int]) -> int | None:
    socket_id = _SOCKET_ID.pack(
        source[1], destination[1], _packed(family, source[0]), _packed(family, destination[0]), 0, _NO_COOKIE
    )
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + socket_id
    message = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1)
        netlink.sendto(message, (0, 0))
        reply = netlink.recv(4096)
    if len(reply) < _HEADER.size + _REPLY.size or _HEADER.unpack_from(reply)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    *_, uid, inode = _REPLY.unpack_from(reply, _HEADER.size)
    return uid if inode != 0 else None


def _packed(family: int, address: str) -> bytes:
    return socket.inet_pton(family, address.partition("%")[0]).ljust(16, b"\0")
