"""What a running switch says of itself, in the types of the control API."""

import heapq
import logging
from typing import Literal

import trio

from vswitch.control.changes import Adopt, Attach, Change, Detach, Replace, SetAgeing, SetForwards, SetPolicy, SetRules
from vswitch.control.model import (
    Action,
    ChangeInfo,
    FailureInfo,
    Internals,
    LogInfo,
    LogLevel,
    MacInfo,
    PartitionInfo,
    PortInfo,
    Totals,
    Virtio,
    Vlan,
    VlanInfo,
)
from vswitch.dataplane.drops import DROP_REASONS
from vswitch.dataplane.frame import PREFIX
from vswitch.dataplane.mac_table import MacTable
from vswitch.dataplane.port import Port
from vswitch.ports.partition import Partition
from vswitch.ports.policy import Policy, shown_vlan, table_vlan
from vswitch.ports.port import SwitchPort, now_ms
from vswitch.ports.ports import Ports
from vswitch.supervision import Failure

PORTION_SLOTS = 1024
PORTION_STATIONS = 256
ACTIONS: dict[type[Change], Action] = {
    Attach: "attach",
    Detach: "detach",
    Replace: "replace",
    SetPolicy: "set_policy",
    SetForwards: "set_forwards",
    SetRules: "set_rules",
    Adopt: "adopt",
    SetAgeing: "set_ageing",
}


def change_info(change: Change) -> ChangeInfo:
    return ChangeInfo(action=ACTIONS[type(change)], diff=change.diff())


def partition_info(number: int, partition: Partition) -> PartitionInfo:
    return PartitionInfo(number=number, islands=[list(names) for names in partition.islands], rest=partition.rest)


def log_info() -> LogInfo:
    level = logging.getLogger("vswitch").getEffectiveLevel()
    steps: tuple[tuple[int, LogLevel], ...] = (
        (logging.ERROR, "error"),
        (logging.WARNING, "warning"),
        (logging.INFO, "info"),
    )
    return LogInfo(level=next((name for least, name in steps if level >= least), "debug"))


def failure_info(failure: Failure) -> FailureInfo:
    return FailureInfo(
        reference=failure.reference,
        what=failure.what,
        error=failure.error,
        count=failure.count,
        details=failure.details,
    )


def port_info(port: SwitchPort, table: MacTable) -> PortInfo:
    counters = port.port
    return PortInfo(
        name=port.name,
        endpoint=port.endpoint,
        url=port.url,
        peer=f"{port.peer}, {port.process}" if port.peer and port.process else port.peer,
        up=port.up,
        state=state(port),
        vlan=vlan(port.policy),
        rx_frames=counters.rx_frames,
        rx_bytes=counters.rx_bytes,
        tx_frames=counters.tx_frames,
        tx_bytes=counters.tx_bytes,
        drops=_drops([counters]),
        queued_frames=counters.queued_frames,
        queued_bytes=counters.queued_bytes - PREFIX * counters.queued_frames,
        segmented=counters.segmented,
        checksummed=counters.checksummed,
        macs=table.held(counters.index),
        virtio=None if port.virtio is None else Virtio(features=port.virtio),
    )


def state(port: SwitchPort) -> Literal["down", "blocked", "forwarding"]:
    """What a port does with frames."""
    if not port.up:
        return "down"
    return "forwarding" if port.port.forwards else "blocked"


def internals(ports: Ports) -> Internals:
    table, bridge, loop = ports.table, ports.bridge, ports.loop
    return Internals(
        polls=loop.polls,
        frames_joined=bridge.joined,
        runs_rebuilt=bridge.rebuilt,
        runs_copied=bridge.pool.copied,
        segments_made=bridge.pool.segments,
        batches_bounded=loop.bounded,
        sources_waited=loop.waits,
        evictions=table.evictions,
        expiries=table.expiries,
        queued_bytes=bridge.pool.used,
        queued_bytes_peak=bridge.pool.peak,
    )


def vlan(policy: Policy) -> Vlan:
    """The part of a port's policy that says its VLANs."""
    if policy.trunk is not None:
        return Vlan("trunk", native=policy.native, tagged=policy.trunk)
    if policy.vlan is not None:
        return Vlan("access", access=policy.vlan, tagged=())
    if policy.qinq is not None:
        return Vlan("qinq", access=policy.qinq, tagged=())
    return Vlan()


def vlans(ports: Ports) -> list[VlanInfo]:
    """The VLANs that ports have of their own, in order."""
    switching = [port for port in ports if not port.policy.mirror_of]
    named = {port.policy.pvid for port in switching if vlan(port.policy) != Vlan()}
    for port in switching:
        if isinstance(port.policy.trunk, tuple):
            named.update(port.policy.trunk)
    found = []
    for vid in sorted(vid for vid in named if vid is not None):
        members = [port for port in switching if port.port.vlans.carries(table_vlan(vid))]
        untagged = [port.name for port in members if port.policy.pvid == vid]
        tagged = [port.name for port in members if port.policy.pvid != vid]
        found.append(VlanInfo(vlan=vid, untagged=untagged, tagged=tagged))
    return found


async def macs(ports: Ports) -> list[MacInfo]:
    """The MAC table by VLAN and address; made in portions, so that a large one does not hold up forwarding.

    A station that is learned, moved or forgotten meanwhile may be left out or come twice. Ages are those of the moment
    when it begins.
    """
    portions, begun = [], now_ms()
    for start in range(0, ports.table.slots(), PORTION_SLOTS):
        now = now_ms()
        entries = ports.table.entries(now, start, start + PORTION_SLOTS)
        found = sorted(
            (shown_vlan(vlan), mac, index, max(0, age_ms - (now - begun)) if age_ms >= 0 else age_ms)
            for vlan, mac, index, age_ms in entries
        )
        names = ((entry, ports.by_index(entry[2])) for entry in found)
        portions.append([(vlan, mac, port.name, age_ms) for (vlan, mac, _, age_ms), port in names if port is not None])
        await trio.lowlevel.checkpoint()
    stations = []
    for number, (vlan, mac, name, age_ms) in enumerate(heapq.merge(*portions), 1):
        text = ":".join(f"{byte:02x}" for byte in mac.to_bytes(6))
        static = age_ms < 0
        age_s = None if static else age_ms / 1000
        stations.append(MacInfo(mac=text, vlan=vlan, port=name, age_s=age_s, static=static))
        if number % PORTION_STATIONS == 0:
            await trio.lowlevel.checkpoint()
    return stations


def totals(ports: Ports) -> Totals:
    all_ports = [port.port for port in ports] + [ports.bridge.gone]
    return Totals(
        rx_frames=sum(port.rx_frames for port in all_ports),
        copies=ports.bridge.copies,
        tx_frames=sum(port.tx_frames for port in all_ports),
        queued_frames=sum(port.queued_frames for port in all_ports),
        drops=_drops(all_ports),
    )


def _drops(ports: list[Port]) -> dict[str, int]:
    """Frames dropped, by reason; reasons that never occurred are left out."""
    sums = ((reason, sum(port.drops[at] for port in ports)) for at, reason in enumerate(DROP_REASONS))
    return {reason: frames for reason, frames in sums if frames}
