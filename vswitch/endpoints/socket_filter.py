"""Filters that the kernel goes by before it queues a datagram for a socket: classic BPF.

Linux include/uapi/linux/filter.h. Offsets are counted from the IP header, or from the UDP header.
"""

import ctypes
import socket
import struct

_SO_ATTACH_FILTER = 26
_LOAD_4, _LOAD_2, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_IP_HEADER = 0xFFF0_0000
_EVERYTHING = 0xFFFF_FFFF
_SOURCE_4, _SOURCE_6 = 12, 8  # where in an IP header the source address is

_Step = tuple[int, int, int, int]


def leave_out(sock: socket.socket, host: str, port: int) -> None:
    """Have the kernel drop UDP datagrams that come from an address. Raises OSError."""
    if ":" in host:
        address, at = socket.inet_pton(socket.AF_INET6, host.partition("%")[0]), _SOURCE_6
    else:
        address, at = socket.inet_aton(host), _SOURCE_4
    loads = [
        (_LOAD_4, _IP_HEADER + at + word, int.from_bytes(address[word : word + 4]))
        for word in range(0, len(address), 4)
    ]
    loads.append((_LOAD_2, 0, port))  # the source port
    steps: list[_Step] = []
    for number, (load, where, wanted) in enumerate(loads):
        to_the_end = 2 * (len(loads) - number) - 1
        steps += [(load, 0, 0, where), (_JUMP_IF_EQUAL, 0, to_the_end, wanted)]
    _attach(sock, [*steps, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, _EVERYTHING)])


def take_nothing(sock: socket.socket) -> None:
    """Have the kernel drop all that comes: for a socket that only sends. Raises OSError."""
    _attach(sock, [(_RETURN, 0, 0, 0)])


def _attach(sock: socket.socket, steps: list[_Step]) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(steps), ctypes.addressof(program)))
