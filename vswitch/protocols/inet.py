"""ARP (RFC 826), and UDP (RFC 768) over IPv4 (RFC 791), in Ethernet frames without a tag.

What is malformed, or a fragment, is None.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

import msgspec

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
BROADCAST = b"\xff" * 6
ARP_REQUEST, ARP_REPLY = 1, 2
UDP = 17
FRAME_MIN = 60
UDP_OVERHEAD = 28  # with the IPv4 header
IPV4_HEADER_END = 34  # of one without options

_ETHER = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_OF_ETHERNET = (1, IPV4, 6, 4)
_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_DONT_FRAGMENT, _FRAGMENT = 0x4000, 0x3FFF
_TTL = 64
_IP_CHECKSUM_AT, _TCP_CHECKSUM_AT, _UDP_CHECKSUM_AT = 24, 16, 6  # in the frame, and behind its header


class Arp(msgspec.Struct, frozen=True):
    operation: int
    sender_mac: bytes
    sender: IPv4Address
    target_mac: bytes
    target: IPv4Address


class Datagram(msgspec.Struct, frozen=True):
    source: IPv4Address | IPv6Address
    source_port: int
    target: IPv4Address | IPv6Address
    target_port: int
    payload: bytes


def ethertype(frame: bytes) -> int:
    """Of a frame of 14 bytes or more."""
    return frame[12] << 8 | frame[13]


def read_arp(frame: bytes) -> Arp | None:
    if len(frame) < _ETHER.size + _ARP.size:
        return None
    *kind, operation, sender_mac, sender, target_mac, target = _ARP.unpack_from(frame, _ETHER.size)
    if tuple(kind) != _ARP_OF_ETHERNET:
        return None
    return Arp(operation, sender_mac, IPv4Address(sender), target_mac, IPv4Address(target))


def arp(arp: Arp, to: bytes) -> bytes:
    """The frame that says so."""
    body = _ARP.pack(
        *_ARP_OF_ETHERNET, arp.operation, arp.sender_mac, arp.sender.packed, arp.target_mac, arp.target.packed
    )
    return (_ETHER.pack(to, arp.sender_mac, ARP) + body).ljust(FRAME_MIN, b"\0")


def read_udp(frame: bytes) -> Datagram | None:
    """The datagram in a frame that is of IPv4. Its checksum is not looked at: it came over no wire."""
    at = _ETHER.size
    if len(frame) < at + _IP.size:
        return None
    version, _, size, _, fragment, _, protocol, _, source, target = _IP.unpack_from(frame, at)
    header = (version & 15) * 4
    if version >> 4 != 4 or header < _IP.size or fragment & _FRAGMENT or protocol != UDP:
        return None
    if not header + _UDP.size <= size <= len(frame) - at:
        return None
    source_port, target_port, length, _ = _UDP.unpack_from(frame, at + header)
    if not _UDP.size <= length <= size - header:
        return None
    payload = frame[at + header + _UDP.size : at + header + length]
    return Datagram(IPv4Address(source), source_port, IPv4Address(target), target_port, payload)


def udp(datagram: Datagram, to: bytes, by: bytes) -> bytes:
    """The frame that carries a datagram from one MAC address to another."""
    length = _UDP.size + len(datagram.payload)
    source, target = datagram.source.packed, datagram.target.packed
    head = _UDP.pack(datagram.source_port, datagram.target_port, length, 0)
    pseudo = source + target + struct.pack("!HH", UDP, length)
    total = checksum(pseudo + head + datagram.payload) or 0xFFFF
    head = _UDP.pack(datagram.source_port, datagram.target_port, length, total)
    ip = _IP.pack(0x45, 0, _IP.size + length, 0, _DONT_FRAGMENT, _TTL, UDP, 0, source, target)
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return (_ETHER.pack(to, by, IPV4) + ip + head + datagram.payload).ljust(FRAME_MIN, b"\0")


def readdressed(frame: bytes, at: int, *, source: bytes = b"", target: bytes = b"", udp: bool = False) -> bytes:
    """A frame with a segment of TCP, or a datagram, at `at`, that is from another source or to another target: an
    address of the same version, and a port behind it. Checksums are brought up to date (RFC 1624): what was wrong stays
    so."""
    is_ipv4 = len(source or target) == 6
    address_at = (26 if is_ipv4 else 22) if source else (30 if is_ipv4 else 38)
    new = source or target
    address, port_at = new[:-2], at if source else at + 2
    changed = bytearray(frame)
    old = bytes(changed[address_at : address_at + len(address)]) + bytes(changed[port_at : port_at + 2])
    changed[address_at : address_at + len(address)] = address
    changed[port_at : port_at + 2] = new[-2:]
    if is_ipv4:
        _update(changed, _IP_CHECKSUM_AT, old[:-2], address)
    checksum_at = at + (_UDP_CHECKSUM_AT if udp else _TCP_CHECKSUM_AT)
    if not udp or any(changed[checksum_at : checksum_at + 2]):  # UDP may have none
        _update(changed, checksum_at, old, new)
    return bytes(changed)


def _update(frame: bytearray, at: int, old: bytes, new: bytes) -> None:
    """A checksum of what has changed (RFC 1624, equation 3)."""
    if len(frame) < at + 2:
        return
    before = int.from_bytes(frame[at : at + 2]) ^ 0xFFFF
    frame[at : at + 2] = checksum(before.to_bytes(2) + bytes(byte ^ 0xFF for byte in old) + new).to_bytes(2)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
