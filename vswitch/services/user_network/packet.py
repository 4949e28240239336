"""What the NAT has to know of an IP packet in a frame, whatever its version."""

from typing import NamedTuple

from vswitch.protocols import inet, inet6

TCP, ICMP = 6, 1
_SYN, _ACK = 0x02, 0x10
_TCP_FLAGS_AT, _TCP_END = 47, 54  # in a frame without IP options


class Packet(NamedTuple):
    """`at` is where its payload begins in the frame. A fragment may be without `ports`, which the first one has."""

    source: bytes
    target: bytes
    protocol: int
    at: int
    is_fragment: bool = False
    has_ports: bool = True

    def opens_connection(self, frame: bytes) -> bool:
        """Whether it is a SYN, or too short to say."""
        at = self.at + 13
        return self.protocol == TCP and (len(frame) <= at or frame[at] & (_SYN | _ACK) == _SYN)

    def ports(self, frame: bytes) -> bytes:
        """The source's and the target's, four bytes."""
        return frame[self.at : self.at + 4]


def read4(frame: bytes) -> Packet | None:
    """None if it has no whole header."""
    if len(frame) < inet.IPV4_HEADER_END or frame[14] >> 4 != 4:
        return None
    at = 14 + (frame[14] & 15) * 4
    if not (frame[20] & 0x3F or frame[21]):
        return Packet(frame[26:30], frame[30:34], frame[23], at)
    return Packet(frame[26:30], frame[30:34], frame[23], at, True, not (frame[20] & 0x1F or frame[21]))


def read6(frame: bytes) -> Packet | None:
    """Extension headers count as a protocol: none goes beyond this network."""
    if len(frame) < inet6.HEADER_END or frame[14] >> 4 != 6:
        return None
    return Packet(frame[22:38], frame[38:54], frame[20], inet6.HEADER_END)


def may_open(frame: bytes) -> bool:
    """Of TCP over IPv4 without options: whether it may open a connection, or is a fragment, or too short to say."""
    return len(frame) < _TCP_END or bool(frame[_TCP_FLAGS_AT] & _SYN or frame[20] & 0x3F or frame[21])
