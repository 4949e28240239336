"""What `vswitch capture --text` says of a frame: scapy's frames against words written by hand."""

import json
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.lacp import LACP
from scapy.contrib.slowprot import SlowProtocol
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Reply, DHCP6_Solicit
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLDMultAddrRec,
    ICMPv6MLQuery,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, LLC, SNAP, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

from tests.needs import require
from vswitch.cli.capturing.frame_text import SAYS_MAX, describe

A, B, ALL = "52:54:00:00:00:01", "52:54:00:00:00:02", "ff:ff:ff:ff:ff:ff"
TO_B = f"{A} > {B}  "
TO_ALL = f"{A} > {ALL}  "
LINK_LOCAL = "fe80::5054:ff:fe00:1"


def ether(payload: Packet, **fields: Any) -> bytes:
    return bytes(Ether(**{"src": A, "dst": B, **fields}) / payload)


def broadcast(payload: Packet, **fields: Any) -> bytes:
    return ether(payload, dst=ALL, **fields)


def ip(payload: Packet, **fields: Any) -> bytes:
    return ether(IP(**{"src": "10.0.0.1", "dst": "10.0.0.2", **fields}) / payload)


def ip6(payload: Packet, src: str = LINK_LOCAL, dst: str = "ff02::1", **fields: Any) -> bytes:
    return ether(IPv6(src=src, dst=dst, **fields) / payload)


def udp(sport: int, dport: int, payload: Packet, **fields: Any) -> bytes:
    return ip(UDP(sport=sport, dport=dport, **fields) / payload)


def tcp(flags: str, payload: bytes = b"", **fields: Any) -> bytes:
    return ip(TCP(sport=40000, dport=80, flags=flags, seq=100, ack=200, **fields) / Raw(payload))


def arp(**fields: Any) -> Packet:
    return ARP(**{"hwsrc": A, "psrc": "10.0.0.1", "pdst": "10.0.0.2", **fields})


def bpdu(**fields: Any) -> bytes:
    tree = STP(
        **{"rootid": 4096, "rootmac": B, "pathcost": 4, "bridgeid": 32768, "bridgemac": A, "portid": 0x8001, **fields}
    )
    return bytes(Dot3(src=A, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / tree)


def lldp(*tlvs: tuple[int, bytes]) -> bytes:
    packed = b"".join(struct.pack(">H", kind << 9 | len(value)) + value for kind, value in tlvs)
    return ether(Raw(packed + bytes(2)), dst="01:80:c2:00:00:0e", type=0x88CC)


def dhcp(kind: str, sport: int = 68, dport: int = 67, requested: str | None = None, **fields: Any) -> bytes:
    more = [("requested_addr", requested)] if requested else []
    return udp(sport, dport, BOOTP(**fields) / DHCP(options=[("message-type", kind), *more, "end"]))


def igmp(message: str) -> bytes:
    return ip(Raw(bytes.fromhex(message)), proto=2)


def changed(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes([value]) + frame[at + 1 :]


QUOTED = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=4000, dport=53) / Raw(bytes(8))
QUOTED6 = IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=4000, dport=53) / Raw(bytes(8))
IP_PAIR, PORT_PAIR = "10.0.0.1 > 10.0.0.2", "10.0.0.1:5000 > 10.0.0.2:6000"
BROKEN_NAME = bytes.fromhex("0001 0100 0001 0000 0000 0000") + b"\x03www\xc0\x0c" + bytes(4)

