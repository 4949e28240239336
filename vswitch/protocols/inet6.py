"""IPv6 (RFC 8200) in Ethernet frames without a tag (RFC 2464): neighbour discovery (RFC 4861), as a router and its
guests speak it, and UDP (RFC 768).

What is malformed, or has extension headers, is None: no host sends neighbour discovery or a query behind them. Whether
a guest may say what it says is the guard's business; here it is only read.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network

import msgspec

from vswitch.protocols import inet
from vswitch.protocols.inet import Datagram

UNSPECIFIED = IPv6Address("::")
ALL_NODES = IPv6Address("ff02::1")
UDP, ICMPV6 = inet.UDP, 58
UDP_OVERHEAD = 48  # with the IPv6 header
HEADER_END = 54  # of the IPv6 header, in a frame
MTU_MIN = 1280  # every link's (RFC 8200, 5); hosts ignore a router that says less

ROUTER_LIFETIME_S = DNS_LIFETIME_S = 1800  # three times the 600 s between two advertisements (RFC 4861, RFC 8106)
VALID_S, PREFERRED_S = 86400, 14400
RDNSS_MAX = 8  # name servers in an advertisement: far more than resolvers use
SEARCH_MAX = 255  # bytes of a search list: as many as one name may have (RFC 1035, 2.3.4)

_FRAME = struct.Struct("!6s6sHIHBB16s16s")  # of Ethernet and IPv6, the headers
_UDP = struct.Struct("!HHHH")
_PSEUDO = struct.Struct("!16s16sII")  # RFC 8200, 8.1
_VERSION = 6 << 28
_HOP_LIMIT = 64
_LINK_LOCAL = IPv6Network("fe80::/64")
_SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")
_MULTICAST = 0xFF  # the first byte of such an address

_ND_HOP_LIMIT = 255  # so it has crossed no router (RFC 4861, 3.1)
_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT, _NEIGHBOR_SOLICITATION, _NEIGHBOR_ADVERTISEMENT = range(133, 137)
_SIZES = {_ROUTER_SOLICITATION: 8, _NEIGHBOR_SOLICITATION: 24, _NEIGHBOR_ADVERTISEMENT: 24}  # without options
_ND = struct.Struct("!BBHI")  # what all but the router advertisement start with
_RA = struct.Struct("!BBHBBHII")
_ROUTER, _SOLICITED, _OVERRIDE = 1 << 31, 1 << 30, 1 << 29  # flags of a neighbour advertisement
_OTHER_CONFIGURATION = 0x40  # a flag of a router advertisement
_ON_LINK, _AUTONOMOUS = 0x80, 0x40  # flags of a prefix

_SOURCE_LINK_LAYER, _TARGET_LINK_LAYER, _PREFIX, _MTU, _RDNSS, _DNSSL = 1, 2, 3, 5, 25, 31  # options
_OPTION_UNIT = 8
_ECHO_REQUEST, _ECHO_REPLY = 128, 129
_LABEL_MAX = 63


class NeighborSolicitation(msgspec.Struct, frozen=True):
    """`mac` is the frame's source, `link_layer` the address in the option: so in all three."""

    mac: bytes
    source: IPv6Address
    target: IPv6Address
    link_layer: bytes | None = None


class NeighborAdvertisement(msgspec.Struct, frozen=True):
    mac: bytes
    source: IPv6Address
    target: IPv6Address
    router: bool = False
    solicited: bool = False
    override: bool = False
    link_layer: bytes | None = None


class RouterSolicitation(msgspec.Struct, frozen=True):
    mac: bytes
    source: IPv6Address
    link_layer: bytes | None = None


class Router(msgspec.Struct, frozen=True, kw_only=True):
    """What a router advertises. With a lifetime of 0 it is nobody's default router; the rest holds."""

    mac: bytes
    prefix: IPv6Network
    mtu: int
    dns: tuple[IPv6Address, ...] = ()
    search: tuple[str, ...] = ()
    lifetime_s: int = ROUTER_LIFETIME_S


class _Packet(msgspec.Struct, frozen=True):
    hop_limit: int
    source: bytes
    target: bytes
    payload: bytes


def link_local(mac: bytes) -> IPv6Address:
    return slaac(_LINK_LOCAL, mac)


def slaac(prefix: IPv6Network, mac: bytes) -> IPv6Address:
    """The address in a prefix of 64 bits that is made from a MAC address (RFC 4862, 5.5.3; RFC 4291, appendix A)."""
    identifier = bytes([mac[0] ^ 0x02]) + mac[1:3] + b"\xff\xfe" + mac[3:6]
    return prefix.network_address + int.from_bytes(identifier)


def solicited_node(ip: IPv6Address) -> IPv6Address:
    """The group that whoever has an address listens to (RFC 4291, 2.7.1)."""
    return IPv6Address(_SOLICITED_NODE + ip.packed[13:])


