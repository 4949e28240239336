"""Flows as the control API says them: what the first frame of each says of all of them, and what became of them."""

from collections.abc import Mapping
from ipaddress import ip_address

from vswitch.control.model import FlowInfo
from vswitch.dataplane.drops import DROP_REASONS
from vswitch.dataplane.frame import TCP, TPIDS, UDP
from vswitch.edges.flows import REASON_BITS, Flow

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ETHER_TYPES = {
    ARP: "ARP",
    IPV4: "IPv4",
    IPV6: "IPv6",
    0x88CC: "LLDP",
    0x8809: "slow",
    0x888E: "802.1X",
    0x8863: "PPPoE",
}
PROTOCOLS = {1: "ICMP", 2: "IGMP", TCP: "TCP", UDP: "UDP", 47: "GRE", 50: "ESP", 58: "ICMPv6", 89: "OSPF", 132: "SCTP"}
LENGTH_END = 0x0600  # below it is a length (IEEE 802.3 3.2.6)


def flow_info(flow: Flow, names: Mapping[int, str]) -> FlowInfo:
    """What to say of a flow; `names` are ports' by serial, also of those that are gone."""
    head = flow.head.ljust(14, b"\0")
    vlan, kind_at = None, 12
    while int.from_bytes(head[kind_at : kind_at + 2]) in TPIDS and len(head) >= kind_at + 6:
        vlan = int.from_bytes(head[kind_at + 2 : kind_at + 4]) & 0xFFF if vlan is None else vlan
        kind_at += 4
    kind, packet = int.from_bytes(head[kind_at : kind_at + 2]), head[kind_at + 2 :]
    protocol = ETHER_TYPES.get(kind, "LLC" if kind < LENGTH_END else f"0x{kind:04x}")
    source_ip = destination_ip = service = None
    if kind in (IPV4, IPV6) and len(packet) >= (20 if kind == IPV4 else 40):
        number, start, size = (packet[9], 12, 4) if kind == IPV4 else (packet[6], 8, 16)
        source_ip, destination_ip = (str(ip_address(packet[at : at + size])) for at in (start, start + size))
        protocol = PROTOCOLS.get(number, f"{protocol} {number}")
        ports = packet[(packet[0] & 0x0F) * 4 if kind == IPV4 else 40 :][:4]
        is_fragment = kind == IPV4 and int.from_bytes(packet[6:8]) & 0x1FFF
        if number in (TCP, UDP) and len(ports) == 4 and not is_fragment:
            service = min(int.from_bytes(ports[:2]), int.from_bytes(ports[2:]))
    forwarded, dropped = _verdicts(flow, names)
    return FlowInfo(
        port=names.get(flow.port, "?"),
        source=head[6:12].hex(":"),
        destination=head[:6].hex(":"),
        vlan=vlan,
        protocol=protocol if len(flow.head) >= 14 else "runt",
        source_ip=source_ip,
        destination_ip=destination_ip,
        service=service,
        frames=flow.frames,
        bytes=flow.size,
        first_s=int(flow.first_ns) / 1e9,
        last_s=int(flow.last_ns) / 1e9,
        forwarded=forwarded,
        more=flow.more,
        drops=dropped,
    )


def _verdicts(flow: Flow, names: Mapping[int, str]) -> tuple[dict[str, int], dict[str, int]]:
    """Frames by the port they went to, and by the reason they were dropped for."""
    forwarded: dict[str, int] = {}
    dropped: dict[str, int] = {}
    for verdict, frames in flow.verdicts.items():
        port, reason = (verdict >> REASON_BITS) - 1, verdict & ((1 << REASON_BITS) - 1)
        name, counts = (DROP_REASONS[reason - 1], dropped) if reason else (names.get(port, "?"), forwarded)
        counts[name] = counts.get(name, 0) + frames
    return forwarded, dropped
