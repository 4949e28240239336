"""VDE's plugging protocol: the request a client sends on the control socket, and the switch's reply.

Facts from vde2 2.3.2 (src/vde_switch/datasock.c, src/lib/libvdeplug.c). Numbers are in the machine's own byte order.

    v3: u32 magic, u32 3, u32 type, sockaddr_un, description
    v1: u32 magic, u32 type, u8 mac[6], sockaddr_un, description

`sockaddr_un` names the client's datagram socket. The description is any text and runs to the end of what is sent;
nothing says how long it is. The reply is the sockaddr_un of the switch's own datagram socket.
"""

import socket
import struct
from typing import NamedTuple

MAGIC = 0xFEEDFACE
REQUEST_MAX = 4096
DESCRIPTION_MAX = 256
PORT_MAX = 65535
SUN_PATH = 108
REPLY_SIZE = 2 + SUN_PATH

_NEW_PORT, _PORT_0 = 0, 1  # the request's code, the type's low byte
_HEAD = struct.Struct("=II")
_V1 = struct.Struct("=II6sH108s")
_V3 = struct.Struct("=IIIH108s")
_SOCKADDR_UN = struct.Struct("=H108s")


class BadRequest(Exception):
    """What a peer sent is not VDE's protocol; says why."""


class Request(NamedTuple):
    """A client wants a port: number `port`, 0 for the management port, None for any. `path` is the sun_path of its
    socket, all of it."""

    port: int | None
    path: bytes
    description: str


def parse_request(data: bytes) -> Request | None:
    """The request that `data` starts with; None if there is more to come. Raises BadRequest."""
    if data[:4] != struct.pack("=I", MAGIC)[: len(data)]:
        raise BadRequest("not a VDE request")
    if len(data) < _HEAD.size:
        return None
    version = _HEAD.unpack_from(data)[1]
    if version == 2 or version > 3:
        raise BadRequest(f"a request of version {version}")
    layout = _V3 if version == 3 else _V1
    if len(data) < layout.size:
        return None
    if version == 3:
        _, _, kind, family, path = _V3.unpack_from(data)
    else:
        _, kind, _, family, path = _V1.unpack_from(data)
    code, port = kind & 0xFF, kind >> 8
    if code not in (_NEW_PORT, _PORT_0) or port > PORT_MAX:
        raise BadRequest(f"a request of type {kind:#x}")
    if family != socket.AF_UNIX and (family != socket.AF_UNSPEC or any(path)):
        raise BadRequest(f"a socket of address family {family}")
    description = data[layout.size : layout.size + DESCRIPTION_MAX].partition(b"\0")[0]
    wanted = 0 if code == _PORT_0 else port or None
    return Request(wanted, path, description.decode(errors="backslashreplace"))


def request(port: int, path: bytes, description: str) -> bytes:
    """A v3 request for a port, 0 for any. Raises ValueError if the path does not fit."""
    return _V3.pack(MAGIC, 3, _NEW_PORT | port << 8, socket.AF_UNIX, _checked(path)) + description.encode()


def parse_reply(data: bytes) -> bytes:
    """The path of the switch's socket. Raises BadRequest."""
    if len(data) != REPLY_SIZE:
        raise BadRequest(f"a reply of {len(data)} bytes")
    family, path = _SOCKADDR_UN.unpack(data)
    path = bytes(path).partition(b"\0")[0]
    if family != socket.AF_UNIX or not path:
        raise BadRequest("a reply that names no socket")
    return path


def reply(path: bytes) -> bytes:
    """The reply that names the switch's socket. Raises ValueError if the path does not fit."""
    return _SOCKADDR_UN.pack(socket.AF_UNIX, _checked(path))


def addresses(path: bytes) -> list[bytes]:
    """The addresses a sun_path may stand for, likely ones first; none for a socket without a name.

    An abstract name has the length it was bound with: C programs mostly bind all of sun_path.
    """
    if path[:1] != b"\0":
        return [path.partition(b"\0")[0]]
    short = path.rstrip(b"\0")
    return [path, short] if short else []


def _checked(path: bytes) -> bytes:
    if len(path) >= SUN_PATH:
        raise ValueError(f"{len(path)} bytes do not fit a socket's address")
    return path
