"""`vswitch capture --text`: a pcapng stream as one line a frame, for people without Wireshark.

    16:04:05.123456  web   in   52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff  vlan 10  ARP who has 10.0.0.2? tell 10.0.0.1  60

The time of day here, the port, whether the frame came in by it or went out; source and destination, each VLAN tag, what
the frame says; its length, and last what the switch remarks about it: why it was dropped.

The stream is draft-ietf-opsawg-pcapng as a vswitch writes it, little-endian, and comes in pieces of any size; blocks
that are not needed are skipped.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

from vswitch.cli.capturing.fields import Ended, Fields, readable
from vswitch.cli.capturing.frame_text import describe
from vswitch.edges.pcapng import SWITCH_NAME
from vswitch.errors import RefusedError

BLOCK_MAX = 16 << 20  # more than any frame needs; what claims to be longer is no capture
NAME_COLUMN_MAX = 16  # a longer port name is shown in full, and moves its own line only

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6  # block types
_SECTION_START = b"\x0a\x0d\x0d\x0a"
_LITTLE_ENDIAN = b"\x4d\x3c\x2b\x1a"  # the byte-order magic
_ETHERNET = 1  # link type
_COMMENT, _IF_NAME, _IF_TSRESOL, _EPB_FLAGS, _EPB_DROPCOUNT, _ISB_IFRECV, _ISB_IFDROP = 1, 2, 9, 2, 4, 4, 5  # options
_DIRECTIONS = {1: "in", 2: "out"}


class _Interface(NamedTuple):
    name: str
    link_type: int
    ticks_per_s: int


class TextCapture:
    """Lines for a capture that arrives in pieces."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._started = False
        self._interfaces: list[_Interface] = []
        self._name_column = 0  # as wide as the longest name so far

    def feed(self, data: bytes) -> list[str]:
        """The lines of all blocks that are whole now, without newlines.

        Raises RefusedError where the stream is none; lines that came before it are given first, whatever the pieces,
        and the call after them (`finish` if there is none) raises.
        """
        self._pending += data
        lines: list[str] = []
        try:
            while size := self._whole_block():
                kind, body = int.from_bytes(self._pending[:4], "little"), bytes(self._pending[8 : size - 4])
                lines += self._block(kind, Fields(body, "little"))
                del self._pending[:size]
        except RefusedError:
            if not lines:
                raise
        return lines

    def finish(self) -> None:
        """The stream has ended. Raises RefusedError if it should not have."""
        self.feed(b"")
        if self._pending:
            raise RefusedError("the pcapng stream ends within a block")

    def _whole_block(self) -> int:
        """The size of the first block, 0 if it is not all there."""
        head = bytes(self._pending[:12])
        if not self._started and head[:4] != _SECTION_START[: len(head)]:
            raise _nonsense("it does not start with a section")
        if len(head) < 12:
            return 0
        if head[:4] == _SECTION_START and head[8:] != _LITTLE_ENDIAN:
            raise _nonsense("a section that is not little-endian")
        size = int.from_bytes(head[4:8], "little")
        if not 12 <= size <= BLOCK_MAX or size % 4:
            raise _nonsense(f"a block of {size} bytes")
        if size > len(self._pending):
            return 0
        if self._pending[size - 4 : size] != head[4:8]:
            raise _nonsense("a block that ends with another length than it starts with")
        return size

    def _block(self, kind: int, body: Fields) -> list[str]:
        try:
            if kind == _SECTION:
                _magic, major, _minor, _length = body.numbers(4, 2, 2, 8)
                if major != 1:
                    raise _nonsense(f"version {major}")
                self._started, self._interfaces = True, []
            elif kind == _INTERFACE:
                self._add_interface(body)
            elif kind == _PACKET:
                return [self._packet(body)]
            elif kind == _STATISTICS:
                return self._statistics(body)
        except Ended:
            raise _nonsense("a block that ends within a field") from None
        return []

    def _add_interface(self, body: Fields) -> None:
        link_type, _reserved, _snap_length = body.numbers(2, 2, 4)
        name, resolution = f"if{len(self._interfaces)}", 6
        for code, value in _options(body):
            if code == _IF_NAME:
                name = readable(value)
            elif code == _IF_TSRESOL:
                resolution = int.from_bytes(value[:1])
        ticks_per_s = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
        self._interfaces.append(_Interface(name, link_type, ticks_per_s))
        if name != SWITCH_NAME:  # which has no frames, so no lines
            self._name_column = max(self._name_column, min(len(name), NAME_COLUMN_MAX))

    def _packet(self, body: Fields) -> str:
        interface, stamp = self._origin(body)
        captured, length = body.numbers(4, 4)
        frame = body.take(captured)
        body.take(-captured % 4)
        direction, missed, comments = "-", 0, []
        for code, value in _options(body):
            if code == _EPB_FLAGS:
                direction = _DIRECTIONS.get(int.from_bytes(value, "little") & 3, "-")
            elif code == _EPB_DROPCOUNT:
                missed = int.from_bytes(value[:8], "little")
            elif code == _COMMENT:
                comments.append(readable(value))
        says = describe(frame, length) if interface.link_type == _ETHERNET else f"link type {interface.link_type}"
        gap = [f"({missed} before it not captured)"] if missed else []
        return "  ".join([self._left(stamp, interface, direction), says, str(length), *gap, *comments])

    def _statistics(self, body: Fields) -> list[str]:
        """A line only if frames are missing, so that otherwise there are as many lines as frames."""
        interface, stamp = self._origin(body)
        counts = {code: int.from_bytes(value[:8], "little") for code, value in _options(body)}
        missed = counts.get(_ISB_IFDROP, 0)
        if not missed:
            return []
        of = f" of {counts[_ISB_IFRECV]}" if _ISB_IFRECV in counts else ""
        return [f"{self._left(stamp, interface, '-')}  {missed}{of} frames not captured"]

    def _origin(self, body: Fields) -> tuple[_Interface, str]:
        number, high, low = body.numbers(4, 4, 4)
        if number >= len(self._interfaces):
            raise _nonsense(f"interface {number} is not described")
        interface = self._interfaces[number]
        return interface, _time_of_day(high << 32 | low, interface.ticks_per_s)

    def _left(self, stamp: str, interface: _Interface, direction: str) -> str:
        return f"{stamp}  {interface.name:{self._name_column}}  {direction:3}"


def _nonsense(what: str) -> RefusedError:
    return RefusedError(f"not a pcapng stream: {what}")


def _options(body: Fields) -> Iterator[tuple[int, bytes]]:
    while body:
        code, size = body.numbers(2, 2)
        if code == 0:
            return
        yield code, body.take(size)
        body.take(-size % 4)


def _time_of_day(ticks: int, ticks_per_s: int) -> str:
    seconds, rest = divmod(ticks, ticks_per_s)
    try:
        local = time.localtime(seconds)
    except (OverflowError, OSError, ValueError):  # no clock shows such a time
        return "??:??:??.??????"
    microseconds = rest * 1_000_000 // ticks_per_s
    return f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02}.{microseconds:06}"