def multicast_mac(ip: IPv6Address) -> bytes:
    """RFC 2464, 7."""
    return b"\x33\x33" + ip.packed[12:]


def read_nd(frame: bytes) -> NeighborSolicitation | NeighborAdvertisement | RouterSolicitation | None:
    """The message in a frame that is of IPv6, if it is valid (RFC 4861, 6.1.1, 7.1.1 and 7.1.2)."""
    packet = _read(frame, ICMPV6)
    if packet is None or packet.hop_limit != _ND_HOP_LIMIT or len(packet.payload) < _ND.size:
        return None
    kind, code, _, flags = _ND.unpack_from(packet.payload)
    size = _SIZES.get(kind)
    if size is None or code or len(packet.payload) < size:
        return None
    if _checksum(packet.source, packet.target, ICMPV6, packet.payload):
        return None
    options = _read_options(packet.payload[size:])
    if options is None:
        return None
    link_layer = options.get(_TARGET_LINK_LAYER if kind == _NEIGHBOR_ADVERTISEMENT else _SOURCE_LINK_LAYER)
    if link_layer is not None and len(link_layer) != 6:
        return None
    mac, source = frame[6:12], IPv6Address(packet.source)
    if kind == _NEIGHBOR_ADVERTISEMENT:
        return _advertisement(mac, source, packet, flags, link_layer)
    if source == UNSPECIFIED and link_layer is not None:
        return None
    if kind == _ROUTER_SOLICITATION:
        return RouterSolicitation(mac, source, link_layer)
    target = IPv6Address(packet.payload[_ND.size : size])
    if target.is_multicast or (source == UNSPECIFIED and not packet.target.startswith(_SOLICITED_NODE)):
        return None
    return NeighborSolicitation(mac, source, target, link_layer)


def _advertisement(
    mac: bytes, source: IPv6Address, packet: _Packet, flags: int, link_layer: bytes | None
) -> NeighborAdvertisement | None:
    target = IPv6Address(packet.payload[_ND.size : _SIZES[_NEIGHBOR_ADVERTISEMENT]])
    router, solicited, override = (bool(flags & flag) for flag in (_ROUTER, _SOLICITED, _OVERRIDE))
    if target.is_multicast or (solicited and packet.target[0] == _MULTICAST):
        return None
    return NeighborAdvertisement(mac, source, target, router, solicited, override, link_layer)


def neighbor_solicitation(source: IPv6Address, target: IPv6Address, mac: bytes) -> bytes:
    """The frame that asks everybody who has an address; from :: it asks whether anybody has it (RFC 4862, 5.4.2)."""
    message = _ND.pack(_NEIGHBOR_SOLICITATION, 0, 0, 0) + target.packed
    if source != UNSPECIFIED:
        message += _option(_SOURCE_LINK_LAYER, mac)
    group = solicited_node(target)
    return _icmp(message, source, group, multicast_mac(group), mac)


def neighbor_advertisement(
    target: IPv6Address,
    mac: bytes,
    to: NeighborSolicitation | None = None,
    *,
    router: bool = False,
    override: bool = True,
) -> bytes:
    """The frame with which who has an address says so: to whoever asks, or to all if nobody does, or one without an
    address (RFC 4861, 7.2.4 and 7.2.6)."""
    solicited = to is not None and to.source != UNSPECIFIED
    flags = router * _ROUTER | solicited * _SOLICITED | override * _OVERRIDE
    message = _ND.pack(_NEIGHBOR_ADVERTISEMENT, 0, 0, flags) + target.packed + _option(_TARGET_LINK_LAYER, mac)
    return _icmp(message, target, *_receiver(to), mac)


def router_advertisement(router: Router, to: RouterSolicitation | None = None) -> bytes:
    """The frame with which a router makes itself known (RFC 4861, 6.2.3; RFC 8106): to whoever asks, or to all if
    nobody does, or one without an address."""
    message = _RA.pack(
        *(_ROUTER_ADVERTISEMENT, 0, 0, _HOP_LIMIT, _OTHER_CONFIGURATION, router.lifetime_s),
        *(0, 0),  # its guests' own times for reachability and retransmission
    )
    prefix = router.prefix
    said = struct.pack("!BBIIxxxx", prefix.prefixlen, _ON_LINK | _AUTONOMOUS, VALID_S, PREFERRED_S)
    message += _option(_SOURCE_LINK_LAYER, router.mac)
    message += _option(_PREFIX, said + prefix.network_address.packed)
    message += _option(_MTU, struct.pack("!xxI", router.mtu))
    lifetime = struct.pack("!xxI", DNS_LIFETIME_S)
    if router.dns:
        message += _option(_RDNSS, lifetime + b"".join(ip.packed for ip in router.dns[:RDNSS_MAX]))
    if names := domain_names(router.search):
        message += _option(_DNSSL, lifetime + names)
    return _icmp(message, link_local(router.mac), *_receiver(to), router.mac)


