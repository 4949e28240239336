"""Frames out of a stream, segments of TCP that follow each other as one (as Linux has it: generic receive offload).

What a segment costs libslirp, a system call among it, does not depend on its size, and it acknowledges each alone.
This is compiled with the data plane.
"""

from typing import Final, final

from librt.strings import read_i16_be, read_i32_be, read_i64_be
from mypy_extensions import i64

PREFIX: Final = 4  # a frame's length on a stream (QEMU net/socket.c)
FRAME_MAX: Final = 69632  # QEMU's NET_BUFSIZE
RUNS_MAX: Final = 8  # that may go on at a time
DATA_MAX: Final = 24_000  # of a run: the next one's sender waits for its acknowledgement

# Where things are in a frame with TCP over IPv4, both without options
_TYPE: Final = 12
_IP: Final = 14
_IP_SIZE: Final = 16
_FRAGMENT: Final = 20
_PROTOCOL: Final = 23
_IP_SUM: Final = 24
_ADDRESSES: Final = 26
_TCP: Final = 34
_SEQUENCE: Final = 38
_ACKNOWLEDGED: Final = 42
_FLAGS: Final = 46  # with the offset
_TCP_SUM: Final = 50
_URGENT: Final = 52
_DATA: Final = 54

_PLAIN_IPV4: Final = 0x4500  # its first word, but for the type of service
_TCP_PROTOCOL: Final = 6
_ACK: Final = 0x5010
_PSH: Final = 0x0008
_ONES: Final = 0xFFFF


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole frames in `data`, which begins with one, and what is left. Raises ValueError for one that is too long.

    A segment that is damaged stays so: what it becomes part of does not look right.
    """
    frames: list[bytes] = []
    begun: list[_Run] = []
    open_runs: list[_Run] = []
    at: i64 = 0
    end: i64 = len(data)
    while end - at >= PREFIX:
        size = _u32(data, at)
        if size > FRAME_MAX:
            raise ValueError("a frame is too long")
        if end - at - PREFIX < size:
            break
        at += PREFIX
        run = _run_of(open_runs, data, at, size)
        if run is None or not run.take(data, at, size):
            if run is not None:
                open_runs.remove(run)
            if _is_data(data, at, size):
                run = _Run(data, at, size, len(frames))
                begun.append(run)
                open_runs.append(run)
                if len(open_runs) > RUNS_MAX:
                    del open_runs[0]
            frames.append(data[at : at + size])
        at += size
    for run in begun:
        if len(run.pieces) > 1:
            frames[run.place] = run.whole()
    return frames, data[at:]


@final
class _Run:
    """Segments of which each begins where the one before ends, and acknowledges the same.

    Sums are of 16-bit words, modulo 0xFFFF, as the checksum has it (RFC 1071); a longer word adds what its halves add.
    """

    def __init__(self, data: bytes, at: i64, size: i64, place: i64) -> None:
        self.place = place  # among the frames
        self.pieces = [data[at + _DATA : at + size]]
        self.macs: i64 = read_i64_be(data, at)
        self.source_mac_end: i64 = _u32(data, at + 8)
        self.addresses: i64 = read_i64_be(data, at + _ADDRESSES)
        self.ports: i64 = _u32(data, at + _TCP)
        self._acknowledged: i64 = _u32(data, at + _ACKNOWLEDGED)
        self._next: i64 = (_u32(data, at + _SEQUENCE) + size - _DATA) & 0xFFFF_FFFF
        self._sequence = data[at + _SEQUENCE : at + _ACKNOWLEDGED]
        self._last = data[at : at + _DATA]
        self._pushed: i64 = _u16(data, at + _FLAGS) & _PSH
        self._size: i64 = size - _DATA
        self._sum: i64 = _data_sum(data, at, size)

    def take(self, data: bytes, at: i64, size: i64) -> bool:
        """Whether a frame of this connection is one of these now."""
        if (
            _u32(data, at + _SEQUENCE) != self._next
            or _u32(data, at + _ACKNOWLEDGED) != self._acknowledged
            or self._size & 1 != 0  # 16-bit words cannot go on from there
            or self._size + size - _DATA > DATA_MAX
            or not _is_data(data, at, size)
        ):
            return False
        self.pieces.append(data[at + _DATA : at + size])
        self._last = data[at : at + _DATA]
        self._pushed |= _u16(data, at + _FLAGS) & _PSH
        self._next = (self._next + size - _DATA) & 0xFFFF_FFFF
        self._size += size - _DATA
        self._sum += _data_sum(data, at, size)
        return True

    def whole(self) -> bytes:
        """As the last one, but for its sequence number, and PSH if one had it."""
        last = self._last
        ip_size = _DATA - _IP + self._size
        ip = last[_IP:_IP_SIZE] + _word(ip_size) + last[_IP_SIZE + 2 : _IP_SUM] + b"\0\0" + last[_ADDRESSES:_TCP]
        flags = _u16(last, _FLAGS) | self._pushed
        tcp = last[_TCP:_SEQUENCE] + self._sequence + last[_ACKNOWLEDGED:_FLAGS] + _word(flags)
        tcp += last[_FLAGS + 2 : _TCP_SUM] + b"\0\0" + last[_URGENT:_DATA]
        pseudo = _u32(ip, 12) + _u32(ip, 16) + _TCP_PROTOCOL + ip_size - (_TCP - _IP)
        tcp_sum = _word(_negative(pseudo + _header_sum(tcp, 0) + self._sum))
        ip_sum = _word(_negative(_header_sum(ip, 0)))
        return b"".join([last[:_IP], ip[:10], ip_sum, ip[12:], tcp[:16], tcp_sum, tcp[18:], *self.pieces])


def _run_of(runs: list[_Run], data: bytes, at: i64, size: i64) -> _Run | None:
    """The one of the frame's connection, which is TCP over IPv4 without options."""
    if (
        size < _DATA
        or not runs
        or _u16(data, at + _IP) & 0xFF00 != _PLAIN_IPV4
        or data[at + _PROTOCOL] != _TCP_PROTOCOL
    ):
        return None
    macs, addresses, ports = read_i64_be(data, at), read_i64_be(data, at + _ADDRESSES), _u32(data, at + _TCP)
    for run in runs:
        if run.ports == ports and run.addresses == addresses and run.macs == macs:
            return run if run.source_mac_end == _u32(data, at + 8) else None
    return None


