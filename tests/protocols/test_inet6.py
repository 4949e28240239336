"""IPv6 in frames: scapy writes what we read, and reads what we write; its checksums are right."""

from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers import inet6 as inet6_layer
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils6 import in6_getnsma, in6_getnsmac, in6_mactoifaceid

from vswitch.protocols import inet6
from vswitch.protocols.inet import Datagram
from vswitch.protocols.inet6 import NeighborAdvertisement, NeighborSolicitation, Router, RouterSolicitation

A, B = bytes.fromhex("525400000001"), bytes.fromhex("52550a000202")
PREFIX = IPv6Network("fec0::/64")
IP_A, IP_B = IPv6Address("fec0::5054:ff:fe00:1"), IPv6Address("fec0::2")
ANY, ALL = IPv6Address("::"), IPv6Address("ff02::1")
ALL_MAC = "33:33:00:00:00:01"
ROUTER = Router(mac=B, prefix=PREFIX, mtu=1500, dns=(IPv6Address("fec0::3"),), search=("lan", "example.org"))

addresses = st.integers(0, 2**128 - 1).map(IPv6Address).filter(lambda ip: not ip.is_multicast)
ports = st.integers(0, 65535)
datagrams = st.builds(Datagram, addresses, ports, addresses, ports, st.binary())
macs = st.binary(min_size=6, max_size=6)


def carried(layers: Packet, src: object = IP_A, dst: object = IP_B, hlim: int = 255, **ip: Any) -> bytes:
    ether = Ether(src=A.hex(":"), dst=B.hex(":"))
    return bytes(ether / IPv6(src=str(src), dst=str(dst), hlim=hlim, **ip) / layers)


def checksum(packet: Packet, number: int, data: bytes) -> int:
    of_scapy: Any = inet6_layer.in6_chksum
    return int(of_scapy(number, packet[IPv6], data))


def dissected(frame: bytes, upper: type[Packet], number: int) -> Packet:
    """As scapy reads it, which has found the checksum right."""
    packet = Ether(frame)
    assert packet[IPv6].plen == len(frame) - inet6.HEADER_END
    assert checksum(packet, number, bytes(packet[upper])) == 0
    return packet


def nd(frame: bytes, kind: type[Packet]) -> Packet:
    packet = dissected(frame, kind, 58)
    assert packet[IPv6].hlim == 255
    return packet


# Addresses


@given(macs)
def test_addresses_that_are_made_from_others_are_what_scapy_makes_of_them(mac: bytes) -> None:
    ours = inet6.slaac(PREFIX, mac)
    interface_id = in6_mactoifaceid(mac.hex(":")).lower()
    assert ours == IPv6Address(f"fec0::{interface_id}")
    assert inet6.link_local(mac) == IPv6Address(f"fe80::{interface_id}")
    group = inet6.solicited_node(ours)
    assert group.packed == in6_getnsma(ours.packed)
    assert inet6.multicast_mac(group).hex(":") == in6_getnsmac(group.packed)


# Neighbour discovery, read


def ns(target: object = IP_B, **fields: Any) -> Packet:
    return ICMPv6ND_NS(tgt=str(target), **fields)


def na(target: object = IP_A, **fields: Any) -> Packet:
    return ICMPv6ND_NA(tgt=str(target), **{"R": 0, "S": 0, "O": 0} | fields)


