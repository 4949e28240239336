"""The journal: every frame that comes in is there once, and so is every copy, whatever became of it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import bridge, check_balance, drops, policed, receive, set_policy, take, taken
from tests.frames import BROADCAST, frame, framed, mac, unframed
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.drops import DROP_REASONS, UNREACHABLE
from vswitch.dataplane.frame import FRAME_MAX
from vswitch.dataplane.journal import IN, OUT, UNKNOWN
from vswitch.dataplane.port import QUEUE_BYTES_MIN, Port
from vswitch.ports.policy import Policy
from vswitch.units import Rate

NOW_NS = 1_795_363_200_123_456_789


class Noted(NamedTuple):
    """One frame of an entry; `reason` is a drop's name, or None."""

    port: int
    direction: int
    reason: str | None
    id: int
    data: bytes


def watched(switch: Bridge) -> Bridge:
    switch.journal.on = True
    switch.journal.time_ns = NOW_NS
    return switch


def noted(switch: Bridge) -> list[Noted]:
    """What the journal has, frame by frame."""
    found = []
    for entry in taken(switch):
        frames = unframed(entry.chunk[entry.start : entry.end])
        assert len(frames) == entry.frames > 0
        assert entry.time_ns == NOW_NS
        reason = DROP_REASONS[entry.reason] if entry.reason >= 0 else None
        for number, data in enumerate(frames):
            frame_id = entry.first if entry.first == UNKNOWN else entry.first + number
            found.append(Noted(entry.port, entry.direction, reason, frame_id, data))
    return found


def at(found: Iterable[Noted], port: int, direction: int) -> list[bytes]:
    """What passed."""
    return [one.data for one in found if (one.port, one.direction, one.reason) == (port, direction, None)]


def reasons(found: Iterable[Noted], port: int) -> dict[str, int]:
    return dict(Counter(one.reason for one in found if one.port == port and one.reason is not None))


def later_drops(found: Iterable[Noted], port: int) -> int:
    """Of what had been queued."""
    return sum(one.reason == "port_down" and one.direction == OUT for one in found if one.port == port)


policies = st.sampled_from(
    [
        Policy(),
        Policy(),
        Policy(vlan=10),
        Policy(trunk="all"),
        Policy(trunk=(10, 20), native=10),
        Policy(qinq=10),
        Policy(isolated=True),
        Policy(max_frame=100),
        Policy(max_frame=100, pad=True),
        Policy(vlan=10, pad=True),
        Policy(sticky=True),
        Policy(locked=True),
        Policy(max_macs=1),
        Policy(allow_mac=(mac(1), mac(2))),
        Policy(rate=Rate(10, 0)),
        Policy(storm_broadcast=Rate(10, 0)),
        Policy(up=False),
    ]
)
frames = st.one_of(
    st.builds(
        frame,
        st.one_of(st.integers(1, 5).map(mac), st.sampled_from([BROADCAST, BROADCAST, 0x0180_C200_0001, 0])),
        st.one_of(st.integers(1, 5).map(mac), st.just(BROADCAST)),
        st.sampled_from([14, 59, 60, 97, 101]),
        tag=st.sampled_from([None, None, 0, 10, 20, 0xFFF]),
    ),
    st.builds(lambda data, size: data[:size], st.builds(frame, st.just(mac(1)), st.just(mac(2))), st.integers(0, 18)),
    st.sampled_from([frame(BROADCAST, mac(1), FRAME_MAX), frame(BROADCAST, mac(1), FRAME_MAX - 3, tag=10)]),
)
bursts = st.lists(st.tuples(st.integers(0, 4), st.lists(frames, max_size=8)), max_size=10)


@given(st.lists(policies, min_size=1, max_size=5), bursts, st.booleans(), st.integers(0, 5), st.integers(0, 5))
def test_every_frame_is_there_as_it_came_in_and_every_copy_as_it_is_to_leave(
    ports: list[Policy], bursts: list[tuple[int, list[bytes]]], hub: bool, blocked: int, down: int
) -> None:
    """The port `blocked` sends nothing, one port goes down in the end, and what the others have queued is sent."""
    switch = watched(policed(*ports))
    switch.hub = hub
    for port in switch.ports:
        if port.index == blocked:
            port.queue_bytes_max = QUEUE_BYTES_MIN
            port.block()
    found: list[Noted] = []
    came: list[tuple[int, bytes]] = []
    for number, burst in bursts:
        source = number % len(ports)
        receive(switch, source, burst)
        came += [(source, data) for data in burst]
        new = noted(switch)
        found += new
        for egress in switch.ports:
            if egress.index != blocked:
                assert take(egress) == at(new, egress.index, OUT)
    if down < len(ports):
        switch.port_down(switch.ports[down])
        found += noted(switch)
    came_in = [one for one in found if one.direction == IN]
    assert [(one.port, one.data) for one in came_in] == came
    assert [one.id for one in came_in] == list(range(len(came)))
    check_ids(found, came)
    for port in switch.ports:
        check_counters(found, port)
    check_balance(switch)


