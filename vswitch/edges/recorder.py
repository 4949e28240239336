"""The flight recorder: what passed last, always in memory, to be written out after the fact.

It keeps the journal's entries, which refer to the received chunks themselves: keeping them is no copy. A chunk is
charged once for all neighbouring entries that lie in it. These are all of its frames, so that the memory it takes is
about what is said.
"""

from collections import deque
from typing import Final, final

from mypy_extensions import i64

from vswitch.dataplane.journal import Entry, Sink

ENTRY_BYTES: Final = 160  # an entry, and its place in a list
CHUNK_BYTES: Final = 64  # a chunk's header, and what the heap adds


@final
class Segment:
    """Entries that came together, the memory they hold, and when they came, in milliseconds by a clock without steps.

    `number` is how many segments there were before.
    """

    def __init__(self, entries: list[Entry], size: i64, now: i64, number: i64) -> None:
        self.entries = entries
        self.size = size
        self.now = now
        self.number = number


@final
class Recorder(Sink):
    """Keeps `size_max` bytes at most, and nothing older than `age_max` (milliseconds). `taken` counts the segments."""

    def __init__(self, size_max: i64, age_max: i64) -> None:
        self.size_max = size_max
        self.age_max = age_max
        self.size: i64 = 0
        self.taken: i64 = 0
        self.segments: deque[Segment] = deque()

    def take(self, entries: list[Entry], now: i64) -> None:
        """Some more."""
        if len(entries) == 0:
            return
        segment = Segment(entries, weight(entries), now, self.taken)
        self.taken += 1
        self.segments.append(segment)
        self.size += segment.size
        while self.size > self.size_max or self.segments[0].now < now - self.age_max:
            gone: Segment = self.segments.popleft()
            self.size -= gone.size
            if len(self.segments) == 0:
                break


def weight(entries: list[Entry]) -> i64:
    """The bytes that entries hold."""
    size: i64 = 0
    chunk = b""
    rebuilt = b""
    for entry in entries:
        size += ENTRY_BYTES
        if entry.chunk is not chunk and entry.chunk is not rebuilt:
            size += len(entry.chunk) + CHUNK_BYTES
            rebuilt = chunk  # a run and what it was rebuilt to come in turn
            chunk = entry.chunk
    return size
