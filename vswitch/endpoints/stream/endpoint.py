"""Stream endpoints: QEMU's length-prefixed framing over TCP and unix sockets.

A `Listener` makes a port of each connection, a `StreamConnector` keeps one port connected, and `Connected` is one
port on a descriptor that somebody else connected. All of them end in `Ports.plug`.
"""

import contextlib
import errno
import math
import os
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import msgspec
import trio

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.link import StreamLink
from vswitch.dataplane.port import Port
from vswitch.endpoints import inet, unix_socket
from vswitch.endpoints.accepting import Acceptor
from vswitch.endpoints.endpoint import Endpoint, log
from vswitch.endpoints.sock_diag import SockDiag
from vswitch.endpoints.stream import liveness
from vswitch.endpoints.stream.connector import Connection, Connector, LinkConnection
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError, RefusedError
from vswitch.ports.port import SwitchPort
from vswitch.supervision import keep_running

NEXT_ADDRESS_S = 1.0  # how long an address of a name that has others may take to answer


class Listener(Endpoint):
    """tcp:// and unix:// listening, or an inherited listening socket: each connection is a port.

    With `single` the endpoint is itself the port, and a second peer is turned away while the first is there.
    """

    _single: SwitchPort | None = None
    _sock_diag: SockDiag | None = None  # tells whose a loopback connection is, where that matters

    async def run(self, started: Callable[[], None]) -> None:
        def begin() -> None:
            if self.config.single:
                self._single = self.ports.add(self.name, self.name, self.config)
            started()

        try:
            if self.config.scheme == "unix":
                await unix_socket.keep_bound(self.config.path, self.name, self._keep_accepting, begin)
            else:
                async with self._listening() as socks:
                    begin()
                    await self._serve(socks)
        finally:
            for port in [port for port in self.ports if port.endpoint == self.name]:
                self.ports.remove(port)

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[list[socket.socket]]:
        """TCP sockets, one for each address of a name, or an inherited socket."""
        with contextlib.ExitStack() as stack:
            socks = [self.sock] if self.sock is not None else await listen_tcp(self.config)
            for sock in socks:
                stack.enter_context(sock)
            if socks[0].family in (socket.AF_INET, socket.AF_INET6):
                host, port = socks[0].getsockname()[:2]
                if self.config.scheme == "tcp":
                    self.config = msgspec.structs.replace(self.config, port=port)
                if self.config.tls is not None:
                    pass  # certificates say who may come in
                elif not inet.is_loopback(host):
                    log.warning("%s: anyone who reaches %s may connect", self.name, self.url)
                elif self.config.any_user:
                    log.warning("%s: any user of this machine may connect to %s", self.name, self.url)
                else:
                    self._sock_diag = stack.enter_context(SockDiag())
            yield socks

    async def _serve(self, socks: list[socket.socket]) -> None:
        async with trio.open_nursery() as nursery:
            what = f"the peers of {self.name}"
            nursery.start_soon(
                keep_running, self.ports.failures, what, liveness.watch, self._connections, self._lose, name=what
            )
            for sock in socks:
                nursery.start_soon(self._keep_accepting, trio.socket.from_stdlib_socket(sock))

    def _connections(self) -> list[socket.socket]:
        links = (port.link for port in self.ports if port.endpoint == self.name)
        return [link.sock for link in links if isinstance(link, StreamLink)]

    def _lose(self, sock: socket.socket) -> None:
        """Take the port of a peer that is dead away."""
        for port in list(self.ports):
            if isinstance(port.link, StreamLink) and port.link.sock is sock:
                self.ports.links.unplug(port, liveness.DEAD)
                self._lost(port)

    async def _keep_accepting(self, listener: trio.socket.SocketType) -> None:
        what = f"accepting by {self.name}"
        await keep_running(self.ports.failures, what, self._accept, listener)

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        acceptor = Acceptor(listener, self.name, self.ports)
        while True:
            accepted = await acceptor.next()
            await self._take(socket.socket(fileno=accepted.detach()))

    async def _take(self, sock: socket.socket) -> None:
        """Give a new connection its port, or close it."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            try:
                peer = peer_text(sock)
                tune(sock)
                trusted = self._sock_diag is None or self._sock_diag.is_trusted_client(sock)
            except OSError:
                return  # it is gone again
            if not trusted:
                self._turn_away(peer, "not this user's (any_user=yes lets all in)")
                return
            if self._plug(sock, peer, sock) is not None:
                stack.pop_all()

    def _plug(self, sock: socket.socket, peer: str, wire: socket.socket) -> SwitchPort | None:
        """Give a stream of frames, and the connection that brings it, its port; None if it cannot have one."""
        port = self._single
        if port is not None and (before := self._wire(port)) is not None and _is_same_host(before, wire):
            self.ports.links.unplug(port, "its host has connected again")
            self._lost(port)
        if port is not None and port.link is not None:
            self._turn_away(peer, f"{port.peer} has the port")
            return None
        try:
            port = port or self.ports.add_numbered(self.name, self.config)
        except InputError as error:
            self._turn_away(peer, str(error))
            return None
        try:
            link = StreamLink(sock, port.port, self.ports.bridge)
            self.ports.links.plug(port, link, peer, partial(self._lost, port))
        except OSError as error:
            self._turn_away(peer, error.strerror or str(error))
            self._lost(port)
            return None
        return port

    def _wire(self, port: SwitchPort) -> socket.socket | None:
        """The connection to a port's peer."""
        return port.link.sock if isinstance(port.link, StreamLink) else None

    def _lost(self, port: SwitchPort) -> None:
        if port is not self._single:
            self.ports.remove(port)


