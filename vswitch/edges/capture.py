"""A capture: the frames that ports take in and send, as blocks of pcapng.

It is fed by the journal, and gives what it has written away in portions.
What it has not got rid of is bounded: what comes then is counted as missing, frame by frame, at each interface, and
said in the next packet of that interface and at the end.
"""

from collections.abc import Callable
from typing import Final, final

from librt.strings import BytesWriter
from librt.vecs import append, vec
from mypy_extensions import i64

from vswitch.dataplane.drops import DROP_REASONS, PASSED
from vswitch.dataplane.frame import PREFIX, frame_length
from vswitch.dataplane.journal import Entry, Sink
from vswitch.edges.pcapng import (
    comment_option,
    interface_description,
    interface_statistics,
    section_header,
    write_packet,
)

SNAPLEN_MAX: Final = 262144
NOT_CAPTURED: Final = -1
PIECE_BYTES: Final = 256 * 1024
COMMENTS: Final = [comment_option(f"dropped: {reason}") for reason in DROP_REASONS]


@final
class Piece:
    """A part of a capture: one block of pcapng for each of some frames."""

    def __init__(self, blocks: bytes, frames: i64) -> None:
        self.blocks = blocks
        self.frames = frames


@final
class Capture(Sink):
    """One capture. `held_max` is how many bytes it may hold, with those that were given away and are not written yet.

    `only_drops` leaves out what was not dropped; `frames_max` is how many frames it takes, 0 for any number.
    """

    def __init__(
        self,
        application: str,
        held_max: i64,
        *,
        snaplen: i64 = SNAPLEN_MAX,
        only_drops: bool = False,
        frames_max: i64 = 0,
        matches: Callable[[bytes], bool] | None = None,
        filter_text: str = "",
    ) -> None:
        self.held_max = held_max
        self.snaplen = snaplen
        self.only_drops = only_drops
        self.frames_max = frames_max
        self.matches = matches
        self.filter_text = filter_text
        self.frames: i64 = 0  # written
        self.given_away: i64 = 0  # bytes that are not written yet
        self.written: i64 = 0
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

    def add_interface(self, port: i64, name: str, description: str) -> None:
        """Capture a port, by its serial, from now on."""
        self._interface_of[port] = len(self._received)
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
        """What was captured since this was asked last; `wrote` says that a piece is gone, from any thread."""
        self._seal()
        taken = self._pieces
        self._pieces = []
        self.given_away += self._sealed_bytes
        self._sealed_bytes = 0
        return taken

    def wrote(self, piece: Piece) -> None:
        """One of the pieces given away is written."""
        self.given_away -= len(piece.blocks)
        self.written += len(piece.blocks)

    def take(self, entries: list[Entry]) -> None:
        """What became of some frames."""
        for entry in entries:
            interface = self._interface_of.get(entry.port, NOT_CAPTURED)
            if interface != NOT_CAPTURED and not (self.only_drops and entry.reason == PASSED):
                self._take_run(entry, interface)

    def _take_run(self, entry: Entry, interface: i64) -> None:
        comment = b""
        if entry.reason != PASSED:
            comment = COMMENTS[entry.reason]
        out = self._out
        chunk = entry.chunk
        at = entry.start
        packet_id = entry.first
        while at < entry.end:
            length = frame_length(chunk, at)
            if self._wants(chunk, at, length):
                self._received[interface] += 1
                if self.held() > self.held_max:
                    self._missed[interface] += 1
                    self._unsaid[interface] += 1
                else:
                    unsaid = self._unsaid[interface]
                    self._unsaid[interface] = 0
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
                    if len(out) >= PIECE_BYTES:
                        self._seal()
            at += PREFIX + length
            if packet_id >= 0:
                packet_id += 1

    def _seal(self) -> None:
        if len(self._out) > 0:
            self._pieces.append(Piece(self._out.getvalue(), self.frames - self._sealed_frames))
            self._sealed_bytes += len(self._out)
            self._sealed_frames = self.frames
            self._out.truncate(0)  # which keeps its memory: to get it anew costs more than to fill it

    def _wants(self, chunk: bytes, at: i64, length: i64) -> bool:
        if self.is_complete():
            return False
        return self.matches is None or self.matches(chunk[at + PREFIX : at + PREFIX + length])
