"""The loop guard on switches whose ports are joined in memory: what is blocked, what not, and when it ends."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import check_balance, drops, receive, take
from tests.frames import BROADCAST, frame, mac
from vswitch.endpoints.url import parse
from vswitch.ports.loop_guard import (
    BLOCKED_PERIOD_MS,
    DOUBLED_MAX,
    MOVES_MIN,
    PORTION,
    SUSPECT_PERIOD_MS,
    UNANSWERED,
    UPLINK_PERIOD_MS,
)
from vswitch.ports.partition import Partition
from vswitch.ports.policy import Policy
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports
from vswitch.protocols.loop_probe import AGE_MAX_MS, ETHERTYPE, KEY_SIZE, MARK, Probe, Probes

End = tuple["Switch", SwitchPort]
STEPS = 64
PATIENCE_MAX = 2 * UNANSWERED


class Switch:
    """Its ports, as far as the data plane and the guard know them, and frames that wait for what is behind them."""

    def __init__(self) -> None:
        self.ports = Ports(table_size=1024, ageing_s=300)
        self.now_ms = 1000

    def add(self, name: str, query: str = "", *, is_uplink: bool = False) -> SwitchPort:
        port = self.ports.add(name, name, parse(f"unix:///x?single=yes&{query}"))
        self.ports.loop._by_port.append(None)
        self.plug(port, is_uplink=is_uplink)
        return port

    def plug(self, port: SwitchPort, *, is_uplink: bool = False) -> None:
        self.ports.bridge.port_up(port.port)
        port.is_uplink = is_uplink
        self.ports.loops.plugged(port)

    def unplug(self, port: SwitchPort) -> None:
        self.ports.bridge.port_down(port.port)
        self.ports.loops.unplugged(port)

    def receive(self, port: SwitchPort, *frames: bytes) -> None:
        if frames:
            receive(self.ports.bridge, port.port.index, list(frames), self.now_ms)
            self.ports.loops.look(self.now_ms)

    def pass_time(self, by_ms: int = BLOCKED_PERIOD_MS) -> None:
        self.now_ms += by_ms
        self.ports.loops.probe_regularly(self.now_ms)

    def blocked(self) -> set[str]:
        return {port.name for port in self.ports if not port.port.forwards}

    def said(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(event.code, event.ports) for event in self.ports.events.kept()]

    def close(self) -> None:
        check_balance(self.ports.bridge)
        for port in list(self.ports):
            if port in self.ports.loops._peers:
                self.unplug(port)
            self.ports.remove(port)
        assert not self.ports.bridge.selective
        assert not self.ports.loops._regular
        self.ports.close()


class Cables:
    """Joins ports, two by two, or to a repeater that sends what comes by one to all others."""

    def __init__(self, *segments: tuple[End, ...]) -> None:
        self.segments = list(segments)

    def run(self) -> bool:
        """Have frames go on for some steps; answers whether there are none any more."""
        return not all(self.step() for _ in range(STEPS))

    def step(self) -> bool:
        waiting = [(segment, end, take(end[1].port)) for segment in self.segments for end in segment]
        for segment, end, frames in waiting:
            for switch, port in segment:
                if (switch, port) != end or len(segment) == 1:
                    switch.receive(port, *frames)
        return any(frames for _, _, frames in waiting)


@contextmanager
def switches(number: int = 1) -> Iterator[list[Switch]]:
    made = [Switch() for _ in range(number)]
    try:
        yield made
    finally:
        for switch in made:
            switch.close()


def probes(port: SwitchPort) -> list[bytes]:
    """The probes that wait at a port; other frames are lost."""
    return [sent for sent in take(port.port) if MARK in sent]


def suspect(switch: Switch, *ports: SwitchPort, source: int = 99) -> None:
    """A station moves between ports, often enough to look like a loop."""
    for number in range(MOVES_MIN + 1):
        switch.receive(ports[number % len(ports)], frame(mac(source), mac(source)))


async def test_a_cable_from_one_port_to_another_has_the_newer_one_blocked() -> None:
    with switches() as [switch]:
        guest, old, new = (switch.add(name) for name in ("guest", "old", "new"))
        cable = Cables(((switch, old), (switch, new)))
        switch.receive(guest, frame(BROADCAST, mac(1)))
        assert cable.run()
        assert switch.blocked() == {"new"}
        assert switch.said() == [("loop", ("new", "old"))]
        text = switch.ports.events.kept()[0].text
        assert text.startswith("new is blocked: what is sent by ")
        assert text.endswith(": both lead to one LAN; take one of the links out; then it takes part again by itself")
        was = take(guest.port)
        switch.receive(guest, frame(BROADCAST, mac(1)))
        assert cable.run()
        assert (len(was) < STEPS, take(guest.port)) == (True, [])
        assert drops(new.port)["loop"] > 0
        assert {drop for port in (old, new) for drop in drops(port.port)} >= {"probe", "loop"}


@pytest.mark.parametrize("is_uplink", [False, True])
async def test_of_two_cables_between_two_switches_one_stays(is_uplink: bool) -> None:
    with switches(2) as [here, there]:
        guest, host = here.add("guest"), there.add("host")
        ends = [((here, here.add(name, is_uplink=is_uplink)), (there, there.add(name))) for name in ("one", "two")]
        cables = Cables(*ends)
        if is_uplink:
            here.pass_time()  # which finds the loop before there is a frame
            cables.run()
            assert here.blocked() == {"two"}
        here.receive(guest, frame(BROADCAST, mac(1)))
        assert cables.run()
        assert here.blocked() | there.blocked() == {"two"}
        take(host.port)
        take(guest.port)
        there.receive(host, frame(BROADCAST, mac(2)))
        here.receive(guest, frame(BROADCAST, mac(3)))
        assert cables.run()
        assert (take(guest.port), take(host.port)) == ([frame(BROADCAST, mac(2))], [frame(BROADCAST, mac(3))])


async def test_the_loop_is_mended_and_the_blocked_port_takes_part_again() -> None:
    with switches(2) as [here, there]:
        guest, host = here.add("guest"), there.add("host")
        ends = [((here, here.add(name)), (there, there.add(name))) for name in ("one", "two")]
        cables = Cables(*ends)
        here.receive(guest, frame(BROADCAST, mac(1)))
        assert cables.run()
        for _ in range(4 * PATIENCE_MAX):  # as long as there is a loop, it stays
            for switch in (here, there):
                switch.pass_time()
            cables.run()
            assert here.blocked() | there.blocked() == {"two"}
        for switch, port in cables.segments.pop(0):
            switch.unplug(port)
        for _ in range(PATIENCE_MAX << DOUBLED_MAX):
            for switch in (here, there):
                switch.pass_time()
            cables.run()
        assert here.blocked() | there.blocked() == set()
        assert {code for switch in (here, there) for code, _ in switch.said()} == {"loop", "loop_over"}
        take(host.port)
        here.receive(guest, frame(BROADCAST, mac(1)))
        cables.run()
        assert take(host.port) == [frame(BROADCAST, mac(1))]


async def test_two_switches_that_blocked_one_link_each_leave_one_in_the_end() -> None:
    with switches(2) as [here, there]:
        guest, host = here.add("guest"), there.add("host")
        one, two = here.add("one"), here.add("two")
        second, first = there.add("two"), there.add("one")  # the other order
        cables = Cables(((here, one), (there, first)), ((here, two), (there, second)))
        here.receive(guest, frame(BROADCAST, mac(1)))
        assert cables.run()
        for _ in range(PATIENCE_MAX << DOUBLED_MAX + 1):
            for switch in (here, there):
                switch.pass_time()
                cables.run()
        assert len([*here.blocked(), *there.blocked()]) == 1
        take(host.port)
        here.receive(guest, frame(BROADCAST, mac(1)))
        assert cables.run()
        assert take(host.port) == [frame(BROADCAST, mac(1))]


async def test_three_links_into_one_lan_leave_one() -> None:
    with switches() as [switch]:
        guest = switch.add("guest")
        names = ("one", "two", "three")
        lan = Cables(tuple((switch, switch.add(name, is_uplink=True)) for name in names))
        switch.pass_time()
        lan.run()
        switch.receive(guest, frame(BROADCAST, mac(1)))
        assert lan.run()
        assert switch.blocked() == {"two", "three"}


async def test_a_port_that_all_comes_back_by_is_blocked_and_no_other() -> None:
    with switches() as [switch]:
        guest, _, echo = switch.add("guest"), switch.add("other"), switch.add("echo")
        echoing = Cables(((switch, echo),))
        for _ in range(MOVES_MIN):
            switch.receive(guest, frame(BROADCAST, mac(1)))
            assert echoing.run()
        assert switch.blocked() == {"echo"}
        for _ in range(4 * PATIENCE_MAX):
            switch.pass_time()
            echoing.run()
        assert switch.blocked() == {"echo"}
        for _ in range(PATIENCE_MAX + 1):
            switch.pass_time()
        assert switch.blocked() == set()


@pytest.mark.parametrize(
    ("old", "new", "blocked", "said"),
    [
        ("", "", {"new"}, 1),
        ("", "loop=warn", {"old"}, 1),
        ("loop=warn", "loop=warn", set(), 1),
        ("loop=off", "loop=off", set(), 0),
        ("vlan=10", "vlan=20", set(), 0),  # as with a firewall between the two that is a bridge
        ("isolated", "isolated", set(), 0),
        ("vlan=10", "trunk=10,20", set(), 0),
        ("native=10&trunk=20", "vlan=10", {"new"}, 1),
        ("trunk=20,30", "trunk=30,40", {"new"}, 1),
        ("qinq=10", "qinq=10", {"new"}, 1),
        ("allow_mac=52:54:00:00:00:01", "rate=1Mbit/s", {"new"}, 1),
        ("up=no", "", set(), 0),
    ],
)
async def test_what_is_blocked_goes_by_policy(old: str, new: str, blocked: set[str], said: int) -> None:
    with switches() as [switch]:
        ports = [switch.add(name, query, is_uplink=True) for name, query in (("old", old), ("new", new))]
        cable = Cables(((switch, ports[0]), (switch, ports[1])))
        for _ in range(4):
            switch.pass_time(UPLINK_PERIOD_MS)
            cable.run()
        assert (switch.blocked(), len(switch.said())) == (blocked, said)


async def test_parted_ports_are_in_no_loop() -> None:
    with switches() as [switch]:
        ports = [switch.add(name, is_uplink=True) for name in ("old", "new")]
        partition = Partition([["old"], ["new"]])
        switch.ports.wiring.part(partition)
        switch.pass_time()
        Cables(((switch, ports[0]), (switch, ports[1]))).run()
        assert switch.blocked() == set()
        switch.ports.wiring.heal(partition)


async def test_a_guests_port_is_blocked_rather_than_an_uplink() -> None:
    with switches() as [switch]:
        guest, uplink = switch.add("guest"), switch.add("uplink", is_uplink=True)
        cable = Cables(((switch, guest), (switch, uplink)))
        suspect(switch, guest, uplink)
        cable.run()
        assert switch.blocked() == {"guest"}


async def test_a_port_that_is_to_be_open_is_opened() -> None:
    with switches() as [switch]:
        old, new = (switch.add(name, is_uplink=True) for name in ("old", "new"))
        switch.pass_time()
        Cables(((switch, old), (switch, new))).run()
        assert switch.blocked() == {"new"}
        switch.ports.wiring.set_policy(new, Policy(loop="off"))
        switch.pass_time()
        assert switch.blocked() == set()


async def test_a_port_that_is_plugged_anew_is_not_blocked_any_more() -> None:
    with switches() as [switch]:
        old, new = (switch.add(name, is_uplink=True) for name in ("old", "new"))
        switch.pass_time()
        Cables(((switch, old), (switch, new))).run()
        switch.unplug(new)
        switch.plug(new)
        assert switch.blocked() == set()
        guest = switch.add("guest")
        switch.receive(guest, frame(BROADCAST, mac(1)))
        assert take(new.port) == [frame(BROADCAST, mac(1))]


async def test_nothing_but_probes_passes_a_blocked_port() -> None:
    """Static entries and held ones included."""
    with switches() as [switch]:
        guest = switch.add("guest")
        old, new = switch.add("old", is_uplink=True), switch.add("new", "static=52:54:00:00:00:05", is_uplink=True)
        switch.pass_time()
        Cables(((switch, old), (switch, new))).run()
        switch.receive(guest, frame(mac(5), mac(1)), frame(BROADCAST, mac(1)))
        switch.receive(new, frame(BROADCAST, mac(5)), frame(mac(1), mac(6)))
        assert (take(new.port), take(guest.port)) == ([], [])
        assert (drops(guest.port), drops(new.port)["loop"]) == ({"loop": 1}, 2)


async def test_stations_are_forgotten_that_the_loop_had_moved() -> None:
    with switches() as [switch]:
        guest, old, new = (switch.add(name) for name in ("guest", "old", "new"))
        cable = Cables(((switch, old), (switch, new)))
        switch.receive(guest, frame(BROADCAST, mac(1)))
        assert cable.run()
        switch.pass_time()
        other = switch.add("other")
        switch.receive(other, frame(mac(1), mac(2)))
        assert take(guest.port)[-1:] == [frame(mac(1), mac(2))]


async def test_a_lan_without_a_loop_is_as_quiet_as_its_guests() -> None:
    with switches() as [switch]:
        ports = [switch.add(name) for name in ("a", "b")]
        uplink = switch.add("uplink", is_uplink=True)
        for port in ports * (MOVES_MIN // 2):  # a guest is migrated there and back
            switch.pass_time(UPLINK_PERIOD_MS)
            assert not any(probes(it) for it in (*ports, uplink))
            switch.receive(port, frame(mac(9), mac(1)))


@pytest.mark.parametrize("ports", [200, 2000])
async def test_many_ports_are_probed_a_few_at_a_time(ports: int) -> None:
    with switches() as [switch]:
        uplinks = [switch.add(f"p{number}", is_uplink=True) for number in range(ports)]
        rounds = -(-ports // PORTION)
        for _ in range(rounds):
            switch.pass_time()
            assert sum(port.port.queued_frames > 0 for port in uplinks) <= PORTION
            assert sum(len(probes(port)) for port in uplinks) <= PORTION
        assert all(port.port.tx_frames in (1, 2) for port in uplinks)


async def test_who_moves_stations_all_the_time_causes_few_probes() -> None:
    with switches() as [switch]:
        one, two = switch.add("one"), switch.add("two")
        for _ in range(1000):
            suspect(switch, one, two)
        assert len(probes(one)) + len(probes(two)) <= 2
        for _ in range(5 * SUSPECT_PERIOD_MS):
            switch.now_ms += 1
            suspect(switch, one, two)
        assert len(probes(one)) + len(probes(two)) <= 2 * 2 * 5


async def test_what_a_guest_plays_back_blocks_nobody_but_himself() -> None:
    with switches() as [switch]:
        victims, guest = [switch.add(name, is_uplink=True) for name in ("up1", "up2")], switch.add("guest")
        switch.pass_time()
        suspect(switch, guest, victims[0])
        stolen = probes(guest)
        assert stolen
        switch.receive(guest, *stolen)
        assert switch.blocked() == {"guest"}


async def test_a_probe_of_long_ago_or_of_another_peer_says_nothing() -> None:
    with switches() as [switch]:
        one, two = switch.add("one", is_uplink=True), switch.add("two", is_uplink=True)
        switch.pass_time()
        old = probes(one)
        switch.now_ms += AGE_MAX_MS + 1
        switch.receive(two, *old)
        switch.pass_time()
        sent = probes(one)
        switch.unplug(one)
        switch.plug(one)
        switch.receive(two, *sent)
        assert switch.blocked() == set()
        assert drops(two.port) == {"probe": 2}


def tampered(probe: bytes) -> st.SearchStrategy[bytes]:
    """What somebody may make of a probe that he has seen, and that is not that probe."""
    changed = st.tuples(st.integers(12, len(probe) - 1), st.integers(1, 255)).map(
        lambda at: probe[: at[0]] + bytes([probe[at[0]] ^ at[1]]) + probe[at[0] + 1 :]
    )
    tail = st.binary(max_size=80)
    return (
        changed | tail.map(lambda rest: probe[:12] + rest) | tail.map(lambda rest: probe[:12] + ETHERTYPE + MARK + rest)
    )


@given(st.data())
async def test_whatever_a_guest_makes_of_a_probe_blocks_nobody(data: st.DataObject) -> None:
    with switches() as [switch]:
        for name in ("up1", "up2"):
            switch.add(name, is_uplink=True)
        guest, other = switch.add("guest"), switch.add("other")
        switch.pass_time()
        suspect(switch, guest, other)
        [stolen] = probes(guest)
        forged = data.draw(st.lists(tampered(stolen), max_size=4))
        for one in forged:
            switch.receive(guest, one)
            if one[12:14] == ETHERTYPE and len(one) > 32:
                assert drops(guest.port)["probe"] > 0
        switch.pass_time()
        assert switch.blocked() == set()
        assert switch.said() == []


@given(st.binary(max_size=200))
def test_any_bytes_are_no_probe(data: bytes) -> None:
    assert Probes(bytes(KEY_SIZE)).read(data, 0) is None


@given(st.integers(0, 2**63), st.integers(1, 4095), st.integers(0, 2**40), st.sampled_from([0, 1, 2]))
def test_a_probe_says_what_was_written_whatever_tags_it_got(peer: int, vlan: int, now_ms: int, tags: int) -> None:
    mine, others = Probes(bytes(KEY_SIZE)), Probes(b"\1" * KEY_SIZE)
    probe = Probe(peer, vlan, now_ms)
    sent = mine.write(probe, (b"\x81\x00" + vlan.to_bytes(2)) * tags)
    assert mine.read(sent, now_ms) == mine.read(sent + bytes(9), now_ms + AGE_MAX_MS) == probe
    assert mine.read(sent, now_ms + AGE_MAX_MS + 1) is mine.read(sent, now_ms - 1) is others.read(sent, now_ms) is None
    assert mine.address != others.address
    assert int.from_bytes(sent[:6]) == mine.address
    assert sent[0] & 3 == 3
    assert sent[6] & 3 == 2
    assert sent[6:12] != mine.write(Probe(peer ^ 1, vlan, now_ms))[6:12]  # no bridge sees a station move
    assert len(sent) >= 60
