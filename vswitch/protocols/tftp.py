"""TFTP messages (RFC 1350), as they are in UDP, with options (RFC 2347): blksize (RFC 2348), timeout and tsize
(RFC 2349), windowsize (RFC 7440).

Bytes in, a message or None out: what is malformed is nobody's message. Only what a client that reads files sends is
read, and what its server sends is written.
"""

import struct
from collections.abc import Mapping

import msgspec

PORT = 69
RRQ, WRQ, DATA, ACK, ERROR, OACK = range(1, 7)

# Error codes
UNDEFINED, NOT_FOUND, ACCESS_VIOLATION, ALLOCATION_EXCEEDED, ILLEGAL, UNKNOWN_TID = range(6)
OPTION_NEGOTIATION = 8

BLKSIZE, TIMEOUT, TSIZE, WINDOWSIZE = b"blksize", b"timeout", b"tsize", b"windowsize"
VALUES = {BLKSIZE: range(8, 65464 + 1), TIMEOUT: range(1, 255 + 1), WINDOWSIZE: range(1, 65535 + 1)}
BLKSIZE_DEFAULT = 512

BLOCK_NUMBERS = 1 << 16  # they begin again at 0
DATA_HEADER = 4
NAME_MAX = 512  # bytes
REQUEST_MAX = 1024  # bytes; RFC 2347 has 512
_DIGITS_MAX = 9

_TWO = struct.Struct("!HH")


class Request(msgspec.Struct, frozen=True):
    """RRQ or WRQ. Bytes of a name that are no UTF-8 are surrogates (PEP 383); names of options are in lower case."""

    opcode: int
    name: str
    mode: bytes  # in lower case
    options: dict[bytes, bytes]


class Ack(msgspec.Struct, frozen=True):
    block: int


class Error(msgspec.Struct, frozen=True):
    code: int
    text: str


def read(data: bytes) -> Request | Ack | Error | None:
    """A client's message; None if it is none."""
    if len(data) < _TWO.size:
        return None
    opcode, number = _TWO.unpack_from(data)
    if opcode in (RRQ, WRQ):
        return _read_request(opcode, data[2:])
    if opcode == ACK:
        return Ack(number)
    if opcode == ERROR:
        return Error(number, data[4:].partition(b"\0")[0].decode(errors="replace"))
    return None


def number(value: bytes) -> int | None:
    """The number that an option's value is; None if it is none."""
    return int(value) if value.isdigit() and len(value) <= _DIGITS_MAX else None


def data(block: int, content: bytes) -> bytes:
    """A block, which may have any number: what is sent of it are the lower 16 bits."""
    return _TWO.pack(DATA, block % BLOCK_NUMBERS) + content


def oack(options: Mapping[bytes, int]) -> bytes:
    return OACK.to_bytes(2, "big") + b"".join(b"%s\0%d\0" % option for option in options.items())


def error(code: int, text: str) -> bytes:
    return _TWO.pack(ERROR, code) + text.encode() + b"\0"


def _read_request(opcode: int, data: bytes) -> Request | None:
    """Of an option that comes twice, the first counts. Some clients pad their requests with zeros."""
    *fields, rest = data.split(b"\0")
    if rest or len(data) > REQUEST_MAX or len(fields) < 2 or len(fields[0]) > NAME_MAX:
        return None
    name, mode, *said = fields
    options: dict[bytes, bytes] = {}
    for at in range(0, len(said), 2):
        if not said[at]:
            break
        if at + 1 == len(said):  # an option without a value
            return None
        options.setdefault(said[at].lower(), said[at + 1])
    return Request(opcode, name.decode(errors="surrogateescape"), mode.lower(), options)
