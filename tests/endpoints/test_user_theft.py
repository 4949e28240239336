"""What a guest has on a user network is not another's to take, whatever that one says: lease, name and forward."""

from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
import trio
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.endpoints.user_guest import GATEWAY, Guest
from tests.peers import until
from vswitch import VSwitch
from vswitch.control.model import PortInfo
from vswitch.protocols import inet6
from vswitch.services.user_network.leases import PER_PORT_MAX

pytestmark = pytest.mark.usefixtures("libslirp")

WEB, THIEF = "52:54:00:00:00:0a", "52:54:00:00:00:0e"
WEB6 = str(inet6.slaac(IPv6Network("fec0::/64"), bytes.fromhex(WEB.replace(":", ""))))


def ports(switch: VSwitch) -> dict[str, PortInfo]:
    return {port.name: port for port in switch.ports()}


def known(switch: VSwitch) -> tuple[list[tuple[str, str, str, str]], list[str | None]]:
    """Leases, but those of the thief, and where forwards lead."""
    leases = [(it.mac, it.ip, it.name, it.port) for it in switch.user_networks.leases() if it.mac != THIEF]
    return leases, [info.ip for info in switch.user_networks.forwards()]


async def take(guest: Guest, *options: Any) -> None:
    """It takes an address, and says what it is called."""
    offer = await guest.dhcp("discover", *options)
    await guest.dhcp("request", ("requested_addr", offer[BOOTP].yiaddr), *options)


def solicits(mac: str, source: str, target: str) -> Packet:
    group = inet6.solicited_node(IPv6Address(target))
    to = inet6.multicast_mac(group).hex(":")
    return Ether(src=mac, dst=to) / IPv6(src=source, dst=str(group), hlim=255) / ICMPv6ND_NS(tgt=target)


def pings(mac: str, source: str) -> Packet:
    return Ether(src=mac, dst=GATEWAY) / IPv6(src=source, dst="fec0::2") / ICMPv6EchoRequest()


async def test_neither_lease_nor_name_nor_forward_is_had_by_saying_what_another_is(switch: VSwitch) -> None:
    forwards = ",".join(f"tcp:{here}:0-{guest}" for here in ("127.0.0.1", "[::1]") for guest in ("web:22", "db:22"))
    await switch.attach(f"user://10.0.2.0/24?name=net&hostfwd={forwards}&hostfwd=tcp:[::1]:0-[{WEB6}]:22")
    a = await Guest.plugged_into(switch, "a", WEB)
    await a.lease("web")
    await a.send(solicits(WEB, WEB6, "fec0::2"))
    await a.send(pings(WEB, WEB6))
    await Guest.plugged_into(switch, "db", "52:54:00:00:00:0b")  # which has no lease yet
    await until(lambda: known(switch)[1] == ["10.0.2.15", None, WEB6, None, WEB6])
    before = known(switch)

    thief = await Guest.plugged_into(switch, "thief", THIEF)
    for name in (b"web", b"db", b"DB"):
        await take(thief, ("hostname", name))
        await take(thief, (81, b"\0\0\0" + name + b".lan"))
    for said in (solicits(THIEF, "::", WEB6), solicits(THIEF, WEB6, "fec0::2"), pings(THIEF, WEB6)):
        await thief.send(said)
    await take(thief)  # so all that was heard
    assert [lease.name for lease in switch.user_networks.leases() if lease.mac == THIEF] == ["thief"]
    assert known(switch) == before

    same = await Guest.plugged_into(switch, "same", WEB)
    await same.ask("request", ("requested_addr", "10.0.2.15"), ("hostname", b"evil"))
    await until(lambda: ports(switch)["same"].drops.get("sticky"))
    await take(thief)
    assert known(switch) == before


def forged(count: int) -> Iterator[bytes]:
    """Requests of as many stations."""
    mac = bytes.fromhex(THIEF.replace(":", ""))
    said = BOOTP(chaddr=mac) / DHCP(options=[("message-type", "request"), ("requested_addr", "10.0.2.20"), "end"])
    packet = Ether(src=THIEF) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / said
    return (bytes(packet).replace(mac, b"\x52\x54\1\0" + number.to_bytes(2)) for number in range(count))


async def tried(guest: Guest) -> bool:
    """It asks for an address; answers whether that was heard."""
    with trio.move_on_after(1):
        await guest.lease()
    return guest.ip != "0.0.0.0"


async def test_who_says_thousands_of_mac_addresses_has_a_ports_share_and_others_are_served(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    web = await Guest.plugged_into(switch, "web", WEB)
    before = await web.lease()
    flood = await Guest.plugged_into(switch, "flood", THIEF)
    late = await Guest.plugged_into(switch, "late", "52:54:00:00:00:0c")

    async def forget() -> None:
        while True:
            await flood.peer.receive(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(forget)
        await flood.peer.send(*forged(3000))
        while not await tried(late):
            pass
        assert await web.lease() == before
        nursery.cancel_scope.cancel()
    ports = [lease.port for lease in switch.user_networks.leases()]
    assert ports.count("flood") <= PER_PORT_MAX
    assert {"web", "late"} < {*ports}
