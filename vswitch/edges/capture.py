"""A capture: the frames that ports take in and send, as blocks of pcapng.

It is fed by the journal, and gives what it has written away in portions.
All captures of a switch share a budget for what they have not got rid of. When that is used up, the one that holds
most loses: what comes then, and what came last if others need its room. What is missing is counted, frame by frame, at
each interface, and said in the next packet of that interface and at the end.
"""

from collections.abc import Callable
from typing import Final, final

from librt.strings import BytesWriter, read_i32_le
from librt.vecs import append, vec
from mypy_extensions import i64

from vswitch.dataplane.drops import DROP_REASONS, PASSED
from vswitch.dataplane.frame import PREFIX, frame_length
from vswitch.dataplane.journal import Entry, Sink
from vswitch.dataplane.offload import in_words
from vswitch.edges.pcapng import (
    SWITCH_DESCRIPTION,
    SWITCH_NAME,
    comment_option,
    interface_description,
    interface_statistics,
    section_header,
    write_packet,
)

SNAPLEN_MAX: Final = 262144
NOT_CAPTURED: Final = -1
PIECE_BYTES: Final = 256 * 1024
PIECE_BYTES_MIN: Final = 4096
PORTION_BYTES: Final = 4 * 1024 * 1024
UNBOUNDED: Final = 1 << 62
COMMENTS: Final = [comment_option(f"dropped: {reason}") for reason in DROP_REASONS]


@final
class Piece:
    """A part of a capture: one block of pcapng for each of some frames.

    `said` is what they say of missing frames: an interface and a number in turn.
    """

    def __init__(self, blocks: bytes, frames: i64, said: list[int]) -> None:
        self.blocks = blocks
        self.frames = frames
        self.said = said


@final
class Budget:
    """What the captures of a switch may hold together: `size` bytes."""

    def __init__(self, size: i64) -> None:
        self.size = size
        self.captures: list[Capture] = []

    def share(self) -> i64:
        """What each may hold if they all hold the same."""
        return self.size // max(1, len(self.captures))

    def allow(self, asking: "Capture") -> i64:
        """How many bytes a capture may hold now, others having made room for it where they hold more."""
        room = self.size
        for capture in self.captures:
            room -= capture.held()
        while room < asking.piece_bytes:
            slowest: Capture | None = None
            most: i64 = 0 if asking.lossless else asking.held()
            for capture in self.captures:
                if not capture.lossless and capture.held() > most:
                    slowest = capture
                    most = capture.held()
            freed: i64 = 0
            if slowest is not None:
                freed = slowest.give_up()
            if freed == 0:
                break
            room += freed
        return asking.held() + room