def echo_reply(frame: bytes) -> bytes | None:
    """The answer to the echo request in a frame that is of IPv6 (RFC 4443, 4.2); None if it is malformed."""
    packet = _read(frame, ICMPV6)
    if packet is None or _checksum(packet.source, packet.target, ICMPV6, packet.payload):
        return None
    message = bytes([_ECHO_REPLY, 0, 0, 0]) + packet.payload[4:]
    return _icmp(message, IPv6Address(packet.target), IPv6Address(packet.source), frame[6:12], frame[:6])


def echo_request(source: IPv6Address, target: IPv6Address, mac: bytes) -> bytes:
    """The frame that asks a group for an answer (RFC 4443, 4.1)."""
    return _icmp(bytes([_ECHO_REQUEST]) + bytes(7), source, target, multicast_mac(target), mac)


def domain_names(names: Iterable[str]) -> bytes:
    """A search list, as router advertisements and DHCPv6 have it (RFC 1035, 3.1, uncompressed). What cannot be a domain
    name, or is too much, is left out."""
    written = b""
    for data in map(_domain_name, names):
        if len(written) + len(data) <= SEARCH_MAX:
            written += data
    return written


def read_udp6(frame: bytes) -> Datagram | None:
    """The datagram in a frame that is of IPv6. Its checksum is not looked at: it came over no wire."""
    packet = _read(frame, UDP)
    if packet is None or len(packet.payload) < _UDP.size:
        return None
    source_port, target_port, length, _ = _UDP.unpack_from(packet.payload)
    if not _UDP.size <= length <= len(packet.payload):
        return None
    payload = packet.payload[_UDP.size : length]
    return Datagram(IPv6Address(packet.source), source_port, IPv6Address(packet.target), target_port, payload)


def udp6(datagram: Datagram, to: bytes, by: bytes) -> bytes:
    """The frame that carries a datagram from one MAC address to another; its checksum is never 0 (RFC 8200, 8.1)."""
    source, target, length = datagram.source.packed, datagram.target.packed, _UDP.size + len(datagram.payload)
    head = _UDP.pack(datagram.source_port, datagram.target_port, length, 0)
    total = _checksum(source, target, UDP, head + datagram.payload) or 0xFFFF
    head = _UDP.pack(datagram.source_port, datagram.target_port, length, total)
    header = _FRAME.pack(to, by, inet.IPV6, _VERSION, length, UDP, _HOP_LIMIT, source, target)
    return header + head + datagram.payload


def _read(frame: bytes, protocol: int) -> _Packet | None:
    """A whole packet of that protocol; a jumbogram or one from a multicast address is none (RFC 4291, 2.7)."""
    if len(frame) < _FRAME.size:
        return None
    _, _, _, first, size, next_header, hop_limit, source, target = _FRAME.unpack_from(frame)
    payload = frame[_FRAME.size : _FRAME.size + size]
    if first >> 28 != 6 or next_header != protocol or len(payload) < size or source[0] == _MULTICAST:
        return None
    return _Packet(hop_limit, source, target, payload)


def _read_options(data: bytes) -> dict[int, bytes] | None:
    """By type, the first of each; None if they are malformed."""
    options: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        size = data[at + 1] * _OPTION_UNIT if at + 1 < len(data) else 0
        if not 0 < size <= len(data) - at:
            return None
        options.setdefault(data[at], data[at + 2 : at + size])
        at += size
    return options


def _option(kind: int, value: bytes) -> bytes:
    """Padded to whole units."""
    units = -(-(2 + len(value)) // _OPTION_UNIT)
    return (bytes([kind, units]) + value).ljust(units * _OPTION_UNIT, b"\0")


def _domain_name(name: str) -> bytes:
    """Empty if it cannot be one."""
    labels = name.encode().rstrip(b".").split(b".")
    if not all(0 < len(label) <= _LABEL_MAX for label in labels):
        return b""
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _receiver(to: NeighborSolicitation | RouterSolicitation | None) -> tuple[IPv6Address, bytes]:
    """Where an answer goes: back to where the frame came from, whatever its option says."""
    if to is None or to.source == UNSPECIFIED:
        return ALL_NODES, multicast_mac(ALL_NODES)
    return to.source, to.mac


def _icmp(message: bytes, source: IPv6Address, target: IPv6Address, to: bytes, by: bytes) -> bytes:
    """The frame that carries a message of neighbour discovery."""
    total = _checksum(source.packed, target.packed, ICMPV6, message)
    message = message[:2] + total.to_bytes(2) + message[4:]
    header = (to, by, inet.IPV6, _VERSION, len(message), ICMPV6, _ND_HOP_LIMIT, source.packed, target.packed)
    return _FRAME.pack(*header) + message


def _checksum(source: bytes, target: bytes, protocol: int, data: bytes) -> int:
    """The checksum for what has none yet; 0 for what has the right one."""
    return inet.checksum(_PSEUDO.pack(source, target, len(data), protocol) + data)
