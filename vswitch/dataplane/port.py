"""A port: its policy, its counters and its bounded egress queue.

The policy is what the control side writes and the data plane reads. A port that has none is `plain`: between two of
these every frame passes as it is, and nothing is looked at but its addresses.

The queue holds runs. While the port's link accepts everything, a run is a reference to a slice of the
chunk it came in with and lives until the end of the turn. Once the link is full (`blocked`), what waits
may wait long, and a slice pins its whole chunk: then small runs are copied together, and a slice is
kept only when it is at least half of its chunk. So the memory a queue holds stays within about twice
its bound, whatever the guests send; what one batch of reads may queue beyond that is the loop's to bound.

All queues share one pool. A port may always queue QUEUE_BYTES_MIN, and more, up to its own bound, only as
long as the pool has that much left: a few stalled ports get deep queues, two thousand get shallow ones
(Choudhury and Hahne's dynamic thresholds, as in the shared buffers of hardware switches).

Small runs that follow another are copied together in any case: below SMALL bytes, two copies cost less
than an iovec of their own.
"""

from typing import Final, final

from librt.strings import BytesWriter
from librt.vecs import vec
from mypy_extensions import i64

from vswitch.dataplane.drops import DROP_REASON_COUNT, PASSED, PORT_DOWN, QUEUE_FULL
from vswitch.dataplane.frame import PREFIX, copy, count_frames, frame_length, last_boundary, skip_frames
from vswitch.dataplane.journal import UNKNOWN, Journal
from vswitch.dataplane.policy import EgressPolicy, IngressPolicy
from vswitch.dataplane.run import Run
from vswitch.dataplane.vlan import TRANSPARENT

QUEUE_BYTES_DEFAULT: Final = 1 << 24
QUEUE_BYTES_MIN: Final = 1 << 17  # a frame of the greatest length always fits an empty queue
POOL_BYTES_DEFAULT: Final = 1 << 28

RELIEF_BYTES: Final = 1 << 16

NO_ISLAND: Final = -1

SMALL: Final = 2048
SCATTER_MAX: Final = 65536
SCATTER_KEPT: Final = 4096


@final
class QueuePool:
    """What all queues of a switch hold together (`used`), held at most (`peak`), and should while links are full."""

    def __init__(self, size: i64 = POOL_BYTES_DEFAULT) -> None:
        self.size = size
        self.used: i64 = 0
        self.peak: i64 = 0
        self.segments: i64 = 0  # runs made of small ones that were copied together
        self.copied: i64 = 0  # runs that were copied out of their chunks, as they wait for a full link


