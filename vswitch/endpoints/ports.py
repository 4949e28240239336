"""The ports of a switch, as the control side sees them: names, peers, links that come and go.

A `SwitchPort` joins a name to the data plane's Port. It has a link while a peer is plugged in and none
otherwise. `Ports.drive` is the one task that runs the data plane.
"""

import logging
import math
import secrets
import socket
from collections.abc import Callable, Iterator
from typing import Any

import trio

from vswitch import heap
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.datagram import SharedSocket
from vswitch.dataplane.link import Link
from vswitch.dataplane.loop import WAIT_MS, Loop
from vswitch.dataplane.mac_table import MacTable
from vswitch.dataplane.port import Port, QueuePool
from vswitch.errors import InputError

log = logging.getLogger("vswitch")

TURN_S = 0.001  # how long forwarding may go on before other tasks get their turn
EXPIRE_PERIOD_MAX_S = 60.0
SWOLLEN_BYTES = 4 * 2**20  # queues that held more than this leave memory worth giving back
DRAINED_AFTER_S = 2.0


def now_ms() -> int:
    """The time the data plane goes by: trio's clock, in milliseconds."""
    return int(trio.current_time() * 1000)


OnStrangers = Callable[[list[tuple[Any, bytes]]], None]


class SwitchPort:
    """One port: `name` is unique in the switch, `endpoint` and `url` say where it belongs."""

    def __init__(self, name: str, endpoint: str, url: str, port: Port) -> None:
        self.name = name
        self.endpoint = endpoint
        self.url = url
        self.port = port
        self.peer: str | None = None
        self.link: Link | None = None
        self.on_lost: Callable[[], None] = lambda: None

    @property
    def up(self) -> bool:
        return self.link is not None


class Ports:
    """All ports of one switch, and its data plane: MAC table, bridge and loop."""

    def __init__(self, *, table_size: int, ageing_s: float, hub: bool = False) -> None:
        self.table = MacTable(table_size, int(ageing_s * 1000), secrets.randbits(62))
        self.bridge = Bridge(self.table, QueuePool())
        self.bridge.hub = hub
        self._loop = Loop(self.bridge)
        self._swollen = trio.Event()
        self._by_name: dict[str, SwitchPort] = {}
        self._by_index: dict[int, SwitchPort] = {}
        self._shared: dict[SharedSocket, OnStrangers] = {}
        self.shutdown = trio.Event()  # set by a peer that may tell the whole switch to end

    def __iter__(self) -> Iterator[SwitchPort]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def by_index(self, index: int) -> SwitchPort | None:
        """The port with a data plane index, if there is one."""
        return self._by_index.get(index)

    def has_descriptor(self, fd: int) -> bool:
        """Whether a descriptor is a link's already."""
        links = (port.link for port in self if port.link is not None)
        return any(fd in (link.fd, link.room_fd) for link in links) or any(fd == shared.fd for shared in self._shared)

    def add(self, name: str, endpoint: str, url: str, queue_bytes_max: int) -> SwitchPort:
        """A new port, down until something is plugged in. Raises InputError if the name is taken."""
        if name in self._by_name:
            raise InputError(f"there is a port {name!r} already; give this one another name=")
        port = self.bridge.add_port(queue_bytes_max)
        added = SwitchPort(name, endpoint, url, port)
        self._by_name[name] = self._by_index[port.index] = added
        return added

    def add_numbered(self, endpoint: str, url: str, queue_bytes_max: int) -> SwitchPort:
        """A new port of a listener: `lab.1`, `lab.2`, … with the lowest number that is free."""
        number = 1
        while f"{endpoint}.{number}" in self._by_name:
            number += 1
        return self.add(f"{endpoint}.{number}", endpoint, url, queue_bytes_max)

    def remove(self, port: SwitchPort) -> None:
        """Take a port out, with its link."""
        self._unplug(port, "removed")
        del self._by_name[port.name]
        del self._by_index[port.port.index]
        self.bridge.remove_port(port.port)

    def plug(self, port: SwitchPort, link: Link, peer: str, on_lost: Callable[[], None]) -> None:
        """Give a port its peer: a link made for it, whose descriptors belong to the port from now on.

        `on_lost` is called once if the peer goes away, when the port is down and the link closed already.
        Raises OSError if the system cannot watch the link.
        """
        self._loop.add(link)
        port.link = link
        port.peer = peer
        port.on_lost = on_lost
        log.info("%s up: %s", port.name, peer)

    def unplug(self, port: SwitchPort, why: str) -> None:
        """Take a port's peer away, once what it has sent before is taken in; `on_lost` is not called."""
        if port.link is not None:
            self._loop.finish(port.link, now_ms())
        self._unplug(port, why)

    def share(self, sock: socket.socket, on_strangers: OnStrangers) -> SharedSocket:
        """Read from a datagram socket with several peers.

        `on_strangers` gets the datagrams, address and frame, that came from addresses without a port, in order and
        before anything that came after them is read. Raises OSError.
        """
        shared = SharedSocket(sock, self.bridge, self._loop.callers)
        self._loop.watch(shared)
        self._shared[shared] = on_strangers
        return shared

    def unshare(self, shared: SharedSocket) -> None:
        """Stop reading from it, when all ports on it are removed and before it is closed."""
        del self._shared[shared]
        self._loop.unwatch(shared)

    async def drive(self) -> None:
        """Forward frames until cancelled."""
        while True:
            # A source that waits for a port goes on at some time, whatever happens.
            with trio.move_on_after(WAIT_MS / 1000 if self._loop.waiting else math.inf):
                await trio.lowlevel.wait_readable(self._loop.epoll)
            while self._loop.turn(now_ms(), TURN_S):
                self._reap()
                await trio.lowlevel.checkpoint()
            self._reap()
            if self.bridge.pool.peak > SWOLLEN_BYTES:
                self._swollen.set()

    async def give_memory_back(self) -> None:
        """Once large queues have drained, return what the heap still keeps of them, until cancelled."""
        pool = self.bridge.pool
        while True:
            await self._swollen.wait()
            await trio.sleep(DRAINED_AFTER_S)
            if pool.used < SWOLLEN_BYTES:
                pool.peak = 0
                self._swollen = trio.Event()
                heap.trim()

    def close(self) -> None:
        """The end, when all ports are removed and nothing drives any more."""
        assert not self._by_name
        self._loop.close()

    async def age(self) -> None:
        """Give back the room of aged MAC table entries, now and then, until cancelled."""
        period_s = min(self.table.ageing / 4000, EXPIRE_PERIOD_MAX_S)
        while True:
            await trio.sleep(period_s)
            self.table.expire(now_ms())

    def _reap(self) -> None:
        """See to what the data plane leaves to others: links that were lost, and strangers."""
        while self._loop.lost:
            link = self._loop.lost.pop(0)
            port = self._by_index.get(link.port.index)
            if port is not None and port.link is link:
                self._unplug(port, link.lost or "lost")
                port.on_lost()
        while self._loop.callers:
            shared = self._loop.callers.pop(0)
            strangers, shared.strangers = shared.strangers, []
            if shared in self._shared:
                self._shared[shared](strangers)

    def _unplug(self, port: SwitchPort, why: str) -> None:
        if port.link is None:
            return
        self._loop.remove(port.link)
        port.link.close()
        port.link = None
        port.peer = None
        log.info("%s down: %s", port.name, why)
