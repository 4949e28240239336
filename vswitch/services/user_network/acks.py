"""Acknowledgements of TCP that say nothing any more, as a later one is on its way with them (as sch_cake's ack-filter).

libslirp acknowledges each segment alone; a guest has an interrupt for each of these frames.
"""

from collections.abc import Callable

_HEADER_END = 54  # of IPv4 and TCP without options
_FLOW = slice(26, 38)  # addresses and ports
_SEQUENCE, _ACKNOWLEDGED, _FLAGS = slice(38, 42), slice(42, 46), 47
_ACK = 0x10


class Acks:
    """Between what makes frames and `send`: holds the last pure acknowledgement of each connection back until `flush`.

    One that acknowledges nothing new is sent: three of these ask for a segment again (RFC 5681, 3.2), and a window that
    opens is news.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._held: dict[bytes, bytes] = {}  # by connection

    def put(self, frame: bytes) -> None:
        """A frame with TCP over IPv4 in it."""
        flow = frame[_FLOW]
        before = self._held.pop(flow, None)
        is_pure = len(frame) == _HEADER_END and frame[_FLAGS] == _ACK and frame[14] == 0x45
        if before is not None and not (is_pure and _says_all_of(frame, before)):
            self._send(before)
        if is_pure:
            self._held[flow] = frame
        else:
            self._send(frame)

    def flush(self) -> None:
        if self._held:
            for frame in self._held.values():
                self._send(frame)
            self._held.clear()


def _says_all_of(later: bytes, earlier: bytes) -> bool:
    """Whether it acknowledges more, at the same place."""
    return later[_SEQUENCE] == earlier[_SEQUENCE] and later[_ACKNOWLEDGED] != earlier[_ACKNOWLEDGED]
