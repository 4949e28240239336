"""A multicast group as a port: what goes in, what comes out, and who else is on it."""

from pathlib import Path

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.endpoints.kinds import GROUP, member, udp_socket
from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, check_balance, until, up
from vswitch import VSwitch
from vswitch.control.model import PortInfo
from vswitch.endpoints.datagram.multicast import SWITCHES_NOTICED
from vswitch.errors import InputError, RefusedError
from vswitch.sparingly import PERIOD_S

NOTICED = "another switch is on"
FRAME = frame(BROADCAST, mac(1))


@pytest.fixture
def port() -> int:
    """A port number that no group uses."""
    with udp_socket("127.0.0.1") as free:
        return int(free.getsockname()[1])


def info(switch: VSwitch, name: str = "lab") -> PortInfo:
    (found,) = [port for port in switch.ports() if port.name == name]
    return found


async def test_what_we_send_to_a_group_does_not_come_back(port: int) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await switch.attach(f"mcast://{GROUP}:{port}", name="lab")
        async with member(port) as guest:
            frames = [frame(BROADCAST, mac(2), payload=bytes([number])) for number in range(100)]
            await other.send(*frames)
            assert await guest.receive(100) == frames
            await guest.send(FRAME)  # what had come back would be there before it
            assert await other.receive(1) == [FRAME]
            assert (info(switch).tx_frames, info(switch).rx_frames) == (100, 1)
            assert {station.mac[-2:]: station.port for station in await switch.macs()} == {"01": "lab", "02": "other"}
            assert switch.status().totals.drops == {}
            check_balance(switch)


async def test_what_comes_from_a_group_is_not_sent_to_it_again(port: int) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await switch.attach(f"mcast://{GROUP}:{port}", name="lab")
        async with member(port) as one, member(port) as two:
            for destination in (BROADCAST, mac(99)):  # nobody knows where that is
                await one.send(frame(destination, mac(1)))
                assert await two.receive(1) == [frame(destination, mac(1))]
                assert await other.receive(1) == [frame(destination, mac(1))]
            await two.send(frame(mac(1), mac(2)))  # from one guest of the group to another
            assert await one.receive(1) == [frame(mac(1), mac(2))]
            await other.send(frame(BROADCAST, mac(3)))
            for guest in (one, two):
                assert await guest.receive(1) == [frame(BROADCAST, mac(3))]
            assert info(switch).tx_frames == 1
            assert info(switch).drops == {"same_port": 1}
            check_balance(switch)


async def test_empty_datagrams_are_ignored_and_never_sent(port: int) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await switch.attach(f"mcast://{GROUP}:{port}", name="lab")
        async with member(port) as one, member(port) as two:
            await one.send(b"", b"", FRAME)
            assert await other.receive(1) == [FRAME]
            assert info(switch).drops == {"runt": 2}
            assert up(switch) == {"lab", "other"}
            assert await two.receive(3) == [b"", b"", FRAME]  # from the other guest
            await other.send(b"", b"x", bytes(13), frame(BROADCAST, mac(2)))
            for guest in (one, two):
                assert await guest.receive(1) == [frame(BROADCAST, mac(2))]
            check_balance(switch)


async def test_a_neighbouring_group_and_port_are_not_heard(port: int) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await switch.attach(f"mcast://{GROUP}:{port}", name="lab")
        async with member(port) as guest, member(port, "239.255.77.2") as stranger:
            await stranger.send(frame(BROADCAST, mac(66)))
            await guest.send(FRAME)
            assert await other.receive(1) == [FRAME]
            assert info(switch).rx_frames == 1


