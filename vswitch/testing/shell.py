"""Shells in guests: how a command gets in, and what it has printed comes out."""

import base64
import re
import secrets
import shlex
from dataclasses import dataclass
from typing import Protocol

import trio

from vswitch.testing.qemu import Channel, QemuError

PIECE = 512  # characters of a line on a serial console, which has no flow control
LOGIN_TRIES_S = 1.0


class CommandFailed(Exception):
    """A command has failed that should not have."""


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    command: str
    status: int
    output: bytes
    errors: bytes

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def stdout(self) -> str:
        """As text; bytes that are no UTF-8 as `\\xff`."""
        return self.output.decode(errors="backslashreplace")

    @property
    def stderr(self) -> str:
        return self.errors.decode(errors="backslashreplace")

    def check(self) -> "Result":
        """Itself. Raises CommandFailed unless the command succeeded."""
        if not self.ok:
            raise CommandFailed(f"{self.command}: status {self.status}: {(self.stderr or self.stdout).strip()}")
        return self


class Shell(Protocol):
    """Raises EOFError where QEMU has ended."""

    async def open(self) -> None:
        """Waits until the guest takes commands."""

    async def run(self, command: str, input: bytes) -> Result: ...


class VirtioShell:
    """The tiny guest's, over a virtio-serial port: its `INIT` in guest_image.py has the other half."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._commands = 0
        self._boots = 0
        self._reading = trio.CancelScope()
        self._results: dict[int, tuple[int, bytes, bytes]] = {}
        self._receiving = False
        self._received = trio.lowlevel.ParkingLot()

    async def open(self) -> None:
        """Also after a reset, when the commands before it have no answers, or begun ones."""
        self._boots += 1
        self._received.unpark_all()
        self._reading.cancel()
        while self._receiving:
            await trio.lowlevel.checkpoint()
        number = await self._send("true", b"")
        answer = b"%d 0 0 0\n" % number
        while (at := self._channel.buffer.find(answer)) < 0:
            await self._channel.receive()
        del self._channel.buffer[: at + len(answer)]

    async def run(self, command: str, input: bytes) -> Result:
        number, boots = await self._send(command, input), self._boots
        # Of all the tasks that wait for a result, one receives for all. After each result it lets the others
        # look and take over, because its own may be long in coming.
        while number not in self._results:
            if boots != self._boots:
                raise QemuError(f"{command}: the guest was reset meanwhile")
            if self._receiving:
                await self._received.park()
                continue
            self._receiving = True
            try:
                with trio.CancelScope() as self._reading:
                    await self._receive_result()
            finally:
                self._receiving = False
                self._received.unpark_all()
        return Result(command, *self._results.pop(number))

    async def _send(self, command: str, input: bytes) -> int:
        self._commands += 1
        number = self._commands
        await self._channel.send(b"%d %d %s\n%s" % (number, len(input), base64.b64encode(command.encode()), input))
        return number

    async def _receive_result(self) -> None:
        buffer = self._channel.buffer
        while (start := buffer.find(b"\n") + 1) == 0:
            await self._channel.receive()
        number, status, size, errors_size = map(int, buffer[:start].split())
        end = start + size + errors_size
        while len(buffer) < end:
            await self._channel.receive()
        self._results[number] = status, bytes(buffer[start : start + size]), bytes(buffer[start + size : end])
        del buffer[:end]


class SerialShell:
    """A login on a serial console, for images of the user's own: a POSIX shell with base64, one command at a time."""

    def __init__(self, channel: Channel, user: str, password: str, prompt: str) -> None:
        self._channel = channel
        self._user = user
        self._password = password
        self._prompt = prompt
        self._busy = trio.Lock()

    async def open(self) -> None:
        await self._until(re.escape(self._prompt))
        await self._say(self._user)
        if self._password:
            await self._until(r"[Pp]assword: ?")
            await self._say(self._password)
        await trio.sleep(LOGIN_TRIES_S)  # login throws away what is typed while it starts the shell
        ready = secrets.token_hex(8)
        while True:
            await self._say(f"stty -echo; echo {ready[:8]}''{ready[8:]}")  # the echo of this line is not it
            with trio.move_on_after(LOGIN_TRIES_S * 2):
                await self._until(ready)
                return

    async def run(self, command: str, input: bytes) -> Result:
        async with self._busy:
            mark = secrets.token_hex(8)
            await self._say("IN=$(mktemp) OUT=$(mktemp) ERR=$(mktemp)")
            text = base64.b64encode(input).decode()
            for at in range(0, len(text), PIECE):
                await self._say(f"printf %s {text[at : at + PIECE]} >>$IN")
            line = f"base64 -d <$IN | (sh -c {shlex.quote(command)}) >$OUT 2>$ERR; S=$?; "
            line += f"echo; echo {mark} $S $(base64 <$OUT | tr -d '\\n'). $(base64 <$ERR | tr -d '\\n').; "
            line += "rm -f $IN $OUT $ERR"
            await self._say(line)
            found = await self._until(rf"{mark} (\d+) ([\w+/=]*)\. ([\w+/=]*)\.")
            return Result(command, int(found[1]), base64.b64decode(found[2]), base64.b64decode(found[3]))

    async def _say(self, line: str) -> None:
        await self._channel.send(line.encode() + b"\n")

    async def _until(self, pattern: str) -> re.Match[str]:
        """Waits for what a regular expression matches; what came before it is forgotten."""
        buffer = self._channel.buffer
        while True:
            if found := re.search(pattern, buffer.decode("latin-1")):
                del buffer[: found.end()]
                return found
            await self._channel.receive()
