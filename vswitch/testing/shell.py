"""Shells in guests: how a command gets in, and what it has printed comes out."""

import base64
import contextlib
import re
import secrets
import shlex
import string
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from vswitch.testing.qemu import Channel, QemuError

PLAIN = string.ascii_letters + string.digits + " ./_=,:"
LOGIN_TRIES_S = 1.0
READ_TRIES = 10
PIECE = 90  # bytes that a line tells a serial console's shell, of at most 4 characters each
BATCH = 8  # lines that a terminal keeps for a shell that is busy: 4 KiB
DIRECTORIES = ("/tmp", "/run", "/dev/shm", "/var/run", "/dev")  # where files may be written
# What makes bytes text: the command, what it makes of "a", and what undoes it.
ENCODERS: tuple[tuple[str, str, Callable[[str], bytes]], ...] = (
    ("base64", "YQ==", lambda text: base64.b64decode(text, validate=True)),
    ("hexdump -v -e '1/1 \"%02x\"'", "61", bytes.fromhex),
    ("od -An -v -tx1", " 61", bytes.fromhex),
    ("xxd -p", "61", bytes.fromhex),
)
# How printf, or $'...', is told a byte: itself, if no shell and no terminal makes anything of it.
QUOTED = [chr(byte) if chr(byte) in PLAIN else f"\\{byte:03o}" for byte in range(256)]


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

    def __bool__(self) -> bool:
        """`ok`: a test that asserts a result asserts that the command succeeded."""
        return self.ok

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

    @property
    def position(self) -> int:
        """What another one has to know to go on from here."""

    def resume(self, position: int) -> None:
        """Goes on in a guest that was at that position, instead of `open`."""

    def still(self) -> AbstractAsyncContextManager[object]:
        """Nothing is half said in its block."""


class VirtioShell:
    """The tiny guest's, over a virtio-serial port: its `INIT` in guest_scripts.py has the other half."""

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

    @property
    def position(self) -> int:
        return self._commands

    def resume(self, position: int) -> None:
        self._commands = position  # no number comes twice: what still runs in the guest will have an answer

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        await self.run("true", b"")
        yield

    async def run(self, command: str, input: bytes) -> Result:
        return await self._result(command, await self._send(command, input))

    async def call(self, function: str, *words: str) -> Result:
        """Runs what guest_scripts.OWN defines, in the guest's init, which starts no process for it."""
        command = shlex.join([function, *words])
        return await self._result(command, await self._send_line(f"- {command}", b""))

    async def _result(self, command: str, number: int) -> Result:
        boots = self._boots
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
        quoted = "".join(QUOTED[byte] for byte in command.encode())
        return await self._send_line(f"{len(input)} $'{quoted}'", input)

    async def _send_line(self, line: str, input: bytes) -> int:
        self._commands += 1
        number = self._commands
        await self._channel.send(b"%d %s\n%s" % (number, line.encode(), input))
        return number

    async def _receive_result(self) -> None:
        buffer = self._channel.buffer
        while (start := buffer.find(b"\n") + 1) == 0:
            await self._channel.receive()
        try:
            number, status, size, errors_size = map(int, buffer[:start].split())
        except ValueError:
            said = bytes(buffer[:start]).decode(errors="backslashreplace").strip()
            raise QemuError(f"the guest answered {said!r}, which is no result; is its /run full?") from None
        end = start + size + errors_size
        while len(buffer) < end:
            await self._channel.receive()
        self._results[number] = status, bytes(buffer[start : start + size]), bytes(buffer[start + size : end])
        del buffer[:end]


