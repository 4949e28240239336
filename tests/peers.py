"""Stations for tests: the other ends of endpoints, over streams in QEMU's framing and over datagrams."""

import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import trio

from tests.frames import framed
from vswitch import VSwitch
from vswitch.dataplane.frame import FRAME_MAX

TIMEOUT_S = 20.0


class Peer:
    """Sends and receives frames over a connected stream; every wait is bounded. They pass `through` another stream,
    such as TLS, if one is given."""

    def __init__(self, stream: trio.SocketStream, through: trio.abc.Stream | None = None) -> None:
        self.stream = stream
        self._through: trio.abc.Stream = through or stream
        self._buffer = bytearray()

    @classmethod
    def at(cls, sock: socket.socket) -> Self:
        """The peer that has this connected socket."""
        return cls(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))

    @classmethod
    async def plugged_into(cls, switch: VSwitch, **parameters: object) -> Self:
        """A new port of `switch`, and the peer at its other end."""
        here, there = socket.socketpair()
        await switch.attach(there, **parameters)
        return cls.at(here)

    @classmethod
    async def connected_to(cls, url: str) -> Self:
        """A peer that is connected to a listener's URL, tcp:// or unix://."""
        scheme, _, target = url.partition("://")
        if scheme == "unix":
            return cls(await trio.open_unix_socket(target))
        host, _, port = target.rpartition(":")
        return cls(await trio.open_tcp_stream(host.strip("[]"), int(port)))

    async def send(self, *frames: bytes) -> None:
        with trio.fail_after(TIMEOUT_S):
            await self._through.send_all(framed(frames))

    async def receive(self, count: int) -> list[bytes]:
        """The next `count` frames."""
        frames: list[bytes] = []
        with trio.fail_after(TIMEOUT_S):
            while len(frames) < count:
                size = 4 + int.from_bytes(self._buffer[:4])
                if len(self._buffer) < 4 or len(self._buffer) < size:
                    data = await self._through.receive_some(1 << 18)
                    assert data, "the switch closed the connection"
                    self._buffer += data
                    continue
                frames.append(bytes(self._buffer[4:size]))
                del self._buffer[:size]
        return frames

    async def closed(self) -> bool:
        """Waits until the switch closes the connection."""
        with trio.fail_after(TIMEOUT_S):
            try:
                while await self._through.receive_some(1 << 18):
                    pass
            except trio.BrokenResourceError:
                pass  # closed with a reset: what we sent last was not read any more
        return True

    def vanish(self) -> None:
        """Go away as a process does that is killed: what it has not read yet is lost."""
        if self.stream.socket.family != socket.AF_UNIX:
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.stream.socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class DatagramPeer:
    """Sends and receives frames over a datagram socket, one each; every wait is bounded.

    `to` is where they go if the socket has no fixed other end. What is sent comes back if it `echoes`, as in a
    multicast group, and is left out then. `ctl` is what VDE keeps open beside it.
    """

    def __init__(
        self, sock: socket.socket, *, to: Any = None, echoes: bool = False, ctl: trio.SocketStream | None = None
    ) -> None:
        self.sock = trio.socket.from_stdlib_socket(sock)
        self.to = to
        self.ctl = ctl
        self._echoes: deque[bytes] | None = deque() if echoes else None

    async def send(self, *frames: bytes) -> None:
        with trio.fail_after(TIMEOUT_S):
            for frame in frames:
                if self._echoes is not None:
                    self._echoes.append(frame)
                if self.to is None:
                    await self.sock.send(frame)
                else:
                    await self.sock.sendto(frame, self.to)

    async def receive(self, count: int) -> list[bytes]:
        """The next `count` frames."""
        frames: list[bytes] = []
        with trio.fail_after(TIMEOUT_S):
            while len(frames) < count:
                frame = await self.sock.recv(FRAME_MAX + 1)
                if self._echoes and frame == self._echoes[0]:
                    self._echoes.popleft()
                else:
                    frames.append(frame)
        return frames

    def vanish(self) -> None:
        """Go away as a process does that is killed: a socket's path stays."""
        self.close()

    def close(self) -> None:
        if self.ctl is not None:
            self.ctl.socket.close()
        self.sock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


async def until(condition: Callable[[], object]) -> None:
    """Waits until `condition()` is true; for what has no event to wait for. Real time passes, whatever trio's clock."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise trio.TooSlowError
        await trio.to_thread.run_sync(time.sleep, 0.005)


def up(switch: VSwitch) -> set[str]:
    """The names of the ports that are up."""
    return {port.name for port in switch.ports() if port.up}


def check_balance(switch: VSwitch) -> None:
    """The totals account for every frame."""
    totals = switch.status().totals
    assert totals.rx_frames + totals.copies == totals.tx_frames + totals.queued_frames + sum(totals.drops.values())
