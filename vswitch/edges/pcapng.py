"""pcapng: the blocks a capture is made of (draft-ietf-opsawg-pcapng), little-endian, Ethernet, times in nanoseconds.

Every port is an interface, and before them the switch itself is one: without any, libpcap refuses a file. A block is
padded to 32 bits, and has its length at both ends.
"""

from typing import Final

from librt.strings import BytesWriter, write_i32_le, write_i64_le
from mypy_extensions import i32, i64

from vswitch.dataplane.frame import PREFIX, copy

SECTION: Final = 0x0A0D0D0A
INTERFACE: Final = 1
STATISTICS: Final = 5
PACKET: Final = 6

BYTE_ORDER: Final = 0x1A2B3C4D
ETHERNET: Final = 1  # LINKTYPE_ETHERNET

SWITCH_NAME: Final = "(switch)"  # of its interface, on which no frame is, at most a comment; no port has this name
SWITCH_DESCRIPTION: Final = "the switch itself; what passes is at its ports"

COMMENT: Final = 1  # options
APPLICATION: Final = 4
IF_NAME: Final = 2
IF_DESCRIPTION: Final = 3
IF_TSRESOL: Final = 9
IF_FILTER: Final = 11
ISB_END: Final = 3
ISB_RECEIVED: Final = 4
ISB_DROPPED: Final = 5

PACKET_HEAD: Final = 28  # bytes of a packet block before the frame
FLAGS: Final = 2 | 4 << 16  # epb_flags, 4 bytes
DROP_COUNT: Final = 4 | 8 << 16
PACKET_ID: Final = 5 | 8 << 16


def section_header(application: str) -> bytes:
    """The block that a file begins with; its length is left open."""
    body = _u32(BYTE_ORDER) + b"\1\0\0\0" + b"\xff" * 8 + _option(APPLICATION, application.encode()) + _u32(0)
    return _block(SECTION, body)


def interface_description(name: str, description: str, snaplen: int, capture_filter: str) -> bytes:
    """The next interface, numbered from 0."""
    options = _option(IF_NAME, name.encode()) + _option(IF_DESCRIPTION, description.encode())
    options += _option(IF_TSRESOL, b"\x09")
    if capture_filter:
        options += _option(IF_FILTER, b"\0" + capture_filter.encode())
    return _block(INTERFACE, _u32(ETHERNET) + _u32(snaplen) + options + _u32(0))


def interface_statistics(interface: int, time_ns: int, received: int, dropped: int) -> bytes:
    """How many frames an interface's filter let pass, written or not, and how many of them are missing."""
    options = _option(ISB_END, _time(time_ns))
    options += _option(ISB_RECEIVED, received.to_bytes(8, "little")) + _option(
        ISB_DROPPED, dropped.to_bytes(8, "little")
    )
    return _block(STATISTICS, _u32(interface) + _time(time_ns) + options + _u32(0))


def write_packet(
    out: BytesWriter,
    interface: i64,
    time_ns: i64,
    flags: i64,
    chunk: bytes,
    at: i64,
    length: i64,
    snaplen: i64,
    packet_id: i64,
    missed: i64,
    comment: bytes,
) -> None:
    """The frame of `length` bytes whose prefix is at `at`.

    `flags` are epb_flags; `packet_id` is left out if negative, `missed` (epb_dropcount) if 0; `comment` is an option,
    whole, or empty.
    """
    captured = length
    if captured > snaplen:
        captured = snaplen
    padding: i64 = -captured & 3
    size = PACKET_HEAD + captured + padding + 16 + len(comment)
    if packet_id >= 0:
        size += 12
    if missed > 0:
        size += 12
    write_i64_le(out, PACKET | size << 32)
    write_i64_le(out, interface | time_ns >> 32 << 32)
    write_i64_le(out, time_ns & 0xFFFF_FFFF | captured << 32)
    write_i32_le(out, i32(length))
    copy(out, chunk, at + PREFIX, at + PREFIX + captured)
    while padding > 0:
        out.append(0)
        padding -= 1
    write_i64_le(out, FLAGS | flags << 32)
    if missed > 0:
        write_i32_le(out, DROP_COUNT)
        write_i64_le(out, missed)
    if packet_id >= 0:
        write_i32_le(out, PACKET_ID)
        write_i64_le(out, packet_id)
    if len(comment) > 0:
        out.write(comment)
    write_i64_le(out, size << 32)  # the end of the options, and the length again


def comment_option(text: str) -> bytes:
    """An option for `write_packet`."""
    return _option(COMMENT, text.encode())


def _option(code: int, value: bytes) -> bytes:
    return code.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = _u32(len(body) + 12)
    return _u32(kind) + size + body + size


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _time(time_ns: int) -> bytes:
    """As pcapng has times: the upper 32 bits, then the lower."""
    return _u32(time_ns >> 32) + _u32(time_ns & 0xFFFF_FFFF)
