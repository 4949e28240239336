"""What a guest may tell its neighbours: they believe whoever answers, so the guard of a port decides what it may say.

DHCP, router advertisements, ARP and neighbour discovery carry no proof of their sender. One guest that runs a DHCP
server by mistake, or answers for its neighbour's address, takes the others down or over. Of what comes in by its port
a guard drops, and the first line that applies gives the reason:

    guarded by         reason       what is dropped
    router=False       ROUTER       ICMPv6 router advertisements (type 134) and redirects (137), RFC 4861, RFC 6105
                                    ICMP router advertisements (9, RFC 1256) and redirects (5, RFC 792)
    dhcp_server=False  DHCP_SERVER  UDP from port 67 or to 68: servers and relays, RFC 2131 4.1
                                    in IPv6 from port 547 or to 546, RFC 8415 7.2
    addresses={…}      SPOOFED_IP   ARP that claims another address, RFC 826
                                    neighbour discovery that does (ICMPv6 133 … 137), RFC 4861

*What claims an address.* In ARP, whatever the operation, the sender protocol address, unless it is 0.0.0.0 (a probe,
RFC 5227 2.1.1). In neighbour discovery the packet's source; in a neighbour advertisement the target too; in a
solicitation from :: the target, which it can keep from an owner who tries it at the same time (RFC 4862 5.4.3). A
router solicitation from :: claims nothing. The link-local address made from the frame's own source address (RFC 4291
appendix A) may always be claimed, as IPv6 cannot start without; one made otherwise (RFC 7217) has to be in `addresses`.
So a port that may use any MAC address may claim any of these.

*What a message may be behind.* VLAN tags, which may be popped on the way; RFC 1042's encapsulation, which some hosts
take for the same as an EtherType; IPv4 options; IPv6 extension headers, all of them (RFC 7113, RFC 7610). A next header
that is unknown here is unknown to hosts too: they look no further, and the packet passes. The IP length counts, or
padding could show what no host sees. IP version, hop limit and checksums do not: what no host believes may go. Tunnels
are other networks.

*What cannot be told is dropped*, for the first reason that is guarded: IP packets and first fragments that end before
the port or the type (RFC 1858, RFC 7112). So is ARP that is not for IPv4 on Ethernet, and neighbour discovery in
fragments, which no host believes (RFC 6980). Later fragments pass. They are nothing without a first, and cannot replace
what was looked at in it: ports and types are in the first 8 bytes, before any place where another can start (RFC 3128's
trick is on TCP's flags), and overlapping an IPv6 header chain undoes the packet (RFC 5722).

RARP passes. It claims no IP address, and QEMU announces a migrated guest with it.
"""

from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

from vswitch.dataplane.drops import DHCP_SERVER, PASSED, ROUTER, SPOOFED_IP
from vswitch.dataplane.frame import TPIDS

_TPIDS = {tpid.to_bytes(2) for tpid in TPIDS}
_SNAP = b"\xaa\xaa\x03\x00\x00\x00"
_LENGTH_END = b"\x06\x00"  # below, it is a length and no EtherType
_IPV4, _ARP, _IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"

_ARP_SIZE = 28
_ETHERNET_IPV4 = b"\x00\x01\x08\x00\x06\x04"  # hardware type, protocol type, the lengths of their addresses
_UNSPECIFIED = (bytes(4), bytes(16))

_ICMP, _UDP, _AH, _ICMPV6, _NO_NEXT_HEADER = 1, 17, 51, 58, 59
_FRAGMENT = 44
_EXTENSION_HEADERS = frozenset((0, 43, _FRAGMENT, _AH, 60, 135, 139, 140, 253, 254))  # IANA's; but ESP, which hides all
_EXTENSION_HEADER_MIN = 8
_IPV4_HEADER_MIN, _IPV6_HEADER = 20, 40

_ICMP_OF_ROUTERS = (5, 9)  # redirect, router advertisement
_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT = 133, 134
_NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT, _REDIRECT = 135, 136, 137
_TARGET_END = 24  # of a solicitation, advertisement or redirect


