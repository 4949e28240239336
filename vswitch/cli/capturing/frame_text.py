"""What a frame says, in a few words, for people without Wireshark.

It is what tcpdump's users look for first, in RFCs' and Wireshark's words. Nothing is remembered between frames, so
TCP's numbers are absolute. A protocol that is not known here is shown by its number. "[cut off]" says that the capture
has no more of the frame, "[malformed]" that the frame itself ends too early or contradicts itself.

Guests write frames, so any bytes give one line of bounded length that is safe for a terminal, in time at most linear in
the frame's length. Their names (DNS, LLDP) show spaces as \\x20, and so cannot pass for a column.

Dissectors are generators of words: where one runs out of bytes, what it has said so far stands. Messages that are only
fields in a row are templates. They go up the layers here; the tables that lead from one to the next are at the end.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

from vswitch.cli.capturing.fields import Ended, Fields, readable
from vswitch.dataplane.frame import TPIDS

SAYS_MAX = 400  # characters


class _Malformed(Exception):
    """What is there contradicts itself."""


def describe(frame: bytes, length: int) -> str:
    """What an Ethernet frame says, given the first bytes of the `length` it had. Any bytes, never raises."""
    says = ""
    try:
        for word in _ethernet(Fields(frame)):
            says += f" {word}" if says else word
            if len(says) > SAYS_MAX:
                return says[: SAYS_MAX - 1] + "…"
    except Ended:
        says += " [cut off]" if len(frame) < length else " [malformed]"
    except _Malformed:
        says += " [malformed]"
    return says


def _fill(template: str, data: Fields) -> Iterator[str]:
    """A template's words. What is in braces is read: `{2}` a number of two bytes, `{-2}` skips them, or by name."""
    for word in template.split():
        yield _FIELD.sub(lambda field: _read(field[1], data), word)


def _read(field: str, data: Fields) -> str:
    if reader := _READERS.get(field):
        return reader(data)
    size = int(field)
    number = data.number(abs(size))
    return str(number) if size > 0 else ""


def _guest_text(text: bytes) -> str:
    return readable(text).replace(" ", "\\x20") or "-"


def _ethernet(data: Fields) -> Iterator[str]:
    if len(data) < 12:
        yield data.peek(12).hex(":")
    destination, source = data.mac(), data.mac()
    yield f"{source} > {destination} "  # with the one that joins words, two spaces: a column ends
    kind = data.number(2)
    while kind in TPIDS or (kind < _LENGTH_END and data.peek(6) == _SNAP):
        if kind in TPIDS:
            yield _tag("vlan" if kind == TPIDS[0] else "s-vlan", data.number(2))
        else:  # RFC 1042
            data.take(6)
        kind = data.number(2)
    if kind < _LENGTH_END:
        yield from _llc(data)
    elif dissect := _DISSECTORS.get(kind):
        yield from dissect(data)
    else:
        yield _ETHER_TYPES.get(f"{kind:04x}", f"EtherType 0x{kind:04x}")


def _tag(name: str, tci: int) -> str:
    priority, drop_eligible = tci >> 13, tci >> 12 & 1
    return f"{name} {tci & 0xFFF} " + (f"pcp {priority} " if priority else "") + ("dei " if drop_eligible else "")


def _llc(data: Fields) -> Iterator[str]:
    if data.peek(3) != b"\x42\x42\x03":
        yield from _fill("LLC dsap 0x{x1} ssap 0x{x1}", data)
        return
    if len(data) < 7:
        yield "STP"
    _dsap, protocol, version, kind = data.numbers(3, 2, 1, 1)
    yield _SPANNING_TREES.get(str(version), f"STP version {version}")
    if kind in (0, 2) and not protocol:
        if data.number(1) & 1:
            yield "topology change"
        yield from _fill("root {2}.{mac} cost {4} bridge {2}.{mac} port 0x{x2}", data)
    else:
        yield "topology change notification" if kind == 0x80 else f"type {kind}"


