"""The child process that a sync LAN runs in: it does what it is told, one call at a time, until the test hangs up.

A busy test would hold the interpreter's lock, and so the switch; in a process of its own the switch is not slowed.
"""

import contextlib
import inspect
import logging
import pickle
import signal
import socket
import sys
from typing import Any

import trio

from vswitch.outlet import Outlet, OutletLog
from vswitch.testing.lan import Lan
from vswitch.testing.wire import LENGTH, lives_in_the_child, pack, unpack

LAN = 0  # its number
STDERR = 2


class Child:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""
        self._said, self._heard = trio.open_memory_channel[bytes](0)
        self._objects: list[Any] = []
        self._over: dict[int, tuple[trio.Event, trio.Event]] = {}  # of entered context managers, by number
        self._pending = False

    async def main(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, nursery.cancel_scope)
            await self._run()
            nursery.cancel_scope.cancel()

    async def _listen(self, everything: trio.CancelScope) -> None:
        """Takes in what the test says; when it hangs up, whatever it waits for is over."""
        with contextlib.suppress(EOFError):
            while True:
                (size,) = LENGTH.unpack(await self._read(LENGTH.size))
                await self._said.send(await self._read(size))
        everything.cancel()

    async def _run(self) -> None:
        lan = Lan(**await self._receive())
        self._objects.append(lan)
        try:
            async with lan, trio.open_nursery() as nursery:
                await self._send(("ok", None))
                await self._serve(nursery)
        except Exception as error:  # a guest has died, say; what is known can still be saved
            await self._afterwards(lan, error)

    async def _serve(self, nursery: trio.Nursery) -> None:
        answer: Any
        while True:
            what, *words = await self._receive()
            self._pending = True
            try:
                if what == "enter":
                    answer = await nursery.start(self._enter, *words)
                elif what == "leave":
                    await self._leave(*words)
                    answer = None
                else:
                    answer = await self._call(what, *words)
            except Exception as error:
                await self._send(("error", error))
            else:
                await self._send(("ok", answer))
            self._pending = False

    async def _afterwards(self, lan: Lan, error: Exception) -> None:
        if self._pending:
            await self._send(("error", error))
        while True:
            what, *words = await self._receive()
            if what == "call" and words[:2] == [LAN, "save"]:
                await self._send(("ok", await lan.save(*words[2], **words[3])))
            else:
                await self._send(("error", error))

    async def _call(self, what: str, number: int, name: str, words: Any = (), named: Any = None) -> Any:
        value = getattr(self._objects[number], name)
        if what == "call":
            value = value(*words, **(named or {}))
        return await value if inspect.isawaitable(value) else value

    async def _enter(self, number: int, task_status: trio.TaskStatus[Any]) -> None:
        """In a task of its own: it may have a nursery open as long as it is entered."""
        leave, left = self._over[number] = trio.Event(), trio.Event()
        try:
            async with self._objects[number] as value:
                task_status.started(value)
                await leave.wait()
        finally:
            left.set()

    async def _leave(self, number: int) -> None:
        leave, left = self._over.pop(number)
        leave.set()
        await left.wait()

    def _reference(self, value: object) -> Any:
        if not lives_in_the_child(value):
            return None
        known = next((number for number, other in enumerate(self._objects) if other is value), len(self._objects))
        if known == len(self._objects):
            self._objects.append(value)
        return known, type(value).__module__, type(value).__qualname__

    def _resolve(self, reference: Any) -> Any:
        kind, number, name = reference
        if kind == "object":
            return self._objects[number]

        async def ask(*words: Any) -> Any:
            await self._send(("ask", (number, words)))
            what, value = await self._receive()
            if what == "error":
                raise value
            return value

        ask.__name__ = name
        return ask

    async def _send(self, message: tuple[str, Any]) -> None:
        try:
            packed = pack(message, self._reference)
        except (pickle.PicklingError, TypeError, AttributeError):
            packed = pack(("error", RuntimeError(f"{message[1]!r} cannot be told the test")), self._reference)
        with contextlib.suppress(trio.BrokenResourceError):  # which ends everything
            await self._stream.send_all(packed)

    async def _receive(self) -> Any:
        return unpack(await self._heard.receive(), self._resolve)

    async def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError:
                data = b""
            if not data:
                raise EOFError
            self._buffer += data
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found


async def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the test's, which hangs up
    logging.basicConfig(handlers=[OutletLog(Outlet(STDERR))], level=logging.WARNING)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=int(sys.argv[1]))))
    await Child(stream).main()


if __name__ == "__main__":
    trio.run(main)
