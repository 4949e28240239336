"""Many datagrams in one system call: recvmmsg(2) and sendmmsg(2), which Python's socket module does not have.

The kernel works on memory that is laid out once for all links, since calls never overlap. A received datagram has
a slot of a certain size, and goes on in an overflow area if it is longer; sent frames are taken from where they are.
A receiver that is `named` keeps where each datagram came from as well.
"""

import ctypes
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final, final

from librt.strings import BytesWriter, read_i32_be, read_i32_le, read_i64_be, write_i64_be, write_i64_le
from mypy_extensions import i64

from vswitch.dataplane.frame import FRAME_MAX, PREFIX, frame_length
from vswitch.dataplane.run import Run

BURST: Final = 64  # datagrams that one call takes
SLOT_SIZES: Final = (128, 2048, 16384)
DONTWAIT: Final = int(socket.MSG_DONTWAIT)
NAME_SIZE: Final = 32  # room for where a datagram came from, a struct sockaddr_in6 at most
LITTLE_ENDIAN: Final = sys.byteorder == "little"

IOVEC: Final = struct.Struct("@PN")  # struct iovec: address, size
HEADER: Final = struct.Struct("@PIPNPNi0PI0P")  # struct mmsghdr: a struct msghdr, and the datagram's length
HEADER_SIZE: Final = HEADER.size
AT_LENGTH: Final = struct.calcsize("@PIPNPNi0P")
BYTES_AT: Final = (
    bytes.__basicsize__ - 1
)  # where in a bytes object its bytes are (CPython Include/cpython/bytesobject.h)

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg: Callable[[int, int, int, int, None], int] = _libc.recvmmsg
_libc.recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
sendmmsg: Callable[[int, int, int, int], int] = _libc.sendmmsg
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class Area:
    """Memory that the kernel knows the address of."""

    def __init__(self, content: bytes | int) -> None:
        self._memory = ctypes.create_string_buffer(content, len(content) if isinstance(content, bytes) else content)
        self.address: int = ctypes.addressof(self._memory)

    def read(self, at: i64, size: i64) -> bytes:
        return ctypes.string_at(self.address + at, size)

    def write(self, content: bytes) -> None:
        ctypes.memmove(self.address, content, len(content))


def _headers(vectors: Area, each: int, names: Area | None = None) -> bytes:
    """A message header for each datagram of a burst, which has `each` of the vectors."""
    headers = []
    for number in range(BURST):
        place = vectors.address + number * each * IOVEC.size
        name, name_size = (0, 0) if names is None else (names.address + number * NAME_SIZE, NAME_SIZE)
        headers.append(HEADER.pack(name, name_size, place, each, 0, 0, 0, 0))
    return b"".join(headers)


OVERFLOW_SIZE: Final = FRAME_MAX + 1  # one byte more tells that a frame is too long


@final
class Receiver:
    """Receives bursts into slots of one size. What was received stays until the next call."""

    def __init__(self, slot_size: i64, slots: Area, overflow: Area, named: bool = False) -> None:
        self.slot_size = slot_size
        self.names = b""
        self._overflow = overflow
        self._slots = slots
        vectors = []
        for number in range(BURST):
            vectors.append(IOVEC.pack(self._slots.address + number * slot_size, slot_size))
            vectors.append(IOVEC.pack(overflow.address + number * OVERFLOW_SIZE, OVERFLOW_SIZE))
        self._vectors = Area(b"".join(vectors))
        self._names = Area(BURST * NAME_SIZE if named else 0)
        self._named = named
        self._fresh = _headers(self._vectors, 2, self._names if named else None)
        self._headers = Area(self._fresh)
        self._lengths = b""
        self._frames = b""

    def receive(self, fd: i64, most: i64) -> i64:
        """Receive up to `most` datagrams; answers how many, or -1 with `ctypes.get_errno()` set."""
        if self._named:
            self._headers.write(self._fresh)  # the last call has put the size of each name there
        count: i64 = _recvmmsg(fd, self._headers.address, most, DONTWAIT, None)
        if count > 0:
            self._lengths = self._headers.read(0, count * HEADER_SIZE)
            self._frames = self._slots.read(0, count * self.slot_size)
            if self._named:
                self.names = self._names.read(0, count * NAME_SIZE)
        return count

    def length(self, number: i64) -> i64:
        """The length of a datagram that was received, more than FRAME_MAX if it was longer."""
        at = number * HEADER_SIZE + AT_LENGTH
        if LITTLE_ENDIAN:
            return i64(read_i32_le(self._lengths, at))
        return i64(read_i32_be(self._lengths, at))

    def word(self, number: i64, at: i64) -> i64:
        """Eight bytes of a datagram that was received, or what is behind it in its slot."""
        return read_i64_be(self._frames, number * self.slot_size + at)

    def copy(self, number: i64, skip: i64, length: i64, target: BytesWriter) -> None:
        """Append a datagram that was received, without its first bytes; `length` is with them."""
        start = number * self.slot_size
        if length <= self.slot_size:
            target.write(self._frames[start + skip : start + length])
        else:
            target.write(self._frames[start + skip : start + self.slot_size])
            target.write(self._overflow.read(number * OVERFLOW_SIZE, length - self.slot_size))


@final
class Sender:
    """Sends bursts of queued frames."""

    def __init__(self) -> None:
        self._vectors = Area(BURST * IOVEC.size)
        self._headers = Area(_headers(self._vectors, 1))

    def send(self, fd: i64, runs: list[Run], most: i64) -> i64:
        """Send up to `most` frames from the head of a queue; answers how many, or -1 with errno set."""
        vectors = BytesWriter()
        count: i64 = 0
        for run in runs:
            base: i64 = id(run.chunk) + BYTES_AT
            at = run.start
            while at < run.end and count < most:
                length = frame_length(run.chunk, at)
                append_i64(vectors, base + at + PREFIX)
                append_i64(vectors, length)
                at += PREFIX + length
                count += 1
            if count == most:
                break
        self._vectors.write(vectors.getvalue())
        sent: i64 = sendmmsg(fd, self._headers.address, count, DONTWAIT)
        return sent


def append_i64(target: BytesWriter, number: i64) -> None:
    """Append a word, as this machine has it."""
    if LITTLE_ENDIAN:
        write_i64_le(target, number)
    else:
        write_i64_be(target, number)


_OVERFLOW: Final = Area(BURST * OVERFLOW_SIZE)
_SLOTS: Final = [Area(BURST * size) for size in SLOT_SIZES]
RECEIVERS: Final = [Receiver(size, slots, _OVERFLOW) for size, slots in zip(SLOT_SIZES, _SLOTS, strict=True)]
NAMED_RECEIVERS: Final = [
    Receiver(size, slots, _OVERFLOW, named=True) for size, slots in zip(SLOT_SIZES, _SLOTS, strict=True)
]
SENDER: Final = Sender()


def last_errno() -> int:
    """Why the last call has failed."""
    return ctypes.get_errno()
