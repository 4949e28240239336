"""Work that a frame's sender has left to do: its checksum, and cutting a long frame into segments.

Linux leaves it to a TAP device, and a guest to its virtio-net card, where that says it can (virtio 1.2, 5.1.6.2; Linux
include/uapi/linux/virtio_net.h). What is left is in a header before the frame. Here it is one integer, `unfinished`,
which all frames of a run share, as those of one connection do; 0 says that they are whole. A run goes as it is to ports
that can do the work, or leave it to others in turn. For all others it is finished here.

A frame that is not what its header says is left out: the header may be a guest's.
"""

from typing import Final, final

from librt.strings import BytesWriter, read_i16_be, read_i16_le, read_i64_be, write_i16_le, write_i32_be
from mypy_extensions import i16, i32, i64, u8

from vswitch.dataplane.frame import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    PREFIX,
    TCP,
    TPID_8021AD,
    TPID_8021Q,
    TPID_9100,
    TPID_9200,
    TPID_9300,
    copy,
    frame_length,
    u16,
    u32,
)
from vswitch.dataplane.run import Run

HEADER_SIZE: Final = 12  # struct virtio_net_hdr_v1

# virtio 1.2, 5.1.6: flags and gso_type
_NEEDS_CSUM: Final = 1
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
_GSO_ECN: Final = 0x80

_FLAG: Final = 1 << 56  # so that nothing unfinished is 0
_TYPE_SHIFT: Final = 48
_SIZE_SHIFT: Final = 32
_START_SHIFT: Final = 16
_WORD: Final = 0xFFFF
_HALF: Final = 0xFFFF_FFFF

SEGMENT_MIN: Final = 48  # Linux' TCP_MIN_SND_MSS: a frame becomes some 1,400 segments at most
_TYPES_AT: Final = 12  # where in a frame its tags or its EtherType are
_TAGS_MAX: Final = 4
_TCP_MIN: Final = 20
_TCP_SUM_AT: Final = 16
_FIN_PSH: Final = 0x09  # on the last segment only
_CWR: Final = 0x80  # on the first only (RFC 3168 6.1.2)


def unfinished_of(header: bytes) -> i64:
    """What a header of HEADER_SIZE bytes, little endian, says is left to do."""
    kind = i64(header[1])
    if header[0] & _NEEDS_CSUM == 0:
        if kind == 0:
            return 0
        return _FLAG | kind << _TYPE_SHIFT  # which is wrong, and is found out
    return (
        _FLAG
        | kind << _TYPE_SHIFT
        | (i64(read_i16_le(header, 4)) & _WORD) << _SIZE_SHIFT
        | (i64(read_i16_le(header, 6)) & _WORD) << _START_SHIFT
        | (i64(read_i16_le(header, 8)) & _WORD)
    )


def needs_segments(kind: i64, size: i64, tcp: i64) -> i64:
    """What is left to do for a frame with TCP from byte `tcp` on, to be cut into segments with `size` bytes of data."""
    return _FLAG | kind << _TYPE_SHIFT | size << _SIZE_SHIFT | tcp << _START_SHIFT | _TCP_SUM_AT


def header_of(unfinished: i64) -> bytes:
    """The header, little endian, of frames with that left to do."""
    out = BytesWriter()
    out.append(u8(_NEEDS_CSUM if unfinished != 0 else 0))
    out.append(u8((unfinished >> _TYPE_SHIFT) & 0xFF))
    write_i16_le(out, 0)  # how long the frame's headers are: a hint
    write_i16_le(out, _signed(unfinished >> _SIZE_SHIFT))
    write_i16_le(out, _signed(unfinished >> _START_SHIFT))
    write_i16_le(out, _signed(unfinished))
    write_i16_le(out, 0)
    return out.getvalue()


def shifted(unfinished: i64, by: i64) -> i64:
    """The same after the frames' headers have grown by so many bytes."""
    return unfinished + (by << _START_SHIFT)


def leaves_segments(unfinished: i64) -> bool:
    """Whether frames are to be cut, and not only to get a checksum."""
    return (unfinished >> _TYPE_SHIFT) & 0xFF != 0


