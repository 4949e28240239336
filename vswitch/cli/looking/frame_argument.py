"""A frame as a person writes it on a command line: hex, a capture file, or words.

ffffffffffff525400000001080600010800…        @lan.pcap:3
52:54:00:00:00:01 > 52:54:00:00:00:02 vlan 10 arp
"""

import re
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Literal, NamedTuple

from vswitch.dataplane.frame import BROADCAST, FRAME_MAX, VLAN_MAX
from vswitch.errors import InputError, RefusedError
from vswitch.ports.policy import read_mac
from vswitch.values import number

FILE_MAX = 1 << 28  # bytes
SIZE_MIN = 60
ETHER_TYPES = {"arp": 0x0806, "ip": 0x0800, "ip6": 0x86DD, "lldp": 0x88CC}
TAGS = {"vlan": 0x8100, "s-vlan": 0x88A8}
USAGE = "write hex, @FILE.pcap[:NUMBER], or words like '52:54:00:00:00:01 > broadcast vlan 10 arp 10.0.0.1 10.0.0.2'"

ETHERNET = 1  # link type
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6  # block types
_Order = Literal["little", "big"]
_ORDERS: dict[bytes, _Order] = {
    b"\xd4\xc3\xb2\xa1": "little",
    b"\x4d\x3c\xb2\xa1": "little",  # with nanoseconds
    b"\xa1\xb2\xc3\xd4": "big",
    b"\xa1\xb2\x3c\x4d": "big",
}


class _Captured(NamedTuple):
    link_type: int
    length: int  # that it had
    data: bytes


def read(text: str) -> bytes:
    """The frame. Raises InputError for what is written wrongly, RefusedError for a file that cannot be read."""
    if text.startswith("@"):
        return _in_file(text[1:])
    if ">" in text:
        return _of_words(text)
    digits = re.sub(r"[\s:.-]|^0x", "", text)
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise InputError(f"{text[:80]!r} is no frame; {USAGE}") from None


def _of_words(text: str) -> bytes:
    words = text.replace(">", " > ").split()
    if len(words) < 3 or words[1] != ">":
        raise InputError(f"{text[:80]!r} does not start with SOURCE > DESTINATION; {USAGE}")
    source, destination = _mac(words[0]), _mac(words[2])
    rest = words[3:]
    head = destination.to_bytes(6) + source.to_bytes(6)
    while len(rest) > 1 and rest[0] in TAGS:
        head += TAGS[rest[0]].to_bytes(2) + number(rest[1], 0, VLAN_MAX + 1).to_bytes(2)
        rest = rest[2:]
    size = SIZE_MIN
    if len(rest) > 1 and rest[-2] == "length":
        size = number(rest[-1], len(head) + 2, FRAME_MAX)
        rest = rest[:-2]
    kind, *rest = rest or ["0x88b5"]  # IEEE 802's local experimental EtherType
    payload = _arp(source, rest) if kind == "arp" else b""
    if kind != "arp" and rest:
        raise InputError(f"{' '.join(rest)!r} is left over; {USAGE}")
    frame = head + _ether_type(kind) + payload
    if len(frame) > size:
        raise InputError(f"length {size} is too short; what is in it takes {len(frame)} bytes")
    return frame.ljust(size, b"\0")


def _mac(text: str) -> int:
    return BROADCAST if text == "broadcast" else read_mac(text)


def _ether_type(text: str) -> bytes:
    if text in ETHER_TYPES:
        return ETHER_TYPES[text].to_bytes(2)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,4}", text):
        return int(text, 16).to_bytes(2)
    raise InputError(f"{text!r} is no kind of frame; there are {', '.join(ETHER_TYPES)} and numbers like 0x0800")


def _arp(source: int, addresses: list[str]) -> bytes:
    """A request (RFC 826): who asks, and for whom; without addresses, 0.0.0.0 each."""
    if len(addresses) > 2:
        raise InputError("arp takes two addresses: who asks, and for whom")
    try:
        sender, target = (IPv4Address(address).packed for address in (*addresses, "0.0.0.0", "0.0.0.0")[:2])
    except AddressValueError as error:
        raise InputError(f"arp: {error}") from None
    return bytes.fromhex("0001080006040001") + source.to_bytes(6) + sender + bytes(6) + target


def _in_file(text: str) -> bytes:
    """A frame of a pcap or pcapng file, the first unless a number is given."""
    path, colon, digits = text.rpartition(":")
    wanted = number(digits, 1, 10**9) if colon and digits.isdecimal() else 1
    path = path if colon and digits.isdecimal() else text
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_MAX)
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from None
    found = _pcapng(data) if data[:4] == b"\n\r\r\n" else _pcap(data)
    if found is None:
        raise InputError(f"{path} is neither a pcap nor a pcapng file")
    if wanted > len(found):
        raise InputError(f"{path}: there is no frame {wanted}; it has {len(found)}")
    link_type, length, frame = found[wanted - 1]
    if link_type != ETHERNET:
        raise InputError(f"{path}: frame {wanted} is not an Ethernet frame (link type {link_type})")
    if len(frame) < length:
        raise InputError(f"{path}: frame {wanted} is cut off: it had {length:,} bytes, the file has {len(frame):,}")
    return frame


def _pcap(data: bytes) -> list[_Captured] | None:
    """The frames of a pcap file (draft-ietf-opsawg-pcap); None if it is none."""
    order = _ORDERS.get(data[:4])
    if order is None or len(data) < 24:
        return None
    link_type = _number(data, 20, order) & 0xFFFF
    frames, at = [], 24
    while at + 16 <= len(data):
        size, length = _number(data, at + 8, order), _number(data, at + 12, order)
        frames.append(_Captured(link_type, length, data[at + 16 : at + 16 + size]))
        at += 16 + size
    return frames


def _pcapng(data: bytes) -> list[_Captured]:
    """The frames in the enhanced packet blocks of a pcapng file (draft-ietf-opsawg-pcapng), in either byte order."""
    order: _Order = "little" if data[8:12] == b"\x4d\x3c\x2b\x1a" else "big"
    frames: list[_Captured] = []
    link_types: list[int] = []
    at = 0
    while at + 12 <= len(data):
        kind, size = _number(data, at, order), _number(data, at + 4, order)
        if kind == _SECTION:
            link_types = []
        elif kind == _INTERFACE:
            link_types.append(_number(data, at + 8, order) & 0xFFFF if order == "little" else data[at + 9])
        elif kind == _PACKET:
            interface, captured, length = (_number(data, at + where, order) for where in (8, 20, 24))
            link_type = link_types[interface] if interface < len(link_types) else ETHERNET
            frames.append(_Captured(link_type, length, data[at + 28 : at + 28 + captured]))
        at += max(size, 12)
    return frames


def _number(data: bytes, at: int, order: _Order) -> int:
    return int.from_bytes(data[at : at + 4], order)
