"""Datagram sockets that several ports share, told apart by their peers' addresses."""

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.datagram import SharedSocket, SharedSource
from vswitch.dataplane.loop import Loop
from vswitch.dataplane.tunnel import Encapsulation, TunnelLink, TunnelSocket
from vswitch.supervision import Failures

OnStrangers = Callable[[list[tuple[Any, bytes]]], None]


class SharedSockets:
    """A switch's."""

    def __init__(self, bridge: Bridge, loop: Loop, failures: Failures) -> None:
        self._bridge = bridge
        self._loop = loop
        self._failures = failures
        self._strangers: dict[SharedSource, OnStrangers] = {}

    def share(self, sock: socket.socket, on_strangers: OnStrangers) -> SharedSocket:
        """Read from a datagram socket with several peers.

        `on_strangers` gets the datagrams, address and frame, that came from addresses without a port, in order and
        before anything that came after them is read. Raises OSError.
        """
        shared = SharedSocket(sock, self._bridge, self._loop.callers)
        self._read(shared, on_strangers)
        return shared

    def share_tunnel(
        self,
        sock: socket.socket,
        on_strangers: OnStrangers,
        encapsulation: Encapsulation,
        peers: dict[bytes, TunnelLink],
        *,
        any_port: bool,
    ) -> TunnelSocket:
        """The same for datagrams that have a header before the frame. `on_strangers` gets only what has the right one,
        without it, and addresses as the system has them. Raises OSError.
        """
        shared = TunnelSocket(sock, self._bridge, self._loop.callers, encapsulation, peers, any_port)
        self._read(shared, on_strangers)
        return shared

    def _read(self, shared: SharedSource, on_strangers: OnStrangers) -> None:
        self._loop.watch(shared)
        self._strangers[shared] = on_strangers

    def unshare(self, shared: SharedSource) -> None:
        """Stop reading from it, when all ports on it are removed and before it is closed."""
        del self._strangers[shared]
        self._loop.unwatch(shared)

    def has_descriptor(self, fd: int) -> bool:
        return any(fd == shared.fd for shared in self._strangers)

    def reap(self) -> None:
        """Tell of the strangers that the last turn of the loop has met."""
        while self._loop.callers:
            shared = self._loop.callers.pop(0)
            strangers, shared.strangers = shared.strangers, []
            if shared in self._strangers:
                self._failures.call("what admits peers", partial(self._strangers[shared], strangers))
