"""Frames that are nearly right: what a guest may say to a user network in each protocol, changed as an attacker would.

Checksums are put right again in half of them, so that they get as far as they can.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_InfoRequest,
    DHCP6_RelayForward,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptIA_NA,
    DHCP6OptOptReq,
)
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, LLC, Dot1Q, Ether
from scapy.packet import Packet, Raw

from vswitch.protocols.inet import checksum

EVIL, GATEWAY, ALL = "52:54:00:00:00:0e", "52:55:0a:00:02:02", "ff:ff:ff:ff:ff:ff"
IP4, IP6, LOCAL = "10.0.2.77", "fec0::77", "fe80::5054:ff:fe00:e"
SERVER = "10.0.2.100", 80  # one that is not there (guestfwd=)

_HEADER = bytes.fromhex("1234 0100 0001 0000 0000 0000")
_QUERIES = [
    _HEADER + b"\4host\3lan\0\0\1\0\1",
    _HEADER + b"\4host\xc0\x0c\0\1\0\1",  # a name that ends in itself
    _HEADER + b"\xc0\x0c\0\1\0\1",
    _HEADER + (b"\x3f" + b"a" * 63) * 20 + b"\0\0\1\0\1",
    _HEADER[:4] + b"\xff\xff" * 4 + b"\4host\3lan\0\0\1\0\1",
    _HEADER + b"\4host\3lan\0\0\1\0\1" * 60,
]
_FILES = [
    b"\0\1boot\0octet\0blksize\x0065464\0windowsize\x0064\0tsize\x000\0",
    b"\0\1../../etc/passwd\0octet\0",
    b"\0\1boot\0octet\0" + b"timeout\x00255\0" * 60,
    b"\0\2boot\0netascii\0",
    b"\0\4\0\1",
    b"\0\5\0\0no\0",
]


def _dhcp(kind: str, *options: Any, **fields: Any) -> Packet:
    chaddr = bytes.fromhex(EVIL.replace(":", ""))
    said = BOOTP(chaddr=chaddr, xid=7, **fields) / DHCP(options=[("message-type", kind), *options, "end"])
    return Ether(src=EVIL, dst=ALL) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / said


def _from4(layers: Packet, to: str = "10.0.2.2", **fields: Any) -> Packet:
    return Ether(src=EVIL, dst=GATEWAY) / IP(src=IP4, dst=to, **fields) / layers


def _from6(layers: Packet, to: str = "fec0::2") -> Packet:
    return Ether(src=EVIL, dst=GATEWAY) / IPv6(src=IP6, dst=to) / layers


def _to_all(layers: Packet, to: str, source: str = LOCAL) -> Packet:
    group = "33:33:" + bytes(int(part, 16) for part in ("0", "0", "0", to[-1])).hex(":")
    return Ether(src=EVIL, dst=group) / IPv6(src=source, dst=to, hlim=255) / layers


_CLIENT = DHCP6OptClientId(duid=DUID_LL(lladdr=EVIL))
_TO_SERVER: dict[str, Any] = {"sport": 1000, "dport": SERVER[1]}
_PACKETS = [
    *(Ether(src=EVIL, dst=ALL) / ARP(op=op, hwsrc=EVIL, psrc=IP4, pdst="10.0.2.2") for op in (1, 2)),
    _dhcp("discover", ("hostname", b"web"), (55, bytes(range(1, 120)))),
    _dhcp("request", ("requested_addr", IP4), ("server_id", "10.0.2.2"), (61, b"\1evil"), (81, b"\4\0\0\3web\3lan\0")),
    _dhcp("request", (52, b"\3"), *[(12, b"x" * 20)] * 30, sname=b"\x34\1\3" * 20, file=b"\x0c\xff" * 60),
    _dhcp("inform", (81, b"\0\0\0WEB"), ciaddr=IP4),
    _dhcp("decline", ("requested_addr", IP4)),
    _dhcp("release", ciaddr=IP4),
    *(_from4(UDP(sport=5353, dport=53) / Raw(query), "10.0.2.3") for query in _QUERIES),
    *(_from6(UDP(sport=5353, dport=53) / Raw(query), "fec0::3") for query in _QUERIES[:2]),
    *(_from4(UDP(sport=7, dport=69) / Raw(asked)) for asked in _FILES),
    _from6(UDP(sport=7, dport=69) / Raw(_FILES[0])),
    _from4(ICMP() / Raw(b"x" * 40)),
    *(_from4(ICMP(type=kind, code=1) / IP(src="10.0.2.2", dst=IP4) / UDP() / Raw(b"x")) for kind in (3, 5, 11, 12)),
    _from4(UDP(sport=1, dport=9) / Raw(b"x" * 30)),
    _from4(TCP(flags="S", **_TO_SERVER, options=[("MSS", 1460), ("WScale", 7), ("SAckOK", b"")]), SERVER[0]),
    _from4(TCP(flags="PA", seq=1, ack=1, **_TO_SERVER) / Raw(b"x" * 50), SERVER[0]),
    _from4(TCP(flags="R", seq=1, **_TO_SERVER), SERVER[0]),
    _from4(TCP(flags="S", sport=1001, dport=53), "10.0.2.3"),
    _from4(UDP(sport=1, dport=9) / Raw(b"x" * 64), flags="MF", id=9),
    _from4(Raw(b"x" * 64), flags="MF", id=9, frag=9, proto=17),
    _from4(Raw(b"x" * 24), id=9, frag=0x1FFF, proto=6),
    _from4(ICMP(), options=[b"\x07\x27\x04" + bytes(37)]),
    _to_all(ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=EVIL), "ff02::2"),
    _to_all(ICMPv6ND_NS(tgt="fec0::2") / ICMPv6NDOptSrcLLAddr(lladdr=EVIL), "ff02::1", IP6),
    _to_all(ICMPv6ND_NS(tgt=IP6), "ff02::1", "::"),
    _to_all(ICMPv6ND_NA(tgt=IP6), "ff02::1"),
    _to_all(ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix="fec0::"), "ff02::1"),
    _to_all(ICMPv6MLReport(), "ff02::2"),
    *(
        _to_all(UDP(sport=546, dport=547) / said / _CLIENT / DHCP6OptOptReq(reqopts=[23, 24, 59] * 20), "ff02::1:2")
        for said in (DHCP6_Solicit(trid=7) / DHCP6OptIA_NA(iaid=1), DHCP6_InfoRequest(trid=7), DHCP6_RelayForward())
    ),
    _from6(ICMPv6EchoRequest(data=b"x" * 40)),
    _from6(ICMPv6EchoRequest(), "fe80::5055:aff:fe00:202"),
    _from6(ICMPv6PacketTooBig(mtu=0) / IPv6(src="fec0::2", dst=IP6) / UDP()),
    _from6(TCP(flags="S", sport=1000, dport=53), "fec0::3"),
    *(_from6(header / UDP() / Raw(b"x")) for header in (IPv6ExtHdrHopByHop(), IPv6ExtHdrFragment(m=1))),
    _from6(IPv6ExtHdrRouting(addresses=["fec0::3"] * 10) / ICMPv6EchoRequest()),
    Ether(src=EVIL, dst=GATEWAY) / Dot1Q(vlan=1) / IP(src=IP4, dst="10.0.2.2") / ICMP(),
    Ether(src=EVIL, dst=GATEWAY, type=60) / LLC() / Raw(bytes(46)),
]
VALID = [bytes(packet) for packet in _PACKETS]

Change = Callable[[bytes], bytes]
FRAME_MAX = 9000
LIES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0", b"\0\1", b"\0\7", b"\x7f\xff", b"\xff\xff", bytes(4), b"\xff" * 4]


def _cut(at: int) -> Change:
    return lambda frame: frame[:at]


def _flip(bit: int) -> Change:
    return lambda frame: _at(frame, bit // 8, bytes([frame[bit // 8 % len(frame)] ^ 1 << bit % 8])) if frame else frame


def _lie(at: int, value: bytes) -> Change:
    return lambda frame: _at(frame, at, value)


def _at(frame: bytes, at: int, value: bytes) -> bytes:
    at %= max(len(frame), 1)
    return frame[:at] + value + frame[at + len(value) :]


def _repeat(at: int, size: int, times: int) -> Change:
    return lambda frame: frame[:at] + frame[at : at + size] * times + frame[at + size :]


def _insert(at: int, value: bytes) -> Change:
    return lambda frame: frame[:at] + value + frame[at:]


def repaired(frame: bytes) -> bytes:
    """Lengths as they are, checksums right."""
    if frame[12:14] == b"\x08\x00" and len(frame) >= 34:
        at = 14 + (frame[14] & 15) * 4
        frame = _summed(frame, 24, frame[14:at], b"")
        end, protocol, addresses = 14 + int.from_bytes(frame[16:18]), frame[23], frame[26:34]
    elif frame[12:14] == b"\x86\xdd" and len(frame) >= 54:
        at, end, protocol, addresses = 54, 54 + int.from_bytes(frame[18:20]), frame[20], frame[22:54]
    else:
        return frame
    sums_at = {6: 16, 17: 6, 1: 2, 58: 2}
    if protocol not in sums_at:
        return frame
    data = frame[at:end]
    pseudo = b"" if protocol == 1 else addresses + protocol.to_bytes(2) + len(data).to_bytes(2)
    return _summed(frame, at + sums_at[protocol], data, pseudo)


def _summed(frame: bytes, at: int, data: bytes, pseudo: bytes) -> bytes:
    if at + 2 > len(frame):
        return frame
    before = int.from_bytes(frame[at : at + 2])
    rest = checksum(pseudo + data) ^ 0xFFFF  # what is there now is to be taken out of it
    total = (rest - before) % 0xFFFF ^ 0xFFFF
    return _at(frame, at, total.to_bytes(2))


CHANGES = st.one_of(
    st.builds(_cut, st.integers(0, 400)),
    st.builds(_flip, st.integers(0, 8 * 400)),
    st.builds(_lie, st.integers(0, 400) | st.integers(12, 80), st.sampled_from(LIES)),
    st.builds(_repeat, st.integers(14, 400), st.integers(1, 60), st.integers(2, 100)),
    st.builds(_insert, st.integers(0, 400), st.binary(max_size=60)),
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One."""
    frame = draw(st.sampled_from(VALID) | st.binary(max_size=100))
    for change in draw(st.lists(CHANGES, max_size=4)):
        frame = change(frame)[:FRAME_MAX]
    return repaired(frame) if draw(st.booleans()) else frame


def some_frames(count: int) -> list[bytes]:
    """Always the same, after all that are valid."""
    found: list[bytes] = list(VALID)

    @seed(count)
    @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck])
    @given(frames())
    def find(frame: bytes) -> None:
        found.append(frame)

    find()
    return found
