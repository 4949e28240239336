"""What a port asks of its frames: with time as an argument, and counted."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import bridge, check_balance, drops, policed, receive, set_policy, take
from tests.frames import BROADCAST, frame, framed, mac
from vswitch.dataplane.drops import PASSED
from vswitch.dataplane.frame import FRAME_MAX, TPIDS
from vswitch.dataplane.policy import EgressPolicy, IngressPolicy, Limiter, may_be_control
from vswitch.ports.policy import Policy, StaticMac
from vswitch.protocols.guard import Guard
from vswitch.units import Rate

GROUP = 0x0100_5E00_0001
LLDP = 0x0180_C200_000E
OPEN = Policy()


@given(
    st.integers(1, 5000),
    st.integers(1, 2000),
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 40)), max_size=60),
)
def test_a_limit_of_frames_passes_the_burst_and_the_rate_and_no_more(
    per_s: int, burst_ms: int, arrivals: list[tuple[int, int]]
) -> None:
    """In any stretch of time, whenever it begins: what the bucket holds, and what flows in meanwhile."""
    limiter = Limiter(per_s, 0, burst_ms)
    burst = max(1, per_s * burst_ms / 1000)
    now = 5_000_000
    passed: list[int] = []
    for pause_ms, frames in arrivals:
        now += pause_ms
        passed += [now for _ in range(frames) if limiter.passes(60, now)]
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + per_s * (passed[last] - start) / 1000 + 1e-9


@given(st.integers(1000, 10**9), st.lists(st.tuples(st.integers(0, 500), st.integers(14, FRAME_MAX)), max_size=200))
def test_a_limit_of_bits_is_overdrawn_by_one_frame_at_most(per_s: int, arrivals: list[tuple[int, int]]) -> None:
    limiter = Limiter(0, per_s, 100)
    now = 0
    bits = 0
    for pause_ms, length in arrivals:
        now += pause_ms
        if limiter.passes(length, now):
            assert bits < max(1, per_s * (now + 100) / 1000)
            bits += 8 * length


def test_a_limit_passes_what_keeps_to_it_for_ever() -> None:
    limiter = Limiter(10, 8 * 60 * 10, 100)
    assert all(limiter.passes(60, now) for now in range(0, 100_000, 100))
    assert not limiter.passes(60, 99_950)


def test_a_limit_holds_at_the_largest_rate_after_a_long_silence() -> None:
    limiter = Limiter(10**12, 10**12, 60_000)
    assert limiter.passes(FRAME_MAX, 1 << 41)


@pytest.mark.parametrize(
    ("storm", "dst"),
    [
        (Policy(storm_broadcast=Rate(2, 0), burst=1.0), BROADCAST),
        (Policy(storm_multicast=Rate(2, 0), burst=1.0), GROUP),
        (Policy(storm_unknown=Rate(2, 0), burst=1.0), mac(9)),
        (Policy(storm_unknown=Rate(2, 0), burst=1.0), 0),
    ],
)
def test_a_storm_is_held_to_its_rate_and_no_other_frames_are(storm: Policy, dst: int) -> None:
    switch = policed(storm, OPEN)
    receive(switch, 1, [frame(BROADCAST, mac(2))])
    take(switch.ports[0])
    others = {BROADCAST, GROUP, mac(9), mac(2)} - {dst, mac(9) if dst == 0 else dst}
    storming = [frame(dst, mac(1))] * 10 + [frame(other, mac(1)) for other in sorted(others) for _ in range(5)]
    receive(switch, 0, storming, now_ms=1000)
    assert take(switch.ports[1]) == storming[8:]
    assert drops(switch.ports[0]) == {"storm": 8}
    receive(switch, 0, storming[:10], now_ms=1499)
    assert take(switch.ports[1]) == []
    receive(switch, 0, storming[:10], now_ms=1500)
    assert take(switch.ports[1]) == storming[:1]
    check_balance(switch)


def test_a_port_is_held_to_its_rate_whatever_it_sends() -> None:
    switch = policed(Policy(rate=Rate(0, 8 * 1000 * 10), burst=0.1), OPEN)  # ten frames of 1,000 bytes a second
    burst = [frame(BROADCAST, mac(1), 1000)] * 5
    receive(switch, 0, burst, now_ms=10_000)
    assert len(take(switch.ports[1])) == 1
    assert drops(switch.ports[0]) == {"rate_limit": 4}
    receive(switch, 0, burst, now_ms=11_000)
    assert len(take(switch.ports[1])) == 1
    assert drops(switch.ports[0]) == {"rate_limit": 8}


def test_a_frame_longer_than_a_port_takes_neither_comes_in_nor_leaves() -> None:
    switch = policed(Policy(max_frame=100), OPEN)
    burst = [frame(BROADCAST, mac(1), size) for size in (99, 100, 101, 60, 200, 100)]
    receive(switch, 0, burst)
    assert take(switch.ports[1]) == [data for data in burst if len(data) <= 100]
    receive(switch, 1, burst)
    assert take(switch.ports[0]) == [data for data in burst if len(data) <= 100]
    assert drops(switch.ports[0]) == {"too_long": 4}
    assert drops(switch.ports[1]) == {}
    check_balance(switch)


def test_short_frames_leave_padded_where_that_is_asked_for() -> None:
    switch = policed(OPEN, Policy(pad=True), OPEN)
    burst = [frame(BROADCAST, mac(1), size) for size in (14, 59, 60, 61, 14)]
    receive(switch, 0, burst)
    assert take(switch.ports[1]) == [data.ljust(60, b"\0") for data in burst]
    assert take(switch.ports[2]) == burst
    check_balance(switch)


def test_frames_that_need_no_padding_leave_as_the_slice_they_came_in() -> None:
    switch = policed(OPEN, Policy(pad=True, max_frame=1514))
    chunk = framed([frame(BROADCAST, mac(1), 1000)] * 5)
    switch.ingress(switch.ports[0], chunk, 0, 0)
    (run,) = switch.ports[1].waiting()
    assert run.chunk is chunk


def test_isolated_ports_reach_only_ports_that_are_not() -> None:
    alone = Policy(isolated=True)
    switch = policed(alone, alone, OPEN, Policy(vlan=1, isolated=True), Policy(trunk="all", native=1))
    hello = [frame(BROADCAST, mac(number)) for number in range(5)]
    for number in (1, 3, 2, 4):
        receive(switch, number, [hello[number]])
    for port in switch.ports:
        take(port)
    tags = [None, 0, 1]
    burst = [frame(dst, mac(0), tag=tag) for dst in (BROADCAST, mac(1), mac(3), mac(2), mac(9)) for tag in tags]
    receive(switch, 0, burst)
    assert [len(take(port)) for port in switch.ports] == [0, 0, 9, 0, 6]
    assert drops(switch.ports[0]) == {"isolated": 6}
    receive(switch, 2, burst)
    assert len(take(switch.ports[1])) == 9
    check_balance(switch)


def test_reserved_destinations_pass_where_a_port_says_so() -> None:
    switch = policed(Policy(reserved="forward"), OPEN)
    burst = [frame(0x0180_C200_0000 + last, mac(1)) for last in range(17)]
    receive(switch, 0, burst)
    assert take(switch.ports[1]) == burst
    receive(switch, 1, burst)
    assert take(switch.ports[0]) == [burst[0], burst[16]]
    assert drops(switch.ports[1]) == {"reserved": 15}


def test_a_port_that_is_set_down_takes_nothing_and_gets_nothing() -> None:
    switch = policed(OPEN, OPEN, OPEN)
    receive(switch, 1, [frame(BROADCAST, mac(2))])
    set_policy(switch, switch.ports[1], Policy(up=False))
    take(switch.ports[0])
    receive(switch, 1, [frame(BROADCAST, mac(2))])
    receive(switch, 0, [frame(mac(2), mac(1)), frame(BROADCAST, mac(1))])
    assert drops(switch.ports[1])["port_down"] == 1
    assert take(switch.ports[1]) == take(switch.ports[0]) == []
    assert len(take(switch.ports[2])) == 3
    set_policy(switch, switch.ports[1], OPEN)
    receive(switch, 0, [frame(BROADCAST, mac(1))])
    assert len(take(switch.ports[1])) == 1
    check_balance(switch)


def test_a_port_that_is_set_down_stays_down_when_its_link_comes() -> None:
    switch = policed(OPEN, Policy(up=False))
    switch.port_down(switch.ports[1])
    switch.port_up(switch.ports[1])
    receive(switch, 0, [frame(BROADCAST, mac(1))])
    assert drops(switch.ports[0]) == {"no_destination": 1}


def test_only_allowed_addresses_come_in() -> None:
    switch = policed(Policy(allow_mac=(mac(1), mac(3))), OPEN)
    burst = [frame(BROADCAST, mac(number), tag=tag) for number in range(1, 5) for tag in (None, 10)]
    receive(switch, 0, burst)
    assert take(switch.ports[1]) == burst[:2] + burst[4:6]
    assert drops(switch.ports[0]) == {"spoofed_mac": 4}
    assert switch.table.count == 4
    check_balance(switch)


def test_a_locked_port_passes_only_stations_that_are_known_there() -> None:
    switch = policed(Policy(locked=True), OPEN, ageing_ms=1000)
    switch.table.pin(1 << 48 | mac(1), 0)
    receive(switch, 0, [frame(BROADCAST, mac(1)), frame(BROADCAST, mac(2)), frame(BROADCAST, mac(1), tag=10)])
    assert len(take(switch.ports[1])) == 1
    receive(switch, 1, [frame(BROADCAST, mac(3))])
    receive(switch, 0, [frame(BROADCAST, mac(3))])
    assert drops(switch.ports[0]) == {"locked": 3}
    assert switch.table.lookup(1 << 48 | mac(3), 0) == 1
    check_balance(switch)


def test_a_port_has_so_many_stations_and_the_aged_do_not_count() -> None:
    switch = policed(Policy(max_macs=2), OPEN, ageing_ms=10_000)
    receive(switch, 0, [frame(BROADCAST, mac(number)) for number in (1, 2, 3, 1, 4)], now_ms=5000)
    assert drops(switch.ports[0]) == {"max_macs": 2}
    receive(switch, 0, [frame(BROADCAST, mac(1))], now_ms=14_000)
    receive(switch, 0, [frame(BROADCAST, mac(number)) for number in (3, 1, 4)], now_ms=15_000)
    assert drops(switch.ports[0]) == {"max_macs": 3}
    assert [switch.table.lookup(1 << 48 | mac(number), 15_000) for number in (1, 2, 3, 4)] == [0, -1, 0, -1]
    check_balance(switch)


def test_what_a_sticky_port_has_learned_stays_until_it_has_aged() -> None:
    switch = policed(Policy(sticky=True), OPEN, OPEN, ageing_ms=10_000)
    receive(switch, 0, [frame(BROADCAST, mac(1))])
    receive(switch, 1, [frame(BROADCAST, mac(1)), frame(BROADCAST, mac(1), tag=7)], now_ms=9999)
    assert drops(switch.ports[1]) == {"sticky": 1}
    assert switch.table.moves == 0
    receive(switch, 2, [frame(mac(1), mac(2))], now_ms=9999)
    assert take(switch.ports[0])[-1] == frame(mac(1), mac(2))
    receive(switch, 1, [frame(BROADCAST, mac(1))], now_ms=10_000)
    assert switch.table.lookup(1 << 48 | mac(1), 10_000) == 1
    check_balance(switch)


def mirrored(way: str) -> tuple[list[bytes], list[bytes]]:
    """What a mirror of port 0 gets of frames that go in and out there, and those frames."""
    switch = policed(Policy(vlan=10), Policy(trunk=(10,)), OPEN)
    mirror = switch.ports[2]
    set_policy(switch, mirror, Policy(mirror_of=("p0",)))
    mirror.is_mirror = True
    switch.settle(mirror)
    watched = switch.ports[0]
    if way != "out":
        watched.ingress_policy = IngressPolicy()
        watched.mirrors_in = [mirror]
    if way != "in":
        watched.egress_policy = EgressPolicy()
        watched.mirrors_out = [mirror]
    came_in = [frame(BROADCAST, mac(1)), frame(BROADCAST, mac(1), tag=10), b"x" * 13, b"", frame(BROADCAST, mac(1))]
    receive(switch, 0, came_in)
    receive(switch, 1, [frame(mac(1), mac(2), tag=10)])
    left = take(watched)
    assert left == [frame(mac(1), mac(2), 56)]
    check_balance(switch)
    receive(switch, 2, [frame(BROADCAST, mac(7))])
    assert drops(mirror) == {"mirror": 1}
    assert [take(switch.ports[1])[2:], take(watched)] == [[], []]
    return take(mirror), [came_in[0], came_in[1], came_in[4], *left]


@pytest.mark.parametrize(("way", "which"), [("in", slice(0, 3)), ("out", slice(3, 4)), ("both", slice(0, 4))])
def test_a_mirror_gets_what_comes_in_and_what_leaves_and_never_an_empty_frame(way: str, which: slice) -> None:
    got, frames = mirrored(way)
    assert got == frames[which]


def test_nobody_waits_for_a_mirror_that_is_full() -> None:
    switch = policed(OPEN, OPEN, OPEN)
    watched, mirror = switch.ports[0], switch.ports[2]
    mirror.is_mirror = True
    switch.settle(mirror)
    watched.ingress_policy = IngressPolicy()
    watched.mirrors_in = [mirror]
    mirror.queue_bytes_max = 1 << 17
    mirror.block()
    receive(switch, 0, [frame(BROADCAST, mac(1), 1500)] * 100)
    assert drops(mirror) == {"queue_full": 100 - mirror.queued_frames}
    assert mirror.is_pressed()
    assert switch.take_pressed() is None
    assert switch.dirty == [switch.ports[1]]
    check_balance(switch)


IP4, IP6, ARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
TAGS = [tpid.to_bytes(2) + b"\x00\x05" for tpid in TPIDS]
starts = st.sampled_from([b"", IP4, IP6, ARP, *TAGS, b"\x00\x20"])
ip4 = st.builds(
    lambda ihl, fragment, protocol, ports, rest: (
        bytes([0x40 | ihl, 0]) + b"\x00\x40\0\0" + fragment + bytes([64, protocol]) + b"\0" * 10 + ports + rest
    ),
    st.sampled_from([5, 5, 6, 15]),
    st.sampled_from([b"\0\0", b"\x40\0", b"\x20\0", b"\0\x01"]),
    st.sampled_from([1, 6, 17, 47]),
    st.sampled_from([struct.pack("!HH", *ports) for ports in ((68, 67), (67, 68), (5, 68), (67, 5), (5, 6))]),
    st.binary(max_size=60),
)
ip6 = st.builds(
    lambda following, payload, ports: (
        b"\x60\0\0\0" + b"\x00\x40" + bytes([following, 255]) + b"\0" * 32 + ports + payload
    ),
    st.sampled_from([0, 6, 17, 43, 44, 58, 59, 60]),
    st.binary(max_size=80),
    st.sampled_from([struct.pack("!HH", *ports) for ports in ((546, 547), (547, 546), (5, 546), (5, 6))]),
)
arps = st.builds(lambda rest: b"\0\x01\x08\0\x06\x04\0\x01" + rest, st.binary(min_size=20, max_size=40))


@given(starts, starts, st.one_of(ip4, ip6, arps, st.binary(max_size=100)))
def test_the_data_plane_shows_a_guard_every_frame_that_it_would_drop(outer: bytes, inner: bytes, rest: bytes) -> None:
    data = mac(1).to_bytes(6) + mac(2).to_bytes(6) + (outer + inner + rest).ljust(2, b"\0")
    strictest = Guard(dhcp_server=False, router=False, addresses=frozenset())
    if strictest.judge(data) != PASSED:
        assert may_be_control(framed([data]), 0, len(data))


@pytest.mark.parametrize(
    ("what", "seen"),
    [
        (IP4 + b"\x45\0\0\x54\0\0\x40\0\x40\x06", False),  # TCP
        (IP4 + b"\x45\0\0\x54\0\0\x40\0\x40\x11" + b"\0" * 10 + struct.pack("!HH", 5000, 6000), False),
        (IP4 + b"\x45\0\0\x54\0\0\x40\0\x40\x11" + b"\0" * 10 + struct.pack("!HH", 67, 68), True),
        (IP6 + b"\x60\0\0\0\0\x40\x06\x40", False),
        (IP6 + b"\x60\0\0\0\0\x40\x3a\x40", True),
        (ARP, True),
        (b"\x88\xb5", False),
    ],
)
def test_most_of_what_guests_say_is_not_shown_to_a_guard(what: bytes, seen: bool) -> None:
    data = frame(mac(1), mac(2), 14)[:12] + what.ljust(90, b"\0")
    assert may_be_control(framed([data]), 0, len(data)) is seen


def test_a_guard_judges_the_whole_frame_and_only_on_the_port_that_has_one() -> None:
    switch = bridge(2)
    seen: list[bytes] = []

    def guard(data: bytes) -> int:
        seen.append(data)
        return PASSED

    policy = IngressPolicy()
    policy.guard = guard
    switch.ports[0].ingress_policy = policy
    arp = frame(BROADCAST, mac(1))[:12] + ARP + b"\0" * 46
    receive(switch, 0, [frame(mac(9), mac(1)), arp])
    receive(switch, 1, [arp])
    assert seen == [arp]


def test_ports_that_ask_for_nothing_have_no_policy_to_look_at() -> None:
    """Whatever other ports ask for: there is nothing that their frames could be slowed by."""
    asking = Policy(
        vlan=10, isolated=True, max_frame=100, pad=True, rate=Rate(1, 0), static=(StaticMac(mac(1), None),), locked=True
    )
    switch = policed(OPEN, asking, OPEN)
    for port in (switch.ports[0], switch.ports[2]):
        assert (port.plain, port.ingress_policy, port.egress_policy) == (True, None, None)
        assert port.mirrors_in == port.mirrors_out == []


NO_STATIONS = [0, BROADCAST, 0x0100_5E00_0001]


@pytest.mark.parametrize("max_frame", [FRAME_MAX, 9000])
def test_what_no_station_can_have_sent_passes_where_asked_and_is_never_learned(max_frame: int) -> None:
    switch = policed(Policy(sources="any", max_frame=max_frame), Policy())
    for source in NO_STATIONS:
        for destination in (BROADCAST, mac(9), source):
            data = frame(destination, source)
            receive(switch, 0, [data, data])
            assert take(switch.ports[1]) == [data, data]
            receive(switch, 1, [data])
            assert take(switch.ports[0]) == []
    assert switch.table.count == 0
    assert drops(switch.ports[0]) == {}
    assert drops(switch.ports[1]) == {"bad_source": 9}
    check_balance(switch)


@pytest.mark.parametrize("max_frame", [FRAME_MAX, 9000])
def test_reserved_addresses_are_forwarded_where_asked(max_frame: int) -> None:
    switch = policed(Policy(reserved="forward", max_frame=max_frame), Policy())
    for last in range(16):
        data = frame(0x0180_C200_0000 + last, mac(1))
        receive(switch, 0, [data])
        assert take(switch.ports[1]) == [data]
    assert drops(switch.ports[0]) == {}
