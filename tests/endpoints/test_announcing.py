"""Stations that come here from behind an uplink are announced there, where what they send might never come."""

import pytest

from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, check_balance
from vswitch import VSwitch
from vswitch.dataplane.mac_table import mac_key
from vswitch.ports.announcing import AT_ONCE_MAX, announce
from vswitch.ports.port import SwitchPort
from vswitch.protocols.rarp import announcement

VLAN = 10


async def plugged(switch: VSwitch, name: str, **parameters: object) -> tuple[Peer, SwitchPort]:
    """A peer and its port; a LAN of its own is behind it if it is called so."""
    peer = await Peer.plugged_into(switch, name=name, **parameters)
    port = switch._ports.named(name)
    assert port is not None
    port.is_uplink = name.startswith("uplink")
    return peer, port


def said(number: int, tag: bytes = b"") -> bytes:
    return announcement(mac(number).to_bytes(6), tag)


async def test_a_station_that_speaks_with_its_neighbours_only_is_announced() -> None:
    async with VSwitch() as switch:
        (uplink, _), (guest, _), (neighbour, _) = [
            await plugged(switch, name) for name in ("uplink", "guest", "neighbour")
        ]
        await neighbour.send(hello := frame(BROADCAST, mac(2)))
        assert await uplink.receive(1) == await guest.receive(1) == [hello]
        for sender in (uplink, guest):
            await sender.send(speaks := frame(mac(2), mac(1)))
            assert await neighbour.receive(1) == [speaks]
        assert await uplink.receive(1) == [said(1)]
        check_balance(switch)


@pytest.mark.parametrize(
    ("there", "here", "tag"),
    [
        ({"trunk": "all"}, {"vlan": VLAN}, b"\x81\0\0\x0a"),
        ({"vlan": VLAN}, {"trunk": "all"}, b""),
        ({"trunk": "20", "native": VLAN}, {"vlan": VLAN}, b""),
        ({}, {}, b"\x81\0\0\x0a"),
        ({"trunk": "all"}, {"qinq": VLAN}, b"\x88\xa8\0\x0a"),
    ],
    ids=["trunk", "access", "native", "transparent", "service"],
)
async def test_it_is_announced_in_its_vlan(there: dict[str, object], here: dict[str, object], tag: bytes) -> None:
    async with VSwitch() as switch:
        (uplink, left), (_, now) = await plugged(switch, "uplink", **there), await plugged(switch, "guest", **here)
        announce(switch._ports, {mac_key(VLAN, mac(1)): (left.port.index, now.port.index)})
        assert await uplink.receive(1) == [said(1, tag)]


@pytest.mark.parametrize(
    ("names", "there", "here"),
    [
        (("other", "guest"), {}, {}),
        (("uplink", "uplink2"), {}, {}),
        (("uplink", "guest"), {"isolated": True}, {"isolated": True}),
        (("uplink", "guest"), {"vlan": 20}, {"vlan": VLAN}),
        (("uplink", "guest"), {"mirror_of": "guest"}, {}),
    ],
    ids=["from a guest's port", "to another uplink", "isolated", "another VLAN", "mirror"],
)
async def test_where_it_does_not_reach_it_is_not(
    names: tuple[str, str], there: dict[str, object], here: dict[str, object]
) -> None:
    async with VSwitch() as switch:
        _, now = await plugged(switch, names[1], **here)
        _, left = await plugged(switch, names[0], **there)
        before = left.port.tx_frames
        announce(switch._ports, {mac_key(VLAN, mac(1)): (left.port.index, now.port.index)})
        assert (left.port.tx_frames, left.port.queued_frames) == (before, 0)


async def test_where_an_uplink_is_blocked_nobody_is_sent_there() -> None:
    async with VSwitch() as switch:
        (_, left), (_, now) = await plugged(switch, "uplink"), await plugged(switch, "guest")
        switch._ports.wiring.set_forwarding(left, False)
        announce(switch._ports, {mac_key(1, mac(1)): (left.port.index, now.port.index)})
        assert (left.port.tx_frames, left.port.queued_frames) == (0, 0)
        switch._ports.wiring.set_forwarding(left, True)


async def test_ports_that_are_gone_or_down_are_left_out() -> None:
    async with VSwitch() as switch:
        (_, left), (_, now) = await plugged(switch, "uplink"), await plugged(switch, "guest")
        switch._ports.links.cut(left, "in a test")
        announce(switch._ports, {mac_key(1, mac(1)): (left.port.index, now.port.index), mac_key(1, mac(2)): (77, 78)})
        assert left.port.tx_frames == 0


async def test_no_more_than_a_few_are_announced_at_a_time() -> None:
    async with VSwitch() as switch:
        (uplink, left), (_, now) = await plugged(switch, "uplink"), await plugged(switch, "guest")
        ports = left.port.index, now.port.index
        announce(switch._ports, {mac_key(1, mac(number)): ports for number in range(1, 200)})
        assert await uplink.receive(AT_ONCE_MAX) == [said(number) for number in range(1, AT_ONCE_MAX + 1)]
        assert left.port.tx_frames == AT_ONCE_MAX
