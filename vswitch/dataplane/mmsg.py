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
SHRINK_AFTER: Final = 32  # bursts that smaller slots would have held
SLOT_SIZES: Final = (128, 2048, 16384)
DONTWAIT: Final = int(socket.MSG_DONTWAIT)
NAME_SIZE: Final = 32  # room for where a datagram came from, a struct sockaddr_in6 at most
LITTLE_ENDIAN: Final = sys.byteorder == "little"

IOVEC: Final = struct.Struct("@PN")  # struct iovec: address, size
HEADER: Final = struct.Struct("@PIPNPNi0PI0P")  # struct mmsghdr: a struct msghdr, and the datagram's length
HEADER_SIZE: Final = HEADER.size
AT_LENGTH: Final = struct.calcsize("@PIPNPNi0P")
AT_CONTROL_LENGTH: Final = struct.calcsize("@PIPNP0N")
CONTROL_SIZE: Final = 24  # struct cmsghdr, and a number
AT_SEGMENT: Final = struct.calcsize("@Nii")
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


def _headers(vectors: Area, each: int, names: Area | None = None, controls: Area | None = None) -> bytes:
    """A message header for each datagram of a burst, which has `each` of the vectors."""
    headers = []
    for number in range(BURST):
        place = vectors.address + number * each * IOVEC.size
        name, name_size = (0, 0) if names is None else (names.address + number * NAME_SIZE, NAME_SIZE)
        control, size = (0, 0) if controls is None else (controls.address + number * CONTROL_SIZE, CONTROL_SIZE)
        headers.append(HEADER.pack(name, name_size, place, each, control, size, 0, 0))
    return b"".join(headers)


SLACK: Final = 128
_NOTHING: Final = bytes(SLACK)
OVERFLOW_SIZE: Final = FRAME_MAX + 1  # one byte more tells that a frame is too long


@final
class Receiver:
    """Receives bursts into slots of one size. What was received stays until the next call.

    One that is `named` knows who has sent each datagram, and whether the system has joined several of one sender and
    one length (UDP_GRO, udp(7)).
    """

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
        self._controls = Area(BURST * CONTROL_SIZE if named else 0)
        self._fresh = _headers(self._vectors, 2, *((self._names, self._controls) if named else ()))
        self._headers = Area(self._fresh)
        self._lengths = b""
        self._frames = b""
        self._said = b""  # of the datagrams that were joined
        self.data = b""  # where `open` has found a datagram

    def receive(self, fd: i64, most: i64) -> i64:
        """Receive up to `most` datagrams; answers how many, or -1 with `ctypes.get_errno()` set."""
        if self._named:
            self._headers.write(self._fresh)  # the last call has put the size of each name and control message there
        count: i64 = _recvmmsg(fd, self._headers.address, most, DONTWAIT, None)
        if count > 0:
            self._lengths = self._headers.read(0, count * HEADER_SIZE)
            self._frames = self._slots.read(0, count * self.slot_size + SLACK)
            if self._named:
                self._said = self._controls.read(0, count * CONTROL_SIZE)
                self.names = self._names.read(0, count * NAME_SIZE)
        return count

    def length(self, number: i64) -> i64:
        """The length of a datagram that was received, more than FRAME_MAX if it was longer."""
        at = number * HEADER_SIZE + AT_LENGTH
        if LITTLE_ENDIAN:
            return i64(read_i32_le(self._lengths, at))
        return i64(read_i32_be(self._lengths, at))

    def segment(self, number: i64, length: i64) -> i64:
        """The length of each of the datagrams, but the last, that are one of `length`; that, if it is by itself."""
        at = number * HEADER_SIZE + AT_CONTROL_LENGTH
        if LITTLE_ENDIAN:
            if read_i32_le(self._lengths, at) == 0:
                return length
            return max(1, i64(read_i32_le(self._said, number * CONTROL_SIZE + AT_SEGMENT)))
        if read_i64_be(self._lengths, at) == 0:
            return length
        return max(1, i64(read_i32_be(self._said, number * CONTROL_SIZE + AT_SEGMENT)))

    def open(self, number: i64, length: i64) -> i64:
        """Where a datagram starts in `data` that was received; SLACK bytes behind it may be read, too."""
        start = number * self.slot_size
        if length <= self.slot_size:
            self.data = self._frames
            return start
        rest = self._overflow.read(number * OVERFLOW_SIZE, min(length, OVERFLOW_SIZE) - self.slot_size)
        self.data = b"".join((self._frames[start : start + self.slot_size], rest, _NOTHING))
        return 0

    def copy(self, number: i64, length: i64, target: BytesWriter) -> None:
        """Append a datagram that was received."""
        start = number * self.slot_size
        if length <= self.slot_size:
            target.write(self._frames[start : start + length])
        else:
            target.write(self._frames[start : start + self.slot_size])
            target.write(self._overflow.read(number * OVERFLOW_SIZE, length - self.slot_size))


@final
class Slots:
    """Which of some receivers a socket goes by: to read large slots that are mostly empty costs more than a frame."""

    def __init__(self, receivers: list[Receiver]) -> None:
        self.receiver = receivers[0]
        self._receivers = receivers
        self._level: i64 = 0
        self._small_bursts: i64 = 0

    def are_largest(self) -> bool:
        return self._level == len(self._receivers) - 1

    def adapt(self, longest: i64) -> None:
        """Go by slots that hold what comes; `longest` is the longest datagram of a burst."""
        if longest > self.receiver.slot_size and not self.are_largest():
            self._become(self._level + 1)
        elif self._level > 0 and longest <= self._receivers[self._level - 1].slot_size:
            self._small_bursts += 1
            if self._small_bursts >= SHRINK_AFTER:
                self._become(self._level - 1)
        else:
            self._small_bursts = 0

    def _become(self, level: i64) -> None:
        self._level = level
        self.receiver = self._receivers[level]
        self._small_bursts = 0


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
_SLOTS: Final = [Area(BURST * size + SLACK) for size in SLOT_SIZES]
RECEIVERS: Final = [Receiver(size, slots, _OVERFLOW) for size, slots in zip(SLOT_SIZES, _SLOTS, strict=True)]
NAMED_RECEIVERS: Final = [
    Receiver(size, slots, _OVERFLOW, named=True) for size, slots in zip(SLOT_SIZES, _SLOTS, strict=True)
]
SENDER: Final = Sender()


def last_errno() -> int:
    """Why the last call has failed."""
    return ctypes.get_errno()