SOURCE, TARGET = ICMPv6NDOptSrcLLAddr(lladdr=A.hex(":")), ICMPv6NDOptDstLLAddr(lladdr=A.hex(":"))
NONCE = Raw(bytes([14, 1, 1, 2, 3, 4, 5, 6]))  # RFC 3971
GROUP = inet6.solicited_node(IP_B)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (carried(ns()), NeighborSolicitation(A, IP_A, IP_B)),
        (carried(ns() / SOURCE, dst=GROUP), NeighborSolicitation(A, IP_A, IP_B, A)),
        (carried(ns() / NONCE / SOURCE), NeighborSolicitation(A, IP_A, IP_B, A)),
        (carried(ns(), src=ANY, dst=GROUP), NeighborSolicitation(A, ANY, IP_B)),
        (carried(ns() / TARGET), NeighborSolicitation(A, IP_A, IP_B)),
        (carried(na(S=1)), NeighborAdvertisement(A, IP_A, IP_A, solicited=True)),
        (carried(na(O=1) / TARGET, dst=ALL), NeighborAdvertisement(A, IP_A, IP_A, override=True, link_layer=A)),
        (carried(na(R=1, target=IP_B)), NeighborAdvertisement(A, IP_A, IP_B, router=True)),
        (carried(ICMPv6ND_RS(), dst="ff02::2"), RouterSolicitation(A, IP_A)),
        (carried(ICMPv6ND_RS() / SOURCE), RouterSolicitation(A, IP_A, A)),
        (carried(ICMPv6ND_RS(), src=ANY), RouterSolicitation(A, ANY)),
        (carried(ns()) + b"padding", NeighborSolicitation(A, IP_A, IP_B)),
    ],
    ids=range(12),
)
def test_what_hosts_say_is_read(frame: bytes, message: object) -> None:
    assert inet6.read_nd(frame) == message


WRONG_SUM = carried(ns())[:-1] + b"\xff"
ALMOST_A_GROUP = "ff02::1:fe00:2"


@pytest.mark.parametrize(
    "frame",
    [
        carried(ns(), hlim=254),
        carried(ns(code=1)),
        WRONG_SUM,
        carried(ns())[:-1],
        carried(ns())[:53],
        carried(Raw(b"\x85\0\0"), nh=58),
        carried(Raw(bytes(ns())[:20]), nh=58),
        carried(ICMPv6ND_RS() / Raw(bytes([1, 0]) + A)),
        carried(ns() / Raw(bytes([14, 0]) + A)),
        carried(ns() / Raw(bytes([14, 2]) + A)),
        carried(ns() / Raw(b"\x0e")),
        carried(ns() / Raw(bytes([1, 2]) + A + bytes(8))),
        carried(ns(target=GROUP)),
        carried(ns(), src="ff02::1"),
        carried(ns(), src=ANY),
        carried(ns(), src=ANY, dst=ALMOST_A_GROUP),
        carried(ns() / SOURCE, src=ANY, dst=GROUP),
        carried(ICMPv6ND_RS() / SOURCE, src=ANY),
        carried(na(target=ALL)),
        carried(na(S=1), dst=ALL),
        carried(ICMPv6ND_RA()),
        carried(ICMPv6EchoRequest()),
        carried(ICMPv6MLReport2(), hlim=255),
        carried(IPv6ExtHdrHopByHop() / ns()),
        carried(ns(), version=4),
        carried(UDP()),
    ],
    ids=range(26),
)
def test_what_is_not_valid_is_none(frame: bytes) -> None:
    assert inet6.read_nd(frame) is None


def test_short_messages_are_short_and_not_only_wrong() -> None:
    """Without options and with the right checksum: length alone is what is wrong."""
    packet = IPv6(src=str(IP_A), dst=str(IP_B))
    for message in (ns(), na(), ICMPv6ND_RS()):
        cut = bytearray(bytes(packet / message)[40:-4])
        cut[2:4] = bytes(2)
        cut[2:4] = checksum(packet, 58, bytes(cut)).to_bytes(2)
        assert inet6.read_nd(carried(Raw(bytes(cut)), nh=58)) is None


HEADER = carried(Raw(b""), nh=58)


@given(
    st.binary(max_size=120)
    | st.binary(max_size=60).map(lambda tail: carried(Raw(tail), nh=58))
    | st.binary(max_size=60).map(lambda tail: carried(Raw(tail), nh=17))
    | st.binary(max_size=60).map(lambda options: carried(ns() / Raw(options)))
)
@example(HEADER)
@example(HEADER[:14])
def test_no_bytes_raise(frame: bytes) -> None:
    inet6.read_nd(frame)
    inet6.read_udp6(frame)


