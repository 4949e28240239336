"""A bridge's twin: in the same state, but without links. What it does with a frame is what the bridge would do now.

Its ports, its limits and what it knows of the frame's stations are copies, so that nothing is sent, learned, counted or
used up. The rest of the MAC table is left out, so that a station which is new always finds room.
"""

from mypy_extensions import i64

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.journal import Entry, Sink
from vswitch.dataplane.port import Port, QueuePool


class Observer(Sink):
    """Keeps what becomes of frames."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def take(self, entries: list[Entry], now: i64) -> None:
        """Some more."""
        self.entries += entries


def twin_of(bridge: Bridge, port: Port, keys: list[int], now: i64) -> Bridge:
    """The twin of a bridge between two calls, for a frame that comes in by a port, of stations with some keys."""
    pool = QueuePool(bridge.pool.size)
    pool.used = bridge.pool.used
    table = bridge.table.extract(keys, now)
    policy = port.ingress_policy
    if policy is not None and policy.is_to_expire(table.held(port.index), now):
        table.settle(port.index, bridge.table.live_of(port.index, now))
    twin = Bridge(table, pool)
    twin.hub = bridge.hub
    twin.probe_address = bridge.probe_address
    twin.selective = bridge.selective
    twin.service_tpid = bridge.service_tpid
    twin.ports = [_port(it, twin) for it in bridge.ports]
    twin.active = [twin.ports[it.index] for it in bridge.active]
    for it in bridge.ports:
        copied = twin.ports[it.index]
        copied.mirrors_in = [twin.ports[mirror.index] for mirror in it.mirrors_in]
        copied.mirrors_out = [twin.ports[mirror.index] for mirror in it.mirrors_out]
    return twin


def _port(port: Port, twin: Bridge) -> Port:
    copied = Port(port.index, twin.pool, port.queue_bytes_max, twin.journal)
    copied.serial = port.serial
    copied.linked = port.linked
    copied.enabled = port.enabled
    copied.up = port.up
    copied.forwards = port.forwards
    copied.blocked = port.blocked
    copied.plain = port.plain
    copied.vlans = port.vlans
    copied.isolated = port.isolated
    copied.islands = port.islands
    copied.place = port.place
    copied.is_mirror = port.is_mirror
    copied.forwards_reserved = port.forwards_reserved
    copied.any_source = port.any_source
    ingress_policy = port.ingress_policy
    if ingress_policy is not None:
        copied.ingress_policy = ingress_policy.copy()
    copied.egress_policy = port.egress_policy
    copied.queued_frames = port.queued_frames
    copied.queued_bytes = port.queued_bytes
    return copied