@dataclass(frozen=True)
class Guard:
    """What may be behind a port; the default allows everything.

    `dhcp_server` and `router`: whether there may be one. `addresses`: those that ARP and neighbour discovery may claim,
    None for any; both families are meant, so without an IPv6 address in it IPv6 is left its link-local address.
    """

    dhcp_server: bool = True
    router: bool = True
    addresses: frozenset[IPv4Address | IPv6Address] | None = None

    def judge(self, frame: bytes) -> int:
        """PASSED, or the drop reason for a whole Ethernet frame without FCS.

        Takes any bytes and never raises; the time it takes is at most linear in their number.
        """
        kind, at = _ether_type(frame)
        if kind == _ARP:
            return self._judge_arp(frame[at : at + _ARP_SIZE])
        if kind == _IPV4:
            return self._judge_ipv4(frame[at:])
        if kind == _IPV6:
            return self._judge_ipv6(frame[at:], mac=frame[6:12])
        return PASSED

    def _judge_arp(self, packet: bytes) -> int:
        if self.addresses is None:
            return PASSED
        if len(packet) < _ARP_SIZE or packet[:6] != _ETHERNET_IPV4:
            return SPOOFED_IP
        sender = packet[14:18]
        return PASSED if sender in _UNSPECIFIED or sender in self._claimable else SPOOFED_IP

    def _judge_ipv4(self, packet: bytes) -> int:
        if self.dhcp_server and self.router:
            return PASSED
        header = (packet[0] & 0x0F) * 4 if len(packet) >= _IPV4_HEADER_MIN else 0
        if header < _IPV4_HEADER_MIN:
            return self._cut_off
        if int.from_bytes(packet[6:8]) & 0x1FFF:  # the offset of a later fragment
            return PASSED
        payload = packet[header : int.from_bytes(packet[2:4])]
        protocol = packet[9]
        if protocol == _UDP and not self.dhcp_server:
            return _judge_ports(payload, server=67, client=68)
        if protocol == _ICMP and not self.router and (not payload or payload[0] in _ICMP_OF_ROUTERS):
            return ROUTER
        return PASSED

    def _judge_ipv6(self, packet: bytes, mac: bytes) -> int:
        upper_layer = _upper_layer(packet)
        if upper_layer is None:
            return self._cut_off
        protocol, payload, fragmented = upper_layer
        if protocol == _UDP and not self.dhcp_server:
            return _judge_ports(payload, server=547, client=546)
        if protocol != _ICMPV6 or not _ROUTER_SOLICITATION <= payload[0] <= _REDIRECT:
            return PASSED
        if not self.router and payload[0] in (_ROUTER_ADVERTISEMENT, _REDIRECT):
            return ROUTER
        if self.addresses is None:
            return PASSED
        honest = not fragmented and self._claims_its_own(payload, source=packet[8:24], mac=mac)
        return PASSED if honest else SPOOFED_IP

    def _claims_its_own(self, message: bytes, source: bytes, mac: bytes) -> bool:
        """Whether a neighbour discovery message is whole and claims no address that is not the port's."""
        kind, target = message[0], message[8:_TARGET_END]
        if kind >= _NEIGHBOUR_SOLICITATION and len(message) < _TARGET_END:
            return False
        claimed = _claimed(kind, source, target)
        return all(address in self._claimable or address == _link_local(mac) for address in claimed)

    @cached_property
    def _claimable(self) -> frozenset[bytes]:
        return frozenset(address.packed for address in self.addresses or ())

    @cached_property
    def _cut_off(self) -> int:
        """The reason for an IP packet that ends before it shows what it is."""
        if not self.router:
            return ROUTER
        if not self.dhcp_server:
            return DHCP_SERVER
        return PASSED if self.addresses is None else SPOOFED_IP


def _ether_type(frame: bytes) -> tuple[bytes, int]:
    """The EtherType, behind all tags and encapsulation, and where its packet starts."""
    at = 12
    while True:
        kind = frame[at : at + 2]
        if kind in _TPIDS:
            at += 4
        elif kind < _LENGTH_END and frame[at + 2 : at + 8] == _SNAP:
            at += 8
        else:
            return kind, at + 2


def _upper_layer(packet: bytes) -> tuple[int, bytes, bool] | None:
    """An IPv6 packet's upper-layer protocol, what of it is there, at least a byte, and whether it came as a fragment.

    None if the packet ends before. A later fragment has nothing to show: its protocol is No Next Header.
    """
    if len(packet) < _IPV6_HEADER:
        return None
    packet = packet[: _IPV6_HEADER + int.from_bytes(packet[4:6])]  # a jumbogram's is 0: it counts as cut off
    header, at, fragmented = packet[6], _IPV6_HEADER, False
    while header in _EXTENSION_HEADERS:
        if at + _EXTENSION_HEADER_MIN > len(packet):
            return None
        size = (packet[at + 1] + 1) * 8
        if header == _AH:
            size = (packet[at + 1] + 2) * 4
        elif header == _FRAGMENT:
            if int.from_bytes(packet[at + 2 : at + 4]) & 0xFFF8:
                return _NO_NEXT_HEADER, b"", True
            size, fragmented = 8, True
        header, at = packet[at], at + size
    if at >= len(packet) and header != _NO_NEXT_HEADER:
        return None
    return header, packet[at:], fragmented


def _judge_ports(datagram: bytes, server: int, client: int) -> int:
    source, destination = int.from_bytes(datagram[:2]), int.from_bytes(datagram[2:4])
    if len(datagram) < 4 or source == server or destination == client:
        return DHCP_SERVER
    return PASSED


def _claimed(kind: int, source: bytes, target: bytes) -> tuple[bytes, ...]:
    """The addresses that the sender of a neighbour discovery message says are its own."""
    if kind == _NEIGHBOUR_ADVERTISEMENT:
        return source, target
    if source in _UNSPECIFIED and kind == _NEIGHBOUR_SOLICITATION:
        return (target,)
    if source in _UNSPECIFIED and kind == _ROUTER_SOLICITATION:
        return ()
    return (source,)


def _link_local(mac: bytes) -> bytes:
    """The link-local address with the interface identifier that is made from a MAC address (RFC 4291 appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 0x02]) + mac[1:3] + b"\xff\xfe" + mac[3:6]
