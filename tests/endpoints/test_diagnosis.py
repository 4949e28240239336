"""What is wrong in a LAN though nothing fails is an event that says what to do."""

from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, until
from vswitch import VSwitch
from vswitch.dataplane.drops import DROP_REASONS
from vswitch.dataplane.mac_table import mac_key
from vswitch.endpoints.url import parse
from vswitch.ports import diagnosis
from vswitch.ports.diagnosis import drops
from vswitch.ports.diagnosis.moves import LOOP_MOVES, MOVES_MIN, QEMU_MAC, WINDOW_S, Flapping, Moves
from vswitch.ports.diagnosis.silence import SILENT_S
from vswitch.ports.event import Event
from vswitch.ports.policy import Policy, mac_text
from vswitch.ports.ports import Ports
from vswitch.ports.reasons import REASONS

FROM_NOBODY = frame(BROADCAST, 0x0100_5E00_0001)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it looked for all the time."""
    monkeypatch.setattr(diagnosis, "LOOK_PERIOD_S", 0.001)


def wrong(switch: VSwitch) -> list[Event]:
    return [event for event in switch.events.kept() if event.code not in ("up", "down")]


async def found(switch: VSwitch, code: str) -> Event:
    """The first event of a code."""
    await until(lambda: any(event.code == code for event in wrong(switch)))
    return next(event for event in wrong(switch) if event.code == code)


def test_every_reason_has_its_words() -> None:
    assert list(REASONS) == list(DROP_REASONS)
    assert all(reason.about and reason.advice for reason in REASONS.values())


@pytest.mark.usefixtures("at_once")
async def test_a_port_whose_guest_cannot_be_answered_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    async with VSwitch() as switch:
        bad = await Peer.plugged_into(switch, name="bad")
        open_to_all = await Peer.plugged_into(switch, name="any", sources="any")
        right = await Peer.plugged_into(switch, name="right")
        await open_to_all.send(FROM_NOBODY)
        assert await right.receive(1) == [FROM_NOBODY]
        await bad.send(FROM_NOBODY, frame(BROADCAST, 0))
        await found(switch, "bad_source")
        await bad.send(FROM_NOBODY, frame(BROADCAST, mac(1)))
        assert await right.receive(1) == [frame(BROADCAST, mac(1))]
        assert next(port for port in switch.ports() if port.name == "bad").drops == {"bad_source": 3}
        switch.policies.set("bad", Policy(sources="any"))
        await bad.send(FROM_NOBODY)
        assert await right.receive(1) == [FROM_NOBODY]
        [event] = wrong(switch)
    assert (event.code, event.ports) == ("bad_source", ("bad",))
    assert event.text == (
        "bad: drops what it gets: they come from a group address or zero, which can never be answered (bad_source); "
        "give the guest another address, or the port sources=any"
    )
    assert event.text in caplog.text


async def swap(stations: list[int], *peers: Peer) -> None:
    """Each station is heard behind one port after the other."""
    for peer in peers:
        await peer.send(*(frame(BROADCAST, station) for station in stations))
        for other in peers:
            if other is not peer:
                await other.receive(len(stations))


@pytest.mark.usefixtures("at_once")
async def test_two_guests_with_one_mac_are_named_with_what_to_do() -> None:
    async with VSwitch() as switch:
        peers = [await Peer.plugged_into(switch, name=name) for name in ("web", "db")]
        while not wrong(switch):
            await swap([mac(1)], *peers)
        for _ in range(20):
            await swap([mac(1)], *peers)
        [event] = wrong(switch)
    assert (event.code, event.ports, event.mac) == ("duplicate_mac", ("web", "db"), mac_text(mac(1)))
    assert event.text.startswith(f"{mac_text(mac(1))} moves between web, db, ")
    assert event.text.endswith(
        ": two guests have this MAC address, or one has a bond over these ports; give each guest its own, with mac= on "
        "its -device"
    )


async def test_a_station_that_goes_on_moving_is_still_what_it_was_said_to_be() -> None:
    """Though another one has been heard behind the same ports since."""
    with closing(Ports(table_size=64, ageing_s=300)) as switch:
        made = [switch.add(name, name, parse("unix:///x?single=yes")) for name in ("web", "db")]
        looks = Moves(switch)
        for second, stations in enumerate([[1], [1, 2]]):
            for number in range(MOVES_MIN + 1):
                for station in stations:
                    switch.table.learn(
                        mac_key(1, mac(station)), made[number % 2 if station == 1 else 0].port.index, second
                    )
            looks.look(second)
        for port in made:
            switch.remove(port)
    assert [event.code for event in switch.events.kept()] == ["duplicate_mac"]


@pytest.mark.usefixtures("at_once")
async def test_guests_that_were_told_no_mac_are_found_soon() -> None:
    async with VSwitch() as switch:
        one, two = [await Peer.plugged_into(switch, name=name) for name in ("one", "two")]
        await swap([QEMU_MAC], one, two)
        await one.send(frame(BROADCAST, QEMU_MAC))
        event = await found(switch, "duplicate_mac")
    assert "52:54:00:12:34:56 moves between one, two, 2 times" in event.text
    assert "which QEMU gives every guest that is told none" in event.text


@pytest.mark.usefixtures("at_once")
async def test_an_address_between_ports_with_other_stations_may_be_a_loop_too() -> None:
    async with VSwitch() as switch:
        peers = [await Peer.plugged_into(switch, name=name) for name in ("left", "right")]
        await swap([mac(7)], peers[0], peers[1])
        for number, peer in enumerate(peers):
            await peer.send(frame(BROADCAST, mac(10 + number)), frame(BROADCAST, mac(20 + number)))
            await peers[1 - number].receive(2)
        while not wrong(switch):
            await swap([mac(1)], *peers)
        assert [(event.code, event.ports) for event in wrong(switch)] == [("mac_flap", ("left", "right"))]


@pytest.mark.usefixtures("at_once")
async def test_several_stations_that_move_between_the_same_ports_may_be_clones() -> None:
    async with VSwitch() as switch:
        peers = [await Peer.plugged_into(switch, name=name) for name in ("left", "right")]
        while not wrong(switch):
            await swap([mac(1), mac(2), mac(3)], *peers)
        event = await found(switch, "mac_flap")
    assert "guests that are clones of each other, a bond over these ports, or a loop" in event.text


def said_of(stations: int, ports: int, moves: int) -> list[Event]:
    """The events when stations move between some ports, in turn, so often in all."""
    switch = Ports(table_size=64, ageing_s=300)
    made = [switch.add(f"p{number}", f"p{number}", parse("unix:///x?single=yes")) for number in range(ports)]
    looks = Moves(switch)

    async def look() -> None:
        for number in range(moves):
            key = mac_key(1, mac(number % stations))
            switch.table.learn(key, made[number // stations % ports].port.index, number)
        looks.look(0.0)

    with closing(switch):
        trio.run(look)
        for port in made:
            switch.remove(port)
    return switch.events.kept()


@pytest.mark.parametrize(
    ("stations", "ports", "moves", "code"),
    [
        (1, 2, 20, "duplicate_mac"),
        (1, 3, 20, "duplicate_mac"),
        (1, 2, 2 * LOOP_MOVES, "duplicate_mac"),
        (1, 3, 2 * LOOP_MOVES, "loop"),
        (3, 2, 60, "mac_flap"),
        (3, 2, 2 * LOOP_MOVES, "loop"),
    ],
)
def test_a_loop_is_told_by_its_speed(stations: int, ports: int, moves: int, code: str) -> None:
    [event] = said_of(stations, ports, moves)
    assert (event.code, len(event.ports)) == (code, ports)


@pytest.mark.usefixtures("at_once")
async def test_a_loop_of_two_links_that_nobody_looks_for_is_named(tmp_path: Path) -> None:
    async with VSwitch() as switch, VSwitch() as other:
        await switch.attach(f"unix://{tmp_path}/lan.sock?name=lan&loop=off")
        for _ in range(2):
            await other.attach(f"unix://{tmp_path}/lan.sock?connect&loop=off")
        guest = await Peer.plugged_into(switch, name="guest")
        await until(lambda: sum(port.up for port in (*switch.ports(), *other.ports())) == 5)
        await guest.send(frame(BROADCAST, mac(1)))
        await until(lambda: any({"lan.1", "lan.2"} <= set(event.ports) for event in wrong(switch)))


async def test_a_guest_that_sends_nothing_is_named_once(mock_clock: MockClock) -> None:
    async with VSwitch() as switch:
        mute = await Peer.plugged_into(switch, name="mute")
        talks = await Peer.plugged_into(switch, name="talks")
        listens = await Peer.plugged_into(switch, name="mirror", mirror_of="talks")
        gone = await Peer.plugged_into(switch, name="gone")
        await talks.send(frame(BROADCAST, mac(1)))
        assert await listens.receive(1) == [frame(BROADCAST, mac(1))]
        await switch.attachments.detach("gone")
        for seconds in (SILENT_S, 10 * SILENT_S):
            mock_clock.jump(seconds)
            await trio.testing.wait_all_tasks_blocked()
        [event] = wrong(switch)
        assert (event.code, event.ports) == ("silent", ("mute",))
        mute.close()
        gone.close()
    assert event.text == (
        "mute: is connected, and has sent nothing for 30 s; unless it still boots, see that its -device names this "
        "-netdev, that its driver is loaded and that its link is up"
    )


async def test_a_peer_that_comes_again_and_again_hides_no_other(mock_clock: MockClock, tmp_path: Path) -> None:
    async with VSwitch() as switch:
        mute = await Peer.plugged_into(switch, name="mute")
        for _ in range(100):
            restless = await Peer.plugged_into(switch, name="restless")
            restless.close()
            await switch.attachments.detach("restless")
        assert len(switch._ports.newcomers._new) == 1
        mock_clock.jump(SILENT_S)
        await trio.testing.wait_all_tasks_blocked()
        assert [event.ports for event in wrong(switch)] == [("mute",)]
        mute.close()


async def test_a_group_need_not_say_anything(mock_clock: MockClock) -> None:
    async with VSwitch() as switch:
        await switch.attach("mcast://239.255.77.9:7709?name=group")
        mock_clock.jump(SILENT_S)
        await trio.testing.wait_all_tasks_blocked()
        assert wrong(switch) == []


@pytest.mark.usefixtures("at_once")
async def test_a_guest_that_takes_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drops, "STALLED_S", 0.0)
    async with VSwitch() as switch:
        talks = await Peer.plugged_into(switch, name="talks")
        paused = await Peer.plugged_into(switch, name="paused", queue="128KiB")
        while not any(event.code == "stalled" for event in wrong(switch)):
            await talks.send(*[frame(BROADCAST, mac(1), payload=b"x" * 1400)] * 100)
        [event] = wrong(switch)
        paused.close()
    assert event.ports == ("paused",)
    assert "paused: its guest takes nothing: " in event.text
    assert event.text.endswith("were dropped (queue_full); it is paused or hangs: have it go on, or unplug it")


DROPPING: list[tuple[str, dict[str, object], bytes]] = [
    ("vlan", {"vlan": 10}, frame(BROADCAST, mac(1), tag=20)),
    ("spoofed_mac", {"allow_mac": mac_text(mac(2))}, frame(BROADCAST, mac(1))),
    ("locked", {"locked": True}, frame(BROADCAST, mac(1))),
    ("storm", {"storm_broadcast": "1fps"}, frame(BROADCAST, mac(1))),
]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("reason", "parameters", "sent"), DROPPING, ids=[reason for reason, *_ in DROPPING])
async def test_a_port_that_drops_is_named_with_the_reason(
    reason: str, parameters: dict[str, object], sent: bytes
) -> None:
    async with VSwitch() as switch:
        guest = await Peer.plugged_into(switch, name="guest", **parameters)
        other = await Peer.plugged_into(switch, name="other")
        await guest.send(*[sent] * 10)
        event = await found(switch, "drops")
        other.close()
    assert event.ports == ("guest",)
    assert f"({reason}): {REASONS[reason].about}; {REASONS[reason].advice}" in event.text


@pytest.mark.usefixtures("at_once")
async def test_frames_that_do_not_fit_are_named() -> None:
    async with VSwitch() as switch:
        guest = await Peer.plugged_into(switch, name="guest")
        tunnel = await Peer.plugged_into(switch, name="tunnel", max_frame=1000)
        await guest.send(frame(BROADCAST, mac(1), payload=b"x" * 1400))
        event = await found(switch, "too_long")
        tunnel.close()
    assert event.ports == ("tunnel",)
    assert event.text == (
        "tunnel: dropped 1 frames: they are longer than the port carries (too_long); "
        "make the guests' MTU smaller, or the port's max_frame="
    )


@pytest.mark.usefixtures("at_once")
async def test_what_meets_many_ports_is_one_event_and_is_counted_once() -> None:
    async with VSwitch() as switch:
        guest = await Peer.plugged_into(switch, name="guest")
        others = [await Peer.plugged_into(switch, name=f"o{number}", max_frame=1000) for number in range(10)]
        await guest.send(frame(BROADCAST, mac(1), payload=b"x" * 1400))
        event = await found(switch, "too_long")
        await others[0].send(*[frame(mac(9), mac(9))] * 5)  # which it drops as a matter of course
        await until(lambda: any(port.drops.get("same_port") for port in switch.ports()))
        await trio.sleep(0.05)
        assert [it.code for it in wrong(switch)] == ["too_long"]
        assert switch.events.counts["too_long"] == 1
        for other in others:
            other.close()
    assert event.text.startswith("10 ports (o0, o1, ")


@pytest.mark.usefixtures("at_once")
async def test_what_lans_drop_as_a_matter_of_course_is_no_event() -> None:
    async with VSwitch() as switch:
        alone = await Peer.plugged_into(switch, name="alone")
        await alone.send(*[frame(BROADCAST, mac(1)), frame(mac(1), mac(1)), frame(0x0180_C200_000E, mac(1))] * 20)
        await until(lambda: sum(port.rx_frames for port in switch.ports()) == 60)
        await trio.sleep(0.05)
        assert wrong(switch) == []


KEY = mac_key(1, mac(1))


def there_and_back(times: int, key: int = KEY) -> list[tuple[int, int, int]]:
    return [(key, number % 2, 1 - number % 2) for number in range(times)]


def test_few_moves_or_slow_ones_are_no_fault() -> None:
    flapping = Flapping()
    flapping.note(there_and_back(MOVES_MIN - 1), MOVES_MIN - 1, 0.0)
    assert list(flapping.found()) == []
    flapping.note(there_and_back(1), 1, WINDOW_S)
    assert list(flapping.found()) == []
    flapping.note(there_and_back(MOVES_MIN - 1), MOVES_MIN - 1, WINDOW_S)
    assert list(flapping.found()) == [([mac(1)], frozenset({0, 1}), MOVES_MIN)]


def test_who_wanders_and_does_not_come_back_is_no_fault() -> None:
    flapping = Flapping()
    flapping.note([(KEY, number, number + 1) for number in range(20)], 20, 0.0)
    flapping.note([(mac_key(1, mac(number)), 0, 1) for number in range(2, 50)], 48, 0.0)
    assert list(flapping.found()) == []


def test_the_number_of_all_moves_is_said() -> None:
    flapping = Flapping()
    for second in range(5):
        flapping.note(there_and_back(10), 1000, float(second))
    assert [count for _, _, count in flapping.found()] == [5000]