# Neighbour discovery, written


@given(addresses, addresses, macs)
@example(ANY, IP_B, A)
def test_a_solicitation_is_read_again(source: IPv6Address, target: IPv6Address, mac: bytes) -> None:
    frame = inet6.neighbor_solicitation(source, target, mac)
    packet = nd(frame, ICMPv6ND_NS)
    group = inet6.solicited_node(target)
    assert (packet.src, packet.dst) == (mac.hex(":"), inet6.multicast_mac(group).hex(":"))
    assert IPv6Address(packet[IPv6].dst) == group
    link_layer = None if source == ANY else mac
    assert inet6.read_nd(frame) == NeighborSolicitation(mac, source, target, link_layer)


def test_who_asks_is_answered() -> None:
    asked = NeighborSolicitation(A, IP_A, IP_B, bytes(6))
    packet = nd(inet6.neighbor_advertisement(IP_B, B, asked, router=True), ICMPv6ND_NA)
    assert (packet.src, packet.dst) == (B.hex(":"), A.hex(":")), "and not to what the option says"
    assert (packet[IPv6].src, packet[IPv6].dst) == (str(IP_B), str(IP_A))
    said = packet[ICMPv6ND_NA]
    assert (said.tgt, said.R, said.S, said.O) == (str(IP_B), 1, 1, 1)
    assert said[ICMPv6NDOptDstLLAddr].lladdr == B.hex(":")


@pytest.mark.parametrize("asked", [None, NeighborSolicitation(A, ANY, IP_B)], ids=["unsolicited", "to ::"])
def test_others_are_told_all_together(asked: NeighborSolicitation | None) -> None:
    frame = inet6.neighbor_advertisement(IP_A, A, asked, override=False)
    packet = nd(frame, ICMPv6ND_NA)
    assert (packet.dst, packet[IPv6].dst) == (ALL_MAC, str(ALL))
    assert inet6.read_nd(frame) == NeighborAdvertisement(A, IP_A, IP_A, link_layer=A)


def test_a_router_tells_all_there_is_to_know() -> None:
    packet = nd(inet6.router_advertisement(ROUTER), ICMPv6ND_RA)
    assert (packet.src, packet.dst) == (B.hex(":"), ALL_MAC)
    assert (packet[IPv6].src, packet[IPv6].dst) == (str(inet6.link_local(B)), str(ALL))
    said = packet[ICMPv6ND_RA]
    assert (said.M, said.O, said.H, said.prf, said.P) == (0, 1, 0, 0, 0)
    assert (said.chlim, said.routerlifetime, said.reachabletime, said.retranstimer) == (64, 1800, 0, 0)
    prefix = said[ICMPv6NDOptPrefixInfo]
    assert (prefix.len, prefix.prefix, prefix.prefixlen, prefix.L, prefix.A, prefix.R) == (4, "fec0::", 64, 1, 1, 0)
    assert (prefix.validlifetime, prefix.preferredlifetime) == (86400, 14400)
    assert (said[ICMPv6NDOptMTU].len, said[ICMPv6NDOptMTU].mtu) == (1, 1500)
    assert said[ICMPv6NDOptSrcLLAddr].lladdr == B.hex(":")
    assert (said[ICMPv6NDOptRDNSS].dns, said[ICMPv6NDOptRDNSS].lifetime) == (["fec0::3"], 1800)
    search = said[ICMPv6NDOptDNSSL]
    assert ([name for name in search.searchlist if name], search.lifetime) == (["lan.", "example.org."], 1800)


def test_a_router_that_leads_nowhere_is_no_default_router() -> None:
    quiet = Router(mac=B, prefix=PREFIX, mtu=1500, lifetime_s=0)
    said = nd(inet6.router_advertisement(quiet), ICMPv6ND_RA)[ICMPv6ND_RA]
    assert said.routerlifetime == 0
    assert ICMPv6NDOptPrefixInfo in said
    assert ICMPv6NDOptRDNSS not in said
    assert ICMPv6NDOptDNSSL not in said


