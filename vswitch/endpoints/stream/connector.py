"""An endpoint that connects: one port that keeps trying, with growing pauses."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import trio

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.link import Link
from vswitch.dataplane.port import Port
from vswitch.endpoints import inet
from vswitch.endpoints.endpoint import Endpoint, log
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports

FIRST_TRY_S = 0.25
CONNECT_TIMEOUT_S = 10.0
RETRY_MIN_S = 0.1
RETRY_MAX_S = 2.0
SAID_MAX = 8
STABLE_S = 5.0  # a link that held this long starts again with the shortest pause


class Connection(Protocol):
    """What a connector has connected."""

    async def use(self, ports: Ports, port: SwitchPort, peer: str) -> None:
        """Have a port use it until it ends. Raises OSError if the system refuses that."""
        ...

    def close(self) -> None:
        """Close everything; the link may have closed some of it already."""
        ...


class LinkConnection(ABC):
    """One that is the port's link from its beginning to its end."""

    @abstractmethod
    def link(self, port: Port, bridge: Bridge) -> Link:
        """The link of a port to the peer."""

    @abstractmethod
    async def ended(self) -> str:
        """Returns when the connection is over, and why, if something else than its link can tell."""

    async def use(self, ports: Ports, port: SwitchPort, peer: str) -> None:
        lost = trio.CancelScope()
        ports.links.plug(port, self.link(port.port, ports.bridge), peer, lost.cancel, is_uplink=True)
        why = "removed"
        try:
            with lost:
                why = await self.ended()
        finally:
            ports.links.unplug(port, why)


class Connector(Endpoint):
    """A scheme with `connect`."""

    @abstractmethod
    async def connect(self) -> Connection:
        """Connect to what the URL names. Raises OSError."""

    async def run(self, started: Callable[[], None]) -> None:
        self._said: set[str] = set()  # why it could not be had since it was there last
        port = self.ports.add(self.name, self.name, self.config)
        try:
            connection = await self._try_connect(FIRST_TRY_S)
            started()
            await self._stay_connected(port, connection)
        finally:
            self.ports.remove(port)

    async def _stay_connected(self, port: SwitchPort, connection: Connection | None) -> None:
        pause_s = RETRY_MIN_S
        while True:
            since = trio.current_time()
            if connection is not None:
                try:
                    await self._use(port, connection)
                finally:
                    connection.close()
                if trio.current_time() - since > STABLE_S:
                    pause_s = RETRY_MIN_S
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
            connection = await self._try_connect(CONNECT_TIMEOUT_S)

    async def _use(self, port: SwitchPort, connection: Connection) -> None:
        try:
            await connection.use(self.ports, port, self._peer)
        except OSError as error:
            log.warning("%s: cannot use the connection: %s", self.name, error.strerror)

    @property
    def _peer(self) -> str:
        """Who is at the other end, for people."""
        return self.url.partition("?")[0]

    async def _try_connect(self, timeout_s: float) -> Connection | None:
        """A connection, or None; why not is said once until there is one."""
        why = "no answer"
        try:
            with trio.move_on_after(timeout_s):
                connection = await self.connect()
                self._said.clear()
                return connection
        except OSError as error:
            why = inet.plain_reason(error)
        if why not in self._said and len(self._said) < SAID_MAX:
            self._said.add(why)
            text = f"{self.name}: cannot connect to {self.url}: {why}; will keep trying"
            self.ports.events.say("no_connection", self.name, text, ports=[self.name])
        return None
