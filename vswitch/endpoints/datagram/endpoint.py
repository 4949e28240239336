"""Datagram endpoints: one frame a datagram, over UDP and unix sockets (QEMU's `dgram` and `socket,udp=`).

With a remote end, the endpoint is one port, which is up while somebody has that address. Without, each address
that sends gets a port, which goes when its peer has gone or has been silent for too long. Nothing is taken in
from anybody else, however it claims to be.
"""

import contextlib
import errno
import math
import os
import socket
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import msgspec
import trio

from vswitch.dataplane.datagram import DatagramLink, PeerLink, SharedSocket, SharedSource
from vswitch.dataplane.frame import HEADER
from vswitch.dataplane.link import Link
from vswitch.dataplane.port import Port
from vswitch.endpoints import inet, unix_socket
from vswitch.endpoints.comeback import serve_again
from vswitch.endpoints.endpoint import Endpoint, log
from vswitch.endpoints.sock_diag import SockDiag, plain_address
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError, RefusedError, printable
from vswitch.ports.port import SwitchPort, now_ms
from vswitch.ports.ports import Ports
from vswitch.supervision import keep_running

LOOK_MIN_S = 0.05  # how often to look for a remote end that is not there
LOOK_MAX_S = 0.5
VERIFY_S = 1.0  # how often to ask whose an address still is
ASKED_MAX = 8  # strangers of one batch that are asked who they are: that takes as long as many frames
RECEIVE_BUFFER = 1 << 20


