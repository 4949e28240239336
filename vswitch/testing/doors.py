"""Ways into a LAN from other programs, for who wants to look: its control socket, guests' consoles, QMP and ssh.

They are where switches have their sockets (control/runtime.py): NAME.ctl, and in NAME.lab those of the guests.
"""

import json
import logging
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from vswitch import VSwitch
from vswitch.control import runtime
from vswitch.control.runtime import CONSOLE, LAB, QMP, SSH
from vswitch.endpoints import unix_socket
from vswitch.endpoints.unix_socket import InUseError
from vswitch.errors import RefusedError, VSwitchError
from vswitch.testing.guest import Guest
from vswitch.testing.qemu import QemuError
from vswitch.testing.qmp_relay import relay
from vswitch.testing.running import Running
from vswitch.testing.shell import SerialShell, VirtioShell

SHELL_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)

Serve = Callable[[trio.SocketStream], Awaitable[None]]


class Doors:
    """Of the LAN that is called `name` here. What listens does so in `nursery`; `close` removes what is left."""

    def __init__(self, name: str, switch: VSwitch, nursery: trio.Nursery) -> None:
        self.name = name
        self._switch = switch
        self._nursery = nursery
        self._directory: Path | None = None
        self._opened: dict[str, _Opened] = {}  # by guest

    async def open(self, mark: str = "") -> None:
        """`mark` is a file to be there for others to know it by. Raises RefusedError if a switch of that name runs."""
        remove_stale()
        try:
            await self._switch.serve_control(runtime.socket_path(f"{self.name}.ctl"))
        except InUseError:
            raise RefusedError(f"a switch {self.name!r} runs already; give this one another name") from None
        self._directory = runtime.directory() / f"{self.name}{LAB}"
        self.close()
        self._directory.mkdir(mode=0o700)
        if mark:
            (self._directory / mark).touch()

    async def add(self, guest: Guest) -> None:
        """Lets others in to a guest that has come up, or has come up again. One that has ended, say, has no doors."""
        running = guest.alive
        try:
            was = self._opened.get(guest.name)
            if was is None or was.running is not running:
                await self.remove(guest)
                self._opened[guest.name] = _Opened(running)
                await self._open(guest, self._opened[guest.name])
            if isinstance(running.shell, VirtioShell):
                with trio.move_on_after(SHELL_TIMEOUT_S):  # it may stand still
                    await running.shell.call("console", guest.name)
        except EOFError:
            return
        except (QemuError, VSwitchError) as error:
            first = str(error).partition("\n")[0]
            log.warning("guest %s cannot be looked into: %s", guest.name, first)

    async def _open(self, guest: Guest, opened: "_Opened") -> None:
        running = opened.running
        await self._listen(self.path(guest, QMP), partial(relay, qemu=running.qemu), opened)
        await self._listen(self.path(guest, SSH), partial(_tell_ssh, guest), opened)
        if isinstance(running.shell, SerialShell):
            await self._listen(self.path(guest, CONSOLE), running.shell.lend, opened)
        else:
            await running.listen_for_consoles(self.path(guest, CONSOLE))

    @property
    def guests(self) -> list[str]:
        """Those that others can come in to."""
        return list(self._opened)

    async def remove(self, guest: Guest) -> None:
        if (opened := self._opened.pop(guest.name, None)) is not None:
            for scope, closed in opened.listening:
                scope.cancel()
                await closed.wait()

    def path(self, guest: Guest, kind: str) -> str:
        """Where one of a guest's sockets is. Raises InputError if the path is too long for one."""
        return runtime.socket_path(f"{self.name}{LAB}/{guest.name}{kind}")

    def close(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    async def _listen(self, path: str, serve: Serve, opened: "_Opened") -> None:
        opened.listening.append(await self._nursery.start(self._serve, path, serve))

    async def _serve(
        self, path: str, serve: Serve, task_status: trio.TaskStatus[tuple[trio.CancelScope, trio.Event]]
    ) -> None:
        async def client(stream: trio.SocketStream) -> None:
            async with stream:
                await serve(stream)

        closed = trio.Event()
        try:
            with unix_socket.bind(path) as sock, trio.CancelScope() as scope:
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
                task_status.started((scope, closed))
                await trio.serve_listeners(client, [listener])
        finally:
            closed.set()


async def _tell_ssh(guest: Guest, stream: trio.SocketStream) -> None:
    """Answers, in a line of JSON, with the command for a session in a guest, or why there can be none."""
    try:
        answer = {"command": await guest.ssh(user="")}
    except VSwitchError as error:
        answer = {"error": str(error)}
    with suppress(trio.BrokenResourceError):
        await stream.send_all(json.dumps(answer).encode() + b"\n")


class _Opened:
    """A guest's doors: what runs it, and what ends each that listens, and tells when that has closed."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.listening: list[tuple[trio.CancelScope, trio.Event]] = []


def remove_stale() -> None:
    """What LANs that were killed have left: a lab is there after its control socket, and goes before it."""
    directory = runtime.directory()
    for control in directory.glob("*.ctl"):
        with suppress(RefusedError):  # it is in use
            unix_socket.remove_stale(str(control))
    for lab in directory.glob(f"*{LAB}"):
        if not lab.with_suffix(".ctl").exists():
            shutil.rmtree(lab, ignore_errors=True)
