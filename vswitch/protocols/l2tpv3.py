"""L2TPv3 (RFC 3931): Ethernet frames in sessions that both ends have been told of, over UDP or as IP protocol 115.

    00 03 00 00 | session, 32 bits | cookie, 0, 4 or 8 bytes | sequence, 32 bits | offset | frame

Only UDP has the first four bytes: no control message (T), version 3 (4.1.2.1). There is a sequence if both ends are
told so: the default sublayer of 4.6.1, whose S bit says whether it has a number. An offset is zeros that RFC 3931 has
no more; QEMU has it. QEMU's counter (net/l2tpv3.c) is the sequence without the S bit; what it is sent there does not
matter to it, nor does it here: nothing waits for a frame that is late.
"""

from typing import NamedTuple

from vswitch.dataplane.tunnel import Encapsulation

PORT = 1701
PROTOCOL = 115
SESSION_MAX = 0xFFFF_FFFF
OFFSET_MAX = 32
SEQUENCE = 4
IPV4_HEADER = 20  # comes in with what is received as protocol 115 of IPv4; without options

_DATA = b"\0\x03\0\0"
_KIND = b"\x80\x0f\0\0"  # the bits of T and the version; the others do not matter


class Session(NamedTuple):
    """A session as one end has it: what it sends, and what it takes in. `numbers` says whether frames are counted."""

    tx: int
    rx: int
    tx_cookie: bytes = b""
    rx_cookie: bytes = b""
    sequence: bool = False
    numbers: bool = True
    offset: int = 0
    udp: bool = True

    @property
    def _behind(self) -> int:
        """Bytes between cookie and frame."""
        return SEQUENCE * self.sequence + self.offset

    @property
    def overhead(self) -> int:
        """Bytes of the header that is sent."""
        return len(self._start) + 4 + len(self.tx_cookie) + self._behind

    @property
    def _start(self) -> bytes:
        return _DATA if self.udp else b""


def header(session: Session, number: int | None = None) -> bytes:
    """What stands before a frame that is sent; `number` says which it is, where frames are counted."""
    sequence = 0 if number is None else 0x4000_0000 | number & 0xFF_FFFF
    behind = sequence.to_bytes(SEQUENCE) * session.sequence + bytes(session.offset)
    return session._start + session.tx.to_bytes(4) + session.tx_cookie + behind


def parse(session: Session, datagram: bytes) -> bytes | str:
    """The frame of a datagram that comes in, or the reason to drop it."""
    start, number, cookie = len(session._start), session.rx.to_bytes(4), session.rx_cookie
    size = start + 4 + len(cookie) + session._behind
    if len(datagram) < size:
        return "bad_header"
    if any((got ^ wanted) & bits for got, wanted, bits in zip(datagram[:start], _DATA, _KIND, strict=False)):
        return "bad_header"
    if datagram[start : start + 4] != number:
        return "other_tunnel"
    if datagram[start + 4 : start + 4 + len(cookie)] != cookie:
        return "bad_cookie"
    return datagram[size:]


def encapsulation(session: Session, before: int = 0) -> Encapsulation:
    """The same for the data plane; `before` is how many bytes come in before the header, a multiple of 4."""
    start = len(session._start)
    wanted = session._start + session.rx.to_bytes(4) + session.rx_cookie
    size = before + len(wanted) + session._behind
    numbered = session.sequence and session.numbers
    counter_at = start + 4 + len(session.tx_cookie) if numbered else -1
    kind, number, cookie = (
        _KIND[:start],
        bytes(start) + b"\xff" * 4,
        bytes(start + 4) + b"\xff" * len(session.rx_cookie),
    )
    return Encapsulation(header(session), counter_at, size, before, wanted, kind, number, cookie)
