"""DHCP messages for IPv4 (RFC 2131, options RFC 2132 and 4702), as they are in UDP.

Bytes in, a message or None out: what is malformed is nobody's message.
"""

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address

import msgspec

from vswitch.protocols.inet6 import domain_names

SERVER_PORT, CLIENT_PORT = 67, 68
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)

# Options
PAD, SUBNET_MASK, ROUTER, DNS, HOST_NAME, DOMAIN_NAME = 0, 1, 3, 6, 12, 15
MTU, REQUESTED_IP, LEASE_TIME, OVERLOAD, MESSAGE_TYPE, SERVER_ID = 26, 50, 51, 52, 53, 54
RENEWAL_TIME, REBINDING_TIME, CLIENT_ID, TFTP_SERVER, BOOT_FILE, CLIENT_FQDN = 58, 59, 61, 66, 67, 81
SEARCH, END = 119, 255

_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = bytes.fromhex("63825363")
_BOOTREQUEST, _BOOTREPLY = 1, 2
_ETHERNET = 1
_BROADCAST = 0x8000
_OPTION_MAX = 255
_SERVER_UPDATES, _OVERRIDDEN, _ENCODED = 1, 2, 4  # flags S, O and E of the client FQDN option
_FQDN_HEAD = 3  # the flags, and two codes of no meaning
FILE_MAX = 127
SIZE_MIN = 300  # some clients drop shorter ones, as BOOTP's had this size (RFC 1542, 2.1)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks. An option that comes in several pieces is joined (RFC 3396)."""

    kind: int  # 0: BOOTP
    xid: int
    mac: bytes
    broadcast: bool
    ciaddr: IPv4Address
    giaddr: IPv4Address
    options: dict[int, bytes]

    @property
    def wanted(self) -> IPv4Address | None:
        """The address that is asked for by option, if any."""
        return address(self.options.get(REQUESTED_IP))

    @property
    def server(self) -> IPv4Address | None:
        """The server that it is for, if it says so."""
        return address(self.options.get(SERVER_ID))

    @property
    def fqdn(self) -> bytes | None:
        """The option with its fully qualified name, if there is a whole one."""
        option = self.options.get(CLIENT_FQDN, b"")
        return option if len(option) >= _FQDN_HEAD else None

    @property
    def names(self) -> tuple[bytes, bytes]:
        """What it is called: the host name, and the fully qualified one, or the first label of that. Or nothing."""
        return self.options.get(HOST_NAME, b""), b"" if self.fqdn is None else _name(self.fqdn)


def address(data: bytes | None) -> IPv4Address | None:
    return IPv4Address(data) if data is not None and len(data) == 4 else None


def read(data: bytes) -> Message | None:
    """A client's message; None if it is none."""
    options = _options(data, _BOOTREQUEST)
    if options is None:
        return None
    _, _, _, _, xid, _, flags, ciaddr, _, _, giaddr, chaddr, _, _, _ = _FIXED.unpack_from(data)
    return Message(
        kind=_kind(options),
        xid=xid,
        mac=chaddr[:6],
        broadcast=bool(flags & _BROADCAST),
        ciaddr=IPv4Address(ciaddr),
        giaddr=IPv4Address(giaddr),
        options=options,
    )


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says to a client."""

    kind: int
    xid: int
    mac: bytes
    ip: IPv4Address
    options: dict[int, bytes]


def read_answer(data: bytes) -> Answer | None:
    """A server's message; None if it is none."""
    options = _options(data, _BOOTREPLY)
    if options is None:
        return None
    _, _, _, _, xid, _, _, _, yiaddr, _, _, chaddr, _, _, _ = _FIXED.unpack_from(data)
    return Answer(kind=_kind(options), xid=xid, mac=chaddr[:6], ip=IPv4Address(yiaddr), options=options)


def question(kind: int, xid: int, mac: bytes, options: Mapping[int, bytes]) -> bytes:
    """A client's message, whose answer is to be a broadcast, as the client has no address yet; options of 255 bytes at
    most."""
    nobody = bytes(4)
    head = (_BOOTREQUEST, _ETHERNET, 6, 0, xid, 0, _BROADCAST, nobody, nobody, nobody, nobody)
    fixed = _FIXED.pack(*head, mac, b"", b"", _COOKIE)
    said = {MESSAGE_TYPE: bytes([kind]), **options}
    data = fixed + b"".join(bytes([code, len(value)]) + value for code, value in said.items()) + bytes([END])
    return data.ljust(SIZE_MIN, b"\0")