def in_words(unfinished: i64) -> str:
    """What is left to do, for people."""
    if leaves_segments(unfinished):
        return f"left to do: segments of {(unfinished >> _SIZE_SHIFT) & _WORD} bytes of data, each with its checksum"
    return "left to do: its checksum"


@final
class Finished:
    """What a run has become: whole frames, and how many were left out."""

    def __init__(self, run: Run, wrong: i64) -> None:
        self.run = run
        self.wrong = wrong


@final
class Finisher:
    """Finishes a run once, for all ports that it goes to one after the other."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._finished: Finished | None = None

    def finish(self, run: Run) -> Finished:
        last = self._run
        if last is None or last.chunk is not run.chunk or last.start != run.start or self._finished is None:
            self._run = run
            self._finished = finish(run)
        return self._finished

    def forget(self) -> None:
        """So that memory is not held."""
        self._run = None
        self._finished = None


def finish(run: Run) -> Finished:
    unfinished = run.unfinished
    out = BytesWriter()
    frames: i64 = 0
    wrong: i64 = 0
    at = run.start
    while at < run.end:
        size = frame_length(run.chunk, at)
        if leaves_segments(unfinished):
            made = _segment(out, run.chunk, at + PREFIX, size, unfinished)
        else:
            made = _sum_up(out, run.chunk, at + PREFIX, size, unfinished)
        if made == 0:
            wrong += 1
        frames += made
        at += PREFIX + size
    joined = out.getvalue()
    return Finished(Run(joined, 0, len(joined), frames), wrong)


def _sum_up(out: BytesWriter, chunk: bytes, at: i64, size: i64, unfinished: i64) -> i64:
    """Append a frame, with its prefix, whose checksum is that of all that follows where it is to start (as Linux'
    skb_checksum_help has it); answers how many that are."""
    start = (unfinished >> _START_SHIFT) & _WORD
    place = start + (unfinished & _WORD)
    if place + 2 > size:
        return 0
    write_i32_be(out, i32(size))
    begin: i64 = len(out)
    copy(out, chunk, at, at + size)
    total = sum_of(chunk, at + start, at + size)
    _put(out, begin + place, _negative(total) if unfinished & _WORD == _TCP_SUM_AT else _never_zero(total))
    return 1


def _segment(out: BytesWriter, chunk: bytes, at: i64, size: i64, unfinished: i64) -> i64:
    """Append the segments that a frame is to become (Linux net/ipv4/tcp_offload.c); answers how many that are."""
    segments = Segments(chunk, at, size, unfinished)
    number: i64 = 0
    while number < segments.count:
        segments.append(out, number)
        number += 1
    return segments.count


@final
class Segments:
    """A frame at chunk[at:at + size] with TCP over IP, as `count` segments; 0 if it is something else."""

    def __init__(self, chunk: bytes, at: i64, size: i64, unfinished: i64) -> None:
        self._chunk = chunk
        self._at = at
        self._size = size
        self._data_size: i64 = (unfinished >> _SIZE_SHIFT) & _WORD
        self._tcp: i64 = (unfinished >> _START_SHIFT) & _WORD  # offsets in the frame
        self._ip: i64 = 0
        self._data: i64 = 0
        self._is_ipv4 = False
        self._headers = b""
        self._first_id: i64 = 0
        self._first_sequence: i64 = 0
        self._flags: i64 = 0
        self._ip_sum: i64 = 0  # of what all segments have in common
        self._tcp_sum: i64 = 0
        self.count: i64 = 0
        if self._is_tcp((unfinished >> _TYPE_SHIFT) & ~_GSO_ECN & 0xFF):
            self.count = max(1, (size - self._data + self._data_size - 1) // self._data_size)
            self._take_sums()

    def _is_tcp(self, kind: i64) -> bool:
        """Whether the frame is what its header says; finds where things are."""
        if self._data_size < SEGMENT_MIN or self._tcp + _TCP_MIN > self._size:
            return False
        types: i64 = _TYPES_AT
        found = self._i16(types)
        while found in (TPID_8021Q, TPID_8021AD, TPID_9100, TPID_9200, TPID_9300):
            types += 4
            if types > _TYPES_AT + 4 * _TAGS_MAX or types + 2 > self._tcp:
                return False
            found = self._i16(types)
        self._ip = types + 2
        self._data = self._tcp + 4 * (self._byte(self._tcp + 12) >> 4)
        if self._data < self._tcp + _TCP_MIN or self._data > self._size:
            return False
        if kind == GSO_TCPV4:
            self._is_ipv4 = True
            return (
                found == ETHERTYPE_IPV4
                and self._tcp >= self._ip + 20
                and self._tcp == self._ip + 4 * (self._byte(self._ip) & 15)
                and self._byte(self._ip + 9) == TCP
            )
        return kind == GSO_TCPV6 and found == ETHERTYPE_IPV6 and self._tcp >= self._ip + 40

    def _take_sums(self) -> None:
        """What all segments have in common: their headers, and the sums of them without what differs."""
        chunk, ip, tcp = self._chunk, self._at + self._ip, self._at + self._tcp
        self._headers = chunk[self._at : self._at + self._data]
        self._first_id = u16(chunk, ip + 4)
        self._first_sequence = u32(chunk, tcp + 4)
        self._flags = i64(chunk[tcp + 13])
        self._ip_sum = sum_of(chunk, ip, tcp) - u16(chunk, ip + 2) - self._first_id - u16(chunk, ip + 10)
        addresses = sum_of(chunk, ip + 12, ip + 20) if self._is_ipv4 else sum_of(chunk, ip + 8, ip + 40)
        self._tcp_sum = sum_of(chunk, tcp, self._at + self._data) - u32(chunk, tcp + 4) - u16(chunk, tcp + 16)
        self._tcp_sum += addresses + TCP - self._flags

    def append(self, out: BytesWriter, number: i64) -> None:
        """Append a segment, with its prefix."""
        first = self._data + number * self._data_size
        end = min(self._size, first + self._data_size)
        size = self._data + end - first
        write_i32_be(out, i32(size))
        at: i64 = len(out)
        out.write(self._headers)
        copy(out, self._chunk, self._at + first, self._at + end)
        ip = at + self._ip
        if self._is_ipv4:
            length = size - self._ip
            name = (self._first_id + number) & _WORD
            _put(out, ip + 2, length)
            _put(out, ip + 4, name)
            _put(out, ip + 10, _negative(self._ip_sum + length + name))
        else:
            _put(out, ip + 4, size - self._ip - 40)
        tcp = at + self._tcp
        sequence = (self._first_sequence + first - self._data) & _HALF
        _put(out, tcp + 4, sequence >> 16)
        _put(out, tcp + 6, sequence & _WORD)
        flags = self._flags
        if number > 0:
            flags &= ~_CWR
        if number < self.count - 1:
            flags &= ~_FIN_PSH
        out[tcp + 13] = u8(flags)
        total = self._tcp_sum + flags + sequence + size - self._tcp
        _put(out, tcp + 16, _negative(total + sum_of(self._chunk, self._at + first, self._at + end)))

    def _byte(self, at: i64) -> i64:
        return i64(self._chunk[self._at + at])

    def _i16(self, at: i64) -> i64:
        return i64(read_i16_be(self._chunk, self._at + at))


def sum_of(chunk: bytes, start: i64, end: i64) -> i64:
    """A sum that is the same as that of the 16-bit words, modulo 0xFFFF (RFC 1071): a longer word adds what its halves
    add."""
    total: i64 = 0
    while end - start >= 8:
        word = read_i64_be(chunk, start)
        total += ((word >> 32) & _HALF) + (word & _HALF)
        start += 8
    if end - start >= 4:
        total += u32(chunk, start)
        start += 4
    if end - start >= 2:
        total += u16(chunk, start)
        start += 2
    if start < end:
        total += i64(chunk[start]) << 8
    return total


def _negative(total: i64) -> i64:
    """The checksum of what has some sum that is not 0."""
    return (_WORD - total % _WORD) % _WORD


def _never_zero(total: i64) -> i64:
    """The same for UDP, to which 0 says that there is none (RFC 768)."""
    return _WORD - total % _WORD


def _put(out: BytesWriter, at: i64, word: i64) -> None:
    out[at] = u8((word >> 8) & 0xFF)
    out[at + 1] = u8(word & 0xFF)


def _signed(word: i64) -> i16:
    """16 bits, as librt has them."""
    word &= _WORD
    return i16(word - 0x10000 if word >= 0x8000 else word)
