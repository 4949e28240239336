"""Frame format: where things are in an Ethernet frame, and in the stream framing around it.

On a stream a frame travels as QEMU sends it: u32 big-endian length, then the frame without FCS
(QEMU net/socket.c, net/stream.c). Inside the data plane every frame keeps that prefix, so a run of
frames is sent as it came. Offsets below count from the prefix; a MAC address is a 48-bit integer.
"""

from typing import Final

from librt.strings import read_i16_be, read_i32_be
from mypy_extensions import i64

PREFIX: Final = 4
HEADER: Final = 14  # the shortest frame that has both addresses and an EtherType
TAGGED_HEADER: Final = 18  # with one IEEE 802.1Q tag
FRAME_MAX: Final = 69632  # QEMU's NET_BUFSIZE (4096 + 65536); a longer prefix is a protocol error

AT_DST: Final = 4  # 8 bytes here: destination and the first two bytes of the source
AT_SRC: Final = 8  # 8 bytes here: the last two bytes of the destination and the source
AT_TPID: Final = 16
AT_TCI: Final = 18

TPID_8021Q: Final = -32512  # 0x8100, read as a signed 16-bit integer
MAC_MASK: Final = 0xFFFF_FFFF_FFFF
GROUP_BIT: Final = 0x0100_0000_0000
RESERVED: Final = 0x0180_C200_0000  # IEEE 802.1Q table 8-1: 01-80-C2-00-00-00 … 0F
VLAN_DEFAULT: Final = 1
VLAN_RESERVED: Final = 4095


def frame_length(chunk: bytes, at: i64) -> i64:
    """The length a prefix announces, 32 bits; `at` is where the prefix starts."""
    return i64(read_i32_be(chunk, at)) & 0xFFFF_FFFF


def vlan_id(chunk: bytes, at: i64, length: i64) -> i64:
    """The VLAN a frame is learned and forwarded in, or -1 for a tag that is cut off or has VID 4095.

    Untagged and priority-tagged (VID 0) frames belong to VLAN 1 (IEEE 802.1Q 6.9). `at` is where the
    frame's prefix starts, `length` is the frame's, at least HEADER.
    """
    if read_i16_be(chunk, at + AT_TPID) != TPID_8021Q:
        return VLAN_DEFAULT
    if length < TAGGED_HEADER:
        return -1
    vid = i64(read_i16_be(chunk, at + AT_TCI)) & 0xFFF
    if vid == 0:
        return VLAN_DEFAULT
    if vid == VLAN_RESERVED:
        return -1
    return vid


def count_frames(chunk: bytes, start: i64, end: i64) -> i64:
    """How many whole frames lie between `start`, a frame's prefix, and `end`."""
    frames: i64 = 0
    while end - start >= PREFIX:
        start += PREFIX + frame_length(chunk, start)
        if start > end:
            break
        frames += 1
    return frames


def last_boundary(chunk: bytes, start: i64, end: i64) -> i64:
    """The last frame boundary at or before `end`, counting from the frame whose prefix is at `start`."""
    while end - start >= PREFIX:
        after = start + PREFIX + frame_length(chunk, start)
        if after > end:
            break
        start = after
    return start
