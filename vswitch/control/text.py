"""Flows and stations in words, for whoever prints some."""

from vswitch.control.model import FlowInfo, MacInfo


def flow_row(flow: FlowInfo, now_s: float) -> tuple[str, ...]:
    """Port, source, destination, VLAN, what it is, frames, bytes, how long ago, what became of it.

    `now_s` is seconds since 1970.
    """
    what = flow.protocol if flow.service is None else f"{flow.protocol} {flow.service}"
    ends = flow.source_ip or flow.source, flow.destination_ip or flow.destination
    vlan = "-" if flow.vlan is None else str(flow.vlan)
    ago = f"{max(0.0, now_s - flow.last_s):.0f}s"
    return flow.port, *ends, vlan, what, f"{flow.frames:,}", f"{flow.bytes:,}", ago, _became(flow)


def age(station: MacInfo) -> str:
    """How long ago it was heard."""
    return "static" if station.age_s is None else f"{station.age_s:.0f}s"


def _became(flow: FlowInfo) -> str:
    """Where it went, and why some of it did not get there."""
    more = ["and more"] if flow.more else []
    went = ["to " + ", ".join([*flow.forwarded, *more])] if flow.forwarded else []
    lost = [f"{frames:,} {reason}" for reason, frames in flow.drops.items()]
    return "; ".join([*went, *([f"dropped: {', '.join(lost)}"] if lost else [])]) or "-"
