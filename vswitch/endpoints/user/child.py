"""The process of a user network: how it starts, and how one talks with it.

What it says is not to be trusted, as a guest may have taken it over.
"""

import array
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import trio

import vswitch
from vswitch.endpoints.endpoint import log
from vswitch.endpoints.user.counters import Counted
from vswitch.endpoints.user.forwards import Served
from vswitch.endpoints.user.leases import Label, Lease, Mac
from vswitch.endpoints.user.other_servers import OtherServer
from vswitch.errors import printable

PROGRAM = "vswitch.services.user_network"
START_TIMEOUT_S = 10.0
WORD_MAX = 1 << 16
_INT = struct.Struct("i")
NEEDED = ("PATH", "LD_", "PYTHON", "LANG", "LC_")  # of the environment


class Where(msgspec.Struct, tag=True, array_like=True):
    """It asks behind which port a station is, and whether a port of another one has a name."""

    mac: Mac
    name: Label


class Leased(msgspec.Struct, tag=True, array_like=True):
    lease: Lease


class Forwarded(msgspec.Struct, tag=True, array_like=True):
    served: Served


class Denial(msgspec.Struct):
    """What a guest wanted to reach, or of which it wanted to know the address (`dns`); `rule` is what denies it, as it
    is written."""

    mac: Mac
    protocol: Literal["tcp", "udp", "icmp", "ip", "dns"]
    ip: Annotated[str, msgspec.Meta(max_length=45, pattern="^[0-9a-f.:]*$")]
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    name: Annotated[str, msgspec.Meta(max_length=255, pattern="^[!-~]*$")]
    rule: Annotated[str, msgspec.Meta(max_length=300)]
    more: Annotated[int, msgspec.Meta(ge=0)]


class Denied(msgspec.Struct, tag=True, array_like=True):
    denial: Denial


class Opened(msgspec.Struct, tag=True, array_like=True):
    """A guest has connected to a server that is not there, by its number; the connection comes with this."""

    number: Annotated[int, msgspec.Meta(ge=0)]


class Alive(msgspec.Struct, tag=True, array_like=True):
    """The answer to `hello`."""


class Heard(msgspec.Struct, tag=True, array_like=True):
    """Another DHCP server answers."""

    server: OtherServer


class Problem(msgspec.Struct, tag=True, array_like=True):
    """What a person is to know."""

    text: Annotated[str, msgspec.Meta(max_length=500)]


Said = Where | Leased | Problem | Forwarded | Opened | Alive | Counted | Heard | Denied
_SAID = msgspec.json.Decoder(Said)


@contextmanager
def child() -> Iterator[tuple["subprocess.Popen[bytes]", socket.socket, "Words"]]:
    """A process, which ends with the block, and our ends of its frames and of its words."""
    frames, its_frames = socket.socketpair()
    words, its_words = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with frames, words, its_frames, its_words:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM, str(its_frames.fileno()), str(its_words.fileno())],
            pass_fds=[its_frames.fileno(), its_words.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={name: text for name, text in os.environ.items() if name.startswith(NEEDED)}
            | {"PYTHONPATH": _python_path()},
            start_new_session=True,
        )
        its_frames.close()
        its_words.close()
        try:
            yield process, frames, Words(words)
        finally:
            process.kill()
            process.wait()


def _python_path() -> str:
    """So that it is this vswitch, wherever that is."""
    root = str(Path(vswitch.__file__ or "").parent.parent)
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


class Words:
    """Messages to and from it, each a datagram."""

    def __init__(self, sock: socket.socket) -> None:
        self._direct = sock
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._saying = trio.Lock()

    async def say(self, data: bytes, sockets: Sequence[socket.socket] = ()) -> None:
        """With sockets that are lent to it."""
        numbers = array.array("i", [sock.fileno() for sock in sockets])
        lent = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers.tobytes())] if sockets else []
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended
            async with self._saying:  # two may not wait for room at once
                await self._sock.sendmsg([data], lent)

    def say_at_once(self, data: bytes) -> None:
        """Before anything that it is sent from now on; nothing, if it does not listen."""
        with suppress(OSError):
            self._direct.send(data)

    async def hear(self) -> tuple[Said, socket.socket | None]:
        """What it says, and the socket that comes with that, if one does. Raises EOFError if there is nothing any more,
        and ValueError for what nobody understands."""
        data, sock = await self._hear()
        try:
            return _SAID.decode(data), sock
        except BaseException:
            if sock is not None:
                sock.close()
            raise

    async def first(self, name: str, settings: Iterable[bytes]) -> list[Any]:
        """Tells it what it has to know, and answers that it is `ready`, or why not; logs problems. Raises as `hear`
        does."""
        with trio.move_on_after(START_TIMEOUT_S):
            for piece in settings:
                await self.say(piece)
            while True:
                what, value = json.loads((await self._hear())[0])
                if what != "Problem":
                    return [what, value if what == "ready" else printable(str(value))]
                log.warning("%s: %s", name, printable(str(value)))
        return ["", f"it was not ready within {START_TIMEOUT_S:g} s"]

    async def _hear(self) -> tuple[bytes, socket.socket | None]:
        try:
            data, lent, _, _ = await self._sock.recvmsg(WORD_MAX, socket.CMSG_LEN(_INT.size))
        except ConnectionResetError:  # there is one of ours that it has not read
            raise EOFError from None
        descriptors = [_INT.unpack(number)[0] for level, kind, number in lent if kind == socket.SCM_RIGHTS]
        if not data:
            raise EOFError
        return data, _socket(descriptors[0]) if descriptors else None


def _socket(descriptor: int) -> socket.socket | None:
    """None if it is of another kind."""
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None


async def end_of(process: "subprocess.Popen[bytes]") -> str:
    """Why a process has ended, which it does in a moment."""
    descriptor = os.pidfd_open(process.pid)
    try:
        with trio.move_on_after(1):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    status = process.poll()
    if status is None:
        return "it hung up"
    if status >= 0:
        return f"status {status}"
    return signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
