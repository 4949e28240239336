"""The child process that a sync LAN runs in: it does what it is told, one call at a time, until the test hangs up.

A busy test would hold the interpreter's lock, and so the switch; in a process of its own the switch is not slowed.
"""

import contextlib
import inspect
import logging
import math
import pickle
import signal
import socket
from typing import Any

import trio

from vswitch.outlet import Outlet, OutletLog
from vswitch.testing.lan import Lan
from vswitch.testing.wire import LENGTH, lives_in_the_child, pack, unpack

LAN = 0  # its number
STDERR = 2
TEST = 3  # the descriptor on which the test is heard


class _BlockFailed(Exception):
    """In the test, an error ended a block."""


class _Entered:
    """A context manager of the child's, in whose block the test is."""

    def __init__(self) -> None:
        self.leave, self.left = trio.Event(), trio.Event()
        self.failed = False


class Child:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""
        self._said, self._heard = trio.open_memory_channel[Any](0)
        self._answer, self._answers = trio.open_memory_channel[Any](math.inf)  # to what was asked of the test
        self._objects: list[Any] = []
        self._entered: dict[int, _Entered] = {}  # by number
        self._number = 0  # of the call that is being answered, or was
        self._pending = False
        self._given_up = 0  # the last call that the test does not wait for any more
        self._scope = trio.CancelScope()

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
                number, what, *words = unpack(await self._read(size), self._resolve)
                if what == "give up":
                    self._given_up = number
                    if self._pending and self._number <= number:
                        self._scope.cancel()
                elif what == "answer":
                    self._answer.send_nowait((number, *words))
                else:
                    await self._said.send((number, what, *words))
        everything.cancel()

    async def _run(self) -> None:
        (options,) = await self._receive()
        lan = Lan(**options)
        self._objects.append(lan)
        try:
            async with lan, trio.open_nursery() as nursery:
                await self._send("ok", None)
                await self._serve(nursery)
        except Exception as error:  # a guest has died, say; what is known can still be saved
            await self._afterwards(lan, error)

    async def _serve(self, nursery: trio.Nursery) -> None:
        answer: Any
        while True:
            what, *words = await self._receive()
            self._pending = True
            answer = "error", RuntimeError("the test did not wait for this")
            with trio.CancelScope() as self._scope:
                if self._number <= self._given_up:
                    self._scope.cancel()
                try:
                    answer = "ok", await self._obey(nursery, what, *words)
                except Exception as error:
                    answer = "error", error
            await self._send(*answer)
            self._pending = False

    async def _obey(self, nursery: trio.Nursery, what: str, *words: Any) -> Any:
        if what == "enter":
            return await nursery.start(self._enter, *words)
        if what == "leave":
            return await self._leave(*words)
        if what == "tidy":
            return await self._tidy(*words)
        return await self._call(what, *words)

    async def _afterwards(self, lan: Lan, error: Exception) -> None:
        if self._pending:
            await self._send("ended", error)
        while True:
            what, *words = await self._receive()
            if what == "call" and words[0] == LAN and words[1] in ("report", "save"):
                await self._send("ok", await getattr(lan, words[1])(*words[2], **words[3]))
            else:
                await self._send("ended", error)

    async def _tidy(self, numbers: list[int]) -> None:
        """Takes away all machines but some, also those of which the test does not know."""
        lan, kept = self._objects[LAN], [self._objects[number] for number in numbers]
        for machine in lan.machines.values():
            if not any(machine is one for one in kept):
                await lan.remove(machine)

    async def _call(self, what: str, number: int, name: str, words: Any = (), named: Any = None) -> Any:
        value = getattr(self._objects[number], name)
        if what == "call":
            value = value(*words, **(named or {}))
        return await value if inspect.isawaitable(value) else value

    async def _enter(self, number: int, task_status: trio.TaskStatus[Any]) -> None:
        """In a task of its own: it may have a nursery open as long as it is entered."""
        entered = self._entered[number] = _Entered()
        try:
            async with self._objects[number] as value:
                task_status.started(value)
                await entered.leave.wait()
                if entered.failed:
                    raise _BlockFailed
        except _BlockFailed:
            pass
        finally:
            entered.left.set()

    async def _leave(self, number: int, failed: bool) -> None:
        entered = self._entered.pop(number)
        entered.failed = failed
        entered.leave.set()
        await entered.left.wait()

    def _reference(self, value: object) -> Any:
        if not lives_in_the_child(value):
            return None
        known = next((number for number, other in enumerate(self._objects) if other is value), len(self._objects))
        if known == len(self._objects):
            self._objects.append(value)
        return known, type(value).__module__, type(value).__qualname__, repr(value)

    def _resolve(self, reference: Any) -> Any:
        kind, where, name = reference
        if kind == "object":
            return self._objects[where]

        async def ask(*words: Any) -> Any:
            number = self._number
            await self._send("ask", (where, words))
            while True:
                about, what, value = await self._answers.receive()
                if about == number:
                    break
            if what == "error":
                raise value
            return value

        ask.__name__ = name
        return ask

    async def _send(self, what: str, value: Any) -> None:
        try:
            packed = pack((self._number, what, value), self._reference)
        except (pickle.PicklingError, TypeError, AttributeError):
            told = RuntimeError(f"{value!r} cannot be told the test")
            packed = pack((self._number, "error", told), self._reference)
        with contextlib.suppress(trio.BrokenResourceError), trio.CancelScope(shield=True):  # which ends everything
            await self._stream.send_all(packed)

    async def _receive(self) -> Any:
        self._number, *message = await self._heard.receive()
        return message

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
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=TEST)))
    await Child(stream).main()


if __name__ == "__main__":
    trio.run(main)
