"""A firewall under attack: what is allowed comes through, a port scan and a spoofed flood do not.

What one learns: Debian's `packages` and kernel `modules` in a guest; commands with input; a packet that stands for
many. The last packet is the one that is allowed: as a router keeps the order, everything before it has had its chance
when it arrives, and `expect_none` need not wait.
"""

import pytest
from scapy.layers.inet import IP, TCP

from vswitch.testing import Guest, Lan, Nic

VICTIM = "10.2.0.2"
RULES = b"""
table ip filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
        iifname eth0 ip saddr 10.2.0.0/24 drop
        ct state established accept
        iifname eth0 tcp dport 80 ct state new accept
    }
}
"""


@pytest.fixture
async def firewall(lan: Lan) -> Guest:
    cards = [Nic(ip="10.1.0.1/24", port={"vlan": 10}), Nic(ip="10.2.0.1/24", port={"vlan": 20})]
    modules = ("nf_tables", "nft_ct")
    guest = await lan.guest("firewall", nics=cards, packages=("nftables",), modules=modules)
    (await guest.run("nft -f - && sysctl -w net.ipv4.ip_forward=1", input=RULES)).check()
    return guest


async def test_only_what_is_allowed_reaches_the_victim(lan: Lan, firewall: Guest) -> None:
    attacker = await lan.host("attacker", ip="10.1.0.66/24", gateway="10.1.0.1", vlan=10)
    victim = await lan.host("victim", ip=VICTIM + "/24", gateway="10.2.0.1", vlan=20)

    await attacker.send(IP(dst=VICTIM) / TCP(sport=6666, dport=(1, 79), flags="S"))
    await attacker.send(IP(dst=VICTIM) / TCP(sport=6666, dport=(81, 300), flags="S"))
    await attacker.send(IP(src="10.2.0.0/24", dst=VICTIM) / TCP(sport=6666, dport=80, flags="S"))
    await attacker.send(IP(dst=VICTIM) / TCP(sport=7777, dport=80, flags="S"))

    allowed = await lan.expect("tcp src port 7777", at=victim)
    await lan.expect_none("tcp src port 6666", at=victim, within=0)
    await victim.send(IP(dst=attacker.ip) / TCP(sport=80, dport=7777, flags="SA", ack=allowed[TCP].seq + 1))
    await lan.expect("tcp src port 80", at=attacker)
