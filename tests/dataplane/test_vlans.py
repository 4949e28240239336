"""VLANs: against a model in the plainest words, and what a run is rebuilt for.

The model keeps to whole frames, one at a time, and to IEEE 802.1Q's words; tests/test_ovs.py asks a real switch.
"""

import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import check_balance, drops, policed, receive, set_policy, take
from tests.frames import BROADCAST, frame, mac
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.frame import FRAME_MAX
from vswitch.ports.policy import Policy

TPID, SERVICE = b"\x81\x00", b"\x88\xa8"


def tagged(data: bytes, tci: int, tpid: bytes = TPID) -> bytes:
    """A frame with one more tag."""
    return data[:12] + tpid + struct.pack("!H", tci) + data[12:]


def untagged(data: bytes) -> bytes:
    return data[:12] + data[16:]


@dataclass
class ModelSwitch:
    """Ports by their policies: what a frame becomes, and where."""

    policies: list[Policy]
    table: dict[tuple[int, int], int] = field(default_factory=dict)

    def tpids(self, port: int) -> list[bytes]:
        """What starts a tag in what comes in."""
        if self.policies[port].qinq is not None:
            return []
        return [TPID, SERVICE] if any(policy.qinq for policy in self.policies) else [TPID]

    def carries(self, port: int, vlan: int) -> bool:
        policy = self.policies[port]
        if policy.trunk is not None:
            return policy.trunk == "all" or vlan in (*policy.trunk, policy.native)
        return vlan in (policy.vlan, policy.qinq) if policy.vlan or policy.qinq else True

    def leaves(self, source: int, egress: int, data: bytes, vlan: int) -> bytes:
        """A frame as `egress` sends it."""
        if all(policy.pvid == 1 and policy == Policy() for policy in (self.policies[source], self.policies[egress])):
            return data
        has_tag = data[12:14] in self.tpids(source)
        tci = int.from_bytes(data[14:16]) if has_tag else 0
        bare = untagged(data) if has_tag else data
        if self.policies[egress].pvid == vlan:
            return bare
        tpid = data[12:14] if has_tag else SERVICE if self.policies[source].qinq else TPID
        return tagged(bare, tci & 0xF000 | vlan, tpid)

    def forward(self, port: int, data: bytes) -> dict[int, bytes] | str:
        """Where a frame goes and what it is there, or why it is dropped."""
        if len(data) < 14:
            return "runt"
        policy = self.policies[port]
        vid = 0
        if data[12:14] in self.tpids(port):
            if len(data) < 18:
                return "bad_tag"
            vid = int.from_bytes(data[14:16]) & 0xFFF
        if vid == 4095:
            return "bad_tag"
        takes_tags = policy.trunk is not None or policy == Policy()
        if vid and not (takes_tags and self.carries(port, vid)):
            return "vlan"
        vlan = vid or policy.pvid
        if vlan is None:
            return "vlan"
        dst, src = int.from_bytes(data[:6]), int.from_bytes(data[6:12])
        self.table[vlan, src] = port
        known = self.table.get((vlan, dst))
        if known == port:
            return "same_port"
        targets = [known] if known is not None else [other for other in range(len(self.policies)) if other != port]
        out = {other: self.leaves(port, other, data, vlan) for other in targets if self.carries(other, vlan)}
        return out or "no_destination"


policies = st.sampled_from(
    [
        Policy(),
        Policy(vlan=1),
        Policy(vlan=10),
        Policy(vlan=20),
        Policy(trunk="all"),
        Policy(trunk=(10, 20)),
        Policy(trunk=(1, 10)),
        Policy(trunk="all", native=10),
        Policy(trunk=(20,), native=10),
        Policy(trunk=(10, 4094), native=1),
        Policy(qinq=10),
    ]
)
vids = st.sampled_from([0, 1, 10, 20, 30, 4094, 4095])
tcis = st.builds(lambda vid, priority: priority << 12 | vid, vids, st.integers(0, 15))
tags = st.lists(st.tuples(tcis, st.sampled_from([TPID, TPID, SERVICE])), max_size=2)