class StreamConnector(Connector):
    """tcp:// and unix:// with `connect`."""

    async def connect(self) -> Connection:
        return StreamConnection(await connect(self.config))


class StreamConnection(LinkConnection):
    """A connected stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def link(self, port: Port, bridge: Bridge) -> StreamLink:
        return StreamLink(self._sock, port, bridge)

    async def ended(self) -> str:
        return await liveness.death(self._sock)

    def close(self) -> None:
        self._sock.close()


class Connected(Endpoint):
    """fd:// with a connected stream socket: the endpoint is the port. A lost peer cannot come back; the port stays, and
    says so, unless it `goes_with_peer`."""

    async def run(self, started: Callable[[], None]) -> None:
        assert self.sock is not None
        with self.sock:
            port = self.ports.add(self.name, self.name, self.config)
            try:
                lost = trio.Event()
                try:
                    tune(self.sock)
                    link = StreamLink(self.sock, port.port, self.ports.bridge)
                    self.ports.links.plug(port, link, peer_text(self.sock), lost.set)
                except OSError as error:
                    raise RefusedError(f"{self.url}: cannot be used: {error.strerror}") from None
                started()
                await lost.wait()
                if not self.goes_with_peer:
                    await trio.sleep_forever()
            finally:
                self.ports.remove(port)


async def listen_tcp(config: EndpointConfig) -> list[socket.socket]:
    """Sockets that listen on all addresses of a name. Raises RefusedError."""
    socks = await inet.bind_all(config, socket.SOCK_STREAM)
    try:
        for sock in socks:
            sock.listen(unix_socket.BACKLOG)
    except OSError as error:
        for sock in socks:
            sock.close()
        raise RefusedError(f"cannot listen on {config.url}: {inet.reason(error)}") from None
    return socks


async def connect(config: EndpointConfig) -> socket.socket:
    """A socket connected to what `config` names: of a name with several addresses, to the first that can be had.

    Raises OSError.
    """
    if config.path:
        return await _connect_to(socket.AF_UNIX, config.path, config)
    addresses = await inet.resolve(config.host, config.port, socket.SOCK_STREAM)
    refused: OSError = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    for number, (family, address) in enumerate(addresses, 1):
        last = number == len(addresses)
        try:
            with trio.move_on_after(math.inf if last else NEXT_ADDRESS_S):
                return await _connect_to(family, address, config)
        except OSError as error:
            refused = error
    raise refused


async def _connect_to(family: int, address: Any, config: EndpointConfig) -> socket.socket:
    with trio.socket.socket(family, socket.SOCK_STREAM) as sock:
        await sock.connect(address)
        sock.getpeername()  # a unix listener with a full backlog has not taken the connection
        if family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
            # TCP's simultaneous open: nobody listens, and the kernel chose the very port we asked for.
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        connected = socket.socket(fileno=sock.detach())
    try:
        if family != socket.AF_UNIX and inet.is_loopback(address[0]) and not (config.any_user or config.tls):
            with SockDiag() as sock_diag:
                if not sock_diag.is_trusted_server(connected):
                    raise PermissionError("another user listens there (any_user=yes takes it all the same)")
        tune(connected)
    except OSError:
        connected.close()
        raise
    except RefusedError as error:
        connected.close()
        raise PermissionError(str(error)) from None
    return connected


def _is_same_host(before: socket.socket, now: socket.socket) -> bool:
    """Whether a connection comes from the host of one that is there, which is most likely dead then.

    On this machine no peer dies without a word, and all guests have one address.
    """
    try:
        hosts = [sock.getpeername()[0] for sock in (before, now) if sock.family != socket.AF_UNIX]
    except OSError:
        return False
    return len(hosts) == 2 and hosts[0] == hosts[1] and not inet.is_loopback(hosts[0])


def tune(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        liveness.keep_alive(sock)


def peer_text(sock: socket.socket) -> str:
    """Who is at the other end, for people. Raises OSError if nobody is any more."""
    if sock.family != socket.AF_UNIX:
        return inet.text(sock.getpeername())
    return unix_socket.peer_text(sock)
