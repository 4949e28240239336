"""Checksums and segmentation that senders leave to the switch: what scapy says of the frames that come of it."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.dataplane.plumbing import bridge, check_balance, drops, policed, take, taken
from tests.frames import framed
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.frame import FRAME_MAX
from vswitch.dataplane.journal import IN, OUT
from vswitch.dataplane.offload import HEADER_SIZE, SEGMENT_MIN, finish, header_of, shifted, sum_of, unfinished_of
from vswitch.dataplane.port import Port
from vswitch.dataplane.run import Run
from vswitch.ports.policy import Policy

A, B = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
NEEDS_CSUM, TCPV4, UDP_FRAGMENTS, TCPV6, ECN = 1, 1, 3, 4, 0x80


def header(flags: int, kind: int, size: int, start: int, offset: int) -> bytes:
    """struct virtio_net_hdr_v1."""
    return struct.pack("<BBHHHHH", flags, kind, 0, size, start, offset, 0)


def pseudo_sum(packet: Packet) -> int:
    """What a sender writes in place of a checksum that it leaves to others."""
    data = bytes(packet.payload)
    if packet.version == 4:
        addresses, protocol = bytes(packet)[12:20], packet.proto
    else:
        addresses, protocol = bytes(packet)[8:40], (TCP in packet and 6) or 17
    total = sum(struct.unpack(f"!{len(addresses) // 2}H", addresses)) + protocol
    transport = bytes(packet[TCP] if TCP in packet else packet[UDP])
    return int(total) + len(data[data.index(transport) :])


def left_to_do(frame: Packet, size: int = 0, kind: int = 0) -> tuple[bytes, int]:
    """A frame as a sender hands it on that leaves its checksum, or its segmentation, to others."""
    layer = TCP if TCP in frame else UDP
    network = frame[IP] if IP in frame else frame[IPv6]
    total = pseudo_sum(network)
    frame[layer].chksum = (total & 0xFFFF) + (total >> 16)
    raw = bytes(frame)
    start = len(raw) - len(bytes(frame[layer]))
    return raw, unfinished_of(header(NEEDS_CSUM, kind, size, start, 16 if layer is TCP else 6))


def finished(unfinished: int, *frames: bytes) -> list[bytes]:
    run = Run(framed(frames), 0, len(framed(frames)), len(frames), unfinished)
    done = finish(run).run
    switch = bridge(1)
    switch.ports[0].enqueue(done.chunk, done.start, done.end, done.frames)
    assert switch.ports[0].queued_frames == done.frames
    return take(switch.ports[0])


def check_sums(raw: bytes) -> Packet:
    """The frame, whose lengths and checksums are right."""
    packet = Ether(raw)
    again = packet.copy()
    for layer, fields in ((IP, ("chksum", "len")), (IPv6, ("plen",)), (TCP, ("chksum",)), (UDP, ("chksum", "len"))):
        if layer in again:
            for field in fields:
                delattr(again[layer], field)
    right = Ether(bytes(again))
    for layer in (IP, IPv6, TCP, UDP):
        if layer in right:
            ours, theirs = packet[layer].fields, right[layer].fields
            assert {name: value or 0xFFFF for name, value in ours.items() if name in ("chksum", "len", "plen")} == {
                name: value or 0xFFFF for name, value in theirs.items() if name in ("chksum", "len", "plen")
            }
    return packet


ethernets = st.sampled_from([Ether(src=A, dst=B), Ether(src=A, dst=B) / Dot1Q(vlan=7, prio=3)])
networks = st.sampled_from(
    [
        IP(src="10.0.0.1", dst="10.255.255.254", id=0xFFFE, tos=1),
        IP(src="10.0.0.1", dst="10.0.0.2", options=b"\1\1\1\1"),
        IPv6(src="fd00::1", dst="ffff:ffff::ffff", tc=2),
        IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt(),
    ]
)
tcps = st.builds(
    lambda seq, flags, options: TCP(seq=seq, sport=1, dport=2, flags=flags, options=options),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["A", "PA", "FPA", "CA", "CFPA", "EA"]),
    st.sampled_from([[], [("Timestamp", (1, 2))], [("NOP", None)] * 40]),
)


@given(ethernets, networks, tcps, st.binary(min_size=1, max_size=3000), st.integers(SEGMENT_MIN, 1500))
def test_a_long_frame_becomes_segments(ether: Packet, network: Packet, tcp: Packet, data: bytes, size: int) -> None:
    frame = ether / network / tcp / Raw(data)
    kind = TCPV4 if IP in frame else TCPV6
    raw, unfinished = left_to_do(frame, size, kind | (ECN if "C" in str(tcp.flags) else 0))
    segments = [check_sums(segment) for segment in finished(unfinished, raw)]
    assert b"".join(bytes(segment[TCP].payload) for segment in segments) == data
    assert [len(segment[TCP].payload) for segment in segments[:-1]] == [size] * (len(segments) - 1)
    flags = set(str(tcp.flags))
    for number, segment in enumerate(segments):
        missing = ({"F", "P"} if number < len(segments) - 1 else set()) | ({"C"} if number else set())
        assert set(str(segment[TCP].flags)) == flags - missing
        assert segment[TCP].seq == (tcp.seq + number * size) % 2**32
        assert segment[TCP].options == Ether(raw)[TCP].options
        assert bytes(segment)[: 14 if IP in frame else 12] == raw[: 14 if IP in frame else 12]
        if IP in frame:
            assert segment[IP].id == (Ether(raw)[IP].id + number) % 2**16


@given(ethernets, networks, st.booleans(), st.binary(max_size=3000))
def test_a_frame_gets_its_checksum(ether: Packet, network: Packet, is_tcp: bool, data: bytes) -> None:
    layer = TCP(sport=1, dport=2) if is_tcp else UDP(sport=1, dport=2)
    raw, unfinished = left_to_do(ether / network / layer / Raw(data))
    (done,) = finished(unfinished, raw)
    packet = check_sums(done)
    assert packet[TCP if is_tcp else UDP].chksum != 0
    assert len(done) == len(raw)


@given(st.binary(max_size=100))
def test_a_sum_is_that_of_the_words(data: bytes) -> None:
    padded = data + b"\0" * (len(data) % 2)
    words = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    assert sum_of(b"\xff" + data, 1, 1 + len(data)) % 0xFFFF == words % 0xFFFF


@given(st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_a_header_says_what_it_was_made_of(kind: int, size: int, start: int, offset: int) -> None:
    said = header(NEEDS_CSUM, kind, size, start, offset)
    assert header_of(unfinished_of(said)) == said
    if start < 0xFFFC:
        assert header_of(shifted(unfinished_of(said), 4)) == header(NEEDS_CSUM, kind, size, start + 4, offset)
    assert len(said) == HEADER_SIZE
    assert unfinished_of(header(2, 0, 0, 0, 0)) == 0, "that the checksum is right says nothing is left to do"
    assert header_of(0) == bytes(HEADER_SIZE)


TSO = left_to_do(Ether(src=A, dst=B) / IP() / TCP() / Raw(bytes(200)), 100, TCPV4)[0]
words = st.integers(0, 80) | st.integers(0, 0xFFFF)
hostile = st.one_of(
    st.binary(max_size=120),
    st.builds(
        lambda at, new: TSO[:at] + new + TSO[at + len(new) :], st.integers(0, 60), st.binary(min_size=1, max_size=3)
    ),
    st.integers(0, len(TSO)).map(lambda size: TSO[:size]),
)


@given(
    st.lists(hostile, max_size=4),
    st.integers(0, 1),
    st.sampled_from([0, TCPV4, UDP_FRAGMENTS, TCPV6, ECN, ECN | TCPV4, 5, 255]) | st.integers(0, 255),
    words,
    words,
    words,
)
def test_whatever_a_header_says_a_frame_is_finished_or_dropped(
    frames: list[bytes], flags: int, kind: int, size: int, start: int, offset: int
) -> None:
    unfinished = unfinished_of(header(flags, kind, size, start, offset))
    if unfinished == 0:
        return
    for policy in (Policy(), Policy(max_macs=5), Policy(max_frame=1000)):
        switch = policed(policy, Policy(), Policy(max_frame=100))
        switch.ingress_unfinished(switch.ports[0], framed(frames), unfinished, 0)
        check_balance(switch)
        for port in switch.ports:
            assert all(len(frame) <= FRAME_MAX for frame in take(port))
        check_balance(switch)


def taking(ports: int, *able: int) -> Bridge:
    switch = bridge(ports)
    for number in able:
        switch.ports[number].takes_unfinished = True
    return switch


def left(port: Port) -> list[tuple[int, int]]:
    """What is left to do for the frames that are queued at a port, and how many are."""
    return [(run.unfinished, run.frames) for run in port.waiting()]


def test_a_flood_is_finished_for_those_that_need_it() -> None:
    raw, unfinished = left_to_do(Ether(src=A, dst=B) / IP() / TCP() / Raw(bytes(4000)), 1000, TCPV4)
    switch = taking(4, 0, 1)
    switch.ingress_unfinished(switch.ports[0], framed([raw, raw]), unfinished, 0)
    assert left(switch.ports[1]) == [(unfinished, 2)]
    assert take(switch.ports[1]) == [raw, raw]
    first, second = (port.waiting()[0] for port in switch.ports[2:])
    assert first.chunk is second.chunk, "it is made once"
    assert [port.segmented for port in switch.ports] == [0, 0, 2, 2]
    assert [port.queued_frames for port in switch.ports] == [0, 0, 8, 8]
    check_balance(switch)


@pytest.mark.parametrize(("layer", "size", "expected"), [(TCP, 1000, 0), (TCP, 0, 0), (UDP, 0, 0xFFFF)])
def test_a_checksum_of_zero_is_written_as_its_protocol_has_it(layer: type[TCP | UDP], size: int, expected: int) -> None:
    """One in 65,536."""
    whole = Ether(src=A, dst=B) / IP() / layer() / Raw(bytes(900))
    missing = int(Ether(bytes(whole))[layer].chksum)
    packet = Ether(src=A, dst=B) / IP() / layer() / Raw(missing.to_bytes(2) + bytes(898))
    raw, unfinished = left_to_do(packet, size, TCPV4 if size else 0)
    switch = taking(2)
    switch.ingress_unfinished(switch.ports[0], framed([raw]), unfinished, 0)
    [sent] = take(switch.ports[1])
    assert int(Ether(sent)[layer].chksum) == expected


def test_who_watches_sees_what_is_left_to_do() -> None:
    raw, unfinished = left_to_do(Ether(src=A, dst=B) / IP() / TCP() / Raw(bytes(4000)), 1000, TCPV4)
    switch = taking(3, 0, 1)
    switch.journal.on = True
    switch.ingress_unfinished(switch.ports[0], framed([raw]), unfinished, 0)
    noted = [(entry.port, entry.direction, entry.frames, entry.unfinished) for entry in taken(switch)]
    assert noted == [(0, IN, 1, unfinished), (1, OUT, 1, unfinished), (2, OUT, 4, 0)]


def test_a_checksum_is_counted_for_each_port_that_needs_it() -> None:
    raw, unfinished = left_to_do(Ether(src=A, dst=B) / IP() / UDP() / Raw(b"x"))
    switch = taking(3, 1)
    switch.ingress_unfinished(switch.ports[0], framed([raw]), unfinished, 0)
    assert [(port.segmented, port.checksummed) for port in switch.ports] == [(0, 0), (0, 0), (0, 1)]
    check_sums(take(switch.ports[2])[0])
    assert take(switch.ports[1]) == [raw]


def test_what_follows_is_as_it_was() -> None:
    raw, unfinished = left_to_do(Ether(src=A, dst=B) / IP() / UDP() / Raw(b"x"))
    switch = taking(2, 1)
    switch.ingress_unfinished(switch.ports[0], framed([raw]), unfinished, 0)
    switch.ingress(switch.ports[0], framed([raw]), 0, 0)
    assert left(switch.ports[1]) == [(unfinished, 1), (0, 1)]
    assert take(switch.ports[1]) == [raw, raw]


def test_a_tag_moves_what_is_left_to_do() -> None:
    raw, unfinished = left_to_do(Ether(src=A, dst=B) / IP() / TCP() / Raw(bytes(2000)), 500, TCPV4)
    switch = policed(Policy(vlan=7), Policy(trunk=(7,)), Policy(trunk=(7,)), Policy(vlan=7))
    switch.ports[1].takes_unfinished = True
    switch.ingress_unfinished(switch.ports[0], framed([raw]), unfinished, 0)
    assert left(switch.ports[1]) == [(shifted(unfinished, 4), 1)]
    (tagged,) = take(switch.ports[1])
    assert Ether(tagged)[Dot1Q].vlan == 7
    cut = [check_sums(frame) for frame in take(switch.ports[2])]
    assert [(frame[Dot1Q].vlan, len(frame[TCP].payload)) for frame in cut] == [(7, 500)] * 4
    assert [len(check_sums(frame)[TCP].payload) for frame in take(switch.ports[3])] == [500] * 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda raw, left: (raw[:40], left),
        lambda raw, left: (raw, left | 1 << 54),
        lambda raw, left: (raw, left & ~(0xFFFF << 32)),
        lambda raw, left: (raw[:23] + b"\x11" + raw[24:], left),
    ],
    ids=["cut off", "of no kind", "no size", "not TCP"],
)
def test_one_that_is_not_what_it_says_is_dropped(wrong: Callable[[bytes, int], tuple[bytes, int]]) -> None:
    raw, unfinished = left_to_do(Ether(src=A, dst=B) / IP() / TCP() / Raw(bytes(2000)), 500, TCPV4)
    good = taking(2)
    good.ingress_unfinished(good.ports[0], framed([raw]), unfinished, 0)
    assert len(take(good.ports[1])) == 4
    raw, unfinished = wrong(raw, unfinished)
    for policy, counted in ((Policy(), 1), (Policy(max_macs=5), 0)):
        switch = policed(policy, Policy())
        switch.ingress_unfinished(switch.ports[0], framed([raw]), unfinished, 0)
        assert drops(switch.ports[counted]) == {"bad_offload": 1}
        check_balance(switch)


def test_policies_see_what_is_on_the_wire() -> None:
    raw, unfinished = left_to_do(Ether(src=A, dst=B) / IP() / TCP() / Raw(bytes(4000)), 1000, TCPV4)
    switch = policed(Policy(max_frame=1100), Policy(), Policy(max_frame=900))
    switch.ports[1].takes_unfinished = switch.ports[2].takes_unfinished = True
    switch.ingress_unfinished(switch.ports[0], framed([raw]), unfinished, 0)
    assert switch.ports[0].rx_frames == 4
    assert left(switch.ports[1]) == [(0, 4)]
    assert drops(switch.ports[2]) == {"too_long": 4}
    check_balance(switch)


def test_a_full_port_keeps_what_is_left_to_do() -> None:
    raw, unfinished = left_to_do(Ether(src=A, dst=B) / IP() / TCP() / Raw(bytes(4000)), 1000, TCPV4)
    small, sum_left = left_to_do(Ether(src=A, dst=B) / IP() / UDP() / Raw(b"x"))
    switch = taking(2, 1)
    port = switch.ports[1]
    switch.ingress_unfinished(switch.ports[0], framed([raw, raw]), unfinished, 0)
    port.block()
    switch.ingress_unfinished(switch.ports[0], framed([small]), sum_left, 0)
    switch.ingress(switch.ports[0], framed([small]), 0, 0)
    assert left(port) == [(unfinished, 2), (sum_left, 1), (0, 1)]
    port.drop_head(8)
    assert left(port) == [(unfinished, 1), (sum_left, 1), (0, 1)]
    port.sent(4 + len(raw))
    assert left(port) == [(sum_left, 1), (0, 1)]
    check_balance(switch)