class Peers(Endpoint):
    """A datagram socket, and a port for each of its peers."""

    _verify_s = math.inf  # how often to ask whether peers still are who they were

    def __init__(self, config: EndpointConfig, name: str, ports: Ports, sock: socket.socket | None = None) -> None:
        super().__init__(config, name, ports, sock)
        self._port_of: dict[Any, SwitchPort] = {}  # by address; the ports that are up
        self._single: SwitchPort | None = None
        self._remote: Any = None
        self._remote_was_there = False  # and may not come in, which has been said
        self._changed = trio.Event()

    async def run(self, started: Callable[[], None]) -> None:
        await serve_again(self.name, self.url, self._serve, started)

    async def _serve(self, started: Callable[[], None]) -> None:
        """Serve until cancelled, or until nobody can send any more. Raises RefusedError, InputError."""
        async with self._bound() as sock:
            self._shared = self._share(sock)
            try:
                if self._remote is not None:
                    self._single = self.ports.add(self.name, self.name, self.config)
                    self._look_for_remote()
                started()
                async with trio.open_nursery() as nursery:
                    what = f"looking after the peers of {self.name}"
                    nursery.start_soon(keep_running, self.ports.failures, what, self._tend, name=what)
                    await self._unreachable()
                    nursery.cancel_scope.cancel()
            finally:
                self._port_of.clear()
                for port in [port for port in self.ports if port.endpoint == self.name]:
                    self.ports.remove(port)
                self.ports.shared.unshare(self._shared)

    async def _unreachable(self) -> None:
        """Returns when nobody can send any more."""
        await trio.sleep_forever()

    def _share(self, sock: socket.socket) -> SharedSource:
        """What reads from the socket."""
        return self.ports.shared.share(sock, self._meet)

    @abstractmethod
    def _bound(self) -> contextlib.AbstractAsyncContextManager[socket.socket]:
        """The socket; `_remote` is set with it. Raises InputError or RefusedError."""

    @abstractmethod
    def _is_there(self, address: Any) -> bool:
        """Whether somebody who may come in has an address."""

    @abstractmethod
    def _why_not(self, address: Any) -> str:
        """Why a sender may not come in; empty if it may."""

    @abstractmethod
    def _has_gone(self, address: Any) -> bool:
        """Whether a peer is not the one any more that was let in."""

    @abstractmethod
    def _text(self, address: Any) -> str:
        """An address for people."""

    @abstractmethod
    def _link(self, address: Any, port: Port) -> Link:
        """A port's link to the peer with an address. Raises OSError."""

    def _meet(self, strangers: list[tuple[Any, bytes]]) -> None:
        """Datagrams from addresses that have no port: give them one, or count them."""
        asked: dict[Any, SwitchPort | None] = {}
        for address, frame in strangers:
            if address not in asked and len(asked) < ASKED_MAX and len(frame) >= HEADER:
                asked[address] = self._port_of.get(address) or self._admit(address)
            port = asked.get(address)
            if port is None:
                self.ports.bridge.stranger(len(frame))
            else:
                self._shared.inject(port.port, frame, now_ms())

    def _admit(self, address: Any) -> SwitchPort | None:
        why_not = ""
        if self._remote is not None and address != self._remote:
            why_not = "not the remote end"
        elif len(self._port_of) >= self.config.limit:
            why_not = f"there are {self.config.limit} peers already (limit=)"
        why_not = why_not or self._why_not(address)
        if not why_not:
            try:
                return self._plug(address)
            except OSError as error:
                why_not = os.strerror(error.errno or 0)
            except InputError as error:
                why_not = str(error)
        self._turn_away(self._text(address), why_not)
        return None

    def _plug(self, address: Any) -> SwitchPort:
        port = self._single or self.ports.add_numbered(self.name, self.config)
        try:
            self.ports.links.plug(
                port,
                self._link(address, port.port),
                self._text(address),
                partial(self._lost, address),
                is_guest=self._single is None,
            )
        except OSError:
            self._forget(port)
            raise
        self._port_of[address] = port
        return port

    def _lost(self, address: Any) -> None:
        self._forget(self._port_of.pop(address))
        self._changed.set()

    def _forget(self, port: SwitchPort) -> None:
        if port is not self._single:
            self.ports.remove(port)

    def _drop(self, address: Any, why: str) -> None:
        port = self._port_of.pop(address)
        self.ports.links.unplug(port, why)
        self._forget(port)

    def _look_for_remote(self) -> bool:
        if self._remote not in self._port_of:
            there = self._is_there(self._remote)
            if there and not (self._remote_was_there and self._why_not(self._remote)):
                self._admit(self._remote)
            self._remote_was_there = there and self._remote not in self._port_of
        return self._remote in self._port_of

    async def _tend(self) -> None:
        """Look for the remote end while it is away; look after the peers there are."""
        look_s = LOOK_MIN_S
        heard: dict[SwitchPort, tuple[int, float]] = {}  # how many frames had come in, and when that was seen first
        while True:
            for address in list(self._port_of):
                if address in self._port_of and self._has_gone(address):
                    self._drop(address, "closed by peer")
                await trio.lowlevel.checkpoint()
            if self._remote is None:
                heard = {port: _heard(port, heard.get(port)) for port in self._port_of.values()}
                for address, port in list(self._port_of.items()):
                    if trio.current_time() - heard[port][1] >= self.config.idle:
                        self._drop(address, f"silent for {self.config.idle:g} s")
                pause_s = min(self._verify_s, self.config.idle / 4)
            elif self._look_for_remote():
                look_s = LOOK_MIN_S
                pause_s = self._verify_s
            else:
                pause_s = look_s
                look_s = min(2 * look_s, LOOK_MAX_S)
            self._changed = trio.Event()
            with trio.move_on_after(pause_s):
                await self._changed.wait()


def _heard(port: SwitchPort, before: tuple[int, float] | None) -> tuple[int, float]:
    frames = port.port.rx_frames
    return before if before is not None and before[0] == frames else (frames, trio.current_time())