def _slow(data: Fields) -> Iterator[str]:
    if data.peek(1) != b"\x01":
        yield from _fill("Slow subtype {1}", data)
        return
    yield from _fill("LACP {-6}actor {mac} key {2} {-2}port {2} {lacp}", data)
    yield from _fill("{-7}partner {mac} key {2} {-2}port {2} {lacp}", data)


def _lacp_flags(data: Fields) -> str:
    """As Wireshark has them."""
    state = data.number(1)
    return "".join(letter if state << bit & 0x80 else "*" for bit, letter in enumerate("EFDCSGSA"))


def _lldp(data: Fields) -> Iterator[str]:
    yield "LLDP"
    while kind_size := data.number(2):
        kind, value = kind_size >> 9, Fields(data.take(kind_size & 0x1FF))
        if kind in (1, 2):
            address = value.number(1) == {1: 4, 2: 3}[kind] and len(value) == 6
            name = value.mac() if address else _guest_text(value.take(len(value)))
            yield f"{'chassis' if kind == 1 else 'port'} {name}"
        elif kind == 3:
            yield f"ttl {value.number(2)}"
        elif kind == 5:
            yield f"name {_guest_text(value.take(len(value)))}"


def _arp(data: Fields) -> Iterator[str]:
    if len(data) < 8:
        yield "ARP"
    hardware, protocol, hardware_size, size, operation = data.numbers(2, 2, 1, 1, 2)
    if (hardware, protocol, hardware_size, size) != (1, 0x0800, 6, 4):
        yield f"ARP hardware {hardware} protocol 0x{protocol:04x} operation {operation}"
        return
    yield "RARP" if operation in (3, 4) else "ARP"
    sender, sender_ip, target, target_ip = data.mac(), data.address(4), data.mac(), data.address(4)
    template = _ARP_OPERATIONS.get(operation, f"operation {operation}")
    if operation in (1, 2) and sender_ip == target_ip:
        template = "gratuitous {1} is at {0}"
    elif operation == 1 and sender_ip == "0.0.0.0":
        template = "probe who has {3}?"
    yield template.format(sender, sender_ip, target, target_ip)


class _Ip(NamedTuple):
    """What an IP header says, to those above it."""

    version: int
    source: str
    destination: str
    protocol: int
    length: int  # of the payload, as announced: the capture may have less of it
    offset: int  # as a fragment
    more: bool  # fragments follow


def _ipv4(data: Fields) -> Iterator[str]:
    if len(data) < 20:
        yield "IPv4"
    start, _tos, total, _id, fragment, _ttl, protocol, _checksum = data.numbers(1, 1, 2, 2, 2, 1, 1, 2)
    source, destination = data.address(4), data.address(4)
    header = (start & 0x0F) * 4
    if start >> 4 != 4 or not 20 <= header <= total:
        yield f"IPv4 {source} > {destination}"
        raise _Malformed
    offset, more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
    ip = _Ip(4, source, destination, protocol, total - header, offset, more)
    yield from _upper(ip, Fields(data.peek(total - 20)[header - 20 :]))  # neither options nor padding


def _ipv6(data: Fields) -> Iterator[str]:
    if len(data) < 40:
        yield "IPv6"
    start, length, protocol, _hop_limit = data.numbers(4, 2, 1, 1)
    source, destination = data.address(16), data.address(16)
    if start >> 28 != 6:
        yield f"IPv6 {source} > {destination}"
        raise _Malformed
    length = length or len(data)  # 0 is a jumbogram's
    packet, at, offset, more = data.peek(length), 0, 0, False
    while protocol in _EXTENSION_HEADERS and at + 8 <= len(packet) and not offset:
        size = (packet[at + 1] + 1) * 8
        if protocol == _FRAGMENT:
            place = int.from_bytes(packet[at + 2 : at + 4])
            size, offset, more = 8, place & 0xFFF8, bool(place & 1)
        elif protocol == _AH:
            size = (packet[at + 1] + 2) * 4
        protocol, at = packet[at], at + size
    ip = _Ip(6, source, destination, protocol, max(0, length - at), offset, more)
    yield from _upper(ip, Fields(packet[at:]))


