"""The segment that refuses a connection (RFC 9293, 3.10.7.1), in an Ethernet frame without a tag."""

import struct

from vswitch.protocols import inet
from vswitch.protocols.inet import checksum

TCP = 6
_SYN, _RST_ACK = 0x02, 0x14
_IP = struct.Struct("!BBHHHBBH4s4s")
_IP6 = struct.Struct("!IHBB16s16s")
_SEGMENT = struct.Struct("!4sIIBBHHH")
_TTL, _DONT_FRAGMENT = 64, 0x4000
_ETHER_END, _IPV4_AT, _IPV6_AT = 14, 26, 22


def refusal(frame: bytes, at: int) -> bytes | None:
    """What tells who has sent a SYN, at `at` in a frame of IPv4 or IPv6, that nobody takes it; None if it is none."""
    if len(frame) < at + _SEGMENT.size or not frame[at + 13] & _SYN:
        return None
    is_ipv4 = inet.ethertype(frame) == inet.IPV4
    size, begin = (4, _IPV4_AT) if is_ipv4 else (16, _IPV6_AT)
    guest, target = frame[begin : begin + size], frame[begin + size : begin + 2 * size]
    ports = frame[at + 2 : at + 4] + frame[at : at + 2]
    acknowledged = int.from_bytes(frame[at + 4 : at + 8]) + 1 & 0xFFFF_FFFF
    segment = _SEGMENT.pack(ports, 0, acknowledged, _SEGMENT.size // 4 << 4, _RST_ACK, 0, 0, 0)
    pseudo = target + guest + struct.pack("!HH", TCP, len(segment))  # in other places for IPv6, with the same sum
    segment = segment[:16] + checksum(pseudo + segment).to_bytes(2) + segment[18:]
    if is_ipv4:
        ip = _IP.pack(0x45, 0, _IP.size + len(segment), 0, _DONT_FRAGMENT, _TTL, TCP, 0, target, guest)
        ip = ip[:10] + checksum(ip).to_bytes(2) + ip[12:]
    else:
        ip = _IP6.pack(6 << 28, len(segment), TCP, _TTL, target, guest)
    return (frame[6:12] + frame[:6] + frame[12:_ETHER_END] + ip + segment).ljust(inet.FRAME_MIN, b"\0")