def stack(data: bytes, tags: list[tuple[int, bytes]]) -> bytes:
    for tci, tpid in tags:
        data = tagged(data, tci, tpid)
    return data


stations = st.integers(1, 5).map(mac)
frames = st.builds(
    lambda dst, src, payload, tags: stack(frame(dst, src, payload=payload), tags),
    st.one_of(stations, stations, st.just(BROADCAST)),
    stations,
    st.binary(max_size=300),
    tags,
)
cut_off = st.builds(lambda data, size: data[:size], frames, st.integers(1, 20))


@given(
    st.lists(policies, min_size=2, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.lists(st.one_of(frames, frames, cut_off), max_size=10)), max_size=12),
)
def test_agrees_with_a_model_of_a_vlan_switch(ports: list[Policy], bursts: list[tuple[int, list[bytes]]]) -> None:
    model = ModelSwitch(ports)
    switch = policed(*ports)
    for number, burst in bursts:
        port = number % len(ports)
        expected: list[list[bytes]] = [[] for _ in ports]
        reasons: dict[str, int] = {}
        before = drops(switch.ports[port])
        for data in burst:
            verdict = model.forward(port, data)
            if isinstance(verdict, str):
                reasons[verdict] = reasons.get(verdict, 0) + 1
            else:
                for egress, sent in verdict.items():
                    expected[egress].append(sent)
        receive(switch, port, burst)
        check_balance(switch)
        after = drops(switch.ports[port])
        assert {why: after[why] - before.get(why, 0) for why in after if after[why] != before.get(why, 0)} == reasons
        assert [take(egress) for egress in switch.ports] == expected
    assert {(vlan, mac): port for vlan, mac, port, _ in switch.table.entries(0)} == model.table


def only_run(switch: Bridge, port: int) -> bytes:
    """The chunk that all that is queued at a port lies in."""
    (run,) = switch.ports[port].waiting()
    return run.chunk


def test_access_ports_of_one_vlan_pass_the_received_chunk_itself_on() -> None:
    switch = policed(*[Policy(vlan=10)] * 3)
    burst = [frame(BROADCAST, mac(1), 3000)] * 4
    receive(switch, 0, burst)
    assert only_run(switch, 1) is only_run(switch, 2)
    assert only_run(switch, 1)[4:3004] == burst[0]
    assert [take(port) for port in switch.ports] == [[], burst, burst]


def test_a_trunk_passes_tagged_frames_on_to_a_trunk_as_one_slice() -> None:
    switch = policed(Policy(trunk=(10, 20)), Policy(trunk="all"), Policy(trunk=(20,)))
    burst = [frame(BROADCAST, mac(1), 3000, tag=20)] * 4
    receive(switch, 0, burst)
    assert only_run(switch, 1) is only_run(switch, 2)
    assert len(only_run(switch, 1)) == 4 * 3004


def test_a_run_is_rebuilt_once_for_each_kind_of_egress() -> None:
    """Not once for each port: three that send it tagged share one rebuilt run, and so do two that send it bare."""
    kinds = [Policy(trunk=(10,)), Policy(trunk="all"), Policy(), Policy(vlan=10), Policy(trunk=(20,), native=10)]
    switch = policed(Policy(trunk="all"), *kinds)
    burst = [frame(BROADCAST, mac(1), 3000, tag=0x2000 | 10)] * 3
    receive(switch, 0, burst)
    as_it_is, bare = only_run(switch, 1), only_run(switch, 4)
    assert all(only_run(switch, port) is as_it_is for port in (1, 2, 3))
    assert only_run(switch, 5) is bare
    assert take(switch.ports[4]) == [untagged(data) for data in burst]

    for port in switch.ports:
        take(port)
    answer = [frame(BROADCAST, mac(2), 3000)] * 2
    receive(switch, 4, answer)
    pushed = only_run(switch, 0)
    assert all(only_run(switch, port) is pushed for port in (1, 2, 3))
    assert only_run(switch, 5) is not pushed
    assert take(switch.ports[2]) == [tagged(data, 10) for data in answer]