def _upper(ip: _Ip, data: Fields) -> Iterator[str]:
    name, source, destination = _PROTOCOLS.get(str(ip.protocol), f"IPv{ip.version}"), ip.source, ip.destination
    if name in ("TCP", "UDP") and not ip.offset and len(data) >= 4:
        end, ports = "[{}]:{}" if ip.version == 6 else "{}:{}", Fields(data.peek(4))
        source, destination = end.format(source, ports.number(2)), end.format(destination, ports.number(2))
    yield f"{name} {source} > {destination}"
    if str(ip.protocol) not in _PROTOCOLS:
        yield f"protocol {ip.protocol}"
    dissect = _IP_DISSECTORS.get(ip.protocol)
    if ip.offset:
        yield f"fragment at {ip.offset} len {ip.length}"
    else:
        if ip.more:
            yield "first fragment"
        yield from dissect(ip, data) if dissect else [f"len {ip.length}"]


def _tcp(ip: _Ip, data: Fields) -> Iterator[str]:
    _source, _destination, sequence, acknowledged, header, flags, window = data.numbers(2, 2, 4, 4, 1, 1, 2)
    length = ip.length - (header >> 4) * 4
    yield f"[{''.join(letter for bit, letter in enumerate(_TCP_FLAGS) if flags >> bit & 1) or 'none'}]"
    if header >> 4 < 5 or length < 0:
        raise _Malformed
    if length or flags & _SYN_FIN_RST:
        yield f"seq {sequence}"
    else:  # takes no place in the sequence, and only acknowledges
        yield f"ack {acknowledged}"
    if length:
        yield f"len {length}"
    if not window and not flags & _SYN_FIN_RST:
        yield "win 0"  # the other side has to wait


def _udp(ip: _Ip, data: Fields) -> Iterator[str]:
    source, destination, length, _checksum = data.numbers(2, 2, 2, 2)
    dissect = _UDP_PORTS.get(destination) or _UDP_PORTS.get(source)
    if length < 8:
        raise _Malformed
    if dissect and length > 8:
        yield from dissect(Fields(data.peek(length - 8)))
    else:
        yield f"len {length - 8}"


def _dhcp(data: Fields) -> Iterator[str]:
    yield "DHCP"
    operation, _, client, yours, _ = data.number(1), data.take(11), data.address(4), data.address(4), data.take(216)
    options: dict[int, bytes] = {}
    if data.take(4) == _DHCP_COOKIE:
        try:
            while (code := data.number(1)) != 255:
                if code:  # 0 is padding
                    options.setdefault(code, data.take(data.number(1)))
        except Ended:
            if 53 not in options:  # or else those that are there will do
                raise
    if 53 in options:
        kind = int.from_bytes(options[53][:1])
        yield _DHCP_TYPES.get(str(kind), f"type {kind}")
    else:
        yield f"BOOTP operation {operation}"
    if len(options.get(50, b"")) == 4:  # requested
        yield Fields(options[50]).address(4)
    elif yours != "0.0.0.0" or client != "0.0.0.0":
        yield client if yours == "0.0.0.0" else yours


def _dhcpv6(data: Fields) -> Iterator[str]:
    yield "DHCPv6"
    kind = data.number(1)
    yield _DHCPV6_TYPES.get(str(kind), f"type {kind}")


def _dns(data: Fields, name: str = "DNS") -> Iterator[str]:
    yield name
    _id, flags, questions, answers, _authorities, _additional = data.numbers(2, 2, 2, 2, 2, 2)
    operation, error, is_reply = flags >> 11 & 15, flags & 15, flags >> 15
    yield "reply" if is_reply else "query"
    if operation:
        yield f"opcode {operation}"
    if questions or answers:  # mDNS announces with answers only
        about, kind = _first_name(data), data.number(2)
        yield f"{_DNS_TYPES.get(str(kind), f'type {kind}')} {about}"
    if error:
        yield _DNS_ERRORS.get(str(error), f"rcode {error}")
    elif is_reply:
        yield "1 answer" if answers == 1 else f"{answers} answers"


