"""Segments of TCP that follow each other, as one long frame: the opposite of cutting it (offload.py).

What a frame costs where it is taken does not depend much on its size, so Linux joins what comes in by a network card
(net/ipv4/tcp_offload.c, tcp_gro_receive), and here it gets by a TAP device what it would have joined. Whoever hands
such a frame on cuts it where these were cut. Only what is right is joined, as the long frame says that its data is.
"""

from typing import Final, final

from librt.strings import read_i16_be, read_i64_be
from mypy_extensions import i64

from vswitch.dataplane.frame import ETHERTYPE_IPV4, ETHERTYPE_IPV6, PREFIX, TCP, frame_length, u16, u32
from vswitch.dataplane.offload import GSO_TCPV4, GSO_TCPV6, needs_segments, sum_of

LENGTH_MAX: Final = 0xFFFF  # of an IP packet

# Where things are in a frame without tags, with IP without options
_TYPE: Final = 12
_IP: Final = 14
_TCP4: Final = 34
_TCP6: Final = 54
# ... and from where TCP begins
_SEQUENCE: Final = 4
_ACKNOWLEDGED: Final = 8
_FLAGS: Final = 12  # with the data's offset before them, and the window behind them
_SUM: Final = 16
_URGENT: Final = 18
_OPTIONS: Final = 20

_PLAIN_IPV4: Final = 0x45
_DONT_FRAGMENT: Final = 0x4000
_ACK: Final = 0x10
_PSH: Final = 0x08
_PSH_IN_WORD: Final = 0x0008_0000
_WORD: Final = 0xFFFF


