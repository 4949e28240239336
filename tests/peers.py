"""A station for tests: one end of a stream that speaks QEMU's framing."""

import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trio

from tests.frames import framed
from vswitch import VSwitch

TIMEOUT_S = 20.0


class Peer:
    """Sends and receives frames over a connected stream; every wait is bounded."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
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
            await self.stream.send_all(framed(frames))

    async def receive(self, count: int) -> list[bytes]:
        """The next `count` frames."""
        frames: list[bytes] = []
        with trio.fail_after(TIMEOUT_S):
            while len(frames) < count:
                size = 4 + int.from_bytes(self._buffer[:4])
                if len(self._buffer) < 4 or len(self._buffer) < size:
                    data = await self.stream.receive_some(1 << 18)
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
                while await self.stream.receive_some(1 << 18):
                    pass
            except trio.BrokenResourceError:
                pass  # closed with a reset: what we sent last was not read any more
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stream.socket.close()


async def until(condition: Callable[[], object]) -> None:
    """Waits until `condition()` is true; for what has no event to wait for."""
    with trio.fail_after(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


def up(switch: VSwitch) -> set[str]:
    """The names of the ports that are up."""
    return {port.name for port in switch.ports() if port.up}


def check_balance(switch: VSwitch) -> None:
    """The totals account for every frame."""
    totals = switch.status().totals
    assert totals.rx_frames + totals.copies == totals.tx_frames + totals.queued_frames + sum(totals.drops.values())