def check_ids(found: list[Noted], came: list[tuple[int, bytes]]) -> None:
    """A copy has the id of what it is a copy of, and no port has two of them."""
    copies = [one for one in found if one.direction == OUT and one.id != UNKNOWN]
    assert len({(one.id, one.port) for one in copies}) == len(copies)
    for one in copies:
        port, data = came[one.id]
        assert port != one.port
        assert one.data.startswith(data[:12])
    assert all(one.reason in (None, "too_long", "port_down") or one.id != UNKNOWN for one in found)


def check_counters(found: list[Noted], port: Port) -> None:
    """The journal's frames are those that the port has counted."""
    mine = [one for one in found if one.port == port.index]
    came_in = [one for one in mine if one.direction == IN]
    assert (len(came_in), sum(len(one.data) for one in came_in)) == (port.rx_frames, port.rx_bytes)
    assert reasons(mine, port.index) == drops(port)
    passed = len(at(mine, port.index, OUT))
    assert passed == port.tx_frames + port.queued_frames + later_drops(mine, port.index)


def test_all_copies_of_a_frame_have_its_id() -> None:
    switch = watched(bridge(4))
    burst = [frame(BROADCAST, mac(1), payload=b"a"), frame(BROADCAST, mac(1), payload=b"b")]
    receive(switch, 1, burst)
    assert [one for one in noted(switch) if one.data == burst[1]] == [
        Noted(1, IN, None, 1, burst[1]),
        *(Noted(port, OUT, None, 1, burst[1]) for port in (0, 2, 3)),
    ]


def test_entries_refer_to_the_chunk_that_came_in() -> None:
    switch = watched(bridge(3))
    chunk = framed([frame(BROADCAST, mac(1))] * 5)
    switch.ingress(switch.ports[0], chunk, 0, 0)
    entries = taken(switch)
    assert [(entry.port, entry.direction, entry.first, entry.frames) for entry in entries] == [
        (0, IN, 0, 5),
        (1, OUT, 0, 5),
        (2, OUT, 0, 5),
    ]
    assert all(entry.chunk is chunk for entry in entries)