@final
class Joiner:
    """Joins frames. What it says of the last ones stays until the next call."""

    def __init__(self) -> None:
        self.headers = b""  # of the long frame
        self.unfinished: i64 = 0  # what is left to do for it
        self.data: list[tuple[int, int]] = []  # where its data is, piece by piece
        self._tcp: i64 = 0  # where TCP and its data begin in the frames
        self._data: i64 = 0
        self._size: i64 = 0  # of the data of a frame
        self._next: i64 = 0  # the sequence number that follows

    def join(self, chunk: bytes, at: i64, end: i64, most: i64) -> i64:
        """How many frames of chunk[at:end], `most` at most, are one from the first on; 1 if that stays by itself."""
        first = at + PREFIX
        size = frame_length(chunk, at)
        if not self._begins(chunk, first, size):
            return 1
        count: i64 = 1
        total = size - self._data
        pushed: i64 = 0
        at = first + size
        while at < end and count < most and pushed == 0:
            start = at + PREFIX
            size = frame_length(chunk, at)
            more = size - self._data
            if (
                more <= 0
                or more > self._size
                or self._data - _IP + total + more > LENGTH_MAX
                or not self._follows(chunk, first, start, size)
                or (count == 1 and not self._is_right(chunk, first, self._data + self._size))
                or not self._is_right(chunk, start, size)
            ):
                break
            if count == 1:
                self.data = [(first + self._data, first + self._data + self._size)]
            self.data.append((start + self._data, start + size))
            self._next = (self._next + more) & 0xFFFF_FFFF
            pushed = i64(chunk[start + self._tcp + _FLAGS + 1]) & _PSH
            total += more
            count += 1
            at = start + size
            if more < self._size:
                break
        if count > 1:
            self._finish(chunk, first, total, pushed)
        return count

    def _begins(self, chunk: bytes, at: i64, size: i64) -> bool:
        """Whether a frame is a segment with data that others may follow."""
        if size <= _TCP4 + _OPTIONS:
            return False
        kind = i64(read_i16_be(chunk, at + _TYPE))
        if kind == ETHERTYPE_IPV4:
            self._tcp = _TCP4
            if (
                chunk[at + _IP] != _PLAIN_IPV4
                or chunk[at + _IP + 9] != TCP
                or u16(chunk, at + _IP + 6) != _DONT_FRAGMENT
                or u16(chunk, at + _IP + 2) != size - _IP
            ):
                return False
        elif kind == ETHERTYPE_IPV6 and size > _TCP6 + _OPTIONS:
            self._tcp = _TCP6
            if chunk[at + _IP + 6] != TCP or u16(chunk, at + _IP + 4) != size - _TCP6:
                return False
        else:
            return False
        tcp = at + self._tcp
        self._data = self._tcp + 4 * (i64(chunk[tcp + _FLAGS]) >> 4)
        self._size = size - self._data
        self._next = (u32(chunk, tcp + _SEQUENCE) + self._size) & 0xFFFF_FFFF
        return self._data >= self._tcp + _OPTIONS and self._size > 0 and chunk[tcp + _FLAGS + 1] == _ACK

    def _follows(self, chunk: bytes, first: i64, at: i64, size: i64) -> bool:
        """Whether a frame at `at` is of the same connection as the one at `first`, says the same of it, and its data
        comes next."""
        if (
            read_i64_be(chunk, first) != read_i64_be(chunk, at)
            or read_i64_be(chunk, first + 8) != read_i64_be(chunk, at + 8)
            or not self._has_same_addresses(chunk, first, at, size)
        ):
            return False
        here = first + self._tcp
        there = at + self._tcp
        if (
            u32(chunk, here) != u32(chunk, there)
            or u32(chunk, there + _SEQUENCE) != self._next
            or u32(chunk, here + _ACKNOWLEDGED) != u32(chunk, there + _ACKNOWLEDGED)
            or u32(chunk, here + _FLAGS) | _PSH_IN_WORD != u32(chunk, there + _FLAGS) | _PSH_IN_WORD
            or u16(chunk, here + _URGENT) != u16(chunk, there + _URGENT)
        ):
            return False
        option: i64 = _OPTIONS
        while option < self._data - self._tcp:
            if u32(chunk, here + option) != u32(chunk, there + option):
                return False
            option += 4
        return True

    def _has_same_addresses(self, chunk: bytes, first: i64, at: i64, size: i64) -> bool:
        """Whether IP says the same but for lengths, and what goes with them. Its first two bytes were compared."""
        if self._tcp == _TCP4:
            return (
                u32(chunk, first + 20) == u32(chunk, at + 20)
                and read_i64_be(chunk, first + 26) == read_i64_be(chunk, at + 26)
                and u16(chunk, at + _IP + 2) == size - _IP
            )
        return (
            u16(chunk, first + 16) == u16(chunk, at + 16)
            and u16(chunk, first + 20) == u16(chunk, at + 20)
            and read_i64_be(chunk, first + 22) == read_i64_be(chunk, at + 22)
            and read_i64_be(chunk, first + 30) == read_i64_be(chunk, at + 30)
            and read_i64_be(chunk, first + 38) == read_i64_be(chunk, at + 38)
            and read_i64_be(chunk, first + 46) == read_i64_be(chunk, at + 46)
            and u16(chunk, at + _IP + 4) == size - _TCP6
        )

    def _is_right(self, chunk: bytes, at: i64, size: i64) -> bool:
        """Whether a frame's checksums are."""
        if self._tcp == _TCP4 and sum_of(chunk, at + _IP, at + _TCP4) % _WORD != 0:
            return False
        return (self._pseudo_sum(chunk, at, size) + sum_of(chunk, at + self._tcp, at + size)) % _WORD == 0

    def _pseudo_sum(self, chunk: bytes, at: i64, size: i64) -> i64:
        """Of the addresses, the protocol and the length (RFC 9293, 3.1; RFC 8200, 8.1)."""
        addresses: i64 = 8 if self._tcp == _TCP4 else 32
        return sum_of(chunk, at + self._tcp - addresses, at + self._tcp) + TCP + size - self._tcp

    def _finish(self, chunk: bytes, at: i64, total: i64, pushed: i64) -> None:
        """Make the headers of the long frame: those of the first, with another length, and PSH if the last has it."""
        tcp = at + self._tcp
        size = self._data + total
        flags = bytes((chunk[tcp + _FLAGS], _ACK | pushed))
        pseudo = self._pseudo_sum(chunk, at, size) % _WORD
        ip_start = at + _IP
        if self._tcp == _TCP4:
            length = _two(size - _IP)
            right = sum_of(chunk, ip_start, ip_start + 10) + sum_of(chunk, ip_start + 12, tcp)
            right += size - _IP - u16(chunk, ip_start + 2)
            ip = chunk[ip_start : ip_start + 2] + length + chunk[ip_start + 4 : ip_start + 10]
            ip += _two(_WORD - right % _WORD) + chunk[ip_start + 12 : tcp]
        else:
            ip = chunk[ip_start : ip_start + 4] + _two(size - _TCP6) + chunk[ip_start + 6 : tcp]
        self.headers = b"".join(
            (
                chunk[at : at + _IP],
                ip,
                chunk[tcp : tcp + _FLAGS],
                flags,
                chunk[tcp + _FLAGS + 2 : tcp + _SUM],
                _two(pseudo),
                chunk[tcp + _URGENT : at + self._data],
            )
        )
        self.unfinished = needs_segments(GSO_TCPV4 if self._tcp == _TCP4 else GSO_TCPV6, self._size, self._tcp)


def _two(word: i64) -> bytes:
    return bytes((word >> 8, word & 0xFF))


JOINER: Final = Joiner()
