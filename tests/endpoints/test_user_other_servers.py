"""The event of another DHCP server in a user network's LAN."""

from pathlib import Path

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from tests.endpoints.test_user_counters import PRETENDER
from tests.endpoints.user_guest import ALL, Guest
from tests.peers import until
from vswitch import VSwitch
from vswitch.endpoints.user import child
from vswitch.endpoints.user.other_servers import MOST
from vswitch.ports.event import Event

pytestmark = pytest.mark.usefixtures("libslirp")

CLIENT, SERVER = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
TEXT = (
    "net: another DHCP server, {}, answers in this LAN, and guests may get addresses from it:"
    " end it, set dhcp_server=no on its port, or dhcp=no on this network"
)


def told(switch: VSwitch) -> list[Event]:
    return [event for event in switch.events.kept() if event.code == "dhcp_server"]


async def offer(server: Guest) -> None:
    said = BOOTP(op=2) / DHCP(options=[("message-type", "offer"), ("server_id", "10.0.2.77"), "end"])
    packet = IP(src="10.0.2.77", dst="255.255.255.255") / UDP(sport=67, dport=68) / said
    await server.send(Ether(src=server.mac, dst=ALL) / packet)


async def test_a_server_that_answers_is_named_with_its_port(switch: VSwitch, caplog: pytest.LogCaptureFixture) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    server = await Guest.plugged_into(switch, "rogue", SERVER)
    await offer(server)
    await offer(server)
    await until(lambda: told(switch))
    (event,) = told(switch)
    assert event.text == TEXT.format(f"10.0.2.77 ({SERVER} behind rogue)")
    assert (event.ports, event.mac) == (("net", "rogue"), SERVER)
    assert event.text in caplog.messages


async def test_one_that_a_client_has_chosen_is_named_by_its_address(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    client = await Guest.plugged_into(switch, "a", CLIENT)
    await client.ask("request", ("server_id", "10.0.2.77"), ("requested_addr", "10.0.2.99"))
    await until(lambda: told(switch))
    (event,) = told(switch)
    assert (event.text, event.ports, event.mac) == (TEXT.format("10.0.2.77"), ("net",), None)


async def test_where_another_one_is_to_give_addresses_nothing_is_said(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net&dhcp=no")
    server = await Guest.plugged_into(switch, "server", SERVER)
    await offer(server)
    server.ip = "10.0.2.77"
    await server.ping("10.0.2.2")
    assert told(switch) == []


async def test_a_process_in_a_guests_hands_says_no_more_of_them_than_it_may(
    switch: VSwitch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    invented = """
    for n in range(100): say(["Heard", {"ip": f"10.9.9.{n}", "mac": ""}])
    say(["Counted", number, [], [[], {}]])"""
    (tmp_path / "pretender.py").write_text(PRETENDER + invented)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(child, "PROGRAM", "pretender")
    await switch.attach("user://10.0.2.0/24?name=net")
    for _ in range(3):
        await switch.user_networks.nat()
    assert len(told(switch)) == MOST


@pytest.mark.parametrize("said", ['"ip": "x"', '"ip": "10.0.0.1", "mac": "me"', '"ip": 7, "mac": ""'])
async def test_one_that_says_nonsense_of_them_is_replaced(
    switch: VSwitch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    (tmp_path / "pretender.py").write_text(f"{PRETENDER}say(['Heard', {{{said}}}])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(child, "PROGRAM", "pretender")
    await switch.attach("user://10.0.2.0/24?name=net")
    await switch.user_networks.nat()
    nonsense = "net: the process of this network has ended: it says what nobody understands; it is started again"
    await until(lambda: nonsense in caplog.messages)
    assert told(switch) == []
