"""Frame format: where things are in an Ethernet frame, and in the stream framing around it.

On a stream a frame travels as QEMU sends it: u32 big-endian length, then the frame without FCS
(QEMU net/socket.c, net/stream.c). Inside the data plane every frame keeps that prefix, so a run of
frames is sent as it came. Offsets below count from the prefix; a MAC address is a 48-bit integer.
"""

from typing import Final

from librt.strings import BytesWriter, read_i16_be, read_i32_be, read_i64_be, write_i64_be
from mypy_extensions import i64, u8

PREFIX: Final = 4
HEADER: Final = 14  # the shortest frame that has both addresses and an EtherType
TAGGED_HEADER: Final = 18  # with one IEEE 802.1Q tag
FRAME_MAX: Final = 69632  # QEMU's NET_BUFSIZE (4096 + 65536); a longer prefix is a protocol error

AT_DST: Final = 4  # 8 bytes here: destination and the first two bytes of the source
AT_SRC: Final = 8  # 8 bytes here: the last two bytes of the destination and the source
AT_TPID: Final = 16
AT_TCI: Final = 18

TPID_8021Q: Final = -32512  # 0x8100, read as a signed 16-bit integer
TPID_8021AD: Final = -30552  # 0x88a8: IEEE 802.1Q's service tag
TPID_9100: Final = -28416  # 0x9100, 0x9200, 0x9300: service tags from before there was a standard
TPID_9200: Final = -28160
TPID_9300: Final = -27904
TPIDS: Final = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)  # all that may ever come off here
TPID_NONE: Final = 0x10000  # of no tag
ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_IPV6: Final = -31011  # 0x86dd, read as a signed 16-bit integer
ETHERTYPE_MIN: Final = 0x0600  # below it is a length, and the type behind that
ICMP: Final = 1  # and the next two: IP protocols
TCP: Final = 6
UDP: Final = 17
MAC_MASK: Final = 0xFFFF_FFFF_FFFF
GROUP_BIT: Final = 0x0100_0000_0000
BROADCAST: Final = 0xFFFF_FFFF_FFFF
RESERVED: Final = 0x0180_C200_0000  # IEEE 802.1Q table 8-1: 01-80-C2-00-00-00 … 0F
VLAN_DEFAULT: Final = 1
VLAN_MAX: Final = 4094
VLAN_ZERO: Final = 4095  # VID 0 as a VLAN of its own: in here a number that no tag on the wire may have
VID_MASK: Final = 0xFFF
UNTAGGED: Final = 0x1000
CUT_OFF: Final = -1

TINY: Final = 256


def frame_length(chunk: bytes, at: i64) -> i64:
    """The length a prefix announces, 32 bits; `at` is where the prefix starts."""
    return i64(read_i32_be(chunk, at)) & 0xFFFF_FFFF


def u16(chunk: bytes, at: i64) -> i64:
    """A number of 16 bits, in network order."""
    return i64(read_i16_be(chunk, at)) & 0xFFFF


def u32(chunk: bytes, at: i64) -> i64:
    """A number of 32 bits, in network order."""
    return i64(read_i32_be(chunk, at)) & 0xFFFF_FFFF


def wire_tag(chunk: bytes, at: i64, length: i64, tpid: i64, service_tpid: i64) -> i64:
    """The VID that a frame's outermost tag has, UNTAGGED, or CUT_OFF.

    `at` is where the frame's prefix starts, `length` is the frame's, at least HEADER. Only what starts with one of
    the two TPIDs (signed) is a tag.
    """
    found = i64(read_i16_be(chunk, at + AT_TPID))
    if found != tpid and found != service_tpid:
        return UNTAGGED
    if length < TAGGED_HEADER:
        return CUT_OFF
    return i64(read_i16_be(chunk, at + AT_TCI)) & VID_MASK


def count_frames(chunk: bytes, start: i64, end: i64) -> i64:
    """How many whole frames lie between `start`, a frame's prefix, and `end`."""
    frames: i64 = 0
    while end - start >= PREFIX:
        start += PREFIX + frame_length(chunk, start)
        if start > end:
            break
        frames += 1
    return frames


def skip_frames(chunk: bytes, start: i64, frames: i64) -> i64:
    """Where the frame starts that `frames` whole ones come before, from the one whose prefix is at `start`."""
    while frames > 0:
        start += PREFIX + frame_length(chunk, start)
        frames -= 1
    return start


def last_boundary(chunk: bytes, start: i64, end: i64) -> i64:
    """The last frame boundary at or before `end`, counting from the frame whose prefix is at `start`."""
    while end - start >= PREFIX:
        after = start + PREFIX + frame_length(chunk, start)
        if after > end:
            break
        start = after
    return start


def copy(to: BytesWriter, chunk: bytes, start: i64, end: i64) -> None:
    """Append chunk[start:end]; what is tiny by words, which makes no object."""
    if end - start > TINY:
        to.write(chunk[start:end])
        return
    while end - start >= 8:
        write_i64_be(to, read_i64_be(chunk, start))
        start += 8
    while start < end:
        to.append(u8(chunk[start]))
        start += 1
