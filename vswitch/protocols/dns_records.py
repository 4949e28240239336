"""What is asked of a name server, and the addresses it has found (RFC 1035, 4.1).

Only what is read here passes: names are compared label by label, and a query whose name is compressed, which no
client sends, is malformed, so that nobody else can read another name in it. All raise ValueError for what is malformed.
"""

import struct
from typing import NamedTuple

Name = tuple[bytes, ...]  # its labels, in small letters

A, CNAME, AAAA = 1, 5, 28
IN = 1
ANSWERS_MAX = 256  # that are looked at: a list of addresses is never so long
NAME_MAX = 255
ADDRESS_BYTES = {A: 4, AAAA: 16}
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")  # what follows its name
_QUESTION_REST = 4
_POINTER, _LABEL_MAX = 0xC0, 63


class Answer(NamedTuple):
    """A record; `name` is what an alias leads to, `ip` an address, and `ttl_at` where its TTL is in the message."""

    owner: Name
    ttl_s: int
    ttl_at: int
    ip: bytes = b""
    name: Name | None = None


def question(message: bytes) -> Name:
    """What the only question in a query is about."""
    return _question(message)[0]


def answers(response: bytes, asked: Name) -> list[Answer]:
    """The records that answer a question: as far as they are of addresses and aliases; of others, their TTL."""
    name, at = _question(response)
    if name != asked:
        raise ValueError("an answer to another question")
    found = []
    for _ in range(min(_HEADER.unpack_from(response)[3], ANSWERS_MAX)):
        owner, at = _name(response, at)
        if at + _RECORD.size > len(response):
            raise ValueError("cut short")
        kind, family, ttl_s, size = _RECORD.unpack_from(response, at)
        ttl_at, at = at + 4, at + _RECORD.size
        data = response[at : at + size]
        if len(data) < size or (family == IN and len(data) != ADDRESS_BYTES.get(kind, len(data))):
            raise ValueError("data of another size")
        is_address, is_alias = family == IN and kind in ADDRESS_BYTES, family == IN and kind == CNAME
        alias = _name(response, at)[0] if is_alias else None
        found.append(Answer(owner, ttl_s, ttl_at, data if is_address else b"", alias))
        at += size
    return found


def shortened(response: bytes, found: list[Answer], ttl_max_s: int) -> bytes:
    """A response whose answers hold no longer."""
    changed = bytearray(response)
    for answer in found:
        changed[answer.ttl_at : answer.ttl_at + 4] = min(answer.ttl_s, ttl_max_s).to_bytes(4)
    return bytes(changed)


def written(name: Name) -> str:
    """For a person: what is no letter, digit, - or _ as RFC 1035, 5.1 has it."""
    return ".".join("".join(map(_character, label)) for label in name) or "."


def _character(byte: int) -> str:
    char = chr(byte)
    return char if byte < 128 and (char.isalnum() or char in "-_") else f"\\{byte:03d}"


def _question(message: bytes) -> tuple[Name, int]:
    """Its name, and where it ends."""
    if len(message) < _HEADER.size or _HEADER.unpack_from(message)[2] != 1:
        raise ValueError("not one question")
    name, at = _name(message, _HEADER.size)
    if at + _QUESTION_REST > len(message) or at != _HEADER.size + sum(len(label) + 1 for label in name) + 1:
        raise ValueError("no plain question")
    return name, at + _QUESTION_REST


def _name(message: bytes, at: int) -> tuple[Name, int]:
    """A name, and where what follows it begins. Each pointer leads further back, so that there is an end."""
    labels: list[bytes] = []
    end, before, total = 0, at, 0
    while True:
        if at >= len(message):
            raise ValueError("cut short")
        size = message[at]
        if size >= _POINTER:
            to = (size & ~_POINTER) << 8 | message[at + 1] if at + 1 < len(message) else at
            if to >= before:
                raise ValueError("a pointer that does not lead back")
            end, at, before = end or at + 2, to, to
        elif size > _LABEL_MAX or (total := total + size + 1) > NAME_MAX or at + size >= len(message):
            raise ValueError("no name")
        elif size == 0:
            return tuple(labels), end or at + 1
        else:
            labels.append(message[at + 1 : at + 1 + size].lower())
            at += size + 1