def answering_server(data: bytes) -> IPv4Address | None:
    """Which server an OFFER, ACK or NAK is from, which each says (RFC 2131, table 3); None if it is none of these."""
    options = _options(data, _BOOTREPLY)
    if options is None or _kind(options) not in (OFFER, ACK, NAK):
        return None
    return address(options.get(SERVER_ID))


def _options(data: bytes, op: int) -> dict[int, bytes] | None:
    """Those of a message of a kind; None if it is none."""
    if len(data) < _FIXED.size:
        return None
    is_op, htype, hlen, *_, sname, file, cookie = _FIXED.unpack_from(data)
    if (is_op, htype, hlen, cookie) != (op, _ETHERNET, 6, _COOKIE):
        return None
    options: dict[int, bytes] = {}
    if not _read_options(data[_FIXED.size :], options):
        return None
    overload = options.get(OVERLOAD) or b"\0"
    for bit, field in ((1, file), (2, sname)):
        if overload[0] & bit and not _read_options(field, options):
            return None
    return options


def _kind(options: Mapping[int, bytes]) -> int:
    kind = options.get(MESSAGE_TYPE, b"\0")
    return kind[0] if len(kind) == 1 else 0


def reply(
    request: Message,
    kind: int,
    yiaddr: IPv4Address,
    server: IPv4Address,
    options: Mapping[int, bytes],
    file: bytes = b"",
) -> bytes:
    """The answer to a message; `options` that are longer than one can be are split (RFC 3396). `file` is what to boot,
    FILE_MAX bytes at most. The client's identifier is said again (RFC 6842)."""
    nobody = bytes(4)
    flags = _BROADCAST if request.broadcast else 0
    ciaddr = request.ciaddr.packed if kind == ACK else nobody
    fixed = _FIXED.pack(
        _BOOTREPLY,
        _ETHERNET,
        6,
        0,
        request.xid,
        0,
        flags,
        ciaddr,
        yiaddr.packed,
        nobody if kind == NAK else server.packed,
        request.giaddr.packed,
        request.mac,
        b"",
        file,
        _COOKIE,
    )
    said = {MESSAGE_TYPE: bytes([kind])} if kind else {}
    client = request.options.get(CLIENT_ID, b"")
    if 0 < len(client) <= _OPTION_MAX:
        said[CLIENT_ID] = client
    body = b"".join(_written(code, value) for code, value in {**said, **options}.items())
    return (fixed + body + bytes([END])).ljust(SIZE_MIN, b"\0")


def answered_fqdn(asked: bytes, name: str) -> bytes:
    """The option for a client that has said its fully qualified name: what that is, written as the client writes it.
    The server sees to it in DNS, whether or not it is asked to (RFC 4702, 4)."""
    flags = asked[0] & _ENCODED | _SERVER_UPDATES | (0 if asked[0] & _SERVER_UPDATES else _OVERRIDDEN)
    return bytes([flags, 255, 255]) + (domain_names([name]) if flags & _ENCODED else name.encode())


def _name(fqdn: bytes) -> bytes:
    name = fqdn[_FQDN_HEAD:]
    if not fqdn[0] & _ENCODED or not name:
        return name
    first = name[1 : 1 + name[0]]
    return first if len(first) == name[0] else b""


def _written(code: int, value: bytes) -> bytes:
    pieces = [value[at : at + _OPTION_MAX] for at in range(0, len(value), _OPTION_MAX)] or [b""]
    return b"".join(bytes([code, len(piece)]) + piece for piece in pieces)


def _read_options(data: bytes, options: dict[int, bytes]) -> bool:
    """Adds them; answers whether they are well formed."""
    at = 0
    while at < len(data) and data[at] != END:
        if data[at] == PAD:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            return False
        end = at + 2 + data[at + 1]
        options[data[at]] = options.get(data[at], b"") + data[at + 2 : end]
        at = end
    return True
