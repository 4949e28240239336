"""QEMU as a child process, talked to by QMP and by its character devices.

Nothing here takes a port number, a path or a background task: QEMU gets one end of each socketpair as an open
descriptor, and prints into an unnamed file. Every wait is bounded.

A QEMU never outlives who started it: `close` kills it, and if the process that started it dies first, the kernel does
(PR_SET_PDEATHSIG). By parent, the kernel means the *thread* that started the child. That must not be one of trio's
worker threads, which end when idle; so QEMU is started here and now, by subprocess. It has a process group of its own,
so that Ctrl-C reaches who started it, and not the guests that are to be looked at then.
"""

import json
import shutil
import socket
import subprocess
import tempfile
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import trio

from vswitch.endpoints.guests import qemu_program
from vswitch.testing import child_process
from vswitch.testing.boards import ARCHES, X86_64

START_TIMEOUT_S = 20.0
QMP_TIMEOUT_S = 20.0
LINES_SHOWN, LINES_BEFORE_PANIC = 20, 8  # of a console
# What to do about it, by what QEMU says.
ADVICE = {
    "no slot/function available for": "the machine's PCI slots are taken; put up to 8 devices into one: "
    "addr=0x1e.0,multifunction=on, addr=0x1e.1, and so on",
    "does not support hotplugging": "boot the guest with arguments=['-device', 'pcie-root-port,id=spare'], and "
    "add bus='spare'",
    "no console to take a screendump": "the tiny guest has no screen; boot it with arguments=['-vga', 'std']",
    "No 'PCI' bus found": "this machine has no PCI, which the guest's devices need; leave out -M microvm",
}
EVENTS_MAX = 100  # that are kept for who asks for them


class QemuError(Exception):
    """QEMU ended, did not answer in time, or refused a command. The text shows what it printed, and its guest on the
    serial console."""


class Channel:
    """Our end of a socketpair whose other end is a character device of QEMU's.

    What has come in and was not parsed yet is in `buffer`: a reader that is cancelled half-way loses nothing.
    """

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.buffer = bytearray()
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._sending = trio.Lock()

    async def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """`descriptors` go with the first byte. Raises EOFError if QEMU is gone."""
        async with self._sending:
            try:
                if descriptors:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
                    data = data[await self._stream.socket.sendmsg([data], [rights]) :]
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise EOFError from error

    async def receive(self) -> None:
        """Waits for more bytes in the buffer; raises EOFError if QEMU is gone."""
        try:
            data = await self._stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:  # closed: somebody has ended QEMU
            raise EOFError from error
        if not data:
            raise EOFError
        self.buffer += data

    def close(self) -> None:
        self._stream.socket.close()
        self.theirs.close()


