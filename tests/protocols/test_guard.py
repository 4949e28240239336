"""Whom a guard believes: scapy's frames, a few written out byte by byte, and what a hostile guest may make of them."""

import itertools
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6_Reply, DHCP6_Solicit
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLQuery,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    fragment6,
)
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw

from vswitch.dataplane.drops import DHCP_SERVER, PASSED, ROUTER, SPOOFED_IP
from vswitch.protocols.guard import Guard

MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
MINE, OTHERS = "192.0.2.1", "192.0.2.2"
MINE6, OTHERS6 = "2001:db8::1", "2001:db8::2"
LINK_LOCAL, OTHERS_LINK_LOCAL = "fe80::5054:ff:fe00:1", "fe80::5054:ff:fe00:2"
ALL_NODES, UNSPECIFIED = "ff02::1", "::"
# Without a destination scapy would ask the network for one.
TO_ALL: dict[str, Any] = {"src": MAC, "dst": "ff:ff:ff:ff:ff:ff"}

HEADER = 14
IP_HEADER, IP6_HEADER = 20, 40


def addresses(*texts: str) -> frozenset[IPv4Address | IPv6Address]:
    return frozenset(map(ip_address, texts))


OPEN = Guard()
NO_DHCP = Guard(dhcp_server=False)
NO_ROUTER = Guard(router=False)
OWN = Guard(addresses=addresses(MINE, MINE6))
ALL = Guard(dhcp_server=False, router=False, addresses=addresses(MINE, MINE6))
GUARDS = [OPEN, NO_DHCP, NO_ROUTER, OWN, ALL]


def on_ethernet(packet: Packet) -> bytes:
    return bytes(Ether(**TO_ALL) / packet)


def ip(payload: Packet, **fields: Any) -> bytes:
    return on_ethernet(IP(src=MINE, dst="192.0.2.255", **fields) / payload)


def ip6(payload: Packet, src: str = LINK_LOCAL, **fields: Any) -> bytes:
    return on_ethernet(IPv6(src=src, dst=ALL_NODES, **fields) / payload)


def arp(**fields: Any) -> bytes:
    return on_ethernet(ARP(**{"hwsrc": MAC, "psrc": MINE, "pdst": OTHERS, **fields}))


def changed(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes([value]) + frame[at + 1 :]


RA = ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix="2001:db8::")
REDIRECT = ICMPv6ND_Redirect(tgt=OTHERS6, dst=OTHERS6)

DHCP_OFFER = ip(UDP(sport=67, dport=68) / BOOTP(op=2) / DHCP(options=[("message-type", "offer"), "end"]))
DHCP_DISCOVER = ip(UDP(sport=68, dport=67) / BOOTP() / DHCP(options=[("message-type", "discover"), "end"]))
ROUTER_ADVERTISEMENT = ip6(RA)
RA_MESSAGE = Raw(ROUTER_ADVERTISEMENT[HEADER + IP6_HEADER :])
NEIGHBOUR_SOLICITATION = ip6(ICMPv6ND_NS(tgt=OTHERS6) / ICMPv6NDOptSrcLLAddr(lladdr=MAC), MINE6)
NEIGHBOUR_ADVERTISEMENT = ip6(ICMPv6ND_NA(tgt=MINE6) / ICMPv6NDOptDstLLAddr(lladdr=MAC), MINE6)

