"""A bridge with ports whose queues a test reads, without sockets."""

from tests.frames import framed, unframed
from vswitch.dataplane import compiled
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.drops import DROP_REASONS
from vswitch.dataplane.journal import Entry
from vswitch.dataplane.mac_table import PINNED, MacTable
from vswitch.dataplane.port import QUEUE_BYTES_DEFAULT, Port, QueuePool
from vswitch.ports.policy import Policy, build_egress, build_ingress, build_vlans, service_tpid

SEED = 0x1234_5678_9ABC_DEF
# What divides a number of frames that takes the pure data plane minutes, and the compiled one seconds.
FEWER = 1 if compiled() else 16


def bridge(ports: int, *, table_size: int = 8192, ageing_ms: int = 300_000) -> Bridge:
    """A bridge with `ports` ports that are up."""
    made = Bridge(MacTable(table_size, ageing_ms, SEED), QueuePool())
    for _ in range(ports):
        made.port_up(made.add_port(QUEUE_BYTES_DEFAULT))
    return made


def policed(*ports: Policy, table_size: int = 8192, ageing_ms: int = 300_000) -> Bridge:
    """A bridge with a port that is up for each policy."""
    made = bridge(len(ports), table_size=table_size, ageing_ms=ageing_ms)
    for port, policy in zip(made.ports, ports, strict=True):
        set_policy(made, port, policy)
    return made


def set_policy(bridge: Bridge, port: Port, policy: Policy) -> None:
    """Have a port go by a policy, as `Ports.set_policy` does; without mirrors and static addresses."""
    port.vlans = build_vlans(policy)
    port.isolated = policy.isolated
    port.plain = port.vlans.transparent and not policy.isolated
    port.place = port.index | PINNED if policy.sticky else port.index
    port.enabled = policy.up
    port.forwards_reserved = policy.reserved == "forward"
    port.any_source = policy.sources == "any"
    port.ingress_policy = build_ingress(policy)
    port.egress_policy = build_egress(policy)
    bridge.selective = bridge.selective or not port.plain
    if policy.qinq is not None:
        bridge.service_tpid = service_tpid(policy)
    bridge.settle(port)


def receive(bridge: Bridge, port: int, frames: list[bytes], now_ms: int = 0) -> None:
    """The frames come in by a port, as one chunk."""
    chunk = framed(frames)
    assert bridge.ingress(bridge.ports[port], chunk, 0, now_ms) == len(chunk)


def take(port: Port) -> list[bytes]:
    """Everything that is queued at a port, as a link that accepts everything would send it."""
    stream = b"".join(run.chunk[run.start : run.end] for run in port.waiting())[port.head_sent :]
    port.sent(len(stream))
    assert (port.queued_frames, port.queued_bytes) == (0, 0)
    return unframed(stream)


def drops(port: Port) -> dict[str, int]:
    return {reason: port.drops[at] for at, reason in enumerate(DROP_REASONS) if port.drops[at]}


def check_balance(bridge: Bridge) -> None:
    """rx_frames + copies = tx_frames + queued_frames + all drops, over all ports there ever were."""
    ports = [port for port in bridge.ports if port.index not in bridge.free] + [bridge.gone]
    taken = sum(port.rx_frames for port in ports) + bridge.copies
    given = sum(port.tx_frames + port.queued_frames + sum(port.drops) for port in ports)
    assert taken == given


def taken(switch: Bridge) -> list[Entry]:
    """The journal's entries, which it then has no more."""
    entries, switch.journal.entries = switch.journal.entries, []
    return entries
