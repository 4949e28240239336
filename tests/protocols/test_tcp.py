"""The refusal of a connection, as scapy reads it."""

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.services.test_network import assert_checksums
from vswitch.protocols import tcp

A, GATEWAY = "52:54:00:00:00:0a", "52:55:0a:00:02:02"


@pytest.mark.parametrize(
    ("ip", "at"),
    [
        (IP(src="10.0.2.15", dst="192.0.2.1"), 34),
        (IP(src="10.0.2.15", dst="192.0.2.1", options=[b"\1\1\1\1"]), 38),
        (IPv6(src="fec0::15", dst="2001:db8::1"), 54),
    ],
)
def test_a_syn_is_refused(ip: Packet, at: int) -> None:
    syn = Ether(src=A, dst=GATEWAY) / ip / TCP(sport=1000, dport=443, seq=0xFFFFFFFF, flags="S")
    refusal = tcp.refusal(bytes(syn), at)
    assert refusal is not None
    said = Ether(refusal)
    assert (said.src, said.dst, said.payload.src, said.payload.dst) == (GATEWAY, A, ip.dst, ip.src)
    assert (said[TCP].sport, said[TCP].dport, said[TCP].flags, said[TCP].ack) == (443, 1000, "RA", 0)
    assert_checksums(said)
    assert said[TCP].chksum != 0


def test_what_is_no_syn_is_not_answered() -> None:
    ack = bytes(Ether(src=A, dst=GATEWAY) / IP() / TCP(flags="A"))
    assert tcp.refusal(ack, 34) is None
    assert tcp.refusal(ack[:50], 34) is None
