"""Stream endpoints: QEMU's length-prefixed framing over TCP and unix sockets.

A `Listener` makes a port of each connection, a `Connector` keeps one port connected, and `connected` is one
port on a descriptor that somebody else connected. All of them end in `Ports.plug`.
"""

import contextlib
import errno
import ipaddress
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from vswitch.endpoints import unix_socket
from vswitch.endpoints.endpoint import Endpoint, log
from vswitch.endpoints.ports import Ports, SwitchPort
from vswitch.endpoints.sock_diag import SockDiag, plain_address
from vswitch.endpoints.sparingly import Sparingly
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError, RefusedError, printable

ACCEPT_PAUSE_S = 0.5

FIRST_TRY_S = 0.25
CONNECT_TIMEOUT_S = 10.0
RETRY_MIN_S = 0.1
RETRY_MAX_S = 2.0
STABLE_S = 5.0  # a link that held this long starts again with the shortest pause


class Listener(Endpoint):
    """tcp:// and unix:// listening, or an inherited listening socket: each connection is a port.

    With `single` the endpoint is itself the port, and a second peer is turned away while the first is there.
    """

    _single: SwitchPort | None = None
    _sock_diag: SockDiag | None = None  # tells whose a loopback connection is, where that matters

    def __init__(self, config: EndpointConfig, name: str, ports: Ports, sock: socket.socket | None = None) -> None:
        super().__init__(config, name, ports, sock)
        self._turned_away = Sparingly(log)

    async def run(self, started: Callable[[], None]) -> None:
        async with self._listening() as sock:
            if self.config.single:
                self._single = self.ports.add(self.name, self.name, self.url, self.config.queue)
            try:
                started()
                await self._accept(trio.socket.from_stdlib_socket(sock))
            finally:
                for port in [port for port in self.ports if port.endpoint == self.name]:
                    self.ports.remove(port)

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[socket.socket]:
        if self.config.scheme == "unix":
            with unix_socket.listen(self.config.path) as sock:
                yield sock
            return
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(self.sock or await _listen_tcp(self.config))
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                host, port = sock.getsockname()[:2]
                if self.config.scheme == "tcp":
                    self.config = msgspec.structs.replace(self.config, port=port)
                if not _is_loopback(host):
                    log.warning("%s: anyone who reaches %s may connect", self.name, self.url)
                elif self.config.any_user:
                    log.warning("%s: any user of this machine may connect to %s", self.name, self.url)
                else:
                    self._sock_diag = stack.enter_context(SockDiag())
            yield sock

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        paused = False
        while True:
            try:
                accepted, _ = await listener.accept()
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # most likely out of descriptors
                    if not paused:
                        log.warning("%s: accepting pauses: %s", self.name, error.strerror)
                    paused = True
                    await trio.sleep(ACCEPT_PAUSE_S)
                continue
            paused = False
            self._admit(socket.socket(fileno=accepted.detach()))

    def _admit(self, sock: socket.socket) -> None:
        """Give a new connection its port, or close it."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            try:
                peer = _peer(sock)
                _tune(sock)
                trusted = self._sock_diag is None or self._sock_diag.is_trusted_client(sock)
            except OSError:
                return  # it is gone again
            if not trusted:
                self._turned_away.say("%s: turned away %s: not this user's (any_user=yes lets all in)", self.name, peer)
                return
            port = self._single
            if port is not None and port.up:
                self._turned_away.say("%s: turned away %s: %s has the port", self.name, peer, port.peer)
                return
            port = port or self.ports.add_numbered(self.name, self.url, self.config.queue)
            try:
                self.ports.plug(port, sock, peer, partial(self._lost, port))
            except OSError as error:
                self._turned_away.say("%s: turned away %s: %s", self.name, peer, error.strerror)
                self._lost(port)
                return
            stack.pop_all()

    def _lost(self, port: SwitchPort) -> None:
        if port is not self._single:
            self.ports.remove(port)


class Connector(Endpoint):
    """tcp:// and unix:// with `connect`: one port that keeps trying, with growing pauses."""

    async def run(self, started: Callable[[], None]) -> None:
        port = self.ports.add(self.name, self.name, self.url, self.config.queue)
        try:
            sock = await self._try_connect(FIRST_TRY_S, said=False)
            started()
            await self._stay_connected(port, sock)
        finally:
            self.ports.remove(port)

    async def _stay_connected(self, port: SwitchPort, sock: socket.socket | None) -> None:
        pause_s = RETRY_MIN_S
        while True:
            since = trio.current_time()
            if sock is not None:
                lost = trio.Event()
                try:
                    self.ports.plug(port, sock, self.url.removesuffix("?connect"), lost.set)
                except OSError as error:
                    log.warning("%s: cannot use the connection: %s", self.name, error.strerror)
                    sock.close()
                    lost.set()
                await lost.wait()
                if trio.current_time() - since > STABLE_S:
                    pause_s = RETRY_MIN_S
            said = sock is None  # why it cannot be had
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
            sock = await self._try_connect(CONNECT_TIMEOUT_S, said)

    async def _try_connect(self, timeout_s: float, said: bool) -> socket.socket | None:
        """A connected socket, or None; why not is logged unless it was `said` before."""
        why = "no answer"
        try:
            with trio.move_on_after(timeout_s):
                return await _connect(self.config)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        if not said:
            log.warning("%s: cannot connect to %s: %s; will keep trying", self.name, self.url, why)
        return None


