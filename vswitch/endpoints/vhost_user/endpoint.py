"""vhost-user:///PATH — each front end that connects has a port; with `connect`, the one that listens has the port."""

import socket
from collections.abc import Callable

import trio

from vswitch.endpoints import unix_socket
from vswitch.endpoints.accepting import Acceptor
from vswitch.endpoints.endpoint import Endpoint
from vswitch.endpoints.stream.connector import Connection, Connector
from vswitch.endpoints.stream.endpoint import connect
from vswitch.endpoints.vhost_user.connection import FrontEnd
from vswitch.errors import InputError
from vswitch.ports.port import SwitchPort
from vswitch.supervision import contain, keep_running


class VhostConnector(Connector):
    """QEMU listens (`server=on`): its guest survives a restart of the switch."""

    async def connect(self) -> Connection:
        return FrontEnd(await connect(self.config), unsealed=self.config.unsealed)


class VhostListener(Endpoint):
    """QEMU connects. With `single` the endpoint is itself the port, and a second one is turned away."""

    _single: SwitchPort | None = None
    _front_ends: trio.Nursery

    async def run(self, started: Callable[[], None]) -> None:
        def begin() -> None:
            if self.config.single:
                self._single = self.ports.add(self.name, self.name, self.config)
            started()

        self._busy = False  # the single port is
        try:
            async with trio.open_nursery() as self._front_ends:
                await unix_socket.keep_bound(self.config.path, self.name, self._keep_accepting, begin)
        finally:
            for port in [port for port in self.ports if port.endpoint == self.name]:
                self.ports.remove(port)

    async def _keep_accepting(self, listener: trio.socket.SocketType) -> None:
        await keep_running(self.ports.failures, f"accepting by {self.name}", self._accept, listener)

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        acceptor = Acceptor(listener, self.name, self.ports)
        while True:
            accepted = await acceptor.next()
            what = f"a front end of {self.name}"
            sock = socket.socket(fileno=accepted.detach())
            self._front_ends.start_soon(contain, self.ports.failures, what, self._serve, sock, name=what)

    async def _serve(self, sock: socket.socket) -> None:
        """A front end's whole life."""
        front_end = FrontEnd(sock, unsealed=self.config.unsealed)
        try:
            peer = unix_socket.peer_text(sock)
            port = self._port_for(peer)
            if port is None:
                return
            try:
                await front_end.use(self.ports, port, peer)
            finally:
                self._let_go(port)
        except OSError:
            return  # it is gone again
        finally:
            front_end.close()

    def _port_for(self, peer: str) -> SwitchPort | None:
        if self._single is None:
            try:
                return self.ports.add_numbered(self.name, self.config)
            except InputError as error:
                self._turn_away(peer, str(error))
                return None
        if self._busy:
            self._turn_away(peer, "another one has the port")
            return None
        self._busy = True
        return self._single

    def _let_go(self, port: SwitchPort) -> None:
        self._busy = False
        if port is not self._single:
            self.ports.remove(port)