def _first_name(data: Fields) -> str:
    """The first name in a message. It has no compression: there is no name before it (RFC 1035 4.1.4)."""
    labels, room = [], 255
    while size := data.number(1):
        room -= size + 1
        if size > 63 or room < 1:
            raise _Malformed
        labels.append(_guest_text(data.take(size)))
    return ".".join(labels) or "."


def _icmp(ip: _Ip, data: Fields) -> Iterator[str]:
    kind, code, _checksum = data.numbers(1, 1, 2)
    templates = _ICMP_TYPES[ip.version]
    template = templates.get(f"{kind}.{code}") or templates.get(str(kind)) or f"type {kind} code {code}"
    yield from _fill(template, data)
    if template.endswith(" for"):  # an error: the packet it is about, but not what that says in turn
        yield from islice((_ipv4 if ip.version == 4 else _ipv6)(data), 1)
    elif ip.version == 6 and kind == 134:
        for option, value in _neighbour_options(data):
            if option == 3:
                size, _flags_and_times = value.number(1), value.take(13)
                yield f"prefix {value.address(16)}/{size}"
    elif ip.version == 6 and kind == 136:
        for option, value in _neighbour_options(data):
            if option == 2:
                yield f"is at {value.mac()}"
    elif ip.version == 6 and kind == 143:
        yield from _group_records(ip, data)


def _neighbour_options(data: Fields) -> Iterator[tuple[int, Fields]]:
    while data:
        kind, units = data.numbers(1, 1)
        if not units:
            raise _Malformed
        yield kind, Fields(data.take(units * 8 - 2))


def _igmp(ip: _Ip, data: Fields) -> Iterator[str]:
    kind = data.number(1)
    yield from _fill(_IGMP_TYPES.get(f"{kind:02x}", f"type 0x{kind:02x}"), data)
    if kind == 0x22:
        yield from _group_records(ip, data)


def _group_records(ip: _Ip, data: Fields) -> Iterator[str]:
    """The first group, with what becomes of it in RFC 3376's words."""
    if records := data.number(2):
        kind, _size, sources = data.numbers(1, 1, 2)
        yield f"{_RECORD_TYPES.get(str(kind), f'type {kind}')} {data.address(4 if ip.version == 4 else 16)}"
        if sources:
            yield f"sources {sources}"
        if records > 1:
            yield f"and {records - 1} more"


# The tables.


def _names(table: str) -> dict[str, str]:
    return dict(entry.strip().split(" ", 1) for entry in table.split(","))


_LENGTH_END = 0x0600  # below, it is a length and no EtherType
_SNAP = b"\xaa\xaa\x03\x00\x00\x00"
_FRAGMENT, _AH = 44, 51
_EXTENSION_HEADERS = frozenset((0, 43, _FRAGMENT, _AH, 60, 135, 139, 140))
_TCP_FLAGS = "FSRP.UEW"  # as tcpdump has them, from bit 0
_SYN_FIN_RST = 0x07
_DHCP_COOKIE = b"\x63\x82\x53\x63"

_FIELD = re.compile(r"{(.*?)}")
_READERS: dict[str, Callable[[Fields], str]] = {
    "x1": lambda data: data.take(1).hex(),
    "x2": lambda data: data.take(2).hex(),
    "mac": Fields.mac,
    "ip4": lambda data: data.address(4),
    "ip6": lambda data: data.address(16),
    "lacp": _lacp_flags,
}

_ETHER_TYPES = _names("""0842 Wake-on-LAN, 8847 MPLS, 8863 PPPoE discovery, 8864 PPPoE, 888e EAPOL,
    88a2 ATA over Ethernet, 88e5 MACsec, 88f7 PTP, 9000 Loopback""")