class Qemu:
    """A running QEMU with a QMP channel. `close()` kills it and waits for its end.

    `channels` and `pass_fds` are the descriptors that `arguments` name by `fd=`. Raises QemuError if there is no QEMU.
    """

    def __init__(
        self, *arguments: str, channels: Sequence[Channel] = (), pass_fds: Sequence[int] = (), arch: str = X86_64
    ) -> None:
        self._qmp = Channel()
        self._asking = trio.Lock()
        self._asked = 0
        self._events: deque[str] = deque(maxlen=EVENTS_MAX)
        self._output = tempfile.TemporaryFile("a+b")  # noqa: SIM115
        self._printed_in_all = ""  # once that is closed
        inherited = [channel.theirs.fileno() for channel in (self._qmp, *channels)]
        common = "-nodefaults -no-user-config -display none -mon qmp,mode=control"
        common += f" -chardev socket,id=qmp,fd={inherited[0]}"
        if missing := what_is_missing(arch):
            raise QemuError(missing)
        program = qemu_program.find(arch)
        assert program is not None
        self.process = subprocess.Popen(
            child_process.mortal([program, *common.split(), *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=[*inherited, *pass_fds],
            process_group=0,
        )
        for channel in (self._qmp, *channels):
            channel.theirs.close()

    @property
    def output(self) -> str:
        """The last of what QEMU printed."""
        if self._output.closed:
            return self._printed_in_all
        return child_process.last_of(self._output)

    async def started(self, who: str = "") -> None:
        """Waits until all netdevs and devices are there: an answer comes from QEMU's main loop, which begins
        when everything is set up. `who` is for an error's text."""
        with self.bounded(f"{who}starting QEMU", START_TIMEOUT_S):
            await self.execute("qmp_capabilities")

    async def ended(self) -> int:
        """Waits for QEMU's end; answers its exit status."""
        return await child_process.ended(self.process)

    async def qmp(self, command: str, /, **arguments: object) -> Any:
        """Executes a QMP command, such as `stop`, `cont` or `set_link`, and returns its result."""
        with self.bounded(f"QMP {command}", QMP_TIMEOUT_S):
            return await self.execute(command, **arguments)

    async def execute(self, command: str, /, **arguments: object) -> Any:
        """As `qmp`, without a limit; raises EOFError where QEMU ends instead."""
        return await self._execute(command, arguments)

    async def give(self, name: str, descriptor: int) -> None:
        """Passes a descriptor, for commands to name. Raises EOFError where QEMU ends instead."""
        await self._execute("getfd", {"fdname": name}, [descriptor])

    async def _execute(self, command: str, arguments: dict[str, object], descriptors: Sequence[int] = ()) -> Any:
        async with self._asking:
            self._asked += 1
            message = {"execute": command, "arguments": arguments, "id": self._asked}
            await self._qmp.send(json.dumps(message).encode() + b"\n", descriptors)
            while (answer := await self._next_message()).get("id") != self._asked:
                pass  # the greeting, an event, or an answer nobody waited for
            if "error" in answer:
                raise QemuError(f"QMP {command}: {with_advice(answer['error']['desc'])}")
            return answer["return"]

    async def event(self, name: str) -> None:
        """Waits for a QMP event, or finds it among the last that came."""
        with self.bounded(f"QMP event {name}", QMP_TIMEOUT_S):
            async with self._asking:
                while name not in self._events:
                    await self._next_message()
                self._events.remove(name)

    async def _next_message(self) -> dict[str, Any]:
        while True:
            line, newline, rest = self._qmp.buffer.partition(b"\n")
            if newline:
                self._qmp.buffer = rest
                message: dict[str, Any] = json.loads(line)
                if "event" in message:
                    self._events.append(message["event"])
                return message
            await self._qmp.receive()

    @contextmanager
    def bounded(self, what: str, timeout_s: float) -> Iterator[None]:
        """Turns a wait that took too long, or that QEMU's end made pointless, into a QemuError that tells."""
        try:
            with trio.fail_after(timeout_s):
                yield
        except trio.TooSlowError:
            raise QemuError(f"{what}: no answer in {timeout_s:g} s; {self._printed()}") from None
        except EOFError:
            try:
                status = self.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                raise QemuError(f"{what}: QEMU hung up; {self._printed()}") from None
            raise QemuError(f"{what}: QEMU ended with status {status}; {self._printed()}") from None

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def _printed(self) -> str:
        return with_advice(telling_lines(self.output))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._qmp.close()
        self._printed_in_all = self.output
        self._output.close()


def telling_lines(console: str) -> str:
    """The last lines of a console, to be shown: from a panic on, if there was one, and a few that led to it."""
    lines = console.splitlines()
    panics = [number for number, line in enumerate(lines) if "Kernel panic" in line]
    begin = max(0, panics[-1] - LINES_BEFORE_PANIC) if panics else max(0, len(lines) - LINES_SHOWN)
    return "\n".join(["it printed:", *lines[begin : begin + LINES_SHOWN]])


def with_advice(said: str) -> str:
    """What QEMU says, and what to do about it if that is known."""
    return "\n".join([said, *(advice for phrase, advice in ADVICE.items() if phrase in said)])


def what_is_missing(arch: str = X86_64) -> str | None:
    """What has to be installed before QEMU can be started, in one line; None if nothing."""
    if qemu_program.find(arch) is None:
        return qemu_program.missing(arch, ARCHES[arch].package)
    return None if shutil.which("setpriv") else "setpriv not found: install the package util-linux"
