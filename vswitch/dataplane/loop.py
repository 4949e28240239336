"""The loop: which links are ready, and for how long they may keep the processor.

One trio task awaits the epoll descriptor and calls `turn` until nothing is ready. A turn goes on until
its budget is spent, so that other tasks get theirs within milliseconds under full load. What a batch of
reads has queued is flushed when the batch ends, has grown to FLUSH_BYTES, or has queued COPIES_MAX.
"""

import select
import time
from typing import Final, final

from mypy_extensions import i64

from vswitch.dataplane.bridge import COPIES_MAX, Bridge
from vswitch.dataplane.link import Link

FLUSH_BYTES: Final = 512 * 1024
EVENTS_MAX: Final = 64

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT


@final
class Loop:
    """Drives links. `lost` collects those that failed, already unregistered; the caller closes them."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.epoll = select.epoll()
        self.lost: list[Link] = []
        self._links: list[Link | None] = []  # by descriptor
        self._by_port: list[Link | None] = []  # by port index
        self._events: list[tuple[int, int]] = []
        self._next_event: i64 = 0

    def add(self, link: Link) -> None:
        """Start a link: its port goes up. The descriptor belongs to the link from now on. Raises OSError."""
        self.epoll.register(link.fd, READABLE)
        while len(self._links) <= link.fd:
            self._links.append(None)
        while len(self._by_port) <= link.port.index:
            self._by_port.append(None)
        self._links[link.fd] = link
        self._by_port[link.port.index] = link
        self.bridge.port_up(link.port)

    def remove(self, link: Link) -> None:
        """Stop a link, before its descriptor is closed: its port goes down."""
        if self._links[link.fd] is link:
            self._links[link.fd] = None
            self._by_port[link.port.index] = None
            self.epoll.unregister(link.fd)
            self.bridge.port_down(link.port)

    def close(self) -> None:
        self.epoll.close()

    def turn(self, now: i64, budget: float) -> bool:
        """Forward what is ready, for `budget` seconds at most; answers whether there is more to do.

        `now` is the time in milliseconds that learning and ageing go by. An event is only ever a hint to
        try: one that is left over from the last turn may name a descriptor that was reused since.
        """
        deadline = time.monotonic() + budget
        pool = self.bridge.pool
        while True:
            if self._next_event >= len(self._events):
                self._events = self.epoll.poll(0, EVENTS_MAX)
                self._next_event = 0
                if len(self._events) == 0:
                    return False
            received: i64 = 0
            full = pool.used + COPIES_MAX
            while self._next_event < len(self._events) and received < FLUSH_BYTES and pool.used < full:
                fd, mask = self._events[self._next_event]
                self._next_event += 1
                link = self._links[fd]
                if link is None:
                    continue
                if mask & WRITABLE:
                    self._resume(link)
                if mask & ~WRITABLE:
                    received += link.receive(now)
                    if link.lost is not None:
                        self._lose(link)
            pool.peak = max(pool.peak, pool.used)
            self._flush()
            if time.monotonic() >= deadline:
                return True

    def _flush(self) -> None:
        dirty = self.bridge.dirty
        if len(dirty) == 0:
            return
        self.bridge.dirty = []
        for port in dirty:
            port.dirty = False
            link = self._by_port[port.index]
            if link is None or port.blocked:
                continue
            link.flush()
            if port.blocked:
                self.epoll.modify(link.fd, READABLE | WRITABLE)

    def _resume(self, link: Link) -> None:
        """The peer of a blocked port takes bytes again."""
        if not link.port.blocked:
            return
        link.flush()
        if link.port.queued_frames == 0:
            link.port.unblock()
            self.epoll.modify(link.fd, READABLE)

    def _lose(self, link: Link) -> None:
        if self._links[link.fd] is link:
            self.remove(link)
            self.lost.append(link)
