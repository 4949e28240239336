"""Classify, learn, forward, flood: against a model of a learning switch, and policy by policy."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import FEWER, bridge, check_balance, drops, receive, take
from tests.frames import BROADCAST, frame, framed, mac
from vswitch.dataplane.bridge import BROKEN
from vswitch.dataplane.frame import FRAME_MAX

PORTS = 4
AGEING_MS = 1000
RESERVED = 0x0180_C200_0000


@dataclass
class ModelSwitch:
    """A learning switch in the plainest words: IEEE 802.1D 7.7 on whole frames, one at a time."""

    table: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def egress(self, port: int, data: bytes, now_ms: int) -> list[int] | str:
        """The ports a frame leaves by, or why it is dropped."""
        if len(data) < 14:
            return "runt"
        dst, src = int.from_bytes(data[:6]), int.from_bytes(data[6:12])
        vlan = 1
        if data[12:14] == b"\x81\x00":
            vid = int.from_bytes(data[14:16]) & 0xFFF
            if len(data) < 18 or vid == 4095:
                return "bad_tag"
            vlan = vid or 1
        if src == 0 or src >> 40 & 1:
            return "bad_source"
        if RESERVED < dst <= RESERVED + 15:
            return "reserved"
        self.table[vlan, src] = (port, now_ms)
        known, seen = self.table.get((vlan, dst), (None, -AGEING_MS))
        if dst >> 40 & 1 or known is None or now_ms - seen >= AGEING_MS:
            return [other for other in range(PORTS) if other != port]
        return "same_port" if known == port else [known]


stations = st.integers(1, 6).map(mac)
destinations = st.one_of(
    stations,
    st.sampled_from([0, BROADCAST, 0x0100_5E00_0001, RESERVED, RESERVED + 1, RESERVED + 15, RESERVED + 16]),
)
sources = st.one_of(stations, stations, st.sampled_from([0, BROADCAST, 0x0300_0000_0001]))
tags = st.sampled_from([None, None, None, 0, 1, 10, 0xE00A, 0xFFF, 0xF000])
frames = st.one_of(
    st.builds(frame, destinations, sources, st.integers(14, 200), tag=tags, payload=st.binary(max_size=8)),
    st.builds(lambda data, size: data[:size], st.builds(frame, destinations, sources, tag=tags), st.integers(0, 18)),
)


@given(st.lists(st.tuples(st.integers(0, PORTS - 1), st.lists(frames, max_size=12), st.integers(0, 600)), max_size=20))
def test_agrees_with_a_model_of_a_learning_switch(bursts: list[tuple[int, list[bytes], int]]) -> None:
    model = ModelSwitch()
    switch = bridge(PORTS, ageing_ms=AGEING_MS)
    expected_drops: list[dict[str, int]] = [{} for _ in range(PORTS)]
    now_ms = 0
    for port, burst, pause_ms in bursts:
        expected: list[list[bytes]] = [[] for _ in range(PORTS)]
        for data in burst:
            verdict = model.egress(port, data, now_ms)
            if isinstance(verdict, str):
                expected_drops[port][verdict] = expected_drops[port].get(verdict, 0) + 1
            else:
                for egress in verdict:
                    expected[egress].append(data)
        receive(switch, port, burst, now_ms)
        check_balance(switch)
        assert [take(switch.ports[egress]) for egress in range(PORTS)] == expected
        now_ms += pause_ms
    assert [drops(port) for port in switch.ports] == expected_drops
    check_balance(switch)
    live = {key: port for key, (port, seen) in model.table.items() if now_ms - seen < AGEING_MS}
    assert {(vlan, mac): port for vlan, mac, port, _ in switch.table.entries(now_ms)} == live


def test_a_move_counts_within_one_chunk() -> None:
    """A speaks at port 1 and, behind it in the same read, a frame to A: it must see the new entry."""
    switch = bridge(3)
    receive(switch, 0, [frame(BROADCAST, mac(1))])
    receive(switch, 1, [frame(mac(9), mac(2)), frame(BROADCAST, mac(1)), frame(mac(1), mac(2))])
    assert frame(mac(1), mac(2)) not in take(switch.ports[0])
    assert drops(switch.ports[1]) == {"same_port": 1}
    assert switch.table.moves == 1


def test_a_run_of_one_flow_is_one_slice_of_its_chunk() -> None:
    switch = bridge(2)
    receive(switch, 1, [frame(BROADCAST, mac(2))])
    chunk = framed([frame(mac(2), mac(1), 100)] * 50)
    switch.ingress(switch.ports[0], chunk, 0, 0)
    (run,) = switch.ports[1].waiting()
    assert run.chunk is chunk
    assert (run.start, run.end, run.frames) == (0, len(chunk), 50)


def test_a_flood_with_nowhere_to_go_is_a_drop() -> None:
    switch = bridge(1)
    receive(switch, 0, [frame(BROADCAST, mac(1))] * 3)
    assert drops(switch.ports[0]) == {"no_destination": 3}
    check_balance(switch)


def test_a_port_that_is_down_gets_no_flood_and_loses_its_stations_and_queue() -> None:
    switch = bridge(3)
    receive(switch, 1, [frame(BROADCAST, mac(2))])
    receive(switch, 0, [frame(mac(2), mac(1))])
    switch.port_down(switch.ports[1])
    receive(switch, 0, [frame(mac(2), mac(1)), frame(BROADCAST, mac(1))])
    assert drops(switch.ports[1]) == {"port_down": 1}
    assert take(switch.ports[1]) == []
    assert len(take(switch.ports[2])) == 3
    check_balance(switch)


def test_a_removed_port_counts_on_and_its_index_is_used_again() -> None:
    switch = bridge(3)
    receive(switch, 2, [frame(BROADCAST, mac(3))])
    receive(switch, 0, [frame(BROADCAST, mac(1))] * 5)
    switch.remove_port(switch.ports[2])
    check_balance(switch)
    again = switch.add_port(1 << 20)
    assert again.index == 2
    assert switch.table.lookup(1 << 48 | mac(3), 0) == -1
    assert switch.gone.drops[7] == 5  # port_down: its queue
    check_balance(switch)


@pytest.mark.parametrize("length", [FRAME_MAX + 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_a_prefix_over_the_longest_frame_breaks_the_stream_after_what_came_before(length: int) -> None:
    switch = bridge(2)
    good = frame(BROADCAST, mac(1))
    chunk = framed([good]) + length.to_bytes(4) + good
    assert switch.ingress(switch.ports[0], chunk, 0, 0) == BROKEN
    assert take(switch.ports[1]) == [good]


@pytest.mark.parametrize("make", [lambda at: at, lambda at: at * 7919 % 5000], ids=["ascending", "scattered"])
def test_a_million_source_addresses_hurt_nobody_else(make: Callable[[int], int]) -> None:
    switch = bridge(3, table_size=1024)
    receive(switch, 1, [frame(BROADCAST, mac(1))])
    take(switch.ports[0])
    take(switch.ports[2])
    for start in range(0, 1_000_000 // FEWER, 2000):
        receive(switch, 0, [frame(mac(1), mac(1000 + start + make(at)), 14) for at in range(2000)])
        assert len(take(switch.ports[1])) == 2000
    assert take(switch.ports[2]) == []
    assert switch.table.count <= 1024
    check_balance(switch)