SAID: dict[str, tuple[bytes, str]] = {
    "ARP request": (broadcast(arp()), TO_ALL + "ARP who has 10.0.0.2? tell 10.0.0.1"),
    "ARP reply": (ether(arp(op=2, hwdst=B)), TO_B + f"ARP 10.0.0.1 is at {A}"),
    "ARP gratuitous": (broadcast(arp(pdst="10.0.0.1")), TO_ALL + f"ARP gratuitous 10.0.0.1 is at {A}"),
    "ARP probe": (broadcast(arp(psrc="0.0.0.0")), TO_ALL + "ARP probe who has 10.0.0.2?"),
    "ARP of another kind": (broadcast(arp(hwtype=6)), TO_ALL + "ARP hardware 6 protocol 0x0800 operation 1"),
    "ARP operation": (broadcast(arp(op=9)), TO_ALL + "ARP operation 9"),
    "RARP": (broadcast(arp(op=3, hwdst=A), type=0x8035), TO_ALL + f"RARP who is {A}? tell {A}"),
    "VLAN tag": (broadcast(Dot1Q(vlan=10) / arp()), TO_ALL + "vlan 10  ARP who has 10.0.0.2? tell 10.0.0.1"),
    "priority": (ether(Dot1Q(vlan=0, prio=5) / arp(op=9)), TO_B + "vlan 0 pcp 5  ARP operation 9"),
    "drop eligible": (ether(Dot1Q(vlan=1, dei=1) / arp(op=9)), TO_B + "vlan 1 dei  ARP operation 9"),
    "two tags": (ether(Dot1AD(vlan=100) / Dot1Q(vlan=10) / arp(op=9)), TO_B + "s-vlan 100  vlan 10  ARP operation 9"),
    "tag cut off": (ether(Raw(b"\x00"), type=0x8100), TO_B + "[malformed]"),
    "gratuitous reply": (ether(arp(op=2, pdst="10.0.0.1")), TO_B + f"ARP gratuitous 10.0.0.1 is at {A}"),
    "RARP reply": (ether(arp(op=4, hwdst=B), type=0x8035), TO_B + f"RARP {B} is 10.0.0.2"),
    "short ARP": (
        ether(Raw(bytes.fromhex("0007 0800 0104 0001")), type=0x0806),
        TO_B + "ARP hardware 7 protocol 0x0800 operation 1",
    ),
    "first EtherType": (ether(Raw(b"\xaa\xaa\x03" + bytes(43)), type=0x0600), TO_B + "EtherType 0x0600"),
    "last length": (ether(Raw(b"\xe0\xe0\x03" + bytes(43)), type=0x05FF), TO_B + "LLC dsap 0xe0 ssap 0xe0"),
    "RFC 1042": (bytes(Dot3(src=A, dst=B) / LLC() / SNAP() / arp(op=9)), TO_B + "ARP operation 9"),
    "LLC": (bytes(Dot3(src=A, dst=B) / LLC(dsap=0xFE, ssap=0xFE) / Raw(bytes(8))), TO_B + "LLC dsap 0xfe ssap 0xfe"),
    "EtherType": (ether(Raw(bytes(46)), type=0x88B5), TO_B + "EtherType 0x88b5"),
    "EtherType's name": (ether(Raw(bytes(46)), type=0x888E), TO_B + "EAPOL"),
    "runt": (bytes.fromhex("525400000002525400"), "52:54:00:00:00:02:52:54:00 [malformed]"),
    "no EtherType": (ether(Raw())[:13], TO_B + "[malformed]"),
    "echo request": (ip(ICMP(id=7, seq=1)), TO_B + f"ICMP {IP_PAIR} echo request id 7 seq 1"),
    "echo reply": (ip(ICMP(type=0, id=7, seq=2)), TO_B + f"ICMP {IP_PAIR} echo reply id 7 seq 2"),
    "port unreachable": (
        ip(ICMP(type=3, code=3) / QUOTED),
        TO_B + f"ICMP {IP_PAIR} port unreachable for UDP 10.0.0.1:4000 > 10.0.0.2:53",
    ),
    "too big": (
        ip(ICMP(type=3, code=4, nexthopmtu=1400) / QUOTED),
        TO_B + f"ICMP {IP_PAIR} too big mtu 1400 for UDP 10.0.0.1:4000 > 10.0.0.2:53",
    ),
    "redirect": (
        ip(ICMP(type=5, gw="10.0.0.9") / QUOTED),
        TO_B + f"ICMP {IP_PAIR} redirect to 10.0.0.9 for UDP 10.0.0.1:4000 > 10.0.0.2:53",
    ),
    "ICMP type": (ip(ICMP(type=40, code=2)), TO_B + f"ICMP {IP_PAIR} type 40 code 2"),
    "SYN": (tcp("S"), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [S] seq 100"),
    "SYN ACK": (tcp("SA"), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [S.] seq 100"),
    "TCP data": (tcp("PA", b"GET /"), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [P.] seq 100 len 5"),
    "ACK": (tcp("A"), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [.] ack 200"),
    "FIN": (tcp("FA"), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [F.] seq 100"),
    "RST": (tcp("R", window=0), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [R] seq 100"),
    "window 0": (tcp("A", window=0), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [.] ack 200 win 0"),
    "no TCP flags": (tcp("", b"x"), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [none] seq 100 len 1"),
    "TCP options": (tcp("S", options=[("MSS", 1460)]), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [S] seq 100"),
    "TCP header too short": (tcp("S", dataofs=4), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [S] [malformed]"),
    "padded": (tcp("A") + bytes(6), TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [.] ack 200"),
    "UDP": (udp(5000, 6000, Raw(bytes(9))), TO_B + f"UDP {PORT_PAIR} len 9"),
    "UDP length": (udp(5000, 6000, Raw(bytes(9)), len=7), TO_B + f"UDP {PORT_PAIR} [malformed]"),
    "UDP without data": (udp(5000, 53, Raw()), TO_B + "UDP 10.0.0.1:5000 > 10.0.0.2:53 len 0"),
    "UDP's end": (
        udp(5000, 53, DNS(qd=DNSQR(qname="a.example")), len=8 + 14),
        TO_B + "UDP 10.0.0.1:5000 > 10.0.0.2:53 DNS query [malformed]",
    ),
    "IPv4's end": (ip(ICMP(id=7, seq=1), len=20 + 4), TO_B + f"ICMP {IP_PAIR} echo request id [malformed]"),
    "nothing in IPv4": (ip(Raw(), proto=253), TO_B + f"IPv4 {IP_PAIR} protocol 253 len 0"),
    "IPv4 options": (
        ip(UDP(sport=5000, dport=6000) / Raw(bytes(9)), options=[Raw(b"\x94\x04\x00\x00")]),
        TO_B + f"UDP {PORT_PAIR} len 9",
    ),
    "fragment": (
        ip(Raw(bytes(1480)), proto=17, frag=185, flags="MF"),
        TO_B + f"UDP {IP_PAIR} fragment at 1480 len 1480",
    ),
    "first fragment": (
        ip(UDP(sport=5000, dport=6000, len=3008) / Raw(bytes(1472)), flags="MF"),
        TO_B + f"UDP {PORT_PAIR} first fragment len 3000",
    ),
    "protocol": (ip(Raw(bytes(5)), proto=253), TO_B + f"IPv4 {IP_PAIR} protocol 253 len 5"),
    "protocol's name": (ip(Raw(bytes(5)), proto=132), TO_B + f"SCTP {IP_PAIR} len 5"),
    "not IPv4": (changed(ip(ICMP()), 14, 0x55), TO_B + f"IPv4 {IP_PAIR} [malformed]"),
    "IPv4 header too short": (changed(ip(ICMP()), 14, 0x44), TO_B + f"IPv4 {IP_PAIR} [malformed]"),
    "DHCP Discover": (dhcp("discover"), TO_B + "UDP 10.0.0.1:68 > 10.0.0.2:67 DHCP Discover"),
    "DHCP Offer": (
        dhcp("offer", 67, 68, yiaddr="10.0.0.7"),
        TO_B + "UDP 10.0.0.1:67 > 10.0.0.2:68 DHCP Offer 10.0.0.7",
    ),
    "DHCP Request": (
        dhcp("request", requested="10.0.0.7"),
        TO_B + "UDP 10.0.0.1:68 > 10.0.0.2:67 DHCP Request 10.0.0.7",
    ),
    "DHCP Release": (
        dhcp("release", ciaddr="10.0.0.7"),
        TO_B + "UDP 10.0.0.1:68 > 10.0.0.2:67 DHCP Release 10.0.0.7",
    ),
    "DHCP after its end": (
        udp(
            68, 67, BOOTP() / DHCP(options=[("message-type", "discover"), "end", "pad", ("requested_addr", "10.0.0.7")])
        ),
        TO_B + "UDP 10.0.0.1:68 > 10.0.0.2:67 DHCP Discover",
    ),
    "DHCP to a client": (dhcp("ack", sport=5000, dport=68), TO_B + "UDP 10.0.0.1:5000 > 10.0.0.2:68 DHCP ACK"),
    "DHCP from a server": (dhcp("nak", sport=67, dport=5000), TO_B + "UDP 10.0.0.1:67 > 10.0.0.2:5000 DHCP NAK"),
    "BOOTP": (udp(68, 67, BOOTP(op=1) / Raw(bytes(64))), TO_B + "UDP 10.0.0.1:68 > 10.0.0.2:67 DHCP BOOTP operation 1"),
    "DHCPv6": (
        ip6(UDP(sport=546, dport=547) / DHCP6_Solicit(), dst="ff02::1:2"),
        TO_B + f"UDP [{LINK_LOCAL}]:546 > [ff02::1:2]:547 DHCPv6 Solicit",
    ),
    "DHCPv6 to a client": (
        ip6(UDP(sport=5000, dport=546) / DHCP6_Reply()),
        TO_B + f"UDP [{LINK_LOCAL}]:5000 > [ff02::1]:546 DHCPv6 Reply",
    ),
    "DHCPv6 from a server": (
        ip6(UDP(sport=547, dport=5000) / DHCP6_Reply()),
        TO_B + f"UDP [{LINK_LOCAL}]:547 > [ff02::1]:5000 DHCPv6 Reply",
    ),
    "DNS notification": (
        udp(5000, 53, DNS(opcode=4, qd=DNSQR(qname="a.example", qtype="SOA"))),
        TO_B + "UDP 10.0.0.1:5000 > 10.0.0.2:53 DNS query opcode 4 SOA a.example",
    ),
    "LLMNR": (
        udp(5000, 5355, DNS(qd=DNSQR(qname="web"))),
        TO_B + "UDP 10.0.0.1:5000 > 10.0.0.2:5355 LLMNR query A web",
    ),
    "label of 64": (
        udp(5000, 53, Raw(BROKEN_NAME[:12] + b"\x40" + b"a" * 64 + bytes(5))),
        TO_B + "UDP 10.0.0.1:5000 > 10.0.0.2:53 DNS query [malformed]",
    ),
    "DNS query": (
        udp(5000, 53, DNS(qd=DNSQR(qname="www.example.com", qtype="AAAA"))),
        TO_B + "UDP 10.0.0.1:5000 > 10.0.0.2:53 DNS query AAAA www.example.com",
    ),
    "DNS reply": (
        udp(53, 5000, DNS(qr=1, qd=DNSQR(qname="a.example"), an=[DNSRR(rrname="a.example", rdata="192.0.2.1")])),
        TO_B + "UDP 10.0.0.1:53 > 10.0.0.2:5000 DNS reply A a.example 1 answer",
    ),
    "no such name": (
        udp(53, 5000, DNS(qr=1, rcode=3, qd=DNSQR(qname="a.example"))),
        TO_B + "UDP 10.0.0.1:53 > 10.0.0.2:5000 DNS reply A a.example NXDOMAIN",
    ),
    "mDNS announcement": (
        udp(5353, 5353, DNS(qr=1, qd=[], an=[DNSRR(rrname="my printer.local", rdata="192.0.2.1")])),
        TO_B + "UDP 10.0.0.1:5353 > 10.0.0.2:5353 mDNS reply A my\\x20printer.local 1 answer",
    ),
    "hostile name": (
        udp(5000, 53, DNS(qd=DNSQR(qname=b"\x03\x1b[J\x04a\xffb\n\x00", qtype=99))),
        TO_B + "UDP 10.0.0.1:5000 > 10.0.0.2:53 DNS query type 99 \\x1b[J.a\\xffb\\n",
    ),
    "pointer in a first name": (
        udp(5000, 53, Raw(BROKEN_NAME)),
        TO_B + "UDP 10.0.0.1:5000 > 10.0.0.2:53 DNS query [malformed]",
    ),
    "echo request 6": (
        ip6(ICMPv6EchoRequest(id=7, seq=1)),
        TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1 echo request id 7 seq 1",
    ),
    "TCP 6": (
        ip6(TCP(sport=40000, dport=80, flags="S", seq=100), "2001:db8::1", "2001:db8::2"),
        TO_B + "TCP [2001:db8::1]:40000 > [2001:db8::2]:80 [S] seq 100",
    ),
    "neighbour solicitation": (
        ip6(ICMPv6ND_NS(tgt="fe80::2") / ICMPv6NDOptSrcLLAddr(lladdr=A), dst="ff02::1:ff00:2"),
        TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1:ff00:2 who has fe80::2?",
    ),
    "neighbour advertisement": (
        ip6(ICMPv6ND_NA(tgt=LINK_LOCAL) / ICMPv6NDOptDstLLAddr(lladdr=A)),
        TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1 neighbour {LINK_LOCAL} is at {A}",
    ),
    "router solicitation": (ip6(ICMPv6ND_RS()), TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1 router solicitation"),
    "router advertisement": (
        ip6(ICMPv6ND_RA() / ICMPv6NDOptSrcLLAddr(lladdr=A) / ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=64)),
        TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1 router advertisement prefix 2001:db8::/64",
    ),
    "empty option": (
        ip6(ICMPv6ND_RA() / Raw(bytes(8))),
        TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1 router advertisement [malformed]",
    ),
    "redirect 6": (
        ip6(ICMPv6ND_Redirect(tgt="fe80::9", dst="2001:db8::1")),
        TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1 redirect to fe80::9 for 2001:db8::1",
    ),
    "unreachable 6": (
        ip6(ICMPv6DestUnreach(code=4) / QUOTED6),
        TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1 port unreachable for UDP [2001:db8::1]:4000 > [2001:db8::2]:53",
    ),
    "too big 6": (
        ip6(ICMPv6PacketTooBig(mtu=1280) / QUOTED6),
        TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1 too big mtu 1280 for UDP [2001:db8::1]:4000 > [2001:db8::2]:53",
    ),
    "MLD query": (
        ip6(IPv6ExtHdrHopByHop() / ICMPv6MLQuery(mladdr="ff02::fb")),
        TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1 MLD query ff02::fb",
    ),
    "MLDv2 report": (
        ip6(
            IPv6ExtHdrHopByHop()
            / ICMPv6MLReport2(
                records=[
                    ICMPv6MLDMultAddrRec(rtype=4, dst="ff02::fb"),
                    ICMPv6MLDMultAddrRec(rtype=3, dst="ff02::fc"),
                ]
            )
        ),
        TO_B + f"ICMPv6 {LINK_LOCAL} > ff02::1 MLDv2 report to_ex ff02::fb and 1 more",
    ),
    "extension headers": (
        ip6(IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(m=1) / UDP(sport=5000, dport=6000, len=3008) / Raw(bytes(8))),
        TO_B + f"UDP [{LINK_LOCAL}]:5000 > [ff02::1]:6000 first fragment len 3000",
    ),
    "atomic fragment": (
        ip6(IPv6ExtHdrFragment() / UDP(sport=5000, dport=6000) / Raw(bytes(8))),
        TO_B + f"UDP [{LINK_LOCAL}]:5000 > [ff02::1]:6000 len 8",
    ),
    "authentication header": (
        ip6(Raw(b"\x11\x04" + bytes(22)) / UDP(sport=5000, dport=6000) / Raw(bytes(8)), nh=51),
        TO_B + f"UDP [{LINK_LOCAL}]:5000 > [ff02::1]:6000 len 8",
    ),
    "no next header": (ip6(Raw(b"\x3b" + bytes(7)), nh=60), TO_B + f"IPv6 {LINK_LOCAL} > ff02::1 protocol 59 len 0"),
    "nothing in IPv6": (ip6(Raw(), nh=59), TO_B + f"IPv6 {LINK_LOCAL} > ff02::1 protocol 59 len 0"),
    "jumbogram": (
        ip6(UDP(sport=5000, dport=6000) / Raw(bytes(8)), plen=0),
        TO_B + f"UDP [{LINK_LOCAL}]:5000 > [ff02::1]:6000 len 8",
    ),
    "fragment 6": (
        ip6(IPv6ExtHdrFragment(offset=100, nh=17) / Raw(bytes(80))),
        TO_B + f"UDP {LINK_LOCAL} > ff02::1 fragment at 800 len 80",
    ),
    "not IPv6": (changed(ip6(ICMPv6ND_RS()), 14, 0x50), TO_B + f"IPv6 {LINK_LOCAL} > ff02::1 [malformed]"),
    "IGMP query": (igmp("11 64 0000 00000000"), TO_B + f"IGMP {IP_PAIR} query 0.0.0.0"),
    "IGMP report": (igmp("16 00 0000 ef010203"), TO_B + f"IGMP {IP_PAIR} v2 report 239.1.2.3"),
    "IGMP leave": (igmp("17 00 0000 ef010203"), TO_B + f"IGMP {IP_PAIR} leave 239.1.2.3"),
    "IGMPv3 report": (
        igmp("22 00 0000 0000 0001  01 00 0001 ef010203 0a000009"),
        TO_B + f"IGMP {IP_PAIR} v3 report is_in 239.1.2.3 sources 1",
    ),
    "STP": (bpdu(), f"{A} > 01:80:c2:00:00:00  STP root 4096.{B} cost 4 bridge 32768.{A} port 0x8001"),
    "RSTP": (
        bpdu(version=2, bpdutype=2, bpduflags=1),
        f"{A} > 01:80:c2:00:00:00  RSTP topology change root 4096.{B} cost 4 bridge 32768.{A} port 0x8001",
    ),
    "topology change": (changed(bpdu(), 20, 0x80)[:21], f"{A} > 01:80:c2:00:00:00  STP topology change notification"),
    "LACP": (
        ether(
            SlowProtocol()
            / LACP(actor_system=A, actor_key=1, actor_port_number=2, actor_state=0x3D, partner_system=B, partner_key=3),
            dst="01:80:c2:00:00:02",
        ),
        f"{A} > 01:80:c2:00:00:02  LACP actor {A} key 1 port 2 **DCSG*A partner {B} key 3 port 0 ********",
    ),
    "LLDP port address": (
        lldp((1, b"\x07switch"), (2, b"\x03\x52\x54\x00\x00\x00\x02")),
        f"{A} > 01:80:c2:00:00:0e  LLDP chassis switch port {B}",
    ),
    "Slow": (ether(Raw(b"\x0a" + bytes(40)), type=0x8809), TO_B + "Slow subtype 10"),
    "LLDP": (
        lldp((1, b"\x04\x52\x54\x00\x00\x00\x01"), (2, b"\x05eth0"), (3, b"\x00\x78"), (5, b"web 1\x07")),
        f"{A} > 01:80:c2:00:00:0e  LLDP chassis {A} port eth0 ttl 120 name web\\x201\\x07",
    ),
}


@pytest.mark.parametrize(("frame", "said"), SAID.values(), ids=SAID)
def test_what_a_frame_says(frame: bytes, said: str) -> None:
    assert describe(frame, len(frame)) == said


@pytest.mark.parametrize("header", [0, 43, 60, 135, 139, 140])
def test_extension_headers_are_passed_over(header: int) -> None:
    frame = ip6(Raw(b"\x11\x01" + bytes(14)) / UDP(sport=5000, dport=6000) / Raw(bytes(8)), nh=header)
    assert describe(frame, len(frame)) == TO_B + f"UDP [{LINK_LOCAL}]:5000 > [ff02::1]:6000 len 8"


CUT_OFF = {
    "empty": (ip(ICMP()), 0, " [cut off]"),
    "within an address": (ip(ICMP()), 8, "52:54:00:00:00:02:52:54 [cut off]"),
    "EtherType": (ip(ICMP()), 12, TO_B + "[cut off]"),
    "IPv4 header": (ip(ICMP()), 33, TO_B + "IPv4 [cut off]"),
    "ports": (tcp("S"), 37, TO_B + f"TCP {IP_PAIR} [cut off]"),
    "TCP header": (tcp("S"), 38, TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [cut off]"),
    "IPv6 header": (ip6(ICMPv6ND_RS()), 53, TO_B + "IPv6 [cut off]"),
    "DNS name": (
        udp(5000, 53, DNS(qd=DNSQR(qname="www.example.com"))),
        60,
        TO_B + "UDP 10.0.0.1:5000 > 10.0.0.2:53 DNS query [cut off]",
    ),
    "DHCP options": (dhcp("discover"), 284, TO_B + "UDP 10.0.0.1:68 > 10.0.0.2:67 DHCP [cut off]"),
    "DHCP options after the type": (dhcp("discover"), 285, TO_B + "UDP 10.0.0.1:68 > 10.0.0.2:67 DHCP Discover"),
    "ARP": (broadcast(arp()), 20, TO_ALL + "ARP [cut off]"),
    "TCP data": (tcp("PA", bytes(1000)), 96, TO_B + "TCP 10.0.0.1:40000 > 10.0.0.2:80 [P.] seq 100 len 1000"),
}


@pytest.mark.parametrize(("frame", "captured", "said"), CUT_OFF.values(), ids=CUT_OFF)
def test_a_frame_that_was_cut_off_says_what_is_there(frame: bytes, captured: int, said: str) -> None:
    assert describe(frame[:captured], len(frame)) == said


def test_a_name_that_is_too_long_is_malformed() -> None:
    question, label = bytes.fromhex("0001 0100 0001 0000 0000 0000"), b"\x3f" + b"a" * 63
    fits = udp(5000, 53, Raw(question + 3 * label + b"\x3d" + b"b" * 61 + bytes(1) + b"\x00\x01\x00\x01"))
    assert describe(fits, len(fits)).endswith(f"DNS query A {('a' * 63 + '.') * 3}{'b' * 61}")
    too_long = udp(5000, 53, Raw(question + 3 * label + b"\x3e" + b"b" * 62 + bytes(1) + b"\x00\x01\x00\x01"))
    assert describe(too_long, len(too_long)).endswith("DNS query [malformed]")


ENDLESS = {
    "tags": bytes(12) + bytes.fromhex("81000001") * 17_000,
    "encapsulation": bytes(12) + bytes.fromhex("0010aaaa03000000") * 8_000,
    "extension headers": ip6(Raw(bytes(60_000)))[:20] + b"\x00" + ip6(Raw(bytes(60_000)))[21:],
    "DHCP options": udp(68, 67, BOOTP() / Raw(b"\x63\x82\x53\x63" + bytes(60_000))),
    "TLVs": lldp(*[(5, b"")] * 30_000),
    "prefixes": ip6(ICMPv6ND_RA() / Raw((b"\x03\x04" + bytes(30)) * 2_000)),
}


@pytest.mark.parametrize("frame", ENDLESS.values(), ids=ENDLESS)
def test_a_line_is_short_and_soon_there_whatever_a_frame_repeats(frame: bytes) -> None:
    started = time.process_time()
    said = describe(frame, len(frame))
    assert len(said) <= SAYS_MAX + len(" [malformed]")
    assert time.process_time() - started < 1


def test_a_line_that_is_not_all_there_says_so() -> None:
    said = describe(ENDLESS["TLVs"], len(ENDLESS["TLVs"]))
    assert said.endswith("…")
    assert len(said) == SAYS_MAX


def an_interesting_frame() -> st.SearchStrategy[bytes]:
    """Any bytes; or a frame from above with some of them changed, taken away or added."""
    known = st.sampled_from([frame for frame, _ in SAID.values()])
    change = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)

    def make(frame: bytes, changes: list[tuple[int, int]], end: int, more: bytes) -> bytes:
        for at, value in changes:
            frame = changed(frame, at % len(frame), value)
        return frame[:end] + more

    return st.binary(max_size=200) | st.builds(make, known, change, st.integers(0, 400), st.binary(max_size=40))


@given(an_interesting_frame(), st.integers(0, 2000))
def test_any_frame_gives_some_printable_words(frame: bytes, missing: int) -> None:
    said = describe(frame, len(frame) + missing)
    assert said.isprintable()
    assert len(said) <= SAYS_MAX + len(" [malformed]")


AS_WIRESHARK = {
    "ARP request": ("ARP", "Who has 10.0.0.2? Tell 10.0.0.1"),
    "RARP": ("RARP", f"Who is {A}? Tell {A}"),
    "echo request": ("ICMP", "Echo (ping) request  id=0x0007"),
    "SYN": ("TCP", "40000 → 80 [SYN]"),
    "DHCP Discover": ("DHCP", "DHCP Discover"),
    "DNS query": ("DNS", "AAAA www.example.com"),
    "no such name": ("DNS", "No such name A a.example"),
    "neighbour advertisement": ("ICMPv6", f"Neighbor Advertisement {LINK_LOCAL}"),
    "router advertisement": ("ICMPv6", "Router Advertisement"),
    "IGMP leave": ("IGMPv2", "Leave Group 239.1.2.3"),
    "RSTP": ("STP", f"Root = 4096/0/{B}  Cost = 4  Port = 0x8001"),
    "LACP": ("LACP", f"ACTOR {A} P: 2 K: 1 **DCSG*A PARTNER {B} P: 0 K: 3 ********"),
    "LLDP": ("LLDP", f"MA/{A} IN/eth0 120"),
}


def test_wireshark_reads_the_same(tmp_path: Path) -> None:
    """Above all that what the frames above are meant to be is what they are."""
    tshark = shutil.which("tshark")
    require(tshark, "tshark is not installed")
    file = tmp_path / "frames.pcap"
    wrpcap(str(file), [Raw(SAID[name][0]) for name in AS_WIRESHARK], linktype=1)
    fields = ["eth.src", "eth.dst", "_ws.col.Protocol", "_ws.col.Info"]
    shown = subprocess.run(
        [tshark or "", "-n", "-r", str(file), "-T", "json", *(part for field in fields for part in ("-e", field))],
        capture_output=True,
        check=True,
        timeout=60,
    )
    frames = [found["_source"]["layers"] for found in json.loads(shown.stdout)]
    for (name, (protocol, info)), found in zip(AS_WIRESHARK.items(), frames, strict=True):
        source, destination, its_protocol, its_info = (found[field][0] for field in fields)
        assert f"{source} > {destination}" == SAID[name][1][:37]
        assert (its_protocol, info in its_info) == (protocol, True), its_info