_SPANNING_TREES = _names("0 STP, 2 RSTP, 3 MSTP")
_ARP_OPERATIONS = {1: "who has {3}? tell {1}", 2: "{1} is at {0}", 3: "who is {2}? tell {0}", 4: "{2} is {3}"}
_PROTOCOLS = _names("1 ICMP, 2 IGMP, 6 TCP, 17 UDP, 47 GRE, 50 ESP, 58 ICMPv6, 89 OSPF, 112 VRRP, 132 SCTP")
_ICMP_TYPES = {  # by type, or by type and code
    4: _names("""0 echo reply id {2} seq {2}, 3 unreachable{-4} for, 3.0 net unreachable{-4} for,
        3.1 host unreachable{-4} for, 3.2 protocol unreachable{-4} for, 3.3 port unreachable{-4} for,
        3.4 too big {-2}mtu {2} for, 3.13 prohibited{-4} for, 5 redirect to {ip4} for, 8 echo request id {2} seq {2},
        9 router advertisement, 10 router solicitation, 11 time exceeded{-4} for, 12 parameter problem{-4} for"""),
    6: _names("""1 unreachable{-4} for, 1.0 no route{-4} for, 1.1 prohibited{-4} for, 1.3 address unreachable{-4} for,
        1.4 port unreachable{-4} for, 2 too big mtu {4} for, 3 time exceeded{-4} for, 4 parameter problem{-4} for,
        128 echo request id {2} seq {2}, 129 echo reply id {2} seq {2}, 130 MLD query {-4}{ip6},
        131 MLD report {-4}{ip6}, 132 MLD done {-4}{ip6}, 133 router solicitation, 134 router advertisement{-12},
        135 {-4}who has {ip6}?, 136 {-4}neighbour {ip6}, 137 redirect {-4}to {ip6} for {ip6}, 143 MLDv2 report{-2}"""),
}
_IGMP_TYPES = _names("""11 query {-3}{ip4}, 12 v1 report {-3}{ip4}, 16 v2 report {-3}{ip4}, 17 leave {-3}{ip4},
    22 v3 report{-3}{-2}""")  # by type in hexadecimal
_RECORD_TYPES = _names("1 is_in, 2 is_ex, 3 to_in, 4 to_ex, 5 allow, 6 block")
_DHCP_TYPES = _names("1 Discover, 2 Offer, 3 Request, 4 Decline, 5 ACK, 6 NAK, 7 Release, 8 Inform")
_DHCPV6_TYPES = _names("""1 Solicit, 2 Advertise, 3 Request, 4 Confirm, 5 Renew, 6 Rebind, 7 Reply, 8 Release,
    9 Decline, 10 Reconfigure, 11 Information-request, 12 Relay-forward, 13 Relay-reply""")
_DNS_TYPES = _names("""1 A, 2 NS, 5 CNAME, 6 SOA, 12 PTR, 15 MX, 16 TXT, 28 AAAA, 33 SRV, 43 DS, 48 DNSKEY, 64 SVCB,
    65 HTTPS, 252 AXFR, 255 ANY""")
_DNS_ERRORS = _names("1 FORMERR, 2 SERVFAIL, 3 NXDOMAIN, 4 NOTIMP, 5 REFUSED")

_Dissector = Callable[[Fields], Iterator[str]]
_IpDissector = Callable[[_Ip, Fields], Iterator[str]]
_DISSECTORS: dict[int, _Dissector] = {
    0x0800: _ipv4,
    0x0806: _arp,
    0x8035: _arp,
    0x86DD: _ipv6,
    0x8809: _slow,
    0x88CC: _lldp,
}
_IP_DISSECTORS: dict[int, _IpDissector] = {1: _icmp, 2: _igmp, 6: _tcp, 17: _udp, 58: _icmp}
_UDP_PORTS: dict[int, _Dissector] = {
    53: _dns,
    67: _dhcp,
    68: _dhcp,
    546: _dhcpv6,
    547: _dhcpv6,
    5353: partial(_dns, name="mDNS"),
    5355: partial(_dns, name="LLMNR"),
}
