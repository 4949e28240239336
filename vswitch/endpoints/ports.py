"""The ports of a switch, as the control side sees them: names, peers, links that come and go.

A `SwitchPort` joins a name to the data plane's Port. It has a link while a peer is plugged in and none
otherwise. `Ports.drive` is the one task that runs the data plane.
"""

import logging
import math
import secrets
import socket
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import trio

from vswitch import heap
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.datagram import SharedSocket
from vswitch.dataplane.frame import TPID_8021Q
from vswitch.dataplane.journal import Sink
from vswitch.dataplane.link import Link
from vswitch.dataplane.loop import WAIT_MS, Loop
from vswitch.dataplane.mac_table import PINNED, MacTable, mac_key
from vswitch.dataplane.policy import EgressPolicy, IngressPolicy
from vswitch.dataplane.port import Port, QueuePool
from vswitch.endpoints import policy as policies
from vswitch.endpoints.partition import Partition
from vswitch.endpoints.policy import Policy
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError

log = logging.getLogger("vswitch")

TURN_S = 0.001  # how long forwarding may go on before other tasks get their turn
EXPIRE_PERIOD_MAX_S = 60.0
SWOLLEN_BYTES = 4 * 2**20  # queues that held more than this leave memory worth giving back
DRAINED_AFTER_S = 2.0


def now_ms() -> int:
    """The time the data plane goes by: trio's clock, in milliseconds."""
    return int(trio.current_time() * 1000)


class Watcher(Protocol):
    """Who is told of ports. Its `sink` gets what becomes of frames, and it is `told` so before other tasks go on."""

    @property
    def sink(self) -> Sink: ...
    def told(self) -> None: ...
    def port_added(self, port: "SwitchPort") -> None: ...
    def port_removed(self, port: "SwitchPort") -> None: ...
    async def wait_for_room(self) -> None: ...


OnStrangers = Callable[[list[tuple[Any, bytes]]], None]


