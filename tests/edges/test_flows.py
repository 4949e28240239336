"""Flows: frames that go together are counted together, with what became of them."""

import struct
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import policed, receive
from tests.frames import BROADCAST, frame, mac
from vswitch.control.flows import flow_info
from vswitch.control.model import FlowInfo
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.journal import IN
from vswitch.dataplane.twin import Observer
from vswitch.edges.flows import FLOWS_MAX, FLOWS_OF_PORT_MAX, VERDICTS_MAX, Flows
from vswitch.endpoints.url import parse
from vswitch.ports.policy import Policy

NAMES = {0: "a", 1: "b", 2: "c"}


def ip(source: str, destination: str, protocol: int, payload: bytes, *, tag: int | None = None) -> bytes:
    ends = ip_address(source).packed, ip_address(destination).packed
    if len(ends[0]) == 4:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, *ends)
    else:
        head = struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, *ends)
    ether = mac(2).to_bytes(6) + mac(1).to_bytes(6)
    ether += b"" if tag is None else struct.pack("!HH", 0x8100, tag)
    return ether + (b"\x08\x00" if len(ends[0]) == 4 else b"\x86\xdd") + head + payload


def ports(source: int, destination: int) -> bytes:
    return struct.pack("!HH", source, destination) + bytes(16)


def taken(entries: list[Any], since_ns: int = 0) -> Flows:
    found = Flows()
    found.take(entries, since_ns)
    found.close()
    return found


def of(*frames: bytes) -> list[FlowInfo]:
    """The flows of frames that come in by the first port of three."""
    lan = policed(*[Policy()] * 3)
    observer = Observer()
    lan.journal.add(observer)
    receive(lan, 0, list(frames))
    lan.journal.hand_on()
    return [flow_info(flow, NAMES) for flow in taken(observer.entries).flows]


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (ip("10.0.0.1", "10.0.0.2", 6, ports(40000, 22)), ("TCP", 22, "10.0.0.1", "10.0.0.2", None)),
        (ip("10.0.0.1", "10.0.0.2", 17, ports(53, 40000), tag=5), ("UDP", 53, "10.0.0.1", "10.0.0.2", 5)),
        (ip("10.0.0.1", "10.0.0.2", 1, bytes(8)), ("ICMP", None, "10.0.0.1", "10.0.0.2", None)),
        (ip("10.0.0.1", "10.0.0.2", 99, b""), ("IPv4 99", None, "10.0.0.1", "10.0.0.2", None)),
        (ip("fe80::1", "fe80::2", 58, bytes(8)), ("ICMPv6", None, "fe80::1", "fe80::2", None)),
        (ip("fe80::1", "fe80::2", 6, ports(40000, 80)), ("TCP", 80, "fe80::1", "fe80::2", None)),
        (frame(BROADCAST, mac(1)), ("0x88b5", None, None, None, None)),
        (frame(BROADCAST, mac(1), tag=7), ("0x88b5", None, None, None, 7)),
        (b"short", ("runt", None, None, None, None)),
    ],
    ids=["tcp", "udp", "icmp", "other", "icmpv6", "tcp6", "ether", "tagged", "runt"],
)
def test_a_flow_says_what_its_frames_are(sent: bytes, says: tuple[Any, ...]) -> None:
    [flow] = of(sent, sent)
    assert (flow.protocol, flow.service, flow.source_ip, flow.destination_ip, flow.vlan) == says
    assert (flow.port, flow.frames, flow.bytes) == ("a", 2, 2 * len(sent))
    assert (flow.forwarded, flow.drops) == (({}, {"runt": 2}) if sent == b"short" else ({"b": 2, "c": 2}, {}))


def test_a_service_is_one_flow_whatever_port_its_clients_have() -> None:
    clients = [ip("10.0.0.1", "10.0.0.2", 6, ports(40000 + number, 80)) for number in range(10)]
    assert [flow.frames for flow in of(*clients)] == [10]


HEADS = st.builds(
    lambda dst, src, tag, rest: frame(dst, src, 14, tag=tag)[: -2 if rest else None] + rest,
    st.sampled_from([mac(1), mac(2), mac(3), BROADCAST]),
    st.sampled_from([mac(1), mac(2), mac(3)]),
    st.sampled_from([None, None, 10, 20, 4095]),
    st.sampled_from([b"", b"\x08\x06", b"\x08\x00" + bytes(10), b"\x08\x00" + bytes(40)])
    | st.builds(
        lambda kind, packet: kind + packet, st.sampled_from([b"\x08\x00", b"\x86\xdd"]), st.binary(max_size=60)
    ),
)
FRAMES = HEADS | st.binary(max_size=20)
POLICIES = st.sampled_from(["", "vlan=10", "trunk=10,20", "isolated=yes", "max_frame=64", "locked=yes", "pad=yes"])