def _is_data(data: bytes, at: i64, size: i64) -> bool:
    """Whether a frame has a segment with data, that is whole and plain, and an IP header whose checksum is right."""
    if size <= _DATA:
        return False
    return (
        _u16(data, at + _TYPE) == 0x0800
        and _u16(data, at + _IP) & 0xFF00 == _PLAIN_IPV4
        and data[at + _PROTOCOL] == _TCP_PROTOCOL
        and _u16(data, at + _FLAGS) & ~_PSH == _ACK
        and _u16(data, at + _FRAGMENT) & 0x3FFF == 0
        and _u16(data, at + _IP_SIZE) == size - _IP
        and _header_sum(data, at + _IP) % _ONES == 0
    )


def _data_sum(data: bytes, at: i64, size: i64) -> i64:
    """What the checksum says that the sum of the data is."""
    pseudo = _u32(data, at + _ADDRESSES) + _u32(data, at + _ADDRESSES + 4) + _TCP_PROTOCOL + size - _TCP
    return _negative(pseudo + _header_sum(data, at + _TCP))


def _header_sum(data: bytes, at: i64) -> i64:
    """Of 20 bytes."""
    return _u32(data, at) + _u32(data, at + 4) + _u32(data, at + 8) + _u32(data, at + 12) + _u32(data, at + 16)


def _negative(total: i64) -> i64:
    return _ONES - total % _ONES


def _u16(data: bytes, at: i64) -> i64:
    return i64(read_i16_be(data, at)) & 0xFFFF


def _u32(data: bytes, at: i64) -> i64:
    return i64(read_i32_be(data, at)) & 0xFFFF_FFFF


def _word(value: i64) -> bytes:
    return bytes((value >> 8, value & 0xFF))
