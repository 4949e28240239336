"""Interfaces that go, with all that was bound to them, and come back; and guests that are on another one."""

import logging
from collections.abc import Iterator

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.endpoints.kinds import GROUP, member, udp_socket
from tests.frames import BROADCAST, frame, mac
from tests.namespaces import ip, own_network
from tests.peers import DatagramPeer, Peer, until, up
from vswitch import VSwitch
from vswitch.endpoints.datagram.multicast import STRAYS_S

HERE, PORT = "10.77.0.1", 1234
FRAME = frame(BROADCAST, mac(1))
ASTRAY = "cannot be heard"


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with own_network():
        yield


def cable() -> None:
    """By the same number each time: nothing but what was told tells it from one that has stayed."""
    ip("link add name lan0 index 77 type veth peer name far0 index 78")
    ip(f"address add {HERE}/24 dev lan0")
    ip("link set far0 up")
    ip("link set lan0 up")


async def in_touch(one: Peer | DatagramPeer, two: Peer | DatagramPeer) -> None:
    for sender, receiver, station in ((one, two, 1), (two, one, 2)):
        await sender.send(frame(BROADCAST, mac(station)))
        assert await receiver.receive(1) == [frame(BROADCAST, mac(station))]


@pytest.mark.parametrize("iface", [HERE, "lan0"])
@pytest.mark.parametrize("what", ["interface", "interface, for a moment", "address"])
async def test_a_group_is_joined_again(iface: str, what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cable()
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await switch.attach(f"mcast://{GROUP}:{PORT}?iface={iface}&insecure", name="lab")
        async with member(PORT, here=HERE) as guest:
            await in_touch(guest, other)
        if what == "address":
            ip(f"address del {HERE}/24 dev lan0")
            await until(lambda: up(switch) == {"other"})
            ip(f"address add {HERE}/24 dev lan0")
        else:
            ip("link delete lan0")
            if what == "interface":
                await until(lambda: "will keep trying" in caplog.text)
                assert up(switch) == {"other"}
            cable()
        await until(lambda: "is there again" in caplog.text)
        assert up(switch) == {"lab", "other"}
        async with member(PORT, here=HERE) as guest:
            await in_touch(guest, other)
    assert caplog.text.count("lab down: the interface with 10.77.0.1 is gone") == 1
    assert caplog.text.count("lab up: ") == 2
    assert "Errno" not in caplog.text


async def test_an_interface_that_is_only_down_keeps_its_group(caplog: pytest.LogCaptureFixture) -> None:
    cable()
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await switch.attach(f"mcast://{GROUP}:{PORT}?iface={HERE}&insecure", name="lab")
        async with member(PORT, here=HERE) as guest:
            ip("link set lan0 down")
            await other.send(FRAME)
            await until(lambda: switch.status().totals.drops)
            ip("link set lan0 up")
            await in_touch(guest, other)
    assert "gone" not in caplog.text


@pytest.mark.parametrize("remote", [True, False])
async def test_udp_needs_nothing_but_its_address(remote: bool) -> None:
    cable()
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        parameters = {"remote": f"{HERE}:{PORT + 1}"} if remote else {}
        await switch.attach(f"udp://{HERE}:{PORT}?insecure", name="lab", **parameters)
        async with DatagramPeer(udp_socket(HERE, PORT + 1), to=(HERE, PORT)) as guest:
            await in_touch(guest, other)
            ip("link delete lan0")
            await other.send(FRAME)
            await until(lambda: switch.status().totals.drops.get("unreachable") == 1)
            cable()
            await in_touch(guest, other)


async def test_a_guest_that_has_joined_on_another_interface_is_said(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    cable()
    ip("route add default dev lan0")
    async with VSwitch() as switch:
        await switch.attach(f"mcast://{GROUP}:{PORT}", name="lab")
        async with member(PORT), member(PORT + 1, here=HERE):  # one that is right, and one of another LAN
            await wait_all_tasks_blocked()
            clock.jump(STRAYS_S)
            await wait_all_tasks_blocked()
            assert ASTRAY not in caplog.text
        async with member(PORT), member(PORT, here="0.0.0.0"):
            clock.jump(STRAYS_S)
            await until(lambda: ASTRAY in caplog.text)
            clock.jump(STRAYS_S)
            await wait_all_tasks_blocked()
    assert caplog.text.count(ASTRAY) == 1
    assert f"lab: somebody on this machine is in the group on lan0, not on 127.0.0.1, and {ASTRAY}" in caplog.text
    assert f"mcast={GROUP}:{PORT},localaddr=127.0.0.1" in caplog.text


async def test_a_switch_on_another_interface_is_no_such_guest(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    cable()
    async with VSwitch() as switch:
        for iface in ("lo", "lan0"):
            await switch.attach(f"mcast://{GROUP}:{PORT}?iface={iface}&insecure")
        async with member(PORT), member(PORT, here=HERE):  # which each of them hears
            for _ in range(2):
                clock.jump(STRAYS_S)
                await wait_all_tasks_blocked()
    assert ASTRAY not in caplog.text