def test_who_asks_for_routers_is_answered_where_it_has_an_address() -> None:
    packet = nd(inet6.router_advertisement(ROUTER, RouterSolicitation(A, IP_A)), ICMPv6ND_RA)
    assert (packet.dst, packet[IPv6].dst) == (A.hex(":"), str(IP_A))
    packet = nd(inet6.router_advertisement(ROUTER, RouterSolicitation(A, ANY)), ICMPv6ND_RA)
    assert (packet.dst, packet[IPv6].dst) == (ALL_MAC, str(ALL))


def test_an_advertisement_fits_every_link() -> None:
    many = Router(
        mac=B,
        prefix=PREFIX,
        mtu=1280,
        dns=tuple(IPv6Address(number) for number in range(1, 1000)),
        search=tuple(f"d{number}.example.org" for number in range(1000)),
    )
    frame = inet6.router_advertisement(many)
    assert len(frame) <= 14 + inet6.MTU_MIN
    assert len(nd(frame, ICMPv6ND_RA)[ICMPv6NDOptRDNSS].dns) == inet6.RDNSS_MAX


def test_what_cannot_be_a_domain_name_is_left_out() -> None:
    wrong = ("", ".", "a..b", "a" * 64, ".".join(["a" * 62] * 5))
    assert inet6.domain_names((*wrong, "a" * 63, "lan.")) == b"\x3f" + b"a" * 63 + b"\0\x03lan\0"
    assert len(inet6.domain_names(["0123456.ab"] * 100)) <= inet6.SEARCH_MAX


# UDP


@given(datagrams, macs, macs)
@example(Datagram(ANY, 0, ANY, 0xFFFF - 17 - 2 * 8, b""), A, B)  # its checksum is 0, written as 0xffff
def test_a_datagram_is_what_scapy_makes_of_it_both_ways(datagram: Datagram, to: bytes, by: bytes) -> None:
    frame = inet6.udp6(datagram, to, by)
    assert inet6.read_udp6(frame) == datagram
    packet = dissected(frame, UDP, 17)
    assert packet[UDP].chksum != 0
    assert (packet.src, packet.dst) == (by.hex(":"), to.hex(":"))
    assert (packet[UDP].sport, packet[UDP].dport) == (datagram.source_port, datagram.target_port)
    assert (IPv6Address(packet[IPv6].src), IPv6Address(packet[IPv6].dst)) == (datagram.source, datagram.target)
    assert bytes(packet[UDP].payload) == datagram.payload
    layers = UDP(sport=datagram.source_port, dport=datagram.target_port) / Raw(datagram.payload)
    assert inet6.read_udp6(carried(layers, datagram.source, datagram.target) + b"padding") == datagram


WHOLE = carried(UDP(sport=5, dport=6) / Raw(b"here"))


@pytest.mark.parametrize(
    "frame",
    [
        WHOLE[:53],
        WHOLE[:-1],
        WHOLE[:14] + b"\x45" + WHOLE[15:],
        WHOLE[:18] + b"\x00\x07" + WHOLE[20:],
        WHOLE[:18] + b"\x00\x0b" + WHOLE[20:],
        WHOLE[:18] + b"\x00\x0d" + WHOLE[20:],
        WHOLE[:20] + b"\x06" + WHOLE[21:],
        WHOLE[:58] + b"\x00\x07" + WHOLE[60:],
        WHOLE[:58] + b"\xff\xff" + WHOLE[60:],
        carried(UDP(sport=5, dport=6), src=ALL),
        carried(IPv6ExtHdrHopByHop() / UDP(sport=5, dport=6)),
    ],
    ids=range(11),
)
def test_what_is_no_whole_datagram_is_none(frame: bytes) -> None:
    assert inet6.read_udp6(frame) is None