class SerialShell:
    """A login on a serial console, for images of the user's own; one command at a time.

    It needs a POSIX shell with printf, one of `ENCODERS` and one of `DIRECTORIES` to write to. Lines are short, as
    shells that edit lines cut long ones off, and of characters that no such shell takes for a key. Each batch of lines
    is waited for, since nothing holds back who types too fast.
    """

    def __init__(self, channel: Channel, name: str, user: str, password: str, prompt: str) -> None:
        self._channel = channel
        self._name = name
        self._user = user
        self._password = password
        self._prompt = prompt
        self._decode: Callable[[str], bytes] = base64.b64decode
        self._busy = trio.Lock()
        self._lent: trio.CancelScope | None = None

    async def open(self) -> None:
        """Also after a reset. Raises QemuError, in one line, for a login that is refused, and for a shell that lacks
        what it needs."""
        while self._lent is not None:
            self._lent.cancel()  # who sits there has no shell any more
            await trio.lowlevel.checkpoint()
        await self._until(re.escape(self._prompt))
        await self._say(self._user)
        if self._password:
            await self._until(r"[Pp]assword: ?")
            await self._say(self._password)
        await trio.sleep(LOGIN_TRIES_S)  # login throws away what is typed while it starts the shell
        while True:
            with trio.move_on_after(LOGIN_TRIES_S * 2):
                await self._done("stty -echo 2>/dev/null", refusal="[Ll]ogin incorrect")
                break
        if await self._done("[ $(printf '\\141') = a ]") != 0:
            raise self._lacks("printf")
        for directory in DIRECTORIES:
            if await self._done(f"D={directory}; (printf a >$D/vs.i && [ -s $D/vs.i ]) 2>/dev/null") == 0:
                break
        else:
            raise self._lacks(f"a directory it can write to ({', '.join(DIRECTORIES)})")
        for command, example, decode in ENCODERS:
            await self._done(f"enc() {{ {command}; }}")
            if await self._done(f"[ \"$(printf a | enc 2>/dev/null)\" = '{example}' ]") == 0:
                self._decode = decode
                return
        raise self._lacks(f"any of {', '.join(command.split()[0] for command, _, _ in ENCODERS)}")

    @property
    def position(self) -> int:
        """Which of ENCODERS the guest uses; the login goes on in the guest."""
        return next(number for number, (_, _, decode) in enumerate(ENCODERS) if decode is self._decode)

    def resume(self, position: int) -> None:
        self._decode = ENCODERS[position][2]

    def still(self) -> AbstractAsyncContextManager[object]:
        return self._busy

    async def run(self, command: str, input: bytes) -> Result:
        """Raises QemuError where a result cannot be had; that is told from a command that failed."""
        async with self._busy:
            for name, data in (("c", command.encode() + b"\n"), ("i", input)):
                await self._write(name, data)
            status = await self._done("sh $D/vs.c <$D/vs.i >$D/vs.o 2>$D/vs.e")
            result = Result(command, status, await self._read("o"), await self._read("e"))
            await self._done("rm -f $D/vs.c $D/vs.i $D/vs.o $D/vs.e")
            return result

    async def lend(self, stream: trio.SocketStream) -> None:
        """Joins a client with the console until it hangs up. Commands wait meanwhile."""
        async with self._busy:
            try:
                await self._join(stream)
            finally:
                self._lent = None
        with contextlib.suppress(EOFError):
            await self._channel.send(b"stty -echo 2>/dev/null\n")

    async def _join(self, stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            self._lent = nursery.cancel_scope

            async def show() -> None:
                with contextlib.suppress(EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
                    while True:
                        await self._channel.receive()
                        shown = bytes(self._channel.buffer)
                        self._channel.buffer.clear()
                        await stream.send_all(shown)
                nursery.cancel_scope.cancel()

            nursery.start_soon(show)
            with contextlib.suppress(EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
                await self._channel.send(b"stty echo 2>/dev/null\n")
                while data := await stream.receive_some():
                    await self._channel.send(data)
            nursery.cancel_scope.cancel()

    async def _write(self, name: str, data: bytes) -> None:
        """Writes a file in the guest."""
        quoted = "".join(QUOTED[byte] for byte in data)
        pieces = [text[0] for text in re.finditer(rf"(?:\\...|[^\\]){{1,{PIECE}}}", quoted)]
        lines = ["F=0; : >$D/vs." + name, *(f"printf '{piece}' >>$D/vs.{name} || F=1" for piece in pieces)]
        for at in range(0, len(lines), BATCH):
            for line in lines[at : at + BATCH]:
                await self._say(line)
            if await self._done("[ $F = 0 ]") != 0:
                raise QemuError(f"guest {self._name}: its shell cannot write what it is told; is the disk full?")

    async def _read(self, name: str) -> bytes:
        """What is in a file in the guest: all at once, or if the kernel says something meanwhile, line by line."""
        begin, end = secrets.token_hex(8), secrets.token_hex(8)
        line = f"echo {begin[:8]}''{begin[8:]}$(enc <$D/vs.{name} && echo .){end[:8]}''{end[8:]}"
        found = re.search(rf"(?s){begin}(.*?){end}", (await self._finish(line)).string)
        text, whole, _ = "".join(found[1].split()).partition(".") if found else ("", "", "")
        with contextlib.suppress(ValueError):  # it is not all of the encoder's making
            if whole:
                return self._decode(text)
        lines: dict[int, str] = {}
        for _ in range(READ_TRIES):
            if await self._read_lines(name, lines):
                with contextlib.suppress(ValueError):
                    return self._decode("".join("".join(lines[number].split()) for number in sorted(lines)))
        raise QemuError(
            f"guest {self._name}: its shell's answer is not whole; is its disk full, or does its kernel print much?"
        )

    async def _read_lines(self, name: str, lines: dict[int, str]) -> bool:
        """Adds the lines that have come whole, which their length tells; answers whether there are all by now."""
        mark = secrets.token_hex(8)
        say = f"{mark[:8]}''{mark[8:]}"
        each = f'i=$((i+1)); echo {say} $i ${{#l}} "$l"'
        last = f"for _ in 1 2 3; do echo {say} end $i.; done"
        loop = f'i=0; while IFS= read -r l || [ "$l" ]; do {each}; done; {last}'
        text = (await self._finish(f"[ -r $D/vs.{name} ] && enc <$D/vs.{name} | {{ {loop}; }}")).string
        for number, length, content in re.findall(rf"{mark} (\d+) (\d+) ([^\r\n]*)\r?\n", text):
            if len(content) == int(length):
                lines[int(number)] = content
        total = re.search(rf"{mark} end (\d+)\.", text)
        return total is not None and lines.keys() == set(range(1, int(total[1]) + 1))

    async def _done(self, line: str, refusal: str = "(?!)") -> int:
        """Runs a line; answers its status. Raises QemuError if the console says `refusal` instead."""
        found = await self._finish(line, refusal)
        if found[1] is None:
            raise QemuError(f"guest {self._name}: {found[0]}: the console lets in no {self._user!r} with that password")
        return int(found[1])

    async def _finish(self, line: str, refusal: str = "(?!)") -> re.Match[str]:
        """Runs a line. Its status is found, in a text that begins with what was printed before, or else `refusal`.

        The status comes several times, for the kernel to spoil one when it says something.
        """
        mark = secrets.token_hex(8)  # which the echo of this line does not have
        await self._say(f"{line}; s=$?; for _ in 1 2 3; do echo {mark[:8]}''{mark[8:]} $s.; done")
        return await self._until(rf"{mark} (\d+)\.|{refusal}")

    def _lacks(self, what: str) -> QemuError:
        return QemuError(f"guest {self._name}: the shell on its console lacks {what}; add that to the image")

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
