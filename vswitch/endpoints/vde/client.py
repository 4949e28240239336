"""vde:///DIR?connect — plugging into a running VDE switch, as libvdeplug does (vde2 src/lib/libvdeplug.c)."""

import contextlib
import itertools
import os
import socket
import tempfile

import trio

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.datagram import DatagramLink
from vswitch.dataplane.port import Port
from vswitch.endpoints.stream.connector import Connection, Connector, LinkConnection
from vswitch.endpoints.vde import directory
from vswitch.protocols import vde

_numbers = itertools.count()


class VdeClient(Connector):
    """vde:// with `connect`. Closing the control connection is how a switch unplugs us, or ends."""

    async def connect(self) -> Connection:
        path_of_switch = self.config.absolute().path
        with contextlib.ExitStack() as stack:
            ctl = stack.enter_context(trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            await ctl.connect(f"{path_of_switch}/{directory.CTL}")
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            path = _bind(sock, path_of_switch)
            stack.callback(directory.remove_socket, path)
            port = self.config.port
            await ctl.send(vde.request(port, os.fsencode(path), f"vswitch {self.name} pid={os.getpid()}"))
            reply = await ctl.recv(vde.REQUEST_MAX)
            if not reply:
                raise ConnectionRefusedError("it turned us away")
            try:
                sock.connect(vde.parse_reply(reply))
            except vde.BadRequest as error:
                raise ConnectionRefusedError(f"it answers with {error}") from None
            return VdeConnection(stack.pop_all(), ctl, sock)


class VdeConnection(LinkConnection):
    """A port on another switch; `stack` closes it."""

    def __init__(self, stack: contextlib.ExitStack, ctl: trio.socket.SocketType, sock: socket.socket) -> None:
        self._stack = stack
        self._ctl = ctl
        self._sock = sock

    def link(self, port: Port, bridge: Bridge) -> DatagramLink:
        return DatagramLink(self._sock, port, bridge)

    async def ended(self) -> str:
        with contextlib.suppress(OSError):
            while await self._ctl.recv(vde.REQUEST_MAX):
                pass
        return "closed by peer"

    def close(self) -> None:
        self._stack.close()


def _bind(sock: socket.socket, directory: str) -> str:
    """Bind a client's socket in the switch's directory, or where we may. Raises OSError."""
    number = next(_numbers)
    os.fchmod(sock.fileno(), 0o600)
    for path in (f"{directory}/.{os.getpid():05d}-{number:05d}", f"{tempfile.gettempdir()}/vde.{os.getpid()}-{number}"):
        try:
            sock.bind(path)
        except OSError as error:
            refused = error
        else:
            return path
    raise refused
