"""A guest that a forward leads to keeps its MAC address, whoever else sends with it, while its port is up."""

import signal

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from tests.endpoints.test_user_forwards import MAC, leads, only
from tests.endpoints.user_guest import ALL, GATEWAY, Guest, restarted
from tests.peers import until
from vswitch import VSwitch

pytestmark = pytest.mark.usefixtures("libslirp")

THIEF = "52:54:00:00:00:0e"


async def behind(switch: VSwitch, mac: str = MAC) -> str:
    """The port where a station is, or nothing."""
    return next((station.port for station in await switch.macs() if station.mac == mac), "")


def refused(switch: VSwitch) -> int:
    """How many frames were dropped because their sender is held elsewhere."""
    return next(port for port in switch.ports() if port.name == "thief").drops.get("sticky", 0)


async def thief(switch: VSwitch) -> Guest:
    guest = await Guest.plugged_into(switch, "thief", THIEF)
    await guest.lease()
    return guest


async def steal(guest: Guest) -> None:
    """It sends as if it had the other's addresses; answers when the switch has seen that."""
    for to in (GATEWAY, ALL, "52:54:00:00:00:77"):
        await guest.send(Ether(src=MAC, dst=to) / IP(src="10.0.2.15", dst="10.0.2.2") / ICMP())
    await guest.ping("10.0.2.2")


async def plugged(switch: VSwitch, name: str = "a") -> Guest:
    """Where a forward leads."""
    await switch.attach("user://10.0.2.0/24?name=net&hostfwd=tcp::0-:22")
    guest = await Guest.plugged_into(switch, name, MAC)
    await guest.lease()
    await until(lambda: only(switch).ip == guest.ip)
    return guest


async def test_what_another_sends_with_its_address_takes_no_connection(switch: VSwitch) -> None:
    a = await plugged(switch)
    b = await thief(switch)
    await steal(b)
    assert await behind(switch) == "a"
    await leads(only(switch), a, 22)
    assert refused(switch) == 3


async def test_it_moves_when_its_port_is_down_or_gone_and_is_back_when_that_is(switch: VSwitch) -> None:
    a = await plugged(switch)
    b = await thief(switch)
    switch.policies.amend("a", {"up": False})
    while await behind(switch) != "thief":
        await steal(b)
    switch.policies.amend("a", {"up": True})
    before = refused(switch)
    while refused(switch) == before:  # the other one does not give up
        await steal(b)
    assert await behind(switch) == "a"
    await leads(only(switch), a, 22)


async def test_it_moves_when_no_forward_leads_to_it_any_more(switch: VSwitch) -> None:
    a = await plugged(switch)
    b = await thief(switch)
    await switch.user_networks.unforward(only(switch).forward)
    await steal(b)
    assert await behind(switch) == "thief"
    await switch.user_networks.forward("tcp::0-a:22")
    await steal(b)
    assert await behind(switch) == "a", "and is held again"
    await leads(only(switch), a, 22)


async def test_it_moves_when_the_network_has_gone(switch: VSwitch) -> None:
    a = await plugged(switch)
    b = await thief(switch)
    await switch.attachments.detach("net")
    while await behind(switch) != "thief":
        await b.send(Ether(src=MAC, dst=ALL) / IP())
    while await behind(switch) != "a":
        await a.send(Ether(src=MAC, dst=ALL) / IP())


async def test_it_is_held_when_the_process_was_replaced(switch: VSwitch) -> None:
    a = await plugged(switch)
    b = await thief(switch)
    async with restarted(switch, signal.SIGKILL):
        pass
    await until(lambda: only(switch).ip == a.ip)
    await steal(b)
    assert await behind(switch) == "a"


async def test_a_lease_from_before_holds_a_guest_where_it_is_heard(switch: VSwitch) -> None:
    """Ports of a listener get their names in the order guests come, so who has the name may be another one now."""
    first = await plugged(switch)
    await switch.attachments.detach("a")
    await thief(switch)
    other = await Guest.plugged_into(switch, "a", "52:54:00:00:00:0b")
    await other.lease()
    again = await Guest.plugged_into(switch, "a2", MAC)
    again.ip = first.ip
    await again.ping("10.0.2.2")
    assert await behind(switch) == "a2"