def observed(policies: Iterable[str]) -> tuple[Bridge, Observer]:
    lan = policed(*(parse(f"unix:///x?single=yes&{query}").policy for query in policies))
    observer = Observer()
    lan.journal.add(observer)
    return lan, observer


def counted(found: Flows) -> Counter[Any]:
    """How often each verdict was for each kind of flow."""
    counts: Counter[Any] = Counter()
    for flow in found.flows:
        info = flow_info(flow, NAMES)
        kind = info.port, info.source, info.destination, info.vlan, info.protocol, info.source_ip, info.service
        counts[kind] += info.frames
        counts += Counter({(kind, name): frames for name, frames in (*info.forwarded.items(), *info.drops.items())})
    return counts


@given(
    st.lists(POLICIES, min_size=3, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.lists(FRAMES, min_size=1, max_size=8)), max_size=6),
)
def test_runs_are_counted_as_their_frames_would_be_one_by_one(
    policies: list[str], batches: list[tuple[int, list[bytes]]]
) -> None:
    (lan, observer), (other, one_by_one) = observed(policies), observed(policies)
    for port, sent in batches:
        receive(lan, port, sent)
        for single in sent:
            receive(other, port, [single])
    lan.journal.hand_on()
    other.journal.hand_on()
    found = taken(observer.entries)
    unknown = [entry for entry in observer.entries if entry.first < 0]
    if not unknown:  # what is dropped as too long where it leaves has no number
        assert counted(found) == counted(taken(one_by_one.entries))
    assert sum(flow.frames for flow in found.flows) == sum(len(sent) for _, sent in batches)


def test_a_port_has_so_many_flows_at_most() -> None:
    lan, observer = observed(["", ""])
    for number in range(FLOWS_OF_PORT_MAX + 10):
        receive(lan, 0, [frame(BROADCAST, mac(number))])
    receive(lan, 1, [frame(BROADCAST, mac(9999))])
    lan.journal.hand_on()
    found = taken(observer.entries)
    assert (len(found.flows), found.others) == (FLOWS_OF_PORT_MAX + 1, 10)


def test_all_ports_together_have_so_many_at_most() -> None:
    many = FLOWS_MAX // FLOWS_OF_PORT_MAX + 1
    lan, observer = observed([""] * many)
    for port in range(many):
        stations = (mac(port << 16 | number) for number in range(FLOWS_OF_PORT_MAX))
        receive(lan, port, [frame(station, station) for station in stations])
    lan.journal.hand_on()
    found = taken(observer.entries)
    assert (len(found.flows), found.others) == (FLOWS_MAX, many * FLOWS_OF_PORT_MAX - FLOWS_MAX)


def test_of_a_flood_to_many_ports_some_are_told() -> None:
    lan, observer = observed([""] * 40)
    receive(lan, 0, [frame(BROADCAST, mac(number)) for number in (1, 1, 2)])
    lan.journal.hand_on()
    found = taken(observer.entries)
    assert [(flow.frames, len(flow.verdicts), flow.more) for flow in found.flows] == [
        (2, VERDICTS_MAX, 2 * (39 - VERDICTS_MAX)),
        (1, VERDICTS_MAX, 39 - VERDICTS_MAX),
    ]


def test_vlans_of_old_service_tags_are_flows_of_their_own() -> None:
    head = mac(2).to_bytes(6) + mac(1).to_bytes(6)
    tagged = [head + b"\x91\x00" + vlan.to_bytes(2) + b"\x08\x06" + bytes(40) for vlan in (10, 20)]
    assert [(flow.vlan, flow.protocol) for flow in of(*tagged)] == [(10, "ARP"), (20, "ARP")]


def test_what_came_before_is_left_out() -> None:
    lan, observer = observed(["", ""])
    for time_ns in (1000, 2000):
        lan.journal.time_ns = time_ns
        receive(lan, 0, [frame(BROADCAST, mac(time_ns))])
    lan.journal.hand_on()
    assert [flow.first_ns for flow in taken(observer.entries, 2000).flows] == [2000]
    assert [entry.time_ns for entry in observer.entries if entry.direction == IN] == [1000, 2000]