@pytest.mark.parametrize("priority", [0x0000, 0x2000, 0xF000])
def test_priority_and_dei_survive_where_a_tag_does(priority: int) -> None:
    switch = policed(Policy(vlan=10), Policy(trunk=(10,)), Policy(vlan=10), Policy())
    bare = frame(BROADCAST, mac(1))
    receive(switch, 0, [tagged(bare, priority)])
    assert take(switch.ports[1]) == [tagged(bare, priority | 10)]
    assert take(switch.ports[2]) == [bare]
    assert take(switch.ports[3]) == [tagged(bare, priority | 10)]


def test_ports_without_vlan_policy_change_no_frame_whatever_the_others_have() -> None:
    switch = policed(Policy(), Policy(), Policy(vlan=10), Policy(trunk="all", native=1))
    bare = frame(BROADCAST, mac(1))
    burst = [bare, tagged(bare, 0), tagged(bare, 0x6000), tagged(bare, 1), tagged(bare, 10), tagged(bare, 5, SERVICE)]
    receive(switch, 0, burst)
    assert take(switch.ports[1]) == burst
    assert take(switch.ports[2]) == [bare]
    assert take(switch.ports[3]) == [bare, bare, bare, bare, tagged(bare, 10), tagged(bare, 5, SERVICE)]


def test_one_address_lives_in_two_vlans_at_two_ports() -> None:
    switch = policed(Policy(vlan=10), Policy(vlan=20), Policy(trunk="all"))
    receive(switch, 0, [frame(BROADCAST, mac(1))])
    receive(switch, 1, [frame(BROADCAST, mac(1))])
    for port in switch.ports:
        take(port)
    to_both = [frame(mac(1), mac(2), tag=10), frame(mac(1), mac(2), tag=20)]
    receive(switch, 2, to_both)
    assert [take(port) for port in switch.ports] == [[untagged(to_both[0])], [untagged(to_both[1])], []]
    assert switch.table.moves == 0


def test_a_service_tag_goes_over_what_tags_a_customer_sends() -> None:
    switch = policed(Policy(qinq=100), Policy(trunk=(100,)), Policy(qinq=100), Policy(qinq=200))
    bare = frame(BROADCAST, mac(1))
    burst = [bare, tagged(bare, 5), tagged(bare, 4095), tagged(bare, 7, SERVICE), tagged(tagged(bare, 5), 6)]
    receive(switch, 0, burst)
    assert take(switch.ports[1]) == [tagged(data, 100, SERVICE) for data in burst]
    assert take(switch.ports[2]) == burst
    assert take(switch.ports[3]) == []
    receive(switch, 1, [tagged(tagged(bare, 5), 0xE000 | 100, SERVICE), tagged(tagged(bare, 5), 200, SERVICE)])
    assert [take(port) for port in switch.ports] == [[tagged(bare, 5)], [], [tagged(bare, 5)], []]


def test_a_service_tags_type_can_be_set() -> None:
    old = b"\x91\x00"
    switch = policed(Policy(qinq=100, tpid=0x9100), Policy(trunk=(100,)))
    bare = frame(BROADCAST, mac(1))
    receive(switch, 0, [tagged(bare, 5)])
    assert take(switch.ports[1]) == [tagged(tagged(bare, 5), 100, old)]
    receive(switch, 1, [tagged(bare, 100, old), tagged(bare, 100, SERVICE)])
    assert take(switch.ports[0]) == [bare]
    assert drops(switch.ports[1]) == {"vlan": 1}


def test_without_a_customer_port_a_service_tag_is_payload() -> None:
    switch = policed(Policy(vlan=10), Policy(trunk=(10,)), Policy(trunk=(10,)))
    odd = tagged(frame(BROADCAST, mac(1)), 10, SERVICE)
    receive(switch, 0, [odd])
    assert take(switch.ports[1]) == [tagged(odd, 10)]
    receive(switch, 1, [odd])
    assert drops(switch.ports[1]) == {"vlan": 1}


