"""Whose the other end of a loopback connection or datagram is, asked of the kernel by sock_diag(7).

One exact look-up in the kernel's table, whatever the number of connections; no privilege is needed. See
Linux include/uapi/linux/inet_diag.h and sock_diag.h for the structures. Where there is none (gVisor, systemd's
RestrictAddressFamilies=, a kernel without tcp_diag), /proc/net/tcp says the same (proc(5)), at the cost of reading all
of it.
"""

import ipaddress
import os
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from vswitch.errors import RefusedError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_ALL_STATES = 0xFFFF_FFFF
_NO_COOKIE = b"\xff" * 8
_TIMEOUT_S = 1.0

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, pid
_REQUEST = struct.Struct("=BBBBI")  # inet_diag_req_v2: family, protocol, ext, pad, states
_SOCKET_ID = struct.Struct("!HH16s16sI8s")  # inet_diag_sockid: ports, addresses, interface, cookie
_REPLY = struct.Struct("=BBBB48sIIIII")  # inet_diag_msg: …, id, expires, rqueue, wqueue, uid, inode

Address = tuple[str, int]


class Found(NamedTuple):
    """A socket that a process has open."""

    source_port: int
    destination_port: int
    uid: int
    inode: int


class SockDiag:
    """A connection to the kernel's socket diagnostics, kept open: asking must not need a descriptor more."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        self._proven = False  # has found something
        self._sequence = 0
        try:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
            self._netlink.settimeout(_TIMEOUT_S)
        except OSError:
            if not os.access("/proc/net/tcp", os.R_OK):
                raise RefusedError(
                    "cannot tell here whose connections are (no NETLINK_SOCK_DIAG, no /proc/net/tcp); let all in with "
                    "any_user=yes, or use a unix:// socket"
                ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._netlink is not None:
            self._netlink.close()

    def is_trusted_client(self, connection: socket.socket) -> bool:
        """Whether an accepted loopback connection comes from a process of this user's or root's."""
        return _is_trusted(self.peer_uid(connection))

    def is_trusted_server(self, connection: socket.socket) -> bool:
        """Whether such a process has the other end of a loopback connection that we made, or is yet to accept it."""
        uid = self.peer_uid(connection)
        if uid is None:
            here = plain_address(connection.getpeername())
            family = socket.AF_INET6 if ":" in here[0] else socket.AF_INET
            listener = self._look_up(family, here, ("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
            uid = _uid(listener)
        return _is_trusted(uid)

    def sender_uid(self, there: Address, here: Address) -> int | None:
        """The user whose UDP socket gets what is sent from `here` to `there`, or None if there is none."""
        return _uid(self.sender(there, here))

    def sender(self, there: Address, here: Address) -> Found | None:
        """That socket.

        For UDP the kernel takes a request's destination for the local end of the socket that it looks up.
        """
        family = socket.AF_INET6 if ":" in there[0] else socket.AF_INET
        found = self._ask(family, socket.IPPROTO_UDP, here, there)
        return found if found is not None and found.source_port == there[1] else None

    def is_trusted_sender(self, there: Address, here: Address) -> bool:
        """Whether datagrams from `there`, an address of this machine, are this user's or root's."""
        return _is_trusted(self.sender_uid(there, here))

    def peer_uid(self, connection: socket.socket) -> int | None:
        """The user who has the other end of `connection`, or None if nobody has it open.

        A socket that its process has closed already belongs to nobody: old kernels report user 0 for it. Nor does
        one that its process has not accepted yet.
        """
        return _uid(self.peer(connection.family, connection.getsockname(), connection.getpeername()))

    def peer(self, family: int, here: Address, there: Address) -> Found | None:
        """The other end of a TCP connection, if somebody has it open."""
        found = None
        if family == socket.AF_INET6 and ":" not in plain_address(there)[0]:
            # An IPv4 peer of an IPv6 socket; its own socket may be of either kind.
            found = self._look_up(socket.AF_INET, plain_address(there), plain_address(here))
        return found or self._look_up(family, there, here)

    def _look_up(self, family: int, source: Address, destination: Address) -> Found | None:
        """The TCP socket with these ends; a destination of port 0 asks for a listener."""
        found = self._ask(family, socket.IPPROTO_TCP, source, destination)
        # The kernel answers with the listener when there is no such connection.
        return found if found is not None and found.destination_port == destination[1] else None

    def _ask(self, family: int, protocol: int, source: Address, destination: Address) -> Found | None:
        found = None
        if self._netlink is not None:
            found = self._ask_kernel(self._netlink, family, protocol, source, destination)
        if found is not None:
            self._proven = True
        elif not self._proven:
            found = _read_table(family, protocol, source, destination)
        return found

    def _ask_kernel(
        self, netlink: socket.socket, family: int, protocol: int, source: Address, destination: Address
    ) -> Found | None:
        ends = _packed(family, source[0]), _packed(family, destination[0])
        socket_id = _SOCKET_ID.pack(source[1], destination[1], *ends, 0, _NO_COOKIE)
        body = _REQUEST.pack(family, protocol, 0, 0, _ALL_STATES) + socket_id
        self._sequence += 1
        header = (_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._sequence, 0)
        netlink.sendto(_HEADER.pack(*header) + body, (0, 0))
        while True:
            reply = netlink.recv(4096)
            _, kind, _, sequence, _ = _HEADER.unpack_from(reply)
            if sequence == self._sequence:
                break
        if kind != _SOCK_DIAG_BY_FAMILY or len(reply) < _HEADER.size + _REPLY.size:
            return None
        *_, found, _, _, _, uid, inode = _REPLY.unpack_from(reply, _HEADER.size)
        source_port, destination_port, *_ = _SOCKET_ID.unpack(found)
        return Found(source_port, destination_port, uid, inode) if inode != 0 else None


def _read_table(family: int, protocol: int, source: Address, destination: Address) -> Found | None:
    """The same from /proc/net: the socket with these ends, or the one that listens or is bound at one of them."""
    kind = "tcp" if protocol == socket.IPPROTO_TCP else "udp"
    local, remote = (source, destination) if kind == "tcp" else (destination, source)
    for table in (kind, f"{kind}6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        is_six = table.endswith("6")
        if family == socket.AF_INET6 and not is_six:
            continue
        anywhere = "::" if is_six else "0.0.0.0"
        here, there, nowhere = (proc_address(address, is_six) for address in (local[0], remote[0], anywhere))
        for line in lines:
            _, own, other, _, _, _, _, uid, _, inode, *_ = line.split()
            address, _, port = own.partition(":")
            peer, _, peer_port = other.partition(":")
            exact = (address, peer) == (here, there) and int(peer_port, 16) == remote[1]
            bound = address in (here, nowhere) and int(peer_port, 16) == 0 and (kind == "udp" or remote[1] == 0)
            if int(port, 16) == local[1] and (exact or bound) and inode != "0":
                return Found(local[1], int(peer_port, 16), int(uid), int(inode))
    return None


def proc_address(address: str, is_six: bool = False) -> str:
    """An address as /proc/net has it: words of 32 bits, in the machine's order."""
    plain = address.partition("%")[0]
    if is_six:
        packed = socket.inet_pton(socket.AF_INET6, plain if ":" in plain else f"::ffff:{plain}")
    else:
        packed = socket.inet_pton(socket.AF_INET, plain)
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


def _uid(found: Found | None) -> int | None:
    return None if found is None else found.uid


def _is_trusted(uid: int | None) -> bool:
    return uid is not None and uid in (0, os.geteuid())


def plain_address(address: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """An address without what only IPv6 has; an IPv4 address written as IPv6, as IPv4."""
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (str(mapped or address[0]), address[1])


def _packed(family: int, address: str) -> bytes:
    return socket.inet_pton(family, address.partition("%")[0]).ljust(16, b"\0")
