"""What of DNS messages needs no library: how TCP carries them (RFC 1035, 4.2.2; RFC 7766, 8), and responses that are
made of what was asked. Bytes in, bytes out."""

import struct

PORT = 53
HEADER = 12
MESSAGE_MAX = 65535
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, REFUSED = 0, 1, 2, 3, 5
_RESPONSE, _OPCODE, _TRUNCATED, _RECURSION_DESIRED = 0x80, 0x78, 0x02, 0x01
_RECURSION_AVAILABLE = 0x80

_LENGTH = struct.Struct("!H")


class Framing:
    """Messages out of a stream, however it is cut. Keeps less than one of `message_max` bytes."""

    def __init__(self, message_max: int = MESSAGE_MAX) -> None:
        self._message_max = message_max
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now. Raises ValueError for a length that none has."""
        data, at, found = self._rest + data, 0, []
        while len(data) >= at + _LENGTH.size:
            (size,) = _LENGTH.unpack_from(data, at)
            if not HEADER <= size <= self._message_max:
                raise ValueError(f"a message of {size} bytes")
            end = at + _LENGTH.size + size
            if len(data) < end:
                break
            found.append(data[at + _LENGTH.size : end])
            at = end
        self._rest = data[at:]
        return found


def framed(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


def is_truncated(response: bytes) -> bool:
    """Whether there is more than it says (RFC 1035, 4.1.1)."""
    return len(response) >= HEADER and bool(response[2] & _TRUNCATED)


def truncated(response: bytes) -> bytes:
    """The header and the question of a response, saying that there is more: ask by TCP."""
    return _without_records(response, bytes([response[2] | _TRUNCATED, response[3]]))


def failure(query: bytes, code: int) -> bytes:
    """The response to a query of a whole header that says nothing but why."""
    kept = query[2] & (_OPCODE | _RECURSION_DESIRED)
    return _without_records(query, bytes([_RESPONSE | kept, _RECURSION_AVAILABLE | code]))


def _without_records(message: bytes, flags: bytes) -> bytes:
    end = HEADER
    while end < len(message) and message[end]:
        end += 1 + message[end]
    question = message[HEADER : end + 5] if end + 5 <= len(message) else b""
    return message[:2] + flags + bytes([0, bool(question)]) + bytes(6) + question
