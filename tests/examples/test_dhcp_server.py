"""A DHCP server, its clients, and a rogue that the switch stops.

What one learns: hosts without an address (`ip=""`); a host that is a DHCP server, honest or rogue; parameters of a port
(`dhcp_server="no"`, as in an endpoint's URL); frames that were dropped are evidence too, and say why.
"""

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from vswitch.testing import Lan, ScapyHost


async def lease(client: ScapyHost, number: int) -> str:
    """The address that a host is given for a discover and a request (RFC 2131)."""
    to_all = Ether(dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    hello = to_all / BOOTP(chaddr=bytes.fromhex(client.mac.replace(":", "")), xid=number)
    offer = await client.sr1(hello / DHCP(options=[("message-type", "discover"), "end"]))
    assert offer is not None
    chosen = [("server_id", offer[BOOTP].siaddr), ("requested_addr", offer[BOOTP].yiaddr)]
    ack = await client.sr1(hello / DHCP(options=[("message-type", "request"), *chosen, "end"]))
    assert ack is not None
    return str(ack[BOOTP].yiaddr)


async def test_every_client_has_an_address_of_its_own_and_a_rogue_is_not_heard(lan: Lan) -> None:
    server = await lan.host("server", ip="10.0.0.1")
    rogue = await lan.host("rogue", ip="10.0.0.66", dhcp_server="no")
    guest = await lan.guest("guest", ip="")
    one, two = await lan.host("one", ip=""), await lan.host("two", ip="")

    async with server.dhcp_server("10.0.0.100-10.0.0.109") as honest, rogue.dhcp_server("10.6.6.1-10.6.6.9") as false:
        (await guest.run("udhcpc -i eth0 -n -q -f")).check()
        given = [await lease(one, 1), await lease(two, 2)]

    shown = await guest.run("ip address show dev eth0")
    assert f"inet {honest.leases[guest.mac]}/24" in shown.stdout
    assert given == [honest.leases[one.mac], honest.leases[two.mac]]
    assert sorted(honest.leases.values()) == ["10.0.0.100", "10.0.0.101", "10.0.0.102"]
    assert false.offers > 0
    dropped = await lan.expect(lambda packet: packet.comments)
    assert (dropped.sniffed_on, dropped.comments) == ("rogue", [b"dropped: dhcp_server"])
    await lan.expect_none("src host 10.0.0.66", at=guest, within=0)
