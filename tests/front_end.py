"""A front end that plugs a card into a vhost-user endpoint, as QEMU does: messages by a socket, a `Card` in memory."""

import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from tests.peers import TIMEOUT_S
from tests.virtio import GUEST_BASE, USER_BASE, Card, DriverRing, Memory
from vswitch.protocols.vhost_user import FEATURES, HEADER_SIZE, RING_EVENT_IDX, Request

VERSION, NEED_REPLY = 1, 8


class FrontEnd:
    """One connection. Its `card` works between `start` and `stop`."""

    def __init__(self, sock: socket.socket, *, sealed: bool = True, size: int = 256, features: int = FEATURES) -> None:
        self.features = features
        self.memory = Memory(1 << 20, sealed=sealed)
        self.card = Card(self.memory, size, event_index=bool(features & RING_EVENT_IDX))
        self._sock = trio.socket.from_stdlib_socket(sock)

    @classmethod
    async def at(cls, path: Path, **how: int) -> Self:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.connect(str(path))
        return cls(socket.socket(fileno=sock.detach()), **how)  # type: ignore[arg-type]

    async def say(self, request: Request, payload: bytes = b"", fds: Sequence[int] = (), flags: int = VERSION) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        await self._sock.sendmsg([struct.pack("=III", request, flags, len(payload)) + payload], rights)

    async def ask(self, request: Request, payload: bytes = b"") -> bytes:
        await self.say(request, payload)
        with trio.fail_after(TIMEOUT_S):
            header = await self._sock.recv(HEADER_SIZE)
            return await self._sock.recv(struct.unpack("=III", header)[2])

    async def start(self) -> None:
        """As QEMU does when a driver is ready; returns when all of it is understood."""
        await self.say(Request.SET_FEATURES, struct.pack("=Q", self.features))
        table = struct.pack("=IIQQQQ", 1, 0, GUEST_BASE, self.memory.size, USER_BASE, 0)
        await self.say(Request.SET_MEM_TABLE, table, [self.memory.fd])
        for number, ring in enumerate(self._rings):
            await self.say(Request.SET_VRING_NUM, struct.pack("=II", number, ring.size))
            await self.say(Request.SET_VRING_BASE, struct.pack("=II", number, ring.seen))
            places = [USER_BASE + at for at in (ring.descriptors, ring.used, ring.available)]
            await self.say(Request.SET_VRING_ADDR, struct.pack("=IIQQQQ", number, 0, *places, 0))
            await self.say(Request.SET_VRING_KICK, struct.pack("=Q", number), [ring.kick])
            await self.say(Request.SET_VRING_CALL, struct.pack("=Q", number), [ring.call])
        for number in range(len(self._rings)):
            await self.say(Request.SET_VRING_ENABLE, struct.pack("=II", number, 1))
        await self.ask(Request.GET_FEATURES)

    async def stop(self) -> list[int]:
        """Answers where each ring was."""
        answers = [await self.ask(Request.GET_VRING_BASE, struct.pack("=II", number, 0)) for number in range(2)]
        return [int(struct.unpack("=II", answer)[1]) for answer in answers]

    async def receive(self, count: int) -> list[bytes]:
        """The next frames that the card gets."""
        frames: list[bytes] = []
        with trio.fail_after(TIMEOUT_S):
            while len(frames) < count:
                frames += self.card.frames()
                if len(frames) < count:
                    await trio.lowlevel.wait_readable(self.card.receiving.call)
                    os.eventfd_read(self.card.receiving.call)
        return frames

    async def closed(self) -> None:
        """Returns when the other end has hung up."""
        with trio.fail_after(TIMEOUT_S):
            try:
                while await self._sock.recv(1 << 16):
                    pass
            except ConnectionError:
                pass

    @property
    def _rings(self) -> tuple[DriverRing, DriverRing]:
        return self.card.receiving, self.card.sending

    def close(self) -> None:
        self._sock.close()
        self.card.close()
        self.memory.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
