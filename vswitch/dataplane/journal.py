"""The journal: what became of frames, run by run, for those who watch. While nobody does, nothing is written.

An entry refers to the run where it is, in the chunk that it came in with or was rebuilt in; nothing is copied. Entries
are handed on to the sinks after each batch of reads, while its chunks are in the processor's cache. A frame's id is its
number among all that came in while the journal was on; its copies have the same.
"""

from typing import Final, final

from mypy_extensions import i64, mypyc_attr

IN: Final = 1  # as in pcapng's epb_flags
OUT: Final = 2
UNKNOWN: Final = -1  # instead of an id


@final
@mypyc_attr(acyclic=True)  # or the collector would look at each, and there are many
class Entry:
    """`frames` whole frames, with their prefixes, at chunk[start:end], came in or left by `port` (its serial).

    `first` is the first one's id, or UNKNOWN; `reason` why they were dropped there, or PASSED; `time_ns` is since 1970.
    `unfinished` is what is left to do for them (offload.py).
    """

    def __init__(
        self,
        port: i64,
        direction: i64,
        reason: i64,
        chunk: bytes,
        start: i64,
        end: i64,
        frames: i64,
        first: i64,
        time_ns: i64,
        unfinished: i64 = 0,
    ) -> None:
        self.port = port
        self.direction = direction
        self.reason = reason
        self.chunk = chunk
        self.start = start
        self.end = end
        self.frames = frames
        self.first = first
        self.time_ns = time_ns
        self.unfinished = unfinished


class Sink:
    """Who gets the entries, at once and in the order that things happened."""

    def take(self, entries: list[Entry], now: i64) -> None:
        """`now` is the time, in milliseconds, that learning and ageing go by: it never steps."""
        raise NotImplementedError


@final
class Journal:
    """One switch's, which is on while it has sinks. `time_ns` and `now` are set before each read.

    What a sink raises is kept in `failures`, and the others still get their entries.
    """

    def __init__(self) -> None:
        self.on = False
        self.sinks: list[Sink] = []
        self.failures: list[tuple[Sink, Exception]] = []
        self.entries: list[Entry] = []
        self.time_ns: i64 = 0
        self.now: i64 = 0
        self.current: i64 = UNKNOWN  # the id of the first frame of the run that is being forwarded
        self._following: i64 = 0

    def came_in(
        self, port: i64, reason: i64, chunk: bytes, start: i64, end: i64, frames: i64, unfinished: i64 = 0
    ) -> Entry:
        """A run came in, and is forwarded next unless there is a reason not to."""
        self.current = self._following
        self._following += frames
        entry = Entry(port, IN, reason, chunk, start, end, frames, self.current, self.time_ns, unfinished)
        self.entries.append(entry)
        return entry

    def left(
        self,
        port: i64,
        reason: i64,
        chunk: bytes,
        start: i64,
        end: i64,
        frames: i64,
        skipped: i64,
        unfinished: i64 = 0,
    ) -> None:
        """A part of the current run, after `skipped` frames of it, was queued at a port, or dropped there."""
        first = self.current
        if first != UNKNOWN:
            first += skipped
        self.entries.append(Entry(port, OUT, reason, chunk, start, end, frames, first, self.time_ns, unfinished))

    def add(self, sink: Sink) -> None:
        """Hand what happens from now on to one more sink."""
        self.hand_on()
        self.sinks.append(sink)
        self.on = True

    def remove(self, sink: Sink) -> None:
        """Hand it the last, and then nothing more."""
        self.hand_on()
        self.sinks.remove(sink)
        self.on = len(self.sinks) > 0

    def hand_on(self) -> None:
        """Give the sinks the entries that they do not have yet."""
        if len(self.entries) > 0:
            entries = self.entries
            self.entries = []
            for sink in self.sinks:
                try:
                    sink.take(entries, self.now)
                except Exception as error:
                    self.failures.append((sink, error))
