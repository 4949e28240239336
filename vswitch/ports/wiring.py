"""What the data plane goes by, made of the policies of all ports together, and of partitions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from librt.vecs import vec
from mypy_extensions import i64

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.frame import TPID_8021Q
from vswitch.dataplane.loop import Loop
from vswitch.dataplane.mac_table import PINNED, MacTable, mac_key
from vswitch.dataplane.policy import EgressPolicy, IngressPolicy
from vswitch.dataplane.port import NO_ISLAND
from vswitch.errors import InputError
from vswitch.ports import policy as policies
from vswitch.ports.partition import Islands
from vswitch.ports.policy import Policy
from vswitch.ports.port import SwitchPort
from vswitch.ports.registry import Registry


class Wiring:
    """Writes the policies of a switch's ports into its bridge and MAC table."""

    def __init__(self, registry: Registry, bridge: Bridge, table: MacTable, loop: Loop) -> None:
        self._registry = registry
        self._bridge = bridge
        self._table = table
        self._loop = loop
        self._selective: set[SwitchPort] = set()  # ports that some frames do not go to, or not as they are
        self._customers: set[SwitchPort] = set()
        self._mirrors: list[SwitchPort] = []
        self._partitions: list[Islands] = []
        self._pinned: dict[int, SwitchPort] = {}  # whose each static entry of the table is, by key

    def connect(self, port: SwitchPort) -> None:
        """Wire a port that is new. Raises InputError, and leaves it without a policy, if it cannot have its own."""
        try:
            self.set_policy(port, port.policy)
        except InputError:
            port.policy = Policy()
            raise
        if self._partitions:
            self._part(port)

    def disconnect(self, port: SwitchPort) -> None:
        """Take back what its policy has made; before it goes."""
        if port.policy != Policy():
            self.set_policy(port, Policy())

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
            self._table.forget_port(data.index)
        port.policy = policy
        data.vlans = policies.build_vlans(policy)
        data.isolated = policy.isolated
        data.place = data.index | PINNED if policy.sticky else data.index
        data.enabled = policy.up
        data.is_mirror = bool(policy.mirror_of)
        data.forwards_reserved = policy.reserved == "forward"
        data.any_source = policy.sources == "any"
        self._note(port)
        self._bridge.settle(data)

    def set_forwarding(self, port: SwitchPort, forwards: bool) -> None:
        """Have a port that is up take part, or not: then nothing but our own probes comes in or leaves by it."""
        self._loop.stamp()
        port.port.forwards = forwards
        self._note(port)
        self._bridge.settle(port.port)

    @contextmanager
    def transaction(self) -> Iterator[Callable[[SwitchPort, Policy], None]]:
        """What it answers sets policies that are taken back if the block raises an error."""
        before: list[tuple[SwitchPort, Policy]] = []

        def set_policy(port: SwitchPort, policy: Policy) -> None:
            old = port.policy
            self.set_policy(port, policy)
            before.append((port, old))

        try:
            yield set_policy
        except InputError:
            for port, old in reversed(before):
                self.set_policy(port, old)
            raise

    def part(self, partition: Islands) -> None:
        """Have nothing pass between the islands of a partition, until it is healed."""
        self._partitions.append(partition)
        self._part_all()

    def heal(self, partition: Islands) -> None:
        self._partitions.remove(partition)
        self._part_all()

    def _part_all(self) -> None:
        self._loop.stamp()
        for port in self._registry:
            self._part(port)

    def _part(self, port: SwitchPort) -> None:
        islands = [partition.island(port) for partition in self._partitions]
        on_one = any(island is not None for island in islands)
        was = bool(port.port.islands)
        port.port.islands = vec[i64]([NO_ISLAND if it is None else it for it in islands] if on_one else [])
        if was != on_one:
            self._note(port)

    def _check_service_tpid(self, port: SwitchPort, policy: Policy) -> None:
        for other in self._customers - {port}:
            if policy.qinq is not None and other.policy.tpid != policy.tpid:
                raise InputError(f"tpid: all qinq ports have the same; {other.name} has 0x{other.policy.tpid:04x}")

    def _note(self, port: SwitchPort) -> None:
        """Keep what the data plane goes by that follows from the policies of all ports together."""
        port.port.plain = port.port.vlans.transparent and not port.policy.isolated and not port.port.islands
        for ports, is_one in (
            (self._selective, not port.port.plain or bool(port.policy.static) or not port.port.forwards),
            (self._customers, port.policy.qinq is not None),
        ):
            ports.discard(port)
            if is_one:
                ports.add(port)
        self._bridge.selective = bool(self._selective)
        self._bridge.service_tpid = TPID_8021Q
        for customer in self._customers:  # they all have the same
            self._bridge.service_tpid = policies.service_tpid(customer.policy)
        was_mirror = port in self._mirrors
        if was_mirror:
            self._mirrors.remove(port)
        if port.policy.mirror_of:
            self._mirrors.append(port)
        for watched in self._registry if was_mirror or port.policy.mirror_of else [port]:
            self._watch(watched)

    def _pin(self, port: SwitchPort, policy: Policy) -> None:
        """Make the static entries of a policy, in place of those that the port has. Raises InputError."""
        keys = {}
        for station in policy.static:
            keys[mac_key(policies.table_vlan(policy.vlan_of(station)), station.mac)] = station
        for key, station in keys.items():
            if self._pinned.get(key, port) is not port:
                raise InputError(f"static: {_text(station.mac)} is behind {self._pinned[key].name} already")
        self._unpin(port)
        for key, station in keys.items():
            if not self._table.pin(key, port.port.index):
                self._unpin(port)
                if policy is not port.policy:
                    self._pin(port, port.policy)
                raise InputError(f"static: no room for {_text(station.mac)}; make the MAC table larger (--table-size)")
            self._pinned[key] = port

    def _unpin(self, port: SwitchPort) -> None:
        for key in [key for key, holder in self._pinned.items() if holder is port]:
            self._table.forget(key)
            del self._pinned[key]

    def _watch(self, port: SwitchPort) -> None:
        """Have the mirrors that watch a port get their copies; what it needs for that is a policy of its own."""
        watching = [mirror for mirror in self._mirrors if port.is_one_of(mirror.policy.mirror_of)]
        if port.policy.mirror_of:  # what it sends are copies already
            watching = []
        data = port.port
        data.mirrors_in = [mirror.port for mirror in watching if mirror.policy.mirror != "out"]
        data.mirrors_out = [mirror.port for mirror in watching if mirror.policy.mirror != "in"]
        is_judged = data.mirrors_in or not data.forwards
        data.ingress_policy = port.ingress_policy or (IngressPolicy() if is_judged else None)
        data.egress_policy = port.egress_policy or (EgressPolicy() if data.mirrors_out else None)


def _learning(policy: Policy) -> tuple[object, ...]:
    """What learned entries depend on."""
    return policy.vlan, policy.trunk, policy.native, policy.qinq, policy.sticky, policy.mirror_of


def _text(mac: int) -> str:
    return mac.to_bytes(6).hex(":")
