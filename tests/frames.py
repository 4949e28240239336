"""Frames for tests: building them, framing them for a stream, taking them apart again."""

import struct
from collections.abc import Iterable

BROADCAST = 0xFFFF_FFFF_FFFF


def mac(number: int) -> int:
    """The address of station `number`."""
    return 0x5254_0000_0000 + number


def frame(dst: int, src: int, size: int = 60, *, tag: int | None = None, payload: bytes = b"") -> bytes:
    """An Ethernet frame of at least `size` bytes, with an 802.1Q tag if `tag` (TCI) is given."""
    head = dst.to_bytes(6) + src.to_bytes(6)
    if tag is not None:
        head += struct.pack("!HH", 0x8100, tag)
    return (head + b"\x88\xb5" + payload).ljust(size, b".")


def framed(frames: Iterable[bytes]) -> bytes:
    """The frames as QEMU's stream framing has them."""
    return b"".join(len(frame).to_bytes(4) + frame for frame in frames)


def unframed(stream: bytes) -> list[bytes]:
    """The frames of a stream; it must end with a whole one."""
    frames = []
    at = 0
    while at < len(stream):
        size = int.from_bytes(stream[at : at + 4])
        frame = stream[at + 4 : at + 4 + size]
        assert len(frame) == size, "the stream ends within a frame"
        frames.append(frame)
        at += 4 + size
    return frames
