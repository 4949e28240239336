"""DHCP messages for IPv6 (RFC 8415), as they are in UDP, with options for resolvers (RFC 3646) and booting (RFC 5970).

Bytes in, a message or None out: what is malformed, or what a server or relay says, is nobody's message.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv6Address

import msgspec

SERVER_PORT, CLIENT_PORT = 547, 546
ALL_SERVERS = IPv6Address("ff02::1:2")  # and relay agents

SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE = range(1, 10)
INFORMATION_REQUEST = 11
_FROM_CLIENTS = {SOLICIT, REQUEST, CONFIRM, RENEW, REBIND, RELEASE, DECLINE, INFORMATION_REQUEST}

# Options
CLIENT_ID, SERVER_ID, IA_NA, IA_TA, OPTION_REQUEST, STATUS_CODE = 1, 2, 3, 4, 6, 13
DNS, SEARCH, IA_PD, BOOT_FILE_URL = 23, 24, 25, 59

# Status codes
NO_ADDRS_AVAIL, NO_BINDING, NO_PREFIX_AVAIL = 2, 3, 6

OPTIONS_MAX = 64  # of a message
DUID_MIN, DUID_MAX = 3, 130  # RFC 8415, 11.1
IA_HEADS = {IA_NA: 12, IA_TA: 4, IA_PD: 12}  # the size of what is before the options of each; the IAID is first
_IAID = 4
_SIZES = {CLIENT_ID: (DUID_MIN, DUID_MAX), SERVER_ID: (DUID_MIN, DUID_MAX)} | {
    kind: (size, 0xFFFF) for kind, size in IA_HEADS.items()
}

_HEAD = struct.Struct("!B3s")
_OPTION = struct.Struct("!HH")
_DUID_LL, _ETHERNET = 3, 1


class Message(msgspec.Struct, frozen=True):
    """What a client says, its options in their order."""

    kind: int
    xid: bytes
    options: tuple[tuple[int, bytes], ...]

    def option(self, code: int) -> bytes | None:
        """The first with this code."""
        return next((value for kind, value in self.options if kind == code), None)

    @property
    def client(self) -> bytes | None:
        return self.option(CLIENT_ID)

    @property
    def server(self) -> bytes | None:
        """The server that it is for, if it says so."""
        return self.option(SERVER_ID)

    @property
    def wanted(self) -> set[int] | None:
        """The options that it asks for, None if it does not say."""
        codes = self.option(OPTION_REQUEST)
        if codes is None:
            return None
        return {code for (code,) in struct.iter_unpack("!H", codes)}

    @property
    def associations(self) -> list[tuple[int, bytes]]:
        """The identity associations that it wants addresses or prefixes for: the code and the IAID of each."""
        return [(kind, value[:_IAID]) for kind, value in self.options if kind in IA_HEADS]


def duid_ll(mac: bytes) -> bytes:
    """The unique identifier of whoever has a MAC address (RFC 8415, 11.4)."""
    return struct.pack("!HH", _DUID_LL, _ETHERNET) + mac


def read(data: bytes) -> Message | None:
    """A client's message; None if it is none."""
    if len(data) < _HEAD.size or data[0] not in _FROM_CLIENTS:
        return None
    kind, xid = _HEAD.unpack_from(data)
    options: list[tuple[int, bytes]] = []
    at = _HEAD.size
    while at < len(data):
        if at + _OPTION.size > len(data) or len(options) == OPTIONS_MAX:
            return None
        code, size = _OPTION.unpack_from(data, at)
        at += _OPTION.size
        value = data[at : at + size]
        at += size
        if at > len(data) or not _is_well_formed(code, value):
            return None
        options.append((code, value))
    return Message(kind, xid, tuple(options))


def reply(request: Message, kind: int, server: bytes, options: Iterable[tuple[int, bytes]]) -> bytes:
    """The answer of the server with this DUID to a message (RFC 8415, 18.3)."""
    data = _HEAD.pack(kind, request.xid) + _written(SERVER_ID, server)
    if request.client is not None:
        data += _written(CLIENT_ID, request.client)
    return data + b"".join(_written(code, value) for code, value in options)


def refused(association: int, iaid: bytes, status: int) -> tuple[int, bytes]:
    """The option that says why an identity association gets nothing (RFC 8415, 21.4, 21.5, 21.21 and 21.13)."""
    head = iaid.ljust(IA_HEADS[association], b"\0")
    return association, head + _written(STATUS_CODE, status.to_bytes(2))


def _is_well_formed(code: int, value: bytes) -> bool:
    if code == OPTION_REQUEST:
        return len(value) % 2 == 0
    least, most = _SIZES.get(code, (0, 0xFFFF))
    return least <= len(value) <= most


def _written(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value