REFUSED = {
    "runt": (Policy(), frame(BROADCAST, mac(1))[:13]),
    "bad_source": (Policy(), frame(mac(2), BROADCAST)),
    "bad_tag": (Policy(trunk="all"), frame(BROADCAST, mac(1), tag=0xFFF)),
    "reserved": (Policy(), frame(0x0180_C200_000E, mac(1))),
    "same_port": (Policy(), frame(mac(1), mac(1))),
    "no_destination": (Policy(vlan=99), frame(BROADCAST, mac(1))),
    "vlan": (Policy(vlan=99), frame(BROADCAST, mac(1), tag=10)),
    "too_long": (Policy(max_frame=100), frame(BROADCAST, mac(1), 101)),
    "spoofed_mac": (Policy(allow_mac=(mac(7),)), frame(BROADCAST, mac(1))),
    "locked": (Policy(locked=True), frame(BROADCAST, mac(1))),
    "port_down": (Policy(up=False), frame(BROADCAST, mac(1))),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_frame_that_is_refused_is_there_once_with_the_reason(why: str) -> None:
    policy, data = REFUSED[why]
    switch = watched(policed(policy, Policy(vlan=10)))
    receive(switch, 0, [data])
    assert noted(switch) == [Noted(0, IN, why, 0, data)]
    assert drops(switch.ports[0]) == {why: 1}


def test_what_a_full_queue_does_not_take_is_there_with_the_ids_it_came_in_by() -> None:
    switch = watched(bridge(2))
    port = switch.ports[1]
    port.queue_bytes_max = 200
    port.block()
    receive(switch, 0, [frame(BROADCAST, mac(1), payload=bytes([number])) for number in range(5)])
    found = [one for one in noted(switch) if one.direction == OUT]
    assert sorted((one.id, one.reason, one.data[14]) for one in found) == [
        (number, None if number < 3 else "queue_full", number) for number in range(5)
    ]
    assert port.queued_frames == 3


def test_what_is_rebuilt_is_there_as_it_leaves() -> None:
    switch = watched(policed(Policy(vlan=10), Policy(trunk=(10,)), Policy(vlan=10, pad=True), Policy(vlan=10)))
    data = frame(BROADCAST, mac(1), 40)
    receive(switch, 0, [data])
    assert noted(switch) == [
        Noted(0, IN, None, 0, data),
        Noted(1, OUT, None, 0, data[:12] + b"\x81\x00\x00\x0a" + data[12:]),
        Noted(2, OUT, None, 0, data.ljust(60, b"\0")),
        Noted(3, OUT, None, 0, data),
    ]


def test_what_grows_too_long_is_there_as_it_would_have_left_without_its_tag() -> None:
    switch = watched(policed(Policy(vlan=10), Policy(trunk=(10,)), Policy(vlan=10)))
    longest, fits = frame(BROADCAST, mac(1), FRAME_MAX), frame(BROADCAST, mac(1), FRAME_MAX - 4)
    receive(switch, 0, [longest, fits])
    found = noted(switch)
    assert [(one.reason, len(one.data)) for one in found if one.port == 1] == [
        ("too_long", FRAME_MAX),
        (None, FRAME_MAX),
    ]
    assert [(one.id, one.data) for one in found if one.port == 2] == [(0, longest), (1, fits)]


def test_a_mirror_has_copies_with_the_ids_of_what_they_are_copies_of() -> None:
    mirrored = Policy(max_frame=1000)
    switch = watched(policed(mirrored, mirrored, Policy(mirror_of=("any",))))
    mirror = switch.ports[2]
    switch.ports[0].mirrors_in = switch.ports[1].mirrors_out = [mirror]
    switch.active.remove(mirror)
    burst = [frame(BROADCAST, mac(1)), frame(mac(1), mac(1)), frame(BROADCAST, mac(1), payload=b"x")]
    receive(switch, 0, burst)
    copies = [(one.id, one.data) for one in noted(switch) if one.port == 2]
    assert sorted(copies) == [(0, burst[0]), (0, burst[0]), (1, burst[1]), (2, burst[2]), (2, burst[2])]
    assert mirror.queued_frames == 5


def lose_link(switch: Bridge, port: Port) -> None:
    switch.port_down(port)


def lose_head(switch: Bridge, port: Port) -> None:
    while port.queued_frames:
        port.drop_head(UNREACHABLE)


def become_full(switch: Bridge, port: Port) -> None:
    port.queue_bytes_max = 0
    port.block()


LOST: dict[str, object] = {"port_down": lose_link, "unreachable": lose_head, "queue_full": become_full}


@pytest.mark.parametrize("why", LOST)
def test_what_is_dropped_after_it_was_queued_is_there_again_with_the_reason(why: str) -> None:
    switch = watched(bridge(3))
    port = switch.ports[1]
    burst = [frame(BROADCAST, mac(1), size) for size in (60, 3000, 70)]
    receive(switch, 0, burst)
    receive(switch, 0, burst)
    noted(switch)
    LOST[why](switch, port)  # type: ignore[operator]
    assert noted(switch) == [Noted(1, OUT, why, UNKNOWN, data) for data in [*burst, *burst]]
    assert drops(port) == {why: 6}
    receive(switch, 0, burst)
    assert [one.id for one in noted(switch) if one.port == 2] == [6, 7, 8]


def pictures(switch: Bridge) -> Iterator[object]:
    for port in switch.ports:
        yield take(port), drops(port), port.rx_frames, port.rx_bytes


@given(st.lists(policies, min_size=1, max_size=5), bursts, st.booleans())
def test_forwarding_is_the_same_whether_somebody_watches_or_not(
    ports: list[Policy], bursts: list[tuple[int, list[bytes]]], hub: bool
) -> None:
    seen, unseen = watched(policed(*ports)), policed(*ports)
    for switch in (seen, unseen):
        switch.hub = hub
        for number, burst in bursts:
            receive(switch, number % len(ports), burst)
    assert list(pictures(seen)) == list(pictures(unseen))
    assert taken(unseen) == []


def test_ids_go_on_after_a_time_without_anybody_who_watches() -> None:
    """A capture that begins later does not take the ids of frames that another has."""
    switch = watched(bridge(2))
    for _ in range(2):
        receive(switch, 0, [frame(BROADCAST, mac(1))] * 3)
        switch.journal.on = False
        receive(switch, 0, [frame(BROADCAST, mac(1))] * 5)
        switch.journal.on = True
    receive(switch, 1, [frame(BROADCAST, mac(2))])
    assert [one.id for one in noted(switch) if one.direction == IN] == list(range(7))


def test_a_policy_that_changes_is_gone_by_in_the_journal_too() -> None:
    switch = watched(policed(Policy(vlan=10), Policy(vlan=10)))
    receive(switch, 0, [frame(BROADCAST, mac(1))])
    set_policy(switch, switch.ports[1], Policy(vlan=20))
    receive(switch, 0, [frame(BROADCAST, mac(1))])
    assert [(one.port, one.reason) for one in noted(switch)] == [(0, None), (1, None), (0, "no_destination")]


def test_a_port_that_takes_the_index_of_one_that_is_gone_is_another() -> None:
    switch = watched(bridge(2))
    for _ in range(3):
        switch.remove_port(switch.ports[1])
        switch.port_up(switch.add_port(QUEUE_BYTES_MIN))
        receive(switch, 0, [frame(BROADCAST, mac(1))])
    assert switch.ports[1].index == 1
    assert [one.port for one in noted(switch) if one.direction == OUT and one.reason is None] == [2, 3, 4]
