"""Ways into a LAN from other programs, for who wants to look: its control socket, guests' consoles, their QMP.

They are where switches have their sockets (control/runtime.py): NAME.ctl, and in NAME.lab those of the guests.
"""

import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from vswitch import VSwitch
from vswitch.control import runtime
from vswitch.endpoints import unix_socket
from vswitch.endpoints.unix_socket import InUseError
from vswitch.errors import RefusedError
from vswitch.testing.guest import Guest
from vswitch.testing.qemu import QemuError
from vswitch.testing.qmp_relay import relay
from vswitch.testing.running import Running
from vswitch.testing.shell import SerialShell, VirtioShell

SUFFIX = ".lab"
CONSOLE, QMP = ".console", ".qmp"

Serve = Callable[[trio.SocketStream], Awaitable[None]]


class Doors:
    """Of the LAN that is called `name` here. What listens does so in `nursery`; `close` removes what is left."""

    def __init__(self, name: str, switch: VSwitch, nursery: trio.Nursery) -> None:
        self.name = name
        self._switch = switch
        self._nursery = nursery
        self._directory: Path | None = None
        self._opened: dict[str, tuple[Running, list[trio.CancelScope]]] = {}  # by guest

    async def open(self) -> None:
        """Raises RefusedError if a switch of that name runs already."""
        try:
            await self._switch.serve_control(runtime.socket_path(f"{self.name}.ctl"))
        except InUseError:
            raise RefusedError(f"a switch {self.name!r} runs already; give this one another name") from None
        self._directory = runtime.directory() / f"{self.name}{SUFFIX}"
        self.close()  # of one that was killed
        self._directory.mkdir(mode=0o700)

    async def add(self, guest: Guest) -> None:
        """Lets others in to a guest that has come up, or has come up again. One that has ended has no doors."""
        running = guest.alive
        with suppress(QemuError, EOFError):
            was = self._opened.get(guest.name)
            if was is None or was[0] is not running:
                self.remove(guest)
                await self._open(guest, running)
            if isinstance(running.shell, VirtioShell):
                await running.shell.call("console", guest.name)

    async def _open(self, guest: Guest, running: Running) -> None:
        scopes = [await self._listen(guest, QMP, partial(relay, qemu=running.qemu))]
        if isinstance(running.shell, SerialShell):
            scopes.append(await self._listen(guest, CONSOLE, running.shell.lend))
        else:
            await running.listen_for_consoles(self.path(guest, CONSOLE))
        self._opened[guest.name] = running, scopes

    @property
    def guests(self) -> list[str]:
        """Those that others can come in to."""
        return list(self._opened)

    def remove(self, guest: Guest) -> None:
        if guest.name in self._opened:
            for scope in self._opened.pop(guest.name)[1]:
                scope.cancel()

    def path(self, guest: Guest, kind: str) -> str:
        """Where one of a guest's sockets is. Raises InputError if the path is too long for one."""
        return runtime.socket_path(f"{self.name}{SUFFIX}/{guest.name}{kind}")

    def close(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    async def _listen(self, guest: Guest, kind: str, serve: Serve) -> trio.CancelScope:
        """Answers what ends it."""
        scope: trio.CancelScope = await self._nursery.start(self._serve, self.path(guest, kind), serve)
        return scope

    async def _serve(self, path: str, serve: Serve, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        async def client(stream: trio.SocketStream) -> None:
            async with stream:
                await serve(stream)

        with unix_socket.bind(path) as sock, trio.CancelScope() as scope:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            task_status.started(scope)
            await trio.serve_listeners(client, [listener])