class Connected(Endpoint):
    """fd:// with a connected stream socket: the endpoint is the port. A lost peer cannot come back."""

    async def run(self, started: Callable[[], None]) -> None:
        assert self.sock is not None
        with self.sock:
            port = self.ports.add(self.name, self.name, self.url, self.config.queue)
            try:
                try:
                    _tune(self.sock)
                    self.ports.plug(port, self.sock, _peer(self.sock), lambda: None)
                except OSError as error:
                    raise RefusedError(f"{self.url}: cannot be used: {error.strerror}") from None
                started()
                await trio.sleep_forever()
            finally:
                self.ports.remove(port)


def create(config: EndpointConfig, name: str, ports: Ports, sock: socket.socket | None = None) -> Endpoint:
    """The endpoint for a tcp://, unix:// or fd:// URL, or for a socket that is open already.

    Raises InputError if a descriptor is not usable.
    """
    if config.scheme != "fd":
        return (Connector if config.connect else Listener)(config, name, ports)
    sock = _own(sock) if sock is not None else _inherited(config.fd)
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return (Listener if listens else Connected)(config, name, ports, sock)


def _inherited(fd: int) -> socket.socket:
    """The stream socket that descriptor `fd` is, connected or listening."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise InputError(f"fd://{fd}: not a socket; pass a connected or a listening stream socket")
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise InputError(f"fd://{fd}: {error.strerror}; pass the descriptor on to vswitch, as with 3<&5") from None
    try:
        return _own(sock)
    finally:
        sock.detach()  # which nothing is left of if it is ours now


def _own(sock: socket.socket) -> socket.socket:
    """Take over a connected or listening stream socket. Raises InputError, and leaves it, if it is none."""
    fd = sock.fileno()
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        raise InputError(f"fd://{fd}: not a TCP or unix stream socket")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        try:
            sock.getpeername()
        except OSError:
            raise InputError(f"fd://{fd}: neither connected nor listening") from None
    os.set_inheritable(fd, False)
    return socket.socket(fileno=sock.detach())


async def _listen_tcp(config: EndpointConfig) -> socket.socket:
    try:
        family, address = await _resolve(config)
    except OSError as error:
        raise RefusedError(f"cannot listen on {config.url}: {error.strerror}") from None
    if not _is_loopback(address[0]) and not config.insecure:
        raise InputError(
            f"{config.url}: anyone on the network could connect; add insecure=yes if that is meant, or use 127.0.0.1"
        )
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(unix_socket.BACKLOG)
    except OSError as error:
        sock.close()
        hint = "; stop what listens there or use another port" if error.errno == errno.EADDRINUSE else ""
        raise RefusedError(f"cannot listen on {config.url}: {os.strerror(error.errno or 0)}{hint}") from None
    return sock


async def _connect(config: EndpointConfig) -> socket.socket:
    """A socket connected to what `config` names. Raises OSError."""
    if config.scheme == "unix":
        family, address = socket.AF_UNIX, config.path
    else:
        family, address = await _resolve(config)
    with trio.socket.socket(family, socket.SOCK_STREAM) as sock:
        await sock.connect(address)
        sock.getpeername()  # a unix listener with a full backlog has not taken the connection
        if family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
            # TCP's simultaneous open: nobody listens, and the kernel chose the very port we asked for.
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        connected = socket.socket(fileno=sock.detach())
    try:
        if family != socket.AF_UNIX and _is_loopback(address[0]) and not config.any_user:
            with SockDiag() as sock_diag:
                if not sock_diag.is_trusted_server(connected):
                    raise PermissionError("another user listens there (any_user=yes takes it all the same)")
        _tune(connected)
    except OSError:
        connected.close()
        raise
    return connected


async def _resolve(config: EndpointConfig) -> tuple[socket.AddressFamily, Any]:
    """Family and address of a TCP endpoint. Raises OSError.

    Of a name with several addresses an IPv4 one, which is all that QEMU's socket netdev knows.
    """
    found = await trio.socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _tune(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(plain_address((host, 0))[0].partition("%")[0]).is_loopback


def _peer(sock: socket.socket) -> str:
    """Who is at the other end, for people. Raises OSError if nobody is any more."""
    if sock.family != socket.AF_UNIX:
        host, port = sock.getpeername()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    pid, uid, _ = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        command = Path(f"/proc/{pid}/comm").read_text(errors="backslashreplace").strip()
    except OSError:
        return f"pid {pid}, uid {uid}"
    return f"{printable(command)} (pid {pid})"