@final
class Port:
    """One port of the bridge; `index` is its number in the tables.

    Byte counters count frames without prefix; `queued_bytes` and its bound count what is queued, prefixes
    included.
    """

    def __init__(
        self, index: i64, pool: QueuePool, queue_bytes_max: i64 = QUEUE_BYTES_DEFAULT, journal: Journal | None = None
    ) -> None:
        self.index = index
        self.serial = index  # its number among all ports that there ever were, as the journal has it
        self.pool = pool
        self.journal = Journal() if journal is None else journal
        self.queue_bytes_max = queue_bytes_max
        self.linked = False
        self.enabled = True  # by its policy
        self.up = False  # linked and enabled
        self.forwards = True  # its state (IEEE 802.1Q 8.4): else it discards, and has an ingress policy
        self.returned = b""  # the first probe that came back here since somebody looked, with its prefix
        self.dirty = False  # has something to flush in this turn
        self.blocked = False  # the link is full: nothing is flushed until it is writable
        self.given_up = False  # waiting for the link was in vain; until a quarter of the queue is left
        self.takes_unfinished = False  # its link can pass on what is left to do (offload.py)
        self.plain = True  # transparent, not isolated, and on no island
        self.vlans = TRANSPARENT
        self.isolated = False  # reaches only ports that are not
        self.islands: vec[i64] = vec[i64]()  # its island in each partition, or NO_ISLAND; empty if it is in none
        self.place = index  # as the MAC table has it: with PINNED if stations stay here
        self.takes_floods = True  # is sent what is for all; else another port of its endpoint has that reach its peer
        self.is_mirror = False  # sends what it is told, and takes nothing in
        self.forwards_reserved = False  # takes in what is for 01-80-C2-00-00-01 … 0F
        self.any_source = False  # takes in what no station can have sent: from a group address, or zero
        self.ingress_policy: IngressPolicy | None = None
        self.egress_policy: EgressPolicy | None = None
        self.mirrors_in: list[Port] = []  # what comes in, whatever becomes of it, goes to these ports too
        self.mirrors_out: list[Port] = []  # what is to leave goes to these, too
        self.rx_frames: i64 = 0
        self.rx_bytes: i64 = 0
        self.tx_frames: i64 = 0
        self.tx_bytes: i64 = 0
        self.segmented: i64 = 0  # frames that were cut into segments to leave here
        self.checksummed: i64 = 0  # frames that got their checksum to leave here
        self.drops: vec[i64] = vec[i64]([0] * DROP_REASON_COUNT)
        self.dropped: i64 = 0  # the sum of these
        self.queued_frames: i64 = 0
        self.queued_bytes: i64 = 0
        self._runs: list[Run] = []
        self.head_sent: i64 = 0  # bytes of the first queued frame that the link has taken
        self._scatter = BytesWriter()  # small runs at the queue's end, not yet a run of their own
        self._scatter_frames: i64 = 0

    def is_parted_from(self, other: "Port") -> bool:
        """Whether they are on different islands of a partition."""
        here = self.islands
        there = other.islands
        both: i64 = min(len(here), len(there))
        at: i64 = 0
        while at < both:
            if here[at] != there[at] and here[at] != NO_ISLAND and there[at] != NO_ISLAND:
                return True
            at += 1
        return False

    def drop(self, reason: i64, frames: i64) -> None:
        self.drops[reason] += frames
        self.dropped += frames

    def enqueue(self, chunk: bytes, start: i64, end: i64, frames: i64, unfinished: i64 = 0) -> None:
        """Queue the frames at chunk[start:end], or as many of them as fit when the link is full."""
        kept = self._enqueue(chunk, start, end, frames, unfinished)
        if self.journal.on and kept > 0:
            if kept < frames:
                end = skip_frames(chunk, start, kept)
            self.journal.left(self.serial, PASSED, chunk, start, end, kept, 0, unfinished)

    def _enqueue(self, chunk: bytes, start: i64, end: i64, frames: i64, unfinished: i64) -> i64:
        """The same; answers how many fitted."""
        if self.blocked and end - start > self._room():
            fits = last_boundary(chunk, start, start + max(0, self._room()))
            kept = count_frames(chunk, start, fits)
            self.drop(QUEUE_FULL, frames - kept)
            if self.journal.on:
                self.journal.left(self.serial, QUEUE_FULL, chunk, fits, end, frames - kept, kept, unfinished)
            if kept == 0:
                return 0
            end = fits
            frames = kept
        size = end - start
        self._charge(frames, size)
        if size <= SMALL and unfinished == 0 and (self.blocked or self._scatter_frames > 0 or len(self._runs) > 0):
            if len(self._scatter) >= SCATTER_MAX:
                self._seal()
            self._scatter_frames += frames
            copy(self._scatter, chunk, start, end)
            return frames
        if self._scatter_frames > 0:
            self._seal()
        if self.blocked and 2 * size < len(chunk):
            self._runs.append(Run(chunk[start:end], 0, size, frames, unfinished))
            self.pool.copied += 1
        else:
            self._runs.append(Run(chunk, start, end, frames, unfinished))
        return frames

    def waiting(self) -> list[Run]:
        """The queue's runs, oldest first; `head_sent` bytes of the first are already sent."""
        if self._scatter_frames > 0:
            self._seal()
        return self._runs

    def sent(self, size: i64) -> None:
        """The link has taken `size` more bytes from the queue's head."""
        size += self.head_sent
        head: i64 = 0
        while head < len(self._runs):
            run = self._runs[head]
            if size < run.end - run.start:
                done = last_boundary(run.chunk, run.start, run.start + size)
                if done > run.start:
                    frames = count_frames(run.chunk, run.start, done)
                    self._count_sent(frames, done - run.start)
                    self._runs[head] = Run(run.chunk, done, run.end, run.frames - frames, run.unfinished)
                self.head_sent = size - (done - run.start)
                del self._runs[:head]  # what is sent holds its chunk no longer
                return
            size -= run.end - run.start
            self._count_sent(run.frames, run.end - run.start)
            head += 1
        self.head_sent = 0
        self._runs.clear()

    def drop_head(self, reason: i64) -> None:
        """Drop the first queued frame, of which nothing is sent yet."""
        run = self.waiting()[0]
        size = PREFIX + frame_length(run.chunk, run.start)
        self.drop(reason, 1)
        if self.journal.on:
            self.journal.current = UNKNOWN
            self.journal.left(self.serial, reason, run.chunk, run.start, run.start + size, 1, 0, run.unfinished)
        self._charge(-1, -size)
        if run.start + size == run.end:
            del self._runs[:1]
        else:
            self._runs[0] = Run(run.chunk, run.start + size, run.end, run.frames - 1, run.unfinished)

    def block(self) -> None:
        """The link is full: from here on what is queued is charged for the memory it holds."""
        if self.blocked:
            return
        runs = self.waiting()
        self.blocked = True
        self._runs = []
        self._charge(-self.queued_frames, -self.queued_bytes)
        self.journal.current = UNKNOWN
        for run in runs:
            self._enqueue(run.chunk, run.start, run.end, run.frames, run.unfinished)

    def unblock(self) -> None:
        self.blocked = False

    def is_pressed(self) -> bool:
        """Whether so much waits for a full link that who fills the queue might wait a moment."""
        return self.blocked and not self.given_up and 2 * self.queued_bytes > self.queue_bytes_max

    def is_relieved(self) -> bool:
        """Whether it is time to go on: enough has been sent that it is worth while."""
        return 2 * (self.queued_bytes + min(RELIEF_BYTES, self.queue_bytes_max // 8)) < self.queue_bytes_max

    def clear(self) -> None:
        """The link is lost: drop what is queued."""
        self.drop(PORT_DOWN, self.queued_frames)
        if self.journal.on:
            self.journal.current = UNKNOWN
            for run in self.waiting():
                self.journal.left(self.serial, PORT_DOWN, run.chunk, run.start, run.end, run.frames, 0, run.unfinished)
        self._runs = []
        self.head_sent = 0
        self._scatter = BytesWriter()
        self._scatter_frames = 0
        self._charge(-self.queued_frames, -self.queued_bytes)
        self.blocked = False

    def _count_sent(self, frames: i64, size: i64) -> None:
        self.tx_frames += frames
        self.tx_bytes += size - PREFIX * frames
        self._charge(-frames, -size)
        if self.given_up and 4 * self.queued_bytes < self.queue_bytes_max:
            self.given_up = False

    def _charge(self, frames: i64, size: i64) -> None:
        self.queued_frames += frames
        self.queued_bytes += size
        self.pool.used += size

    def _room(self) -> i64:
        """How many bytes more may wait here."""
        bound = min(self.queue_bytes_max, max(QUEUE_BYTES_MIN, self.pool.size - self.pool.used))
        return bound - self.queued_bytes

    def _seal(self) -> None:
        """Make a run of the scatter buffer."""
        joined = self._scatter.getvalue()
        self.pool.segments += 1
        self._runs.append(Run(joined, 0, len(joined), self._scatter_frames))
        self._scatter_frames = 0
        if len(joined) > SCATTER_KEPT:
            self._scatter = BytesWriter()  # thousands of ports must not each keep a large one
        else:
            self._scatter.truncate(0)