async def test_two_switches_on_one_group_are_in_touch_and_notice_each_other(
    port: int, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"mcast://{GROUP}:{port}"
    async with VSwitch() as one, VSwitch() as two, VSwitch() as three:
        first = await one.attach(url, name="first")
        await wait_all_tasks_blocked()
        assert NOTICED not in caplog.text
        assert f"first: any user of this machine may join {url}" in caplog.text
        await two.attach(url, name="second")
        await until(lambda: caplog.text.count(NOTICED) == 2)
        for name in ("first", "second"):
            assert f"{name}: {NOTICED} {url} too; make sure that the two are not connected in" in caplog.text
        async with await Peer.plugged_into(one) as here, await Peer.plugged_into(two) as there:
            await here.send(FRAME)
            assert await there.receive(1) == [FRAME]
            await there.send(frame(mac(1), mac(2)))
            assert await here.receive(1) == [frame(mac(1), mac(2))]
            assert (info(one, "first").tx_frames, info(one, "first").rx_frames) == (1, 1)
        await first.detach()
        caplog.clear()
        clock.jump(PERIOD_S)
        await three.attach(url, name="third")
        await until(lambda: caplog.text.count(NOTICED) == 2)
        assert f"second: {NOTICED}" in caplog.text
        assert f"third: {NOTICED}" in caplog.text


async def test_more_switches_than_are_counted_notice_the_others_too(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with VSwitch() as switch:
        for number in range(SWITCHES_NOTICED + 2):
            await switch.attach(f"mcast://{GROUP}:{port}", name=f"lab{number}")
            await wait_all_tasks_blocked()
            assert number == 0 or f"lab{number}: {NOTICED}" in caplog.text
        assert len(up(switch)) == SWITCHES_NOTICED + 2


async def test_switches_on_other_groups_and_ports_are_no_neighbours(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with udp_socket("127.0.0.1") as free:
        other_port = free.getsockname()[1]
    async with VSwitch() as switch:
        for url in (f"{GROUP}:{port}", f"{GROUP}:{other_port}", f"239.255.77.2:{port}"):
            lab = await switch.attach(f"mcast://{url}")
            await wait_all_tasks_blocked()
            await lab.detach()
            await switch.attach(f"mcast://{url}")  # the one that was there has gone
            await wait_all_tasks_blocked()
    assert NOTICED not in caplog.text


@pytest.mark.parametrize("iface", ["lo", "127.0.0.1"])
async def test_an_interface_goes_by_name_or_address(port: int, iface: str) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        lab = await switch.attach(f"mcast://{GROUP}:{port}?iface={iface}", name="lab")
        assert lab.url == f"mcast://{GROUP}:{port}" + ("?iface=lo" if iface == "lo" else "")
        async with member(port) as guest:
            await guest.send(FRAME)
            assert await other.receive(1) == [FRAME]
            await other.send(frame(mac(1), mac(2)))
            assert await guest.receive(1) == [frame(mac(1), mac(2))]


@pytest.mark.parametrize(
    ("parameters", "error", "said"),
    [
        ({"iface": "nonexistent0"}, RefusedError, "there is no interface nonexistent0 with an IPv4 address"),
        ({"iface": "192.0.2.1"}, InputError, "add insecure=yes if that is meant, or use iface=127.0.0.1"),
        ({"iface": "0.0.0.0"}, InputError, "add insecure=yes"),
        ({"iface": "192.0.2.1", "insecure": True}, RefusedError, "cannot join mcast://.*: Cannot assign"),
    ],
)
async def test_an_interface_that_cannot_be_used_is_said_to_be_wrong(
    port: int, parameters: dict[str, object], error: type[Exception], said: str
) -> None:
    async with VSwitch() as switch:
        with pytest.raises(error, match=said):
            await switch.attach(f"mcast://{GROUP}:{port}", **parameters)
        assert switch.ports() == []


async def test_a_unicast_socket_at_the_port_does_not_matter(directory: Path, port: int) -> None:
    with udp_socket("127.0.0.1", port):
        async with VSwitch() as switch:
            await switch.attach(f"mcast://{GROUP}:{port}", name="lab")
            assert up(switch) == {"lab"}