def test_a_double_tag_does_not_hop() -> None:
    """The inner tag of what an access port sends is payload, wherever it goes."""
    switch = policed(Policy(vlan=1), Policy(trunk=(20,), native=1), Policy(vlan=20), Policy(vlan=1))
    hopping = tagged(tagged(frame(BROADCAST, mac(1)), 20), 1)
    receive(switch, 0, [hopping, untagged(hopping)])
    assert drops(switch.ports[0]) == {"vlan": 2}
    receive(switch, 1, [hopping])
    assert take(switch.ports[2]) == []
    assert take(switch.ports[3]) == [untagged(hopping)]


def test_a_tag_is_not_pushed_onto_a_frame_of_the_greatest_length() -> None:
    switch = policed(Policy(vlan=10), Policy(trunk="all"), Policy(vlan=10))
    longest, fits = frame(BROADCAST, mac(1), FRAME_MAX), frame(BROADCAST, mac(1), FRAME_MAX - 4)
    receive(switch, 0, [longest, fits])
    assert take(switch.ports[1]) == [tagged(fits, 10)]
    assert drops(switch.ports[1]) == {"too_long": 1}
    assert take(switch.ports[2]) == [longest, fits]
    check_balance(switch)


def test_a_station_that_is_known_where_its_vlan_does_not_go_is_not_reached() -> None:
    switch = policed(Policy(vlan=10), Policy(vlan=10))
    receive(switch, 1, [frame(BROADCAST, mac(2))])
    set_policy(switch, switch.ports[1], Policy(vlan=20))
    take(switch.ports[0])
    receive(switch, 0, [frame(mac(2), mac(1))])
    assert drops(switch.ports[0]) == {"vlan": 1}


def test_vlan_0_is_apart_from_vlan_1_and_has_vid_0_for_a_tag() -> None:
    """A trunk that carries 0 untagged and 1 tagged, one with 0 tagged, and a port of each VLAN; as in vde_switch."""
    trunk, other, zero, one, ten = range(5)
    policies = [Policy(trunk=(1,), native=0), Policy(trunk=(0, 1), native=10)]
    switch = policed(*policies, *(Policy(trunk=(), native=vlan) for vlan in (0, 1, 10)), Policy())
    bare = frame(BROADCAST, mac(1))
    of = {vid: tagged(bare, vid) for vid in (0, 1, 10, 0xA000)}
    nothing: list[bytes] = []
    for source, sent, got in (
        (trunk, bare, {other: of[0], zero: bare}),
        (trunk, of[0], {other: of[0], zero: bare}),
        (trunk, of[0xA000], {other: of[0xA000], zero: bare}),
        (trunk, of[1], {other: of[1], one: bare, 5: bare}),
        (other, of[0], {trunk: bare, zero: bare}),
        (other, of[1], {trunk: of[1], one: bare, 5: bare}),
        (other, bare, {ten: bare, 5: of[10]}),
        (zero, bare, {trunk: bare, other: of[0]}),
        (zero, of[1], {}),
        (one, bare, {trunk: of[1], other: of[1], 5: bare}),
        (one, of[1], {trunk: of[1], other: of[1], 5: bare}),
        (ten, of[0], {other: bare, 5: of[10]}),
        (5, bare, {trunk: of[1], other: of[1], one: bare}),
        (zero, tagged(bare, 0xFFF), {}),
    ):
        receive(switch, source, [sent])
        found = [take(port) for port in switch.ports]
        assert found == [[got[port]] if port in got else nothing for port in range(6)], (source, sent)
    keys = {(vlan, mac) for vlan, mac, _, _ in switch.table.entries(0)}
    assert keys == {(4095, mac(1)), (1, mac(1)), (10, mac(1))}
    check_balance(switch)
