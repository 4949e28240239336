"""The ports of a switch, as the control side sees them: names, peers, links that come and go.

A `SwitchPort` joins a name to the data plane's Port. It has a link while a peer is plugged in and none
otherwise. The data plane itself is driven by forwarding.py, and watched by watchers.py.
"""

import heapq
import logging
import secrets
import socket
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import trio

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.datagram import SharedSocket
from vswitch.dataplane.frame import TPID_8021Q
from vswitch.dataplane.link import Link
from vswitch.dataplane.loop import EVENTS_MAX, Loop
from vswitch.dataplane.mac_table import PINNED, MacTable, mac_key
from vswitch.dataplane.policy import EgressPolicy, IngressPolicy
from vswitch.dataplane.port import Port, QueuePool
from vswitch.endpoints import policy as policies
from vswitch.endpoints.partition import Partition
from vswitch.endpoints.policy import Policy
from vswitch.endpoints.url import EndpointConfig
from vswitch.endpoints.watchers import Watchers
from vswitch.errors import InputError
from vswitch.supervision import Failures

log = logging.getLogger("vswitch")


def now_ms() -> int:
    """The time the data plane goes by: trio's clock, in milliseconds."""
    return int(trio.current_time() * 1000)


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
        self.process: str | None = None  # of the peer, where `peer` does not say it; None while nobody has asked
        self.link: Link | None = None
        self.counted_from = (0, 0, 0, 0)  # what a VDE console that has reset the counters takes off from them
        self.warned = False  # of sources that nobody can answer
        self.on_lost: Callable[[], None] = lambda: None

    def is_one_of(self, names: tuple[str, ...]) -> bool:
        """Whether a list of ports and endpoints means this port."""
        return self.name in names or self.endpoint in names

    @property
    def up(self) -> bool:
        return self.link is not None and self.policy.up