@final
class Capture(Sink):
    """One capture. `budget` bounds how many bytes it holds, with those that were given away and are not written yet.

    A `lossless` one takes every frame all the same: whoever feeds it has to wait. `only_drops` leaves out what was not
    dropped; `frames_max` is how many frames it takes, 0 for any number.
    """

    def __init__(
        self,
        application: str,
        budget: Budget,
        *,
        lossless: bool = False,
        snaplen: i64 = SNAPLEN_MAX,
        only_drops: bool = False,
        frames_max: i64 = 0,
        matches: Callable[[bytes], bool] | None = None,
        filter_text: str = "",
    ) -> None:
        self.budget = budget
        self.lossless = lossless
        self.piece_bytes: i64 = PIECE_BYTES
        self.snaplen = snaplen
        self.only_drops = only_drops
        self.frames_max = frames_max
        self.matches = matches
        self.filter_text = filter_text
        self.frames: i64 = 0  # written
        self.given_away: i64 = 0  # bytes that are not written yet
        self.written: i64 = 0
        self._allowed: i64 = 0  # bytes it may hold
        self._full = False  # has no room for more of this batch
        self._section = section_header(application)
        self._new_interfaces: list[bytes] = []
        self._declared: i64 = 0  # interfaces whose blocks were given away
        self._pieces: list[Piece] = []
        self._sealed_bytes: i64 = 0
        self._sealed_frames: i64 = 0  # in all pieces that there ever were
        self._interface_of: dict[int, int] = {}  # by a port's serial
        self._received: vec[i64] = vec[i64]()  # by interface
        self._missed: vec[i64] = vec[i64]()
        self._unsaid: vec[i64] = vec[i64]()  # of the missed, those that no packet has said yet
        self._out = BytesWriter()
        self._said: list[int] = []  # in what is not a piece yet, as a piece has it
        self._declare(SWITCH_NAME, SWITCH_DESCRIPTION)

    def add_interface(self, port: i64, name: str, description: str) -> None:
        """Capture a port, by its serial, from now on."""
        self._interface_of[port] = len(self._received)
        self._declare(name, description)

    def _declare(self, name: str, description: str) -> None:
        """The next interface."""
        self._new_interfaces.append(interface_description(name, description, int(self.snaplen), self.filter_text))
        self._received = append(self._received, 0)
        self._missed = append(self._missed, 0)
        self._unsaid = append(self._unsaid, 0)

    def remove_interface(self, port: i64) -> None:
        """A port is gone."""
        if port in self._interface_of:
            del self._interface_of[port]

    def header(self) -> bytes:
        """What the capture begins with: its section, and the interfaces that there are."""
        return self._section + self.new_interfaces()

    def new_interfaces(self) -> bytes:
        """The blocks of interfaces that were added since this was asked last; they come before the next portion."""
        blocks = b"".join(self._new_interfaces)
        self._new_interfaces = []
        self._declared = len(self._received)
        return blocks

    def trailer(self, time_ns: int) -> bytes:
        """What it ends with: the statistics of each interface."""
        blocks = [
            interface_statistics(interface, time_ns, int(self._received[interface]), int(self._missed[interface]))
            for interface in range(self._declared)
        ]
        return b"".join(blocks)

    def missed(self) -> i64:
        """How many frames are missing, at all interfaces."""
        missed: i64 = 0
        for count in self._missed:
            missed += count
        return missed

    def held(self) -> i64:
        """Bytes that are not written yet."""
        return self._sealed_bytes + len(self._out) + self.given_away

    def is_complete(self) -> bool:
        """Whether it has all the frames that it is to take."""
        return self.frames_max > 0 and self.frames >= self.frames_max

    def portion(self) -> list["Piece"]:
        """What was captured first of what is left; `wrote` says that a piece is gone, from any thread."""
        self._seal()
        most = min(PORTION_BYTES, self.budget.share() // 4)
        size: i64 = 0
        count: i64 = 0
        while count < len(self._pieces) and (count == 0 or size < most):
            size += len(self._pieces[count].blocks)
            count += 1
        taken = self._pieces[:count]
        del self._pieces[:count]
        self.given_away += size
        self._sealed_bytes -= size
        return taken

    def give_up(self) -> i64:
        """Lose the last frames that were captured, for others to have room; answers how many bytes that is."""
        if len(self._pieces) == 0:
            self._seal()
        if len(self._pieces) == 0:
            return 0
        piece = self._pieces.pop()
        blocks = piece.blocks
        at: i64 = 0
        while at < len(blocks):
            interface = i64(read_i32_le(blocks, at + 8))  # of an enhanced packet block
            self._missed[interface] += 1
            self._unsaid[interface] += 1
            at += i64(read_i32_le(blocks, at + 4))
        for said in range(0, len(piece.said), 2):
            self._unsaid[piece.said[said]] += piece.said[said + 1]
        self.frames -= piece.frames
        self._sealed_frames -= piece.frames
        self._sealed_bytes -= len(blocks)
        return len(blocks)

    def wrote(self, piece: Piece) -> None:
        """One of the pieces given away is written."""
        self.given_away -= len(piece.blocks)
        self.written += len(piece.blocks)

    def take(self, entries: list[Entry], now: i64) -> None:
        """What became of some frames."""
        self.piece_bytes = max(PIECE_BYTES_MIN, min(PIECE_BYTES, self.budget.share() // 8))
        self._allowed = self.budget.allow(self)
        if self.lossless:
            self._allowed = UNBOUNDED
        self._full = False
        for entry in entries:
            interface = self._interface_of.get(entry.port, NOT_CAPTURED)
            if interface != NOT_CAPTURED and not (self.only_drops and entry.reason == PASSED):
                self._take_run(entry, interface)

    def _take_run(self, entry: Entry, interface: i64) -> None:
        comment = b""
        if entry.unfinished != 0:
            comment = _comment_on_unfinished(entry)
        elif entry.reason != PASSED:
            comment = COMMENTS[entry.reason]
        out = self._out
        chunk = entry.chunk
        at = entry.start
        packet_id = entry.first
        while at < entry.end:
            length = frame_length(chunk, at)
            if self._wants(chunk, at, length):
                self._received[interface] += 1
                if self.held() > self._allowed and not self._full:
                    self._allowed = self.budget.allow(self)
                    self._full = self.held() > self._allowed
                if self._full:
                    self._missed[interface] += 1
                    self._unsaid[interface] += 1
                else:
                    unsaid = self._unsaid[interface]
                    self._unsaid[interface] = 0
                    if unsaid > 0:
                        self._said.append(int(interface))
                        self._said.append(int(unsaid))
                    self.frames += 1
                    write_packet(
                        out,
                        interface,
                        entry.time_ns,
                        entry.direction,
                        chunk,
                        at,
                        length,
                        self.snaplen,
                        packet_id,
                        unsaid,
                        comment,
                    )
                    if len(out) >= self.piece_bytes:
                        self._seal()
            at += PREFIX + length
            if packet_id >= 0:
                packet_id += 1

    def _seal(self) -> None:
        if len(self._out) > 0:
            self._pieces.append(Piece(self._out.getvalue(), self.frames - self._sealed_frames, self._said))
            self._said = []
            self._sealed_bytes += len(self._out)
            self._sealed_frames = self.frames
            self._out.truncate(0)  # which keeps its memory: to get it anew costs more than to fill it

    def _wants(self, chunk: bytes, at: i64, length: i64) -> bool:
        if self.is_complete():
            return False
        return self.matches is None or self.matches(chunk[at + PREFIX : at + PREFIX + length])


def _comment_on_unfinished(entry: Entry) -> bytes:
    """A frame of up to 64 KB is shown as it passes, with what its sender has left to do."""
    said = in_words(entry.unfinished)
    return comment_option(said if entry.reason == PASSED else f"dropped: {DROP_REASONS[entry.reason]}; {said}")
