"""tcp:// with `tls=`: who comes in, or is connected to, has shown a certificate of the right CA."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import trio

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.link import StreamLink
from vswitch.dataplane.port import Port
from vswitch.endpoints import inet
from vswitch.endpoints.stream.connector import Connection, Connector, LinkConnection
from vswitch.endpoints.stream.endpoint import Listener, connect, peer_text, tune
from vswitch.endpoints.tls.connection import TlsConnection
from vswitch.endpoints.tls.credentials import Credentials
from vswitch.endpoints.url import EndpointConfig
from vswitch.ports.port import SwitchPort
from vswitch.supervision import contain

HANDSHAKE_S = 10.0
HANDSHAKES_MAX = 32
AT_LEAST_S = 1.0  # what a peer has for it, however many wait


class SecureListener(Listener):
    """A listener whose peers get a port once they have shown who they are."""

    _peers: trio.Nursery

    async def run(self, started: Callable[[], None]) -> None:
        self._credentials = _credentials(self.name, self.config)
        self._handshakes = Handshakes()
        self._carried: dict[SwitchPort, _Carried] = {}
        await self._credentials.context()
        await super().run(started)

    async def _serve(self, socks: list[socket.socket]) -> None:
        async with trio.open_nursery() as self._peers:
            await super()._serve(socks)

    async def _take(self, sock: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            await self._handshakes.room()
            what = f"a peer of {self.name}"
            self._peers.start_soon(contain, self.ports.failures, what, self._secure, sock, name=what)
            stack.pop_all()

    async def _secure(self, sock: socket.socket) -> None:
        """A peer's whole life."""
        with sock:
            try:
                peer = peer_text(sock)
                tune(sock)
            except OSError:
                return  # it is gone again
            try:
                with self._handshakes.one_more():
                    connection = TlsConnection(sock, await self._credentials.context())
                    await connection.handshake()
                here, there = socket.socketpair()
            except trio.TooSlowError:
                self._turn_away(peer, "it has not finished TLS in time; look whether it has tls=, too")
            except OSError as error:
                self._turn_away(peer, inet.plain_reason(error))
            else:
                with here:
                    await self._carry(connection, sock, here, there, f"{peer}, TLS {connection.name}")

    async def _carry(
        self, connection: TlsConnection, wire: socket.socket, here: socket.socket, there: socket.socket, peer: str
    ) -> None:
        port = self._plug(there, peer, wire)
        if port is None:
            return
        carried = self._carried[port] = _Carried(wire, trio.CancelScope())
        why = ""
        try:
            with carried.scope:
                why = await connection.carry(here)
        finally:
            if self._carried.get(port) is carried:
                del self._carried[port]
        if why and isinstance(port.link, StreamLink) and port.link.sock is there:
            self.ports.links.unplug(port, why)
            self._lost(port)

    def _wire(self, port: SwitchPort) -> socket.socket | None:
        carried = self._carried.get(port)
        return None if carried is None else carried.wire

    def _lost(self, port: SwitchPort) -> None:
        carried = self._carried.pop(port, None)
        if carried is not None:
            carried.scope.cancel()
        super()._lost(port)


class _Carried(NamedTuple):
    """The connection to a port's peer; cancelling `scope` ends it."""

    wire: socket.socket
    scope: trio.CancelScope


class Handshakes:
    """Those under way: so many at most, for so long at most.

    When there is no room, the one that has taken longest has to make some, once it has had its time. So peers that say
    nothing do not keep the others out.
    """

    def __init__(self) -> None:
        self._under_way: list[_Handshake] = []  # the first one first

    async def room(self) -> None:
        """Return when there is room for one more."""
        while len(self._under_way) >= HANDSHAKES_MAX:
            oldest = self._under_way[0]
            with trio.move_on_at(oldest.since_s + AT_LEAST_S):
                await oldest.over.wait()
            oldest.scope.cancel()
            await oldest.over.wait()

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """For the time of a handshake. Raises TooSlowError if it takes too long."""
        since_s = trio.current_time()
        this = _Handshake(since_s, trio.CancelScope(deadline=since_s + HANDSHAKE_S), trio.Event())
        self._under_way.append(this)
        try:
            with this.scope:
                yield
        finally:
            self._under_way.remove(this)
            this.over.set()
        if this.scope.cancelled_caught:
            raise trio.TooSlowError


class _Handshake(NamedTuple):
    since_s: float
    scope: trio.CancelScope
    over: trio.Event


class SecureConnector(Connector):
    """A connector to a listener that has shown who it is."""

    async def run(self, started: Callable[[], None]) -> None:
        self._credentials = _credentials(self.name, self.config)
        await self._credentials.context()
        await super().run(started)

    async def connect(self) -> Connection:
        expected = self.config.tls_name or self.config.host.partition("%")[0].rstrip(".")
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(await connect(self.config))
            connection = TlsConnection(sock, await self._credentials.context(), expected)
            await connection.handshake()
            self._peer_name = connection.name
            here, there = map(stack.enter_context, socket.socketpair())
            return SecureConnection(connection, here, there, stack.pop_all())

    @property
    def _peer(self) -> str:
        return f"{super()._peer}, TLS {self._peer_name}"


class SecureConnection(LinkConnection):
    """A connection that is verified, and the pair of sockets it is carried by; `stack` closes all of it."""

    def __init__(
        self,
        connection: TlsConnection,
        here: socket.socket,
        there: socket.socket,
        stack: contextlib.ExitStack,
    ) -> None:
        self._connection = connection
        self._here, self._there = here, there
        self._stack = stack

    def link(self, port: Port, bridge: Bridge) -> StreamLink:
        return StreamLink(self._there, port, bridge)

    async def ended(self) -> str:
        return await self._connection.carry(self._here)

    def close(self) -> None:
        self._stack.close()


def _credentials(name: str, config: EndpointConfig) -> Credentials:
    assert config.tls is not None
    return Credentials(config.tls.absolute(), name, connects=config.connect)
