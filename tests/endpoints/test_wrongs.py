"""What is plainly wrong in a LAN is said in the log: guests that cannot be answered, one MAC address twice, loops."""

from pathlib import Path

import pytest

from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, until
from vswitch import VSwitch
from vswitch.dataplane.drops import BAD_SOURCE
from vswitch.dataplane.mac_table import mac_key
from vswitch.ports import wrongs
from vswitch.ports.policy import Policy
from vswitch.ports.wrongs import MOVES_MIN, SAY_AGAIN_S, WINDOW_S, Flapping
from vswitch.sparingly import Sparingly

FROM_NOBODY = frame(BROADCAST, 0x0100_5E00_0001)


async def test_a_port_whose_guest_cannot_be_answered_is_named_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrongs, "LOOK_PERIOD_S", 0.001)
    async with VSwitch() as switch:
        wrong = await Peer.plugged_into(switch, name="wrong")
        open_to_all = await Peer.plugged_into(switch, name="any", sources="any")
        right = await Peer.plugged_into(switch, name="right")
        await open_to_all.send(FROM_NOBODY)
        assert await right.receive(1) == [FROM_NOBODY]
        await wrong.send(FROM_NOBODY, frame(BROADCAST, 0))
        await until(lambda: "bad_source" in caplog.text)
        await wrong.send(FROM_NOBODY, frame(BROADCAST, mac(1)))
        assert await right.receive(1) == [frame(BROADCAST, mac(1))]
        assert next(port for port in switch.ports() if port.name == "wrong").drops == {"bad_source": 3}
        looked = [port for port in switch._ports if port.port.drops[BAD_SOURCE] > 0 and not port.warned]
        assert looked == []
        switch.policies.set("wrong", Policy(sources="any"))
        await wrong.send(FROM_NOBODY)
        assert await right.receive(1) == [FROM_NOBODY]
        said = [record.getMessage() for record in caplog.records if "bad_source" in record.getMessage()]
        assert said == [
            "wrong: drops what comes from a group address or zero, which can never be answered (bad_source); "
            "give the guest another address, or the port sources=any"
        ]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if " move" in record.getMessage()]


async def swap(stations: list[int], *peers: Peer) -> None:
    """Each station is heard behind one port after the other."""
    for peer in peers:
        await peer.send(*(frame(BROADCAST, station) for station in stations))
        for other in peers:
            if other is not peer:
                await other.receive(len(stations))


async def test_two_guests_with_one_mac_are_named_with_what_to_do(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrongs, "LOOK_PERIOD_S", 0.001)
    async with VSwitch() as switch:
        peers = [await Peer.plugged_into(switch, name=name) for name in ("web", "db")]
        while not said(caplog):
            await swap([mac(1)], *peers)
        for _ in range(20):
            await swap([mac(1)], *peers)
        await swap([mac(2)], *peers)
        [line] = said(caplog)
    assert line.startswith(f"{mac(1).to_bytes(6).hex(':')} moves between web, db, ")
    assert line.endswith(
        ": two guests have this MAC address, or there is a loop; give each its own (mac=), or take one link out"
    )


async def test_several_stations_that_move_between_the_same_ports_are_a_loop(caplog: pytest.LogCaptureFixture) -> None:
    async with VSwitch() as switch:
        peers = [await Peer.plugged_into(switch, name=name) for name in ("left", "right")]
        for _ in range(MOVES_MIN):
            await swap([mac(1), mac(2), mac(3)], *peers)
        ports, flapping = switch._ports, Flapping()
        flapping.note(ports.table.moved(0), ports.table.moves, 0.0)
        for found in flapping.found(0.0):
            wrongs.look_at_moves(ports, Sparingly(wrongs.log), *found)
    assert said(caplog) == [
        f"3 stations move between left, right, {3 * (2 * MOVES_MIN - 1)} times within 10 s: most likely a loop, "
        "as they all lead to one LAN; leave one of them connected"
    ]


async def test_a_loop_of_two_links_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wrongs, "LOOK_PERIOD_S", 0.001)
    async with VSwitch() as switch, VSwitch() as other:
        await switch.attach(f"unix://{tmp_path}/lan.sock?name=lan")
        for _ in range(2):
            await other.attach(f"unix://{tmp_path}/lan.sock?connect")
        guest = await Peer.plugged_into(switch, name="guest")
        await until(lambda: sum(port.up for port in (*switch.ports(), *other.ports())) == 5)
        await guest.send(frame(BROADCAST, mac(1)))
        await until(lambda: any("lan.1, lan.2" in line for line in said(caplog)))


KEY = mac_key(1, mac(1))


def there_and_back(times: int, key: int = KEY) -> list[tuple[int, int, int]]:
    return [(key, number % 2, 1 - number % 2) for number in range(times)]


def test_few_moves_or_slow_ones_are_no_fault() -> None:
    flapping = Flapping()
    flapping.note(there_and_back(MOVES_MIN - 1), MOVES_MIN - 1, 0.0)
    assert list(flapping.found(0.0)) == []
    flapping.note(there_and_back(1), 1, WINDOW_S)
    assert list(flapping.found(WINDOW_S)) == []
    flapping.note(there_and_back(MOVES_MIN - 1), MOVES_MIN - 1, WINDOW_S)
    assert list(flapping.found(WINDOW_S)) == [([mac(1)], frozenset({0, 1}), MOVES_MIN)]


def test_who_wanders_and_does_not_come_back_is_no_fault() -> None:
    flapping = Flapping()
    flapping.note([(KEY, number, number + 1) for number in range(20)], 20, 0.0)
    flapping.note([(mac_key(1, mac(number)), 0, 1) for number in range(2, 50)], 48, 0.0)
    assert list(flapping.found(0.0)) == []


def test_it_is_said_again_once_in_a_while_with_the_number_of_all_moves() -> None:
    flapping = Flapping()
    seconds = 3 * int(SAY_AGAIN_S)
    found = []
    for second in range(seconds):
        flapping.note(there_and_back(10), 1000, float(second))
        found += [(second, count) for _, _, count in flapping.found(float(second))]
    assert found == [(0, 1000), (60, 10_000), (120, 10_000)]
