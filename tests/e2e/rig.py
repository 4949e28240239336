"""QEMU as a child process, and the smallest use of it: two network backends wired together, without a guest.

What goes into one netdev of a rig comes out of the other, which makes any `-netdev` line a live peer that
starts in less than a tenth of a second.

Nothing here takes a port number, a path or a background task: QEMU gets one end of each socketpair as an
open descriptor, and prints into an unnamed file. There being no nursery, an exception in a test's body passes
through unchanged. Every wait is bounded.

A QEMU never outlives its test: leaving the context kills it, and if the test's process dies first, the
kernel does (PR_SET_PDEATHSIG). By parent, the kernel means the *thread* that started the child. That must
not be one of trio's worker threads, which end when idle; so QEMU is started here and now, by subprocess.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

import trio

from tests.needs import require

QEMU = "qemu-system-x86_64"
START_TIMEOUT_S = 20.0
QMP_TIMEOUT_S = 20.0
SHOWN_BYTES_MAX = 32768


class QemuError(Exception):
    """QEMU ended, did not answer in time, or refused a command. The text shows what QEMU printed, and its
    guest on the serial console."""


class Channel:
    """Our end of a socketpair whose other end is a character device of QEMU's.

    What has come in and was not parsed yet is in `buffer`: a reader that is cancelled half-way loses nothing.
    """

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.buffer = bytearray()
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._sending = trio.Lock()

    async def send(self, data: bytes) -> None:
        async with self._sending:
            try:
                await self._stream.send_all(data)
            except trio.BrokenResourceError as error:
                raise EOFError from error

    async def receive(self) -> None:
        """Waits for more bytes in the buffer; raises EOFError if QEMU is gone."""
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        self.buffer += data

    def close(self) -> None:
        self._stream.socket.close()
        self.theirs.close()


class Qemu:
    """A running QEMU with a QMP channel. `close()` kills it and waits for its end."""

    def __init__(
        self,
        *arguments: str,
        channels: Sequence[Channel] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._qmp = Channel()
        self._asking = trio.Lock()
        self._asked = 0
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        inherited = [channel.theirs.fileno() for channel in (self._qmp, *channels)]
        common = "-nodefaults -no-user-config -display none -mon qmp,mode=control"
        common += f" -chardev socket,id=qmp,fd={inherited[0]}"
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", QEMU, *common.split(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=[*inherited, *pass_fds],
        )
        for channel in (self._qmp, *channels):
            channel.theirs.close()

    @property
    def output(self) -> str:
        """The last of what QEMU printed, and its guest on the serial console."""
        descriptor = self._output.fileno()
        start = max(0, os.fstat(descriptor).st_size - SHOWN_BYTES_MAX)
        return os.pread(descriptor, SHOWN_BYTES_MAX, start).decode(errors="backslashreplace")

    async def started(self) -> None:
        """Waits until all netdevs and devices are there: an answer comes from QEMU's main loop, which begins
        when everything is set up."""
        with self.bounded("starting QEMU", START_TIMEOUT_S):
            await self._execute("qmp_capabilities")

    async def qmp(self, command: str, /, **arguments: object) -> Any:
        """Executes a QMP command, such as `stop`, `cont` or `set_link`, and returns its result."""
        with self.bounded(f"QMP {command}", QMP_TIMEOUT_S):
            return await self._execute(command, **arguments)

    async def _execute(self, command: str, /, **arguments: object) -> Any:
        async with self._asking:
            self._asked += 1
            message = {"execute": command, "arguments": arguments, "id": self._asked}
            await self._qmp.send(json.dumps(message).encode() + b"\n")
            while True:
                line, newline, rest = self._qmp.buffer.partition(b"\n")
                if not newline:
                    await self._qmp.receive()
                    continue
                self._qmp.buffer = rest
                answer = json.loads(line)
                if answer.get("id") != self._asked:  # the greeting, an event, or an answer nobody waited for
                    continue
                if "error" in answer:
                    raise QemuError(f"QMP {command}: {answer['error']['desc']}")
                return answer["return"]

    @contextmanager
    def bounded(self, what: str, timeout_s: float) -> Iterator[None]:
        """Turns a wait that took too long, or that QEMU's end made pointless, into a QemuError that tells."""
        try:
            with trio.fail_after(timeout_s):
                yield
        except trio.TooSlowError:
            raise QemuError(f"{what}: no answer in {timeout_s:g} s; QEMU printed:\n{self.output}") from None
        except EOFError:
            try:
                status = self.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                raise QemuError(f"{what}: QEMU hung up; it printed:\n{self.output}") from None
            raise QemuError(f"{what}: QEMU ended with status {status}; it printed:\n{self.output}") from None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._qmp.close()
        self._output.close()


def require_qemu() -> None:
    for program, package in ((QEMU, "qemu-system-x86"), ("setpriv", "util-linux")):
        require(shutil.which(program), f"{program} not found: install the package {package}")


@asynccontextmanager
async def rig(netdev_a: str, netdev_b: str, *, pass_fds: Sequence[int] = ()) -> AsyncIterator[Qemu]:
    """A QEMU that carries frames between two netdevs, each as after `-netdev` but without its `id=`.

    Both are there when the body begins. Skips the test if there is no QEMU; raises QemuError with QEMU's own
    words if it refuses a netdev.
    """
    require_qemu()
    arguments = ["-machine", "none"]
    for hub_port, netdev in (("a", netdev_a), ("b", netdev_b)):
        arguments += ["-netdev", f"{netdev},id={hub_port}"]
        arguments += ["-netdev", f"hubport,id=hub-{hub_port},hubid=0,netdev={hub_port}"]
    with closing(Qemu(*arguments, pass_fds=pass_fds)) as qemu:
        await qemu.started()
        yield qemu