class UdpPeers(Peers):
    """udp://, or an inherited UDP socket that is bound."""

    _sock_diag: SockDiag | None = None  # tells whose a loopback address is, where that matters
    _here: tuple[str, int] = ("", 0)

    @contextlib.asynccontextmanager
    async def _bound(self) -> AsyncIterator[socket.socket]:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(self.sock or await inet.bind(self.config, socket.SOCK_DGRAM))
            host, port = sock.getsockname()[:2]
            if self.config.scheme != "fd":
                self.config = msgspec.structs.replace(self.config, port=port)
            if isinstance(self.config.remote, tuple):
                self._remote = await self._resolve_remote(self.config.remote, sock.family, host)
            if not inet.is_loopback(host):
                log.warning("%s: anyone who reaches %s may send to it", self.name, self.url)
            elif self.config.any_user:
                log.warning("%s: any user of this machine may send to %s", self.name, self.url)
            else:
                self._sock_diag = stack.enter_context(SockDiag())
                self._verify_s = VERIFY_S
                self._here = plain_address((host, port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            yield sock

    async def _resolve_remote(self, remote: tuple[str, int], family: int, here: str) -> Any:
        address = await inet.resolve_alike(f"{self.url}: remote", *remote, family)
        if inet.is_loopback(here) and not inet.is_loopback(address[0]):
            raise InputError(
                f"{self.url}: {here} reaches this machine only; bind to an address that reaches the remote"
            )
        return address

    def _is_there(self, address: Any) -> bool:
        if self._sock_diag is None:
            return True
        with contextlib.suppress(OSError):
            return self._sock_diag.sender_uid(plain_address(address), self._here) is not None
        return False

    def _why_not(self, address: Any) -> str:
        try:
            if self._sock_diag is None or self._sock_diag.is_trusted_sender(plain_address(address), self._here):
                return ""
        except OSError as error:
            return f"cannot find out whose it is: {error.strerror or error}"
        return "not this user's (any_user=yes lets all in)"

    def _has_gone(self, address: Any) -> bool:
        if self._sock_diag is None:
            return False
        with contextlib.suppress(OSError):
            return not self._sock_diag.is_trusted_sender(plain_address(address), self._here)
        return False

    def _text(self, address: Any) -> str:
        return inet.text(address)

    def _link(self, address: Any, port: Port) -> Link:
        assert isinstance(self._shared, SharedSocket)
        return PeerLink(self._shared, address, port, lasting=True)


class UnixPeers(Peers):
    """unixgram://, or an inherited unix datagram socket that is bound."""

    async def _unreachable(self) -> None:
        if self.sock is not None:  # which nobody but its maker can make again
            await trio.sleep_forever()
        await unix_socket.removed(self.config.path, self.name)

    @contextlib.asynccontextmanager
    async def _bound(self) -> AsyncIterator[socket.socket]:
        config = self.config.absolute()
        self._remote = config.remote
        if self._remote == config.path:
            raise InputError(f"{self.url}: both ends are the same path; the remote one is the guest's")
        with self.sock or unix_socket.bind(self.config.path, socket.SOCK_DGRAM) as sock:
            yield sock

    def _is_there(self, address: Any) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(address)
            except OSError as error:
                return error.errno == errno.EPERM  # it talks to one peer only, which may well be us
            return True

    def _why_not(self, address: Any) -> str:
        if not address:
            return "it has no address to answer to; it must bind one (local.path=)"
        if isinstance(address, str) and not address.startswith("/"):
            return "its address is a relative path; it must bind an absolute one (local.path=)"
        return ""

    def _has_gone(self, address: Any) -> bool:
        return False  # the first frame that cannot be sent tells

    def _text(self, address: Any) -> str:
        if isinstance(address, bytes):
            return printable("@" + os.fsdecode(address.strip(b"\0")))
        return printable(address or "somebody")

    def _link(self, address: Any, port: Port) -> PeerLink:
        assert isinstance(self._shared, SharedSocket)
        own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if self._remote is not None:
            return PeerLink(self._shared, address, port, room=own)  # it may want to see our address
        try:
            own.connect(address)
        except OSError as error:
            own.close()
            if error.errno == errno.EPERM:  # its own socket is connected to ours, and takes from no other
                return PeerLink(self._shared, address, port)
            raise
        return PeerLink(self._shared, address, port, out=own)


class Pair(Endpoint):
    """fd:// with a connected datagram socket: the endpoint is the port, and stays, unless it `goes_with_peer`."""

    async def run(self, started: Callable[[], None]) -> None:
        assert self.sock is not None
        with self.sock as sock:
            port = self.ports.add(self.name, self.name, self.config)
            try:
                try:
                    is_unix = sock.family == socket.AF_UNIX
                    peer = unix_socket.peer_text(sock) if is_unix else inet.text(sock.getpeername())
                    link = DatagramLink(sock, port.port, self.ports.bridge, lasting=not is_unix)
                    lost = trio.Event()
                    self.ports.links.plug(port, link, peer, lost.set, is_guest=False)
                except OSError as error:
                    raise RefusedError(f"{self.url}: cannot be used: {error.strerror}") from None
                started()
                await lost.wait()
                if not self.goes_with_peer:
                    await trio.sleep_forever()
            finally:
                self.ports.remove(port)
