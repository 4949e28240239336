"""A bridge's twin: in the same state, but without links. What it does with a frame is what the bridge would do now.

Its ports, MAC table and limits are copies, so that nothing is sent, learned, counted or used up.
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


def twin_of(bridge: Bridge) -> Bridge:
    """The twin of a bridge, as it is between two calls."""
    pool = QueuePool(bridge.pool.size)
    pool.used = bridge.pool.used
    twin = Bridge(bridge.table.copy(), pool)
    twin.hub = bridge.hub
    twin.selective = bridge.selective
    twin.service_tpid = bridge.service_tpid
    twin.ports = [_port(port, twin) for port in bridge.ports]
    twin.active = [twin.ports[port.index] for port in bridge.active]
    for port, copied in zip(bridge.ports, twin.ports):  # noqa: B905 (both are as long, and compiled code has no strict)
        copied.mirrors_in = [twin.ports[mirror.index] for mirror in port.mirrors_in]
        copied.mirrors_out = [twin.ports[mirror.index] for mirror in port.mirrors_out]
    return twin


def _port(port: Port, twin: Bridge) -> Port:
    copied = Port(port.index, twin.pool, port.queue_bytes_max, twin.journal)
    copied.serial = port.serial
    copied.linked = port.linked
    copied.enabled = port.enabled
    copied.up = port.up
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