BAD_DHCP = {
    "offer": DHCP_OFFER,
    "server to relay": ip(UDP(sport=67, dport=67)),
    "server's port to any": ip(UDP(sport=67, dport=4011)),
    "any port to client's": ip(UDP(sport=4011, dport=68)),
    "behind options": ip(UDP(sport=67, dport=68), options=[IPOption_Router_Alert()] * 3),
    "first fragment": ip(UDP(sport=67, dport=68) / Raw(bytes(24)), flags="MF"),
    "first fragment with no ports": ip(Raw(b"\0\x43\0"), proto=17, flags="MF"),
    "no length": ip(UDP(sport=67, dport=68), len=0),
    "cut off in the header": ip(UDP(sport=53, dport=53))[: HEADER + IP_HEADER - 1],
    "TCP cut off in the header": ip(TCP())[: HEADER + IP_HEADER - 1],
    "cut off by its length": ip(UDP(sport=53, dport=53), len=IP_HEADER + 3),
    "a header too short to be": ip(UDP(sport=53, dport=53), ihl=4),
    "advertise": ip6(UDP(sport=547, dport=546) / DHCP6_Advertise()),
    "reply from another port": ip6(UDP(sport=1024, dport=546) / DHCP6_Reply()),
    "relay": ip6(UDP(sport=547, dport=547)),
    "advertise behind headers": ip6(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=547, dport=546)),
    "advertise in a first fragment": ip6(IPv6ExtHdrFragment(m=1) / UDP(sport=547, dport=546)),
    "IPv6 ports cut off": ip6(Raw(b"\0\x35\0"), nh=17),
}
BAD_ROUTER = {
    "router advertisement": ROUTER_ADVERTISEMENT,
    "redirect": ip6(REDIRECT),
    "hop limit 1": ip6(RA, hlim=1),
    "of a global source": ip6(RA, OTHERS6),
    "atomic fragment": ip6(IPv6ExtHdrFragment() / RA),
    "atomic fragment, its reserved byte set": ip6(IPv6ExtHdrFragment(res1=1) / RA),
    "one byte": ip6(Raw(b"\x86"), nh=58),
    "behind headers": ip6(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / RA),
    "padding shows an echo": ip6(IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt(nh=58), plen=16) + b"\x80" + bytes(7),
    "chain leads into the next fragment": ip6(IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt(nh=58, len=1)),
    "no type": ip6(Raw(b""), nh=58),
    "no length": ip6(RA, plen=0),
    "half a header and then nothing": ip6(Raw(bytes([59, 0, 0, 0])), nh=60),
    "ICMP redirect": ip(ICMP(type=5, gw=MINE)),
    "ICMP router advertisement": ip(ICMP(type=9)),
    "ICMP redirect behind options": ip(ICMP(type=5), options=[IPOption_Router_Alert()]),
    "ICMP redirect in a first fragment": ip(ICMP(type=5), flags="MF"),
    "ICMP without a type": ip(Raw(b""), proto=1),
}
BAD_CLAIM = {
    "ARP request": arp(psrc=OTHERS),
    "ARP reply": arp(op=2, psrc=OTHERS),
    "gratuitous ARP": arp(psrc=OTHERS, pdst=OTHERS),
    "ARP of any operation": arp(op=77, psrc=OTHERS),
    "ARP of IEEE 802 hardware": changed(arp(), HEADER + 1, 6),
    "ARP of unknown hardware": changed(arp(), HEADER, 1),
    "ARP of another protocol": changed(arp(), HEADER + 3, 1),
    "ARP with long hardware addresses": changed(arp(), HEADER + 4, 8),
    "ARP with long protocol addresses": changed(arp(), HEADER + 5, 16),
    "ARP cut off": arp()[:-1],
    "solicitation from another's": ip6(ICMPv6ND_NS(tgt=MINE6), OTHERS6),
    "solicitation from another's link-local": ip6(ICMPv6ND_NS(tgt=MINE6), OTHERS_LINK_LOCAL),
    "trying another's address": ip6(ICMPv6ND_NS(tgt=OTHERS6), UNSPECIFIED),
    "advertisement of another's": ip6(ICMPv6ND_NA(tgt=OTHERS6), MINE6),
    "advertisement from another's": ip6(ICMPv6ND_NA(tgt=MINE6), OTHERS6),
    "advertisement from nowhere": ip6(ICMPv6ND_NA(tgt=MINE6), UNSPECIFIED),
    "router solicitation from another's": ip6(ICMPv6ND_RS(), OTHERS6),
    "router advertisement from another's": ip6(RA, OTHERS_LINK_LOCAL),
    "router advertisement from nowhere": ip6(RA, UNSPECIFIED),
    "redirect from another's": ip6(REDIRECT, OTHERS_LINK_LOCAL),
    "solicitation without a target": NEIGHBOUR_SOLICITATION[: HEADER + IP6_HEADER + 23],
    "advertisement without a target": NEIGHBOUR_ADVERTISEMENT[: HEADER + IP6_HEADER + 23],
    "behind headers": ip6(IPv6ExtHdrDestOpt() / ICMPv6ND_NA(tgt=OTHERS6), MINE6),
    "own address in fragments": ip6(IPv6ExtHdrFragment(m=1) / ICMPv6ND_NA(tgt=MINE6), MINE6),
    "own address in an atomic fragment": ip6(IPv6ExtHdrFragment() / ICMPv6ND_NA(tgt=MINE6), MINE6),
    "no type": ip6(Raw(b""), MINE6, nh=58),
}
GOOD = {
    "discover": DHCP_DISCOVER,
    "discover of a client on another port": ip(UDP(sport=1024, dport=67)),
    "solicit": ip6(UDP(sport=546, dport=547) / DHCP6_Solicit()),
    "DNS": ip(UDP(sport=53, dport=53)),
    "TCP from port 67": ip(TCP(sport=67, dport=68)),
    "TCP in IPv6 from port 547": ip6(TCP(sport=547, dport=546)),
    "later fragment that looks like an offer": ip(UDP(sport=67, dport=68), frag=1),
    "later IPv6 fragment that looks like an advertisement": ip6(IPv6ExtHdrFragment(offset=1, nh=58) / RA_MESSAGE),
    "ping": ip(ICMP(type=8)),
    "IPv6 ping": ip6(ICMPv6EchoRequest()),
    "IPv6 ping in fragments": ip6(IPv6ExtHdrFragment(m=1) / ICMPv6EchoRequest()),
    "multicast listener query": ip6(IPv6ExtHdrHopByHop() / ICMPv6MLQuery()),
    "padding that looks like an advertisement": ip6(Raw(b""), nh=59, plen=8, hlim=255) + bytes(8) + bytes(RA_MESSAGE),
    "nothing in IPv6": ip6(Raw(b""), nh=59),
    "headers and then nothing": ip6(IPv6ExtHdrDestOpt(nh=59)),
    "ESP": ip6(Raw(bytes(IPv6ExtHdrDestOpt(nh=58) / RA_MESSAGE)), nh=50),
    "unknown next header": ip6(Raw(bytes(IPv6ExtHdrDestOpt(nh=58) / RA_MESSAGE)), nh=252),
    "ARP request": arp(),
    "ARP reply": arp(op=2),
    "ARP probe": arp(psrc="0.0.0.0", pdst=MINE),
    "ARP with padding": arp() + bytes(18),
    "RARP of QEMU": bytes(Ether(**TO_ALL, type=0x8035) / ARP(op=3, hwsrc=MAC, psrc="0.0.0.0", hwdst=MAC)),
    "neighbour solicitation": NEIGHBOUR_SOLICITATION,
    "neighbour advertisement": NEIGHBOUR_ADVERTISEMENT,
    "neighbour advertisement of its link-local": ip6(ICMPv6ND_NA(tgt=LINK_LOCAL)),
    "trying its address": ip6(ICMPv6ND_NS(tgt=MINE6), UNSPECIFIED),
    "trying its link-local": ip6(ICMPv6ND_NS(tgt=LINK_LOCAL), UNSPECIFIED),
    "router solicitation": ip6(ICMPv6ND_RS()),
    "router solicitation from nowhere": ip6(ICMPv6ND_RS(), UNSPECIFIED),
    "no LLC/SNAP": bytes(Dot3(**TO_ALL) / LLC(dsap=0x42, ssap=0x42, ctrl=3) / Raw(bytes(40))),
    "another organisation's SNAP": bytes(Dot3(**TO_ALL) / LLC() / SNAP(OUI=0x00000C, code=0x2000) / Raw(bytes(40))),
    "an EtherType of its own": bytes(Ether(**TO_ALL, type=0x88B5) / LLC() / SNAP() / ARP(psrc=OTHERS)),
}
EVERY = [*BAD_DHCP.values(), *BAD_ROUTER.values(), *BAD_CLAIM.values(), *GOOD.values()]
TYPICAL = [DHCP_OFFER, ROUTER_ADVERTISEMENT, ip6(ICMPv6ND_NA(tgt=OTHERS6), MINE6), arp(psrc=OTHERS), *GOOD.values()]


