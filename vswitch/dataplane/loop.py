"""The loop: which links are ready, and for how long they may keep the processor.

One trio task awaits the epoll descriptor and calls `turn` until nothing is ready. A turn goes on until
its budget is spent, so that other tasks get theirs within milliseconds under full load. What a batch of
reads has queued is flushed when the batch ends, has grown to FLUSH_BYTES, or has queued COPIES_MAX; ports that the
budget does not reach are flushed first in the next turn.

A unix datagram peer that sends faster than another reads is not read for a moment, once half of the other's queue is
full: the system has it wait, as it would without a switch between the two. That a port does not drain in time
is found out once; from then on what does not fit is dropped, until the port has caught up.

Once nothing is ready, a turn lingers: who has just been sent a frame may answer at once, and to come back by trio takes
longer than to forward the answer. Where this is in vain it is tried ever less often, as for peers within this process,
which can answer only after the turn.
"""

import select
import time
from typing import Final, final

from mypy_extensions import i64

from vswitch.dataplane.bridge import COPIES_MAX, Bridge
from vswitch.dataplane.datagram import SharedSource
from vswitch.dataplane.link import Link, Source
from vswitch.dataplane.port import Port

FLUSH_BYTES: Final = 512 * 1024
EVENTS_MAX: Final = 64
LINGER_S: Final = 0.001  # the least that epoll knows
LINGER_SKIPPED_MAX: Final = 256  # turns from one vain attempt to the next
WAIT_MS: Final = 10  # how long a source may wait for a port at a time
LAST_BATCHES: Final = 16  # that are taken in of a peer that takes no more

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
GONE: Final = select.EPOLLHUP | select.EPOLLERR


