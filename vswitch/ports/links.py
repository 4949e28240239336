"""The links of ports: peers that come and go."""

from collections.abc import Callable

import trio

from vswitch.dataplane.link import Link
from vswitch.dataplane.loop import EVENTS_MAX, Loop
from vswitch.ports.diagnosis.silence import Newcomers
from vswitch.ports.events import Events
from vswitch.ports.loop_guard import LoopGuard
from vswitch.ports.port import SwitchPort, now_ms
from vswitch.ports.registry import Registry
from vswitch.ports.watchers import Watchers
from vswitch.supervision import Failures


class Links:
    """A switch's, and what each turn of its loop leaves to do about them."""

    def __init__(
        self,
        registry: Registry,
        loop: Loop,
        watchers: Watchers,
        failures: Failures,
        events: Events,
        newcomers: Newcomers,
        loops: LoopGuard,
    ) -> None:
        self._registry = registry
        self._loop = loop
        self._watchers = watchers
        self._failures = failures
        self._events = events
        self._newcomers = newcomers
        self._loops = loops
        self.on_plug: dict[str, Callable[[], None]] = {}  # who wants to know of a peer, by the port's name
        self._catching_up: list[tuple[int, trio.Event]] = []  # by the number of polls that it takes

    def plug(
        self,
        port: SwitchPort,
        link: Link,
        peer: str,
        on_lost: Callable[[], None],
        *,
        is_guest: bool = True,
        is_uplink: bool = False,
    ) -> None:
        """Give a port its peer: a link made for it, whose descriptors belong to the port from now on.

        `on_lost` is called once if the peer goes away, when the port is down and the link closed already. `is_guest`
        says that somebody is there, who is to say something soon, `is_uplink` that it is likely to be a LAN of its own.
        Raises OSError if the system cannot watch the link.
        """
        self._loop.add(link)
        port.link = link
        port.peer = peer
        port.process = None
        port.on_lost = on_lost
        port.is_uplink = is_uplink
        self._loops.plugged(port)
        if is_guest:
            self._newcomers.add(port)
        if port.name in self.on_plug:
            self._failures.call(f"the carrier of {port.name}", self.on_plug[port.name])
        self._events.say("up", port.name, f"{port.name} up: {peer}", ports=[port.name])

    def unplug(self, port: SwitchPort, why: str) -> None:
        """Take a port's peer away, once what it has sent before is taken in; `on_lost` is not called."""
        if port.link is not None:
            self._loop.finish(port.link, now_ms())
        self.cut(port, why)
        self._watchers.tell()  # of what it dropped; the next turn may be long in coming

    def cut(self, port: SwitchPort, why: str) -> None:
        """Take its peer away at once."""
        if port.link is None:
            return
        self._loop.remove(port.link)
        port.link.close()
        port.link = None
        self._newcomers.remove(port)
        self._loops.unplugged(port)
        port.peer = None
        self._events.say("down", port.name, f"{port.name} down: {why}", ports=[port.name])

    def has_descriptor(self, fd: int) -> bool:
        links = (port.link for port in self._registry if port.link is not None)
        return any(fd in (link.fd, link.room_fd) for link in links)

    async def caught_up(self) -> None:
        """Return when each peer that has something to say now, or is gone, has been seen to once."""
        await trio.lowlevel.checkpoint()
        if self._loop.is_busy():
            event = trio.Event()
            self._catching_up.append((self._loop.polls + 2 + len(self._registry) // EVENTS_MAX, event))
            await event.wait()

    def reap(self) -> None:
        """See to links that the last turn of the loop has lost, and to those who wait for it to catch up."""
        while self._loop.failures:
            self._failures.note("a link", self._loop.failures.pop())
        while self._loop.lost:
            link = self._loop.lost.pop(0)
            port = self._registry.by_index(link.port.index)
            if port is not None and port.link is link:
                self.cut(port, link.lost or "lost")
                self._failures.call(f"what has {port.name}", port.on_lost)
        busy = self._loop.is_busy() if self._catching_up else False
        for due in [due for due in self._catching_up if not busy or due[0] <= self._loop.polls]:
            self._catching_up.remove(due)
            due[1].set()
