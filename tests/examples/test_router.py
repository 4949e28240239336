"""A guest routes between two VLANs, and two hosts talk through it.

What one learns: cards by `Nic`, each with an address and the parameters of its port; hosts made of scapy packets, which
are there at once where a guest takes seconds to boot; `at=`, to ask what passed by one machine's port.
"""

from scapy.layers.inet import ICMP, IP
from scapy.packet import Packet

from vswitch.testing import Lan, Nic


async def test_a_router_between_two_vlans(lan: Lan) -> None:
    cards = [Nic(ip="10.1.0.1/24", port={"vlan": 10}), Nic(ip="10.2.0.1/24", port={"vlan": 20})]
    router = await lan.guest("router", nics=cards)
    (await router.run("sysctl -w net.ipv4.ip_forward=1")).check()
    client = await lan.host("client", ip="10.1.0.2/24", gateway="10.1.0.1", vlan=10)
    server = await lan.host("server", ip="10.2.0.2/24", gateway="10.2.0.1", vlan=20)

    reply = await client.sr1(IP(dst="10.2.0.2", ttl=64) / ICMP())

    assert reply is not None
    assert (reply[IP].src, reply[IP].ttl) == ("10.2.0.2", 63)
    sent = await lan.expect("icmp[icmptype] == icmp-echo", at=client)
    arrived = await lan.expect("icmp[icmptype] == icmp-echo", at=server)
    assert (sent[IP].ttl, arrived[IP].ttl) == (64, 63)
    assert (sent.src, arrived.src) == (client.mac, router.links[1].mac)

    def of_the_other_vlan(packet: Packet) -> bool:
        return packet.src in (client.mac, router.mac)

    await lan.expect_none(of_the_other_vlan, at=server, within=0)
