"""Those who watch a switch's ports, and what becomes of their frames: captures and the flight recorder."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import trio

from vswitch.dataplane.journal import Journal, Sink
from vswitch.supervision import Failures

if TYPE_CHECKING:
    from vswitch.ports.port import SwitchPort

MOMENT_S = 0.002  # how long forwarding waits, each millisecond, for all who have a lot to write


class Watcher(Protocol):
    """Who is told of ports. Its `sink` gets what becomes of frames, and it is `told` so before other tasks go on.

    `failed` says that it, or its sink, has raised an error: it should stop watching if that may happen again.
    """

    @property
    def sink(self) -> Sink: ...
    def told(self) -> None: ...
    def port_added(self, port: "SwitchPort") -> None: ...
    def port_removed(self, port: "SwitchPort") -> None: ...
    def failed(self, error: Exception) -> None: ...
    async def wait_for_room(self, until_s: float) -> None: ...


class Watchers:
    """A switch's, and the journal that they read. What one of them raises does not stop forwarding, or the others."""

    def __init__(self, journal: Journal, failures: Failures) -> None:
        self._journal = journal
        self._failures = failures
        self._watchers: list[Watcher] = []

    def add(self, watcher: Watcher, ports: Iterable["SwitchPort"]) -> None:
        """Tell a watcher of the ports that there are, and of what frames they take in and send from now on."""
        self.tell()
        for port in ports:
            watcher.port_added(port)
        self._watchers.append(watcher)
        self._journal.add(watcher.sink)

    def remove(self, watcher: Watcher) -> None:
        """Tell it the last, and then nothing more."""
        self.tell()
        if watcher in self._watchers:
            self._watchers.remove(watcher)
            self._journal.remove(watcher.sink)

    def tell(self) -> None:
        """Tell them what has happened since they were told last."""
        self._journal.hand_on()
        while self._journal.failures:
            sink, error = self._journal.failures.pop()
            for watcher in [watcher for watcher in self._watchers if watcher.sink is sink]:
                self._note(watcher, error)
        self._each(lambda watcher: watcher.told())

    def port_added(self, port: "SwitchPort") -> None:
        self._each(lambda watcher: watcher.port_added(port))

    def port_removed(self, port: "SwitchPort") -> None:
        self.tell()
        self._each(lambda watcher: watcher.port_removed(port))

    async def wait_for_room(self) -> None:
        """Have forwarding wait for those that have more to write than they can hold."""
        if self._watchers:
            until_s = trio.current_time() + MOMENT_S
            for watcher in list(self._watchers):
                await watcher.wait_for_room(until_s)

    def _each(self, tell: Callable[[Watcher], None]) -> None:
        for watcher in list(self._watchers):
            try:
                tell(watcher)
            except Exception as error:
                self._note(watcher, error)

    def _note(self, watcher: Watcher, error: Exception) -> None:
        self._failures.note("a capture", error)
        watcher.failed(error)