class Ports:
    """All ports of one switch, and its data plane: MAC table, bridge and loop.

    `swollen` is to be set when a lot of memory was in use that may now be given back, `worked` when frames came in.
    """

    def __init__(self, *, table_size: int, ageing_s: float, hub: bool = False) -> None:
        self.table = MacTable(table_size, int(ageing_s * 1000), secrets.randbits(62))
        self.bridge = Bridge(self.table, QueuePool())
        self.bridge.hub = hub
        self.loop = Loop(self.bridge)
        self.failures = Failures()
        self.watchers = Watchers(self.bridge.journal, self.failures)
        self.swollen = trio.Event()
        self.worked = trio.Event()
        self._by_name: dict[str, SwitchPort] = {}
        self._numbers: dict[str, tuple[list[int], count[int]]] = {}  # by listener: freed ones, and those above all used
        self._by_index: dict[int, SwitchPort] = {}
        self._shared: dict[SharedSocket, OnStrangers] = {}
        self._selective: set[SwitchPort] = set()  # ports that some frames do not go to, or not as they are
        self._customers: set[SwitchPort] = set()
        self._mirrors: list[SwitchPort] = []
        self._partitions: list[Partition] = []
        self._catching_up: list[tuple[int, trio.Event]] = []  # by the number of polls that it takes
        self._pinned: dict[int, SwitchPort] = {}  # whose each static entry of the table is, by key
        self.said: set[str] = set()  # in the log, once and for all
        self.shutdown = trio.Event()  # set by a peer that may tell the whole switch to end

    def __iter__(self) -> Iterator[SwitchPort]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def say_once(self, message: str) -> None:
        """Log something, unless it was said before."""
        if message not in self.said:
            self.said.add(message)
            log.warning("%s", message)

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
        self.watchers.port_added(added)
        return added

    def add_numbered(self, endpoint: str, config: EndpointConfig) -> SwitchPort:
        """A new port of a listener: `lab.1`, `lab.2`, … with the lowest number that is free."""
        free, above = self._numbers.setdefault(endpoint, ([], count(1)))
        while True:
            number = heapq.heappop(free) if free else next(above)
            if f"{endpoint}.{number}" not in self._by_name:
                return self.add(f"{endpoint}.{number}", endpoint, config)

    def remove(self, port: SwitchPort) -> None:
        """Take a port out, with its link."""
        self._unplug(port, "removed")
        if port.policy != Policy():
            self.set_policy(port, Policy())
        del self._by_name[port.name]
        listener, _, number = port.name.rpartition(".")
        if listener in self._numbers and number.isdecimal():
            heapq.heappush(self._numbers[listener][0], int(number))
        del self._by_index[port.port.index]
        self.bridge.remove_port(port.port)
        self.watchers.port_removed(port)

    def set_policy(self, port: SwitchPort, policy: Policy) -> None:
        """Have a port go by another policy from now on. What was learned on it stays if its VLANs, and sticky, do.

        Raises InputError, and leaves the port as it was, if the policy does not go with those of other ports.
        """
        self.loop.stamp()
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
        data.forwards_reserved = policy.reserved == "forward"
        data.any_source = policy.sources == "any"
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
        self.loop.stamp()
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
        self.loop.add(link)
        port.link = link
        port.peer = peer
        port.process = None
        port.on_lost = on_lost
        log.info("%s up: %s", port.name, peer)

    def unplug(self, port: SwitchPort, why: str) -> None:
        """Take a port's peer away, once what it has sent before is taken in; `on_lost` is not called."""
        if port.link is not None:
            self.loop.finish(port.link, now_ms())
        self._unplug(port, why)
        self.watchers.tell()  # of what it dropped; the next turn may be long in coming

    def share(self, sock: socket.socket, on_strangers: OnStrangers) -> SharedSocket:
        """Read from a datagram socket with several peers.

        `on_strangers` gets the datagrams, address and frame, that came from addresses without a port, in order and
        before anything that came after them is read. Raises OSError.
        """
        shared = SharedSocket(sock, self.bridge, self.loop.callers)
        self.loop.watch(shared)
        self._shared[shared] = on_strangers
        return shared

    def unshare(self, shared: SharedSocket) -> None:
        """Stop reading from it, when all ports on it are removed and before it is closed."""
        del self._shared[shared]
        self.loop.unwatch(shared)

    async def caught_up(self) -> None:
        """Return when each peer that has something to say now, or is gone, has been seen to once."""
        await trio.lowlevel.checkpoint()
        if self.loop.is_busy():
            event = trio.Event()
            self._catching_up.append((self.loop.polls + 2 + len(self) // EVENTS_MAX, event))
            await event.wait()

    def close(self) -> None:
        """The end, when all ports are removed and nothing drives any more."""
        assert not self._by_name
        self.loop.close()

    def reap(self) -> None:
        """See to what a turn of the loop leaves to others: links that were lost, strangers, those who wait for it."""
        while self.loop.failures:
            self.failures.note("a link", self.loop.failures.pop())
        while self.loop.lost:
            link = self.loop.lost.pop(0)
            port = self._by_index.get(link.port.index)
            if port is not None and port.link is link:
                self._unplug(port, link.lost or "lost")
                self._tell(f"what has {port.name}", port.on_lost)
        while self.loop.callers:
            shared = self.loop.callers.pop(0)
            strangers, shared.strangers = shared.strangers, []
            if shared in self._shared:
                self._tell("what admits peers", partial(self._shared[shared], strangers))
        busy = self.loop.is_busy() if self._catching_up else False
        for due in [due for due in self._catching_up if not busy or due[0] <= self.loop.polls]:
            self._catching_up.remove(due)
            due[1].set()

    def _tell(self, what: str, tell: Callable[[], None]) -> None:
        """Tell an endpoint something. What that raises must not end forwarding."""
        try:
            tell()
        except Exception as error:
            self.failures.note(what, error)

    def _unplug(self, port: SwitchPort, why: str) -> None:
        if port.link is None:
            return
        self.loop.remove(port.link)
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
        keys = {}
        for station in policy.static:
            vlan = policy.pvid if station.vlan is None else station.vlan
            assert vlan is not None
            keys[mac_key(policies.table_vlan(vlan), station.mac)] = station
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