def table(frames: dict[str, bytes]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("frame", frames.values(), ids=frames.keys())


def judgements(frame: bytes) -> list[int]:
    return [guard.judge(frame) for guard in GUARDS]


def sound(frame: bytes) -> None:
    """A guard drops only for what it guards; one that guards more drops what the others drop, and nothing else."""
    nothing, dhcp, router, own, everything = judgements(frame)
    assert nothing == PASSED
    assert dhcp in (PASSED, DHCP_SERVER)
    assert router in (PASSED, ROUTER)
    assert own in (PASSED, SPOOFED_IP)
    assert everything == next((reason for reason in (router, dhcp, own) if reason != PASSED), PASSED)


@table(BAD_DHCP)
def test_dhcp_comes_from_servers_only(frame: bytes) -> None:
    assert NO_DHCP.judge(frame) == DHCP_SERVER
    sound(frame)


@table(BAD_ROUTER)
def test_ways_are_shown_by_routers_only(frame: bytes) -> None:
    assert NO_ROUTER.judge(frame) == ROUTER
    sound(frame)


@table(BAD_CLAIM)
def test_an_address_is_claimed_by_its_owner_only(frame: bytes) -> None:
    assert OWN.judge(frame) == SPOOFED_IP
    sound(frame)


@table(GOOD)
def test_what_a_host_says_passes_every_guard(frame: bytes) -> None:
    assert judgements(frame) == [PASSED] * len(GUARDS)


# Some byte by byte, so that no mistake of scapy's hides one of ours.
BROADCAST_FROM_1 = "ffffffffffff 525400000001"
IP6_FROM_1 = "fe80 0000 0000 0000 5054 00ff fe00 0001"
IP6_FROM_MINE = "2001 0db8 0000 0000 0000 0000 0000 0001"
IP6_OTHERS = "2001 0db8 0000 0000 0000 0000 0000 0002"
IP6_ALL_NODES = "ff02 0000 0000 0000 0000 0000 0000 0001"


@pytest.mark.parametrize(
    ("guard", "text", "judgement"),
    [
        (OWN, "0806 0001 0800 06 04 0001 525400000001 c0000201 000000000000 c0000202", PASSED),
        (OWN, "0806 0001 0800 06 04 0001 525400000001 c0000202 000000000000 c0000202", SPOOFED_IP),
        (OWN, "0806 0001 0800 06 04 0001 525400000001 00000000 000000000000 c0000201", PASSED),
        (NO_DHCP, "0800 4500 001c 0000 0000 40 11 0000 c0000201 ffffffff 0043 0044 0008 0000", DHCP_SERVER),
        (NO_DHCP, "0800 4500 001c 0000 0000 40 11 0000 00000000 ffffffff 0044 0043 0008 0000", PASSED),
        (NO_DHCP, "0800 4600 0020 0000 2000 40 11 0000 c0000201 ffffffff 94040000 0043 0044 0008 0000", DHCP_SERVER),
        (NO_DHCP, f"86dd 60000000 0008 11 ff {IP6_FROM_1} {IP6_ALL_NODES} 0223 0222 0008 0000", DHCP_SERVER),
        (NO_DHCP, f"86dd 60000000 0008 11 ff {IP6_FROM_1} {IP6_ALL_NODES} 0222 0223 0008 0000", PASSED),
        (NO_ROUTER, "0800 4500 001c 0000 0000 40 01 0000 c0000201 c0000202 05 01 0000 c0000201", ROUTER),
        (NO_ROUTER, "0800 4500 001c 0000 0000 40 01 0000 c0000201 c0000202 08 00 0000 00000000", PASSED),
        (NO_ROUTER, f"86dd 60000000 0010 3a ff {IP6_FROM_1} {IP6_ALL_NODES} 86 00 0000" + "00" * 12, ROUTER),
        (NO_ROUTER, f"86dd 60000000 0028 3a ff {IP6_FROM_1} {IP6_ALL_NODES} 89 00 0000" + "00" * 36, ROUTER),
        (NO_ROUTER, f"86dd 60000000 0008 3a ff {IP6_FROM_1} {IP6_ALL_NODES} 80 00 0000 00000000", PASSED),
        (
            NO_ROUTER,  # destination options of 16 bytes, AH of 12 + 4, then the advertisement
            f"86dd 60000000 0030 3c ff {IP6_FROM_1} {IP6_ALL_NODES} 33 01" + "00" * 14 + "3a 02" + "00" * 14 + "86",
            ROUTER,
        ),
        (OWN, f"86dd 60000000 0018 3a ff {IP6_FROM_1} {IP6_ALL_NODES} 88 00 0000 20000000 {IP6_FROM_1}", PASSED),
        (OWN, f"86dd 60000000 0018 3a ff {IP6_FROM_1} {IP6_ALL_NODES} 88 00 0000 20000000 {IP6_FROM_MINE}", PASSED),
        (OWN, f"86dd 60000000 0018 3a ff {IP6_FROM_MINE} {IP6_ALL_NODES} 88 00 0000 20000000 {IP6_OTHERS}", SPOOFED_IP),
        (OWN, f"86dd 60000000 0018 3a ff {IP6_FROM_MINE} {IP6_ALL_NODES} 87 00 0000 00000000 {IP6_OTHERS}", PASSED),
    ],
    ids=itertools.count(),
)
def test_frames_written_out(guard: Guard, text: str, judgement: int) -> None:
    assert guard.judge(bytes.fromhex(BROADCAST_FROM_1 + text)) == judgement


@pytest.mark.parametrize(
    ("guard", "frame", "judgement"),
    [
        (ALL, ip6(RA, OTHERS6), ROUTER),
        (Guard(router=False, addresses=addresses()), ip6(REDIRECT, OTHERS6), ROUTER),
        (ALL, ip6(Raw(b""), nh=60), ROUTER),
        (Guard(dhcp_server=False, addresses=addresses()), ip6(Raw(b""), nh=60), DHCP_SERVER),
        (Guard(router=False, addresses=addresses()), ip6(Raw(b""), nh=60), ROUTER),
        (OWN, ip6(Raw(b""), nh=60), SPOOFED_IP),
        (OPEN, ip6(Raw(b""), nh=60), PASSED),
        (ALL, ip(Raw(b""), ihl=1), ROUTER),
        (Guard(dhcp_server=False, addresses=addresses()), ip(Raw(b""), ihl=1), DHCP_SERVER),
        (OWN, ip(Raw(b""), ihl=1), PASSED),  # IPv4 itself claims nothing
    ],
    ids=itertools.count(),
)
def test_reasons_have_an_order(guard: Guard, frame: bytes, judgement: int) -> None:
    assert guard.judge(frame) == judgement


@pytest.mark.parametrize(
    ("frame", "dropped"),
    [(arp(), True), (arp(psrc="0.0.0.0"), False), (NEIGHBOUR_ADVERTISEMENT, True), (ip6(ICMPv6ND_RS()), False)],
    ids=["ARP", "ARP probe", "neighbour advertisement", "router solicitation"],
)
def test_no_addresses_are_not_any_address(frame: bytes, dropped: bool) -> None:
    assert (Guard(addresses=addresses()).judge(frame) == SPOOFED_IP) == dropped


def test_the_link_local_address_is_that_of_the_frame_s_own_source() -> None:
    for source, claimed in itertools.product((MAC, OTHER_MAC, "00:00:5e:00:53:01"), (LINK_LOCAL, OTHERS_LINK_LOCAL)):
        frame = bytes(Ether(src=source, dst=MAC) / IPv6(src=claimed, dst=ALL_NODES) / ICMPv6ND_NA(tgt=claimed))
        own = (source, claimed) in ((MAC, LINK_LOCAL), (OTHER_MAC, OTHERS_LINK_LOCAL))
        assert OWN.judge(frame) == (PASSED if own else SPOOFED_IP)


def test_a_scope_is_no_part_of_an_address() -> None:
    guard = Guard(addresses=frozenset([IPv6Address(f"{OTHERS_LINK_LOCAL}%eth0")]))
    assert guard.judge(ip6(ICMPv6ND_NS(tgt=MINE6), OTHERS_LINK_LOCAL)) == PASSED


def test_guards_that_say_the_same_are_equal() -> None:
    assert Guard(addresses=addresses(MINE, MINE6)) == OWN != ALL
    assert len({OPEN, Guard(), OWN, Guard(addresses=addresses(MINE6, MINE))}) == 2
    with pytest.raises(AttributeError):
        OPEN.router = False  # type: ignore[misc]


# What a message may be behind.

TAGS = st.builds(struct.pack, st.just("!HH"), st.sampled_from([0x8100, 0x88A8, 0x9100]), st.integers(0, 0xFFFF))
SNAPS = st.builds(lambda length: length.to_bytes(2) + bytes.fromhex("aaaa03 000000"), st.integers(0, 0x5FF))


@given(st.sampled_from(EVERY), st.lists(TAGS | SNAPS, max_size=20))
def test_a_frame_is_judged_as_without_tags(frame: bytes, stack: list[bytes]) -> None:
    assert judgements(frame[:12] + b"".join(stack) + frame[12:]) == judgements(frame)


@pytest.mark.parametrize("frame", TYPICAL, ids=itertools.count())
def test_scapy_s_tags_and_encapsulation_are_looked_through(frame: bytes) -> None:
    inner = Ether(frame).payload
    ether_type = int.from_bytes(frame[12:14])
    tagged = (
        Ether(**TO_ALL, type=0x88A8) / Dot1Q(vlan=5, type=0x8100) / Dot1Q(vlan=0, type=ether_type) / Raw(bytes(inner))
    )
    assert judgements(bytes(tagged)) == judgements(frame)
    if ether_type >= 0x600:
        encapsulated = Dot3(**TO_ALL) / LLC() / SNAP(code=ether_type) / Raw(bytes(inner))
        assert judgements(bytes(encapsulated)) == judgements(frame)


@pytest.mark.parametrize(("length", "judgement"), [(0, SPOOFED_IP), (0x5FF, SPOOFED_IP), (0x600, PASSED)])
def test_encapsulation_is_behind_a_length(length: int, judgement: int) -> None:
    encapsulated = length.to_bytes(2) + bytes.fromhex("aaaa03 000000") + arp(psrc=OTHERS)[12:]
    assert OWN.judge(arp()[:12] + encapsulated) == judgement


def test_a_frame_full_of_tags_or_headers_is_judged() -> None:
    most = 69632
    assert judgements((ROUTER_ADVERTISEMENT[:12] + b"\x81\x00\x00\x01" * most)[:most]) == [PASSED] * len(GUARDS)
    frame = behind(ROUTER_ADVERTISEMENT, [(60, bytes(6))] * 8000)
    assert NO_ROUTER.judge(frame) == ROUTER
    assert OWN.judge(frame) == PASSED


EXTENSION_HEADERS = [0, 43, 60, 135, 139, 140, 253, 254]
CONTENTS = st.sampled_from([bytes(6), bytes(14), b"\x86" * 22, bytes(254)])
HEADERS = st.tuples(st.sampled_from(EXTENSION_HEADERS), CONTENTS)
AHS = st.tuples(st.just(51), st.sampled_from([bytes(6), bytes(10), bytes(14), b"\x86" * 22]))
ATOMIC = st.tuples(st.just(44), st.just(bytes(6)))


def behind(frame: bytes, chain: list[tuple[int, bytes]]) -> bytes:
    """An IPv6 frame, its payload behind extension headers of these types and contents."""
    start = HEADER + IP6_HEADER
    protocols = [kind for kind, _ in chain] + [frame[HEADER + 6]]
    headers = b""
    for (kind, content), following in zip(chain, protocols[1:], strict=True):
        size = len(content) + 2
        units = {44: 0, 51: size // 4 - 2}.get(kind, size // 8 - 1)
        headers += bytes([following, units]) + content
    length = len(headers) + len(frame) - start
    head = frame[: HEADER + 4] + length.to_bytes(2) + bytes(protocols[:1]) + frame[HEADER + 7 : start]
    return head + headers + frame[start:]


IP6_FRAMES = [
    *(ROUTER_ADVERTISEMENT, BAD_ROUTER["redirect"], BAD_DHCP["advertise"], BAD_CLAIM["advertisement of another's"]),
    *(BAD_CLAIM["router solicitation from another's"], NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION),
    *(GOOD["solicit"], GOOD["IPv6 ping"], GOOD["unknown next header"], GOOD["ESP"], GOOD["nothing in IPv6"]),
]


def test_headers_are_put_as_scapy_puts_them() -> None:
    assert behind(ROUTER_ADVERTISEMENT, []) == ROUTER_ADVERTISEMENT
    put = behind(ip6(TCP()), [(0, b"\1\4" + bytes(4)), (60, b"\1\4" + bytes(4)), (44, bytes(6))])
    scapy_s = ip6(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment() / TCP())
    assert put[:-20] == scapy_s[:-20]  # but for TCP's checksum


@given(st.sampled_from(IP6_FRAMES), st.lists(HEADERS | AHS, max_size=12))
def test_a_packet_is_judged_as_without_extension_headers(frame: bytes, chain: list[tuple[int, bytes]]) -> None:
    assert judgements(behind(frame, chain)) == judgements(frame)


@given(st.lists(HEADERS | AHS, max_size=5), st.lists(HEADERS | AHS | ATOMIC, max_size=5))
def test_any_fragment_header_is_one_too_many_for_neighbours(
    outer: list[tuple[int, bytes]], inner: list[tuple[int, bytes]]
) -> None:
    chain = [*outer, (44, bytes(6)), *inner]
    assert OWN.judge(behind(NEIGHBOUR_ADVERTISEMENT, chain)) == SPOOFED_IP
    assert NO_ROUTER.judge(behind(NEIGHBOUR_ADVERTISEMENT, chain)) == PASSED
    assert NO_ROUTER.judge(behind(ROUTER_ADVERTISEMENT, chain)) == ROUTER
    assert OWN.judge(behind(GOOD["IPv6 ping"], chain)) == PASSED


# Fragments.


def fragments6(frame: bytes, size: int, outer: list[tuple[int, bytes]]) -> list[bytes]:
    """An IPv6 frame in fragments that carry `size` bytes each, behind unfragmentable headers."""
    start = HEADER + IP6_HEADER
    head, payload = frame[:start], frame[start:]
    found = []
    for at in range(0, len(payload), size):
        more = at + size < len(payload)
        header = (44, (at | more).to_bytes(2) + bytes(4))
        found.append(behind(head + payload[at : at + size], [*outer, header]))
    return found


HIDDEN = [
    (NO_ROUTER, ROUTER_ADVERTISEMENT),
    (NO_DHCP, BAD_DHCP["advertise"]),
    (OWN, BAD_CLAIM["advertisement of another's"]),
]


@given(
    st.sampled_from(HIDDEN),
    st.lists(HEADERS, max_size=3),
    st.lists(HEADERS, max_size=5),
    st.integers(1, 60),
)
def test_no_fragmenting_gets_a_message_by(
    case: tuple[Guard, bytes], outer: list[tuple[int, bytes]], inner: list[tuple[int, bytes]], units: int
) -> None:
    """Without its first fragment no packet is whole."""
    guard, frame = case
    first, *later = fragments6(behind(frame, inner), units * 8, outer)
    assert guard.judge(first) == guard.judge(frame) != PASSED
    assert [guard.judge(part) for part in later] == [PASSED] * len(later)


@given(st.lists(HEADERS, max_size=3), st.lists(HEADERS, max_size=3), st.integers(1, 60))
def test_a_first_fragment_shows_the_whole_header_chain(
    outer: list[tuple[int, bytes]], inner: list[tuple[int, bytes]], units: int
) -> None:
    first, *later = fragments6(behind(ip6(TCP()), inner), units * 8, outer)
    whole = units * 8 > sum(len(content) + 2 for _, content in inner)
    reasons = [PASSED, DHCP_SERVER, ROUTER, SPOOFED_IP, ROUTER]
    assert judgements(first) == ([PASSED] * len(GUARDS) if whole else reasons)
    for part in later:
        assert judgements(part) == [PASSED] * len(GUARDS)


@pytest.mark.parametrize("size", range(64, 200, 8))  # of the whole packet; 48 of it are headers
def test_scapy_s_fragments_of_an_advertisement(size: int) -> None:
    packet = IPv6(src=LINK_LOCAL, dst=ALL_NODES) / IPv6ExtHdrFragment(id=1) / IPv6ExtHdrDestOpt() / RA / Raw(bytes(200))
    first, *later = [on_ethernet(part) for part in fragment6(packet, size)]  # type: ignore[no-untyped-call]
    assert later
    assert NO_ROUTER.judge(first) == ROUTER
    assert {NO_ROUTER.judge(part) for part in later} == {PASSED}


@pytest.mark.parametrize("size", range(8, 300, 8))
@pytest.mark.parametrize(
    ("guard", "payload", "reason"),
    [
        (NO_DHCP, UDP(sport=67, dport=68), DHCP_SERVER),
        (NO_ROUTER, ICMP(type=5), ROUTER),
        (ALL, UDP(sport=68, dport=67), PASSED),
    ],
    ids=["offer", "redirect", "discover"],
)
def test_scapy_s_fragments_of_ipv4(guard: Guard, payload: Packet, reason: int, size: int) -> None:
    packet = IP(src=MINE, dst=OTHERS) / payload / Raw(b"\x43" * 300)
    first, *later = [on_ethernet(part) for part in fragment(packet, size)]  # type: ignore[no-untyped-call]
    assert later
    assert guard.judge(first) == reason
    assert {guard.judge(part) for part in later} == {PASSED}


# Any bytes.


def test_what_is_dropped_whole_is_dropped_cut_off() -> None:
    for guard, frames in ((NO_DHCP, BAD_DHCP), (NO_ROUTER, BAD_ROUTER), (OWN, BAD_CLAIM)):
        for frame in frames.values():
            reason = guard.judge(frame)
            for size in range(len(frame)):
                assert guard.judge(frame[:size]) == (reason if size >= HEADER else PASSED)


ETHER_TYPES = st.sampled_from([0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8, 0x9100, 0x8035, 40]).map(lambda n: n.to_bytes(2))


@given(st.binary(max_size=200) | st.builds(lambda kind, rest: bytes(12) + kind + rest, ETHER_TYPES, st.binary()))
def test_any_bytes_are_judged(frame: bytes) -> None:
    sound(frame)


CHANGES = st.lists(st.tuples(st.integers(12, 90), st.integers(0, 255)), max_size=4)


@given(st.sampled_from(EVERY), CHANGES, st.integers(0, 120), st.binary(max_size=20))
def test_frames_with_mistakes_are_judged(frame: bytes, changes: list[tuple[int, int]], size: int, tail: bytes) -> None:
    wrong = bytearray(frame)
    for at, value in changes:
        if at < len(frame):
            wrong[at] = value
    sound(bytes(wrong[:size]) + tail)
    sound(bytes(wrong) + tail)