class SwitchPort:
    """One port: `name` is unique in the switch, `endpoint` and `url` say where it belongs."""

    def __init__(self, name: str, endpoint: str, config: EndpointConfig, port: Port) -> None:
        self.name = name
        self.endpoint = endpoint
        self.url = config.url
        self.port = port
        self.policy = config.policy
        self.ingress_policy: IngressPolicy | None = None  # without what mirrors need
        self.egress_policy: EgressPolicy | None = None
        self.peer: str | None = None
        self.link: Link | None = None
        self.on_lost: Callable[[], None] = lambda: None

    def is_one_of(self, names: tuple[str, ...]) -> bool:
        """Whether a list of ports and endpoints means this port."""
        return self.name in names or self.endpoint in names

    @property
    def up(self) -> bool:
        return self.link is not None and self.policy.up


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
        self._selective: set[SwitchPort] = set()  # ports that some frames do not go to, or not as they are
        self._customers: set[SwitchPort] = set()
        self._mirrors: list[SwitchPort] = []
        self._partitions: list[Partition] = []
        self._watchers: list[Watcher] = []
        self._pinned: dict[int, SwitchPort] = {}  # whose each static entry of the table is, by key
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

    def add(self, name: str, endpoint: str, config: EndpointConfig) -> SwitchPort:
        """A new port, down until something is plugged in. Raises InputError if its name or policy cannot be had."""
        if name in self._by_name:
            raise InputError(f"there is a port {name!r} already; give this one another name=")
        port = self.bridge.add_port(config.queue)
        added = SwitchPort(name, endpoint, config, port)
        self._by_name[name] = self._by_index[port.index] = added
        try:
            self.set_policy(added, config.policy)
        except InputError as error:
            added.policy = Policy()
            self.remove(added)
            raise InputError(f"{config.url}: {error}") from None
        if self._partitions:
            self._part_all()
        for watcher in self._watchers:
            watcher.port_added(added)
        return added

    def add_numbered(self, endpoint: str, config: EndpointConfig) -> SwitchPort:
        """A new port of a listener: `lab.1`, `lab.2`, … with the lowest number that is free."""
        number = 1
        while f"{endpoint}.{number}" in self._by_name:
            number += 1
        return self.add(f"{endpoint}.{number}", endpoint, config)

    def remove(self, port: SwitchPort) -> None:
        """Take a port out, with its link."""
        self._unplug(port, "removed")
        if port.policy != Policy():
            self.set_policy(port, Policy())
        del self._by_name[port.name]
        del self._by_index[port.port.index]
        self.bridge.remove_port(port.port)
        self.tell_watchers()
        for watcher in self._watchers:
            watcher.port_removed(port)

    def set_policy(self, port: SwitchPort, policy: Policy) -> None:
        """Have a port go by another policy from now on. What was learned on it stays if its VLANs, and sticky, do.

        Raises InputError, and leaves the port as it was, if the policy does not go with those of other ports.
        """
        self._loop.stamp()
        self._check_service_tpid(port, policy)
        self._pin(port, policy)
        port.ingress_policy = policies.build_ingress(policy)
        port.egress_policy = policies.build_egress(policy)
        data = port.port
        if _learning(policy) != _learning(port.policy):
            self.table.forget_port(data.index)
        port.policy = policy
        data.vlans = policies.build_vlans(policy)
        data.isolated = policy.isolated
        data.place = data.index | PINNED if policy.sticky else data.index
        data.enabled = policy.up
        data.is_mirror = bool(policy.mirror_of)
        self._note(port)
        self.bridge.settle(data)

    def part(self, partition: Partition) -> None:
        """Have nothing pass between the islands of a partition, until it is healed."""
        self._partitions.append(partition)
        self._part_all()

    def heal(self, partition: Partition) -> None:
        self._partitions.remove(partition)
        self._part_all()

    def _part_all(self) -> None:
        self._loop.stamp()
        for port in self:
            port.port.parted = [self._is_parted(port, self._by_index.get(i)) for i in range(len(self.bridge.ports))]
            if not any(port.port.parted):
                port.port.parted = []
            self._note(port)

    def _is_parted(self, port: SwitchPort, other: SwitchPort | None) -> bool:
        return other is not None and any(partition.parts(port, other) for partition in self._partitions)

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
        self.tell_watchers()  # of what it dropped; the next turn may be long in coming

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

    def watch(self, watcher: Watcher) -> None:
        """Tell a watcher of all ports, and of what frames they take in and send from now on."""
        self.tell_watchers()
        for port in self:
            watcher.port_added(port)
        self._watchers.append(watcher)
        self.bridge.journal.add(watcher.sink)

    def unwatch(self, watcher: Watcher) -> None:
        """Tell it the last, and then nothing more."""
        self.tell_watchers()
        self._watchers.remove(watcher)
        self.bridge.journal.remove(watcher.sink)

    def tell_watchers(self) -> None:
        """Tell them what has happened since they were told last."""
        self.bridge.journal.hand_on()
        for watcher in self._watchers:
            watcher.told()

    async def _serve_watchers(self) -> None:
        self.tell_watchers()
        for watcher in list(self._watchers):
            await watcher.wait_for_room()

    async def drive(self) -> None:
        """Forward frames until cancelled."""
        while True:
            # A source that waits for a port goes on at some time, whatever happens.
            with trio.move_on_after(WAIT_MS / 1000 if self._loop.waiting else math.inf):
                await trio.lowlevel.wait_readable(self._loop.epoll)
            while self._loop.turn(now_ms(), TURN_S):
                self._reap()
                await self._serve_watchers()
                await trio.lowlevel.checkpoint()
            self._reap()
            await self._serve_watchers()
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

    def _check_service_tpid(self, port: SwitchPort, policy: Policy) -> None:
        for other in self._customers - {port}:
            if policy.qinq is not None and other.policy.tpid != policy.tpid:
                raise InputError(f"tpid: all qinq ports have the same; {other.name} has 0x{other.policy.tpid:04x}")

    def _note(self, port: SwitchPort) -> None:
        """Keep what the data plane goes by that follows from the policies of all ports together."""
        port.port.plain = port.port.vlans.transparent and not port.policy.isolated and not port.port.parted
        for ports, is_one in (
            (self._selective, not port.port.plain or bool(port.policy.static)),
            (self._customers, port.policy.qinq is not None),
        ):
            ports.discard(port)
            if is_one:
                ports.add(port)
        self.bridge.selective = bool(self._selective)
        self.bridge.service_tpid = TPID_8021Q
        for customer in self._customers:  # they all have the same
            self.bridge.service_tpid = policies.service_tpid(customer.policy)
        was_mirror = port in self._mirrors
        if was_mirror:
            self._mirrors.remove(port)
        if port.policy.mirror_of:
            self._mirrors.append(port)
        for wired in self if was_mirror or port.policy.mirror_of else [port]:
            self._wire(wired)

    def _pin(self, port: SwitchPort, policy: Policy) -> None:
        """Make the static entries of a policy, in place of those that the port has. Raises InputError."""
        keys = {mac_key(station.vlan or policy.pvid or 0, station.mac): station for station in policy.static}
        for key, station in keys.items():
            if self._pinned.get(key, port) is not port:
                raise InputError(f"static: {_text(station.mac)} is behind {self._pinned[key].name} already")
        self._unpin(port)
        for key, station in keys.items():
            if not self.table.pin(key, port.port.index):
                self._unpin(port)
                if policy is not port.policy:
                    self._pin(port, port.policy)
                raise InputError(f"static: no room for {_text(station.mac)}; make the MAC table larger (--table-size)")
            self._pinned[key] = port

    def _unpin(self, port: SwitchPort) -> None:
        for key in [key for key, holder in self._pinned.items() if holder is port]:
            self.table.forget(key)
            del self._pinned[key]

    def _wire(self, port: SwitchPort) -> None:
        """Have the mirrors that watch a port get their copies; what it needs for that is a policy of its own."""
        watching = [mirror for mirror in self._mirrors if port.is_one_of(mirror.policy.mirror_of)]
        if port.policy.mirror_of:  # what it sends are copies already
            watching = []
        data = port.port
        data.mirrors_in = [mirror.port for mirror in watching if mirror.policy.mirror != "out"]
        data.mirrors_out = [mirror.port for mirror in watching if mirror.policy.mirror != "in"]
        data.ingress_policy = port.ingress_policy or (IngressPolicy() if data.mirrors_in else None)
        data.egress_policy = port.egress_policy or (EgressPolicy() if data.mirrors_out else None)


def _learning(policy: Policy) -> tuple[object, ...]:
    """What learned entries depend on."""
    return policy.vlan, policy.trunk, policy.native, policy.qinq, policy.sticky, policy.mirror_of


def _text(mac: int) -> str:
    return mac.to_bytes(6).hex(":")
