"""Fragments of IPv4 (RFC 791, 3.2) are packets again before anything else looks at them. Sans-IO; time is an argument.

libslirp 4.7 crashes at a last fragment that comes first, and keeps any number of them. What overlaps is an attack, as
for IPv6 (RFC 5722): then all of the packet is dropped.
"""

from collections.abc import Callable
from typing import NamedTuple

from vswitch.protocols import inet
from vswitch.services.user_network.counters import Reason

WAIT_S = 15.0  # for the rest
BYTES_MAX = 2 << 20  # that wait, of all guests; then the oldest go
PIECE_BYTES = 256  # what each takes beside its data
PIECES_MAX = 128  # of a packet: as many as the largest has where the MTU is 576
PACKET_MAX = 65535

_IP, _MORE = 14, 0x2000


class _Piece(NamedTuple):
    header: bytes  # of Ethernet and IP
    at: int
    data: bytes
    is_last: bool


class _Packet:
    """One of which some are there."""

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.bytes = 0
        self._pieces: dict[int, _Piece] = {}
        self._end = PACKET_MAX

    def take(self, piece: _Piece) -> bool:
        """Answers whether it fits the others."""
        end = piece.at + len(piece.data)
        pieces = self._pieces.values()
        if piece.is_last and self._end == PACKET_MAX:
            self._end = end
        is_beyond = any(other.at + len(other.data) > self._end for other in (*pieces, piece))
        overlaps = any(other.at < end and piece.at < other.at + len(other.data) for other in pieces)
        if is_beyond or overlaps or len(self._pieces) == PIECES_MAX:
            return piece.at in self._pieces and self._pieces[piece.at].data == piece.data  # it came twice
        self._pieces[piece.at] = piece
        self.bytes += PIECE_BYTES + len(piece.data)
        return True

    def whole(self) -> bytes:
        """The frame with all of it, or nothing."""
        pieces = [self._pieces[at] for at in sorted(self._pieces)]
        if not pieces[-1].is_last or sum(len(piece.data) for piece in pieces) != self._end:
            return b""
        data, first = b"".join(piece.data for piece in pieces), pieces[0].header
        size = len(first) - _IP + len(data)
        if size > PACKET_MAX:
            return b""
        ip = first[_IP : _IP + 2] + size.to_bytes(2) + first[_IP + 4 : _IP + 6] + b"\0\0" + first[_IP + 8 : _IP + 10]
        rest = first[_IP + 12 :]
        return first[:_IP] + ip + inet.checksum(ip + b"\0\0" + rest).to_bytes(2) + rest + data


class Fragments:
    """`drop` takes why something of a station is dropped."""

    def __init__(self, drop: Callable[[Reason, bytes], None]) -> None:
        self._drop = drop
        self._packets: dict[bytes, _Packet] = {}
        self.bytes = 0

    def put(self, frame: bytes, at: int, now_s: float) -> bytes:
        """A fragment, and where its data begins. Answers the frame with the whole packet, or nothing."""
        self.expire(now_s)
        piece = _read(frame, at)
        if piece is None:
            self._drop("malformed", frame[6:12])
            return b""
        key = frame[6:12] + frame[18:20] + frame[23:24] + frame[26:34]
        packet = self._packets.setdefault(key, _Packet(now_s + WAIT_S))
        self.bytes -= packet.bytes
        fits = packet.take(piece)
        self.bytes += packet.bytes
        if not fits:
            self._give_up(key)
        elif whole := packet.whole():
            self._forget(key)
            return whole
        while self.bytes > BYTES_MAX:
            self._give_up(next(iter(self._packets)))
        return b""

    def expire(self, now_s: float) -> None:
        while self._packets:  # the oldest comes first
            key, packet = next(iter(self._packets.items()))
            if packet.until_s > now_s:
                return
            self._give_up(key)

    def _give_up(self, key: bytes) -> None:
        self._forget(key)
        self._drop("fragments", key[:6])

    def _forget(self, key: bytes) -> None:
        self.bytes -= self._packets.pop(key).bytes


def _read(frame: bytes, at: int) -> _Piece | None:
    """None if it is malformed."""
    end, field = _IP + int.from_bytes(frame[16:18]), int.from_bytes(frame[20:22])
    data, is_last = frame[at:end], not field & _MORE
    if at < inet.IPV4_HEADER_END or not at < end <= len(frame) or inet.checksum(frame[_IP:at]):
        return None
    if len(data) % 8 and not is_last:
        return None
    return _Piece(frame[:at], (field & 0x1FFF) * 8, data, is_last)