@final
class Loop:
    """Drives links.

    `lost` collects those that failed, already unregistered; whoever drives the loop closes them. `callers` are the
    shared sockets with strangers to see to: a turn ends early for them. `failures` are errors that no link should
    raise; they end that link only. `polls` counts how often epoll was asked for what is ready, `lingered` how often a
    turn waited for more, and `answered` how often more came.
    """

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.epoll = select.epoll()
        self.lost: list[Link] = []
        self.callers: list[SharedSource] = []
        self.failures: list[Exception] = []
        self.bounded: i64 = 0  # batches of reads that ended as they had queued a lot
        self.waits: i64 = 0  # times that a source was not read, as a port was pressed by it
        self.polls: i64 = 0
        self._sources: list[Source | None] = []  # by descriptor
        self._masks: list[int] = []  # what epoll watches each descriptor for
        self._by_port: list[Link | None] = []  # by port index
        self._full: dict[int, list[Link]] = {}  # links whose peer is full, by the descriptor that tells of room
        self.waiting: list[Source] = []  # sources that wait for a port
        self._events: list[tuple[int, int]] = []
        self._next_event: i64 = 0
        self.lingered: i64 = 0
        self.answered: i64 = 0
        self._linger_skipped: i64 = 0  # turns that are still to pass before the next attempt
        self._linger_pause: i64 = 1  # and how many after that, if it is in vain

    def add(self, link: Link) -> None:
        """Start a link: its port goes up. Its descriptors belong to it from now on. Raises OSError."""
        if link.fd >= 0:
            self.watch(link)
        while len(self._by_port) <= link.port.index:
            self._by_port.append(None)
        self._by_port[link.port.index] = link
        link.port.takes_unfinished = link.takes_unfinished
        self.bridge.port_up(link.port)

    def remove(self, link: Link) -> None:
        """Stop a link, before its descriptors are closed: its port goes down."""
        if self._by_port[link.port.index] is not link:
            return
        self._by_port[link.port.index] = None
        self.stamp()
        waiting = self._full.get(link.room_fd)
        if waiting is not None and link in waiting:
            waiting.remove(link)
            self._watch(link.room_fd)
        if link.fd >= 0:
            self.unwatch(link)
        self.bridge.port_down(link.port)
        link.port.takes_unfinished = False

    def finish(self, link: Link, now: i64) -> None:
        """Take in what the peer of a link has sent before it went."""
        self.bridge.journal.now = now
        self.stamp()
        self._receive_last(link, now)

    def watch(self, source: Source) -> None:
        """Read from a source. Raises OSError."""
        while len(self._sources) <= source.fd:
            self._sources.append(None)
        self._sources[source.fd] = source
        try:
            self._watch(source.fd)
        except OSError:
            self._sources[source.fd] = None
            raise

    def unwatch(self, source: Source) -> None:
        """Read from a source no more, before its descriptor is closed."""
        self._sources[source.fd] = None
        if source.waits_for is not None:
            self.waiting.remove(source)
            source.waits_for = None
        self._watch(source.fd)

    def stamp(self) -> None:
        """What is written to the journal from now on happens now."""
        if self.bridge.journal.on:
            self.bridge.journal.time_ns = time.time_ns()

    def is_busy(self) -> bool:
        """Whether there is something to do, as far as one can tell without doing it."""
        if self._next_event < len(self._events) or len(self.bridge.dirty) > 0:
            return True
        self._events = self.epoll.poll(0, EVENTS_MAX)
        self._next_event = 0
        self.polls += 1
        return len(self._events) > 0

    def close(self) -> None:
        self.epoll.close()

    def turn(self, now: i64, budget: float) -> bool:
        """Forward what is ready, for `budget` seconds at most; answers whether there is more to do.

        `now` is the time in milliseconds that learning and ageing go by. An event is only ever a hint to
        try: one that is left over from the last turn may name a descriptor that was reused since.
        """
        deadline = time.monotonic() + budget
        pool = self.bridge.pool
        journal = self.bridge.journal
        journal.now = now
        self.stamp()
        if len(self.waiting) > 0:
            self._go_on(now)
        if len(self.bridge.dirty) > 0:
            self._flush(deadline, now)
            if len(self.bridge.dirty) > 0:
                return True
        busy = False
        while True:
            if self._next_event >= len(self._events):
                self._events = self.epoll.poll(0, EVENTS_MAX)
                self.polls += 1
                self._next_event = 0
                if len(self._events) == 0 and not (busy and self._linger(deadline)):
                    return False
            busy = True
            work: i64 = 0
            full = pool.used + COPIES_MAX
            while self._next_event < len(self._events) and work < FLUSH_BYTES and pool.used < full:
                fd, mask = self._events[self._next_event]
                self._next_event += 1
                source = self._sources[fd] if fd < len(self._sources) else None
                if mask & WRITABLE or source is None:
                    work += self._resume(fd, now)
                if mask & ~WRITABLE and source is not None and source.waits_for is None:
                    self.bridge.take_pressed()  # what it was before does not matter
                    if journal.on:
                        journal.time_ns = time.time_ns()
                    if mask & GONE:  # nothing more will come: get it over with
                        work += self._receive_last(source, now)
                    else:
                        work += self._receive(source, now)
                    pressed = self.bridge.take_pressed()
                    if pressed is not None:
                        self._wait(source, pressed, now)
                    if source.lost is not None and isinstance(source, Link):
                        self._lose(source)
            if pool.used >= full:
                self.bounded += 1
            pool.peak = max(pool.peak, pool.used)
            self._flush(deadline, now)
            journal.hand_on()
            if len(self.callers) > 0 or time.monotonic() >= deadline:
                return True

    def flush(self, now: i64, budget: float) -> None:
        """Send what was queued beside a turn, for `budget` seconds at most; `lost` links are to be seen to then."""
        self._flush(time.monotonic() + budget, now)

    def _linger(self, deadline: float) -> bool:
        """Wait for more as long as that pays; answers whether it has come."""
        if self._linger_skipped > 0:
            self._linger_skipped -= 1
            return False
        if len(self.lost) > 0 or len(self.waiting) > 0 or time.monotonic() >= deadline:
            return False
        self._events = self.epoll.poll(LINGER_S, EVENTS_MAX)
        self.lingered += 1
        if len(self._events) > 0:
            self.answered += 1
            self._linger_pause = 1
            return True
        self._linger_skipped = self._linger_pause
        self._linger_pause = min(2 * self._linger_pause, LINGER_SKIPPED_MAX)
        return False

    def _receive(self, source: Source, now: i64) -> i64:
        """Have a source receive. One that raises what none should is lost, or loses that batch."""
        try:
            return source.receive(now)
        except Exception as error:
            self._fail(source, error)
            return 0

    def _receive_last(self, source: Source, now: i64) -> i64:
        """Take in what the peer of a source has sent before it went, or most of it."""
        work: i64 = 0
        for _ in range(LAST_BATCHES):
            received = self._receive(source, now)
            if received == 0:
                break
            work += received
        return work

    def _send(self, link: Link) -> i64:
        """Have a link flush, likewise."""
        try:
            return link.flush()
        except Exception as error:
            self._fail(link, error)
            return 0

    def _fail(self, source: Source, error: Exception) -> None:
        self.failures.append(error)
        if source.lost is None and isinstance(source, Link):
            source.lost = "internal error"

    def _flush(self, deadline: float, now: i64) -> None:
        """Flush dirty ports, one at least, until the deadline; the others stay dirty."""
        dirty = self.bridge.dirty
        done: i64 = 0
        while done < len(dirty):
            port = dirty[done]
            done += 1
            port.dirty = False
            link = self._by_port[port.index]
            if link is None or link.port is not port or port.blocked:
                continue
            self._send(link)
            if link.lost is not None:
                self._lose_after(link, now)
            elif port.blocked:
                self._await_room(link)
            if time.monotonic() >= deadline:
                break
        del dirty[:done]

    def _wait(self, source: Source, pressed: Port, now: i64) -> None:
        """A port is pressed by what a source has brought: read no more of it for a moment."""
        if source.patient and source.lost is None:
            source.waits_for = pressed
            source.waits_until = now + WAIT_MS
            self.waits += 1
            self.waiting.append(source)
            self._watch(source.fd)

    def _go_on(self, now: i64) -> None:
        """Read from sources again whose port has drained, or has not in time."""
        still: list[Source] = []
        for source in self.waiting:
            port = source.waits_for
            if port is not None and not port.is_relieved() and not port.given_up and now < source.waits_until:
                still.append(source)
                continue
            if port is not None and not port.is_relieved():
                port.given_up = True
            source.waits_for = None
            self._watch(source.fd)
        self.waiting = still

    def _await_room(self, link: Link) -> None:
        """The peer of a link is full: watch for room."""
        waiting = self._full.get(link.room_fd)
        if waiting is None:
            self._full[link.room_fd] = [link]
            self._watch(link.room_fd)
        else:
            waiting.append(link)

    def _resume(self, fd: int, now: i64) -> i64:
        """A descriptor that full links wait on is writable; answers how much was sent."""
        waiting = self._full.get(fd)
        if waiting is None:
            return 0
        work: i64 = 0
        failed: list[Link] = []
        still: list[Link] = []
        for link in waiting:
            work += self._send(link)
            if link.lost is not None:
                failed.append(link)
            elif link.port.queued_frames == 0:
                link.port.unblock()
            elif link.room_fd == fd:
                still.append(link)
            else:
                self._await_room(link)
        self._full[fd] = still[1:] + still[:1]  # another one is the first to find room next time
        self._watch(fd)
        for link in failed:
            self._lose_after(link, now)
        return work

    def _lose_after(self, link: Link, now: i64) -> None:
        """A peer takes no more frames."""
        self.finish(link, now)
        self._lose(link)

    def _lose(self, link: Link) -> None:
        self.remove(link)
        self.lost.append(link)

    def _watch(self, fd: i64) -> None:
        """Have epoll watch a descriptor for what is to be known of it now. Raises OSError."""
        while len(self._masks) <= fd:
            self._masks.append(0)
        mask = 0
        source = self._sources[fd] if fd < len(self._sources) else None
        if source is not None and source.waits_for is None:
            mask = READABLE
        waiting = self._full.get(fd)
        if waiting is not None:
            if len(waiting) > 0:
                mask |= waiting[0].room_event
            else:
                del self._full[fd]
        before = self._masks[fd]
        if before == 0 and mask != 0:
            self.epoll.register(fd, mask)
        elif before != 0 and mask == 0:
            self.epoll.unregister(fd)
        elif before != mask:
            self.epoll.modify(fd, mask)
        self._masks[fd] = mask
