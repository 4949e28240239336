"""ARP and UDP in frames: as scapy has them."""

from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from vswitch.protocols import inet
from vswitch.protocols.inet import Arp, Datagram

A, B = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
IP_A, IP_B = IPv4Address("10.0.2.15"), IPv4Address("10.0.2.3")
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
datagrams = st.builds(Datagram, addresses, st.integers(1, 65535), addresses, st.integers(1, 65535), st.binary())


def carried(datagram: Datagram, **ip: Any) -> bytes:
    layers = IP(src=str(datagram.source), dst=str(datagram.target), **ip)
    layers /= UDP(sport=datagram.source_port, dport=datagram.target_port)
    return bytes(Ether(src=A.hex(":"), dst=B.hex(":")) / layers / Raw(datagram.payload))


@given(datagrams)
def test_a_datagram_is_what_scapy_makes_of_it_both_ways(datagram: Datagram) -> None:
    frame = inet.udp(datagram, B, A)
    assert len(frame) >= inet.FRAME_MIN
    assert inet.read_udp(frame) == datagram
    packet = Ether(frame)
    assert (packet.src, packet.dst, packet[IP].src, packet[IP].dst) == (
        *(A.hex(":"), B.hex(":")),
        *(str(datagram.source), str(datagram.target)),
    )
    assert bytes(packet[UDP].payload)[: len(datagram.payload)] == datagram.payload
    sums = packet[IP].chksum, packet[UDP].chksum
    del packet[IP].chksum, packet[UDP].chksum
    again = Ether(bytes(packet))
    assert sums == (again[IP].chksum, again[UDP].chksum)
    assert inet.read_udp(carried(datagram)) == datagram


def test_options_of_ip_are_passed_over() -> None:
    datagram = Datagram(IP_A, 5, IP_B, 6, b"here")
    assert inet.read_udp(carried(datagram, options=b"\x01\x01\x01\x01")) == datagram


WHOLE = carried(Datagram(IP_A, 5, IP_B, 6, b"here"))


@pytest.mark.parametrize(
    "frame",
    [
        WHOLE[:33],
        WHOLE[:45],
        WHOLE[:14] + b"\x55" + WHOLE[15:],
        WHOLE[:14] + b"\x44" + WHOLE[15:],
        WHOLE[:16] + b"\xff\xff" + WHOLE[18:],
        WHOLE[:16] + b"\x00\x1b" + WHOLE[18:],
        WHOLE[:20] + b"\x20\x00" + WHOLE[22:],
        WHOLE[:20] + b"\x00\x01" + WHOLE[22:],
        WHOLE[:23] + b"\x06" + WHOLE[24:],
        WHOLE[:38] + b"\x00\x07" + WHOLE[40:],
        WHOLE[:38] + b"\xff\xff" + WHOLE[40:],
    ],
    ids=range(11),
)
def test_what_is_malformed_or_a_fragment_is_none(frame: bytes) -> None:
    assert inet.read_udp(frame) is None


@given(st.binary(min_size=14, max_size=80))
def test_no_bytes_raise(frame: bytes) -> None:
    inet.read_udp(frame)
    inet.read_arp(frame)


def test_arp_is_what_scapy_makes_of_it_both_ways() -> None:
    said = Arp(inet.ARP_REPLY, A, IP_A, B, IP_B)
    frame = inet.arp(said, B)
    packet = Ether(frame)
    assert (packet.dst, packet[ARP].op, packet[ARP].hwsrc, packet[ARP].psrc, packet[ARP].hwdst, packet[ARP].pdst) == (
        *(B.hex(":"), 2),
        *(A.hex(":"), str(IP_A), B.hex(":"), str(IP_B)),
    )
    assert inet.read_arp(frame) == said
    assert inet.read_arp(frame[:41]) is None
    assert inet.read_arp(frame[:14] + b"\x00\x06" + frame[16:]) is None
