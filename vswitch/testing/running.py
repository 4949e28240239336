"""A machine that runs: QEMU, and the shell in it. It boots, or goes on from a template or a snapshot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing

from vswitch.testing import migration
from vswitch.testing.guest_image import GuestImage
from vswitch.testing.machine import Card, Machine, command_line, kernel_words
from vswitch.testing.qemu import Channel, Qemu, QemuError
from vswitch.testing.shell import SerialShell, Shell, VirtioShell
from vswitch.testing.snapshot import Snapshot
from vswitch.testing.template import BOOT_TIMEOUT_S, Template

CLONE_TIMEOUT_S = 20.0


class Running:
    """`shell` is None where nobody says how to get one. `own` are the words that make the tiny guest itself.

    It boots, or goes on from an `origin`. `has_answered`: its shell has. `descriptors` are what the cards' netdevs name
    by `fd=`. Raises QemuError if there is no QEMU.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        cards: Sequence[Card],
        own: Sequence[str],
        *,
        descriptors: Sequence[int] = (),
        origin: Template | Snapshot | None = None,
    ) -> None:
        self.shell: Shell | None = None
        self.has_answered = False
        self.origin = origin
        self._name = name
        self._machine = machine
        self._own = own
        self._state = -1
        with ExitStack() as stack, ExitStack() as passed:
            channels = []
            if isinstance(machine.image, GuestImage) or machine.login is not None:
                channels.append(stack.enter_context(closing(Channel())))
                self.shell = _shell_at(channels[0], name, machine)
            arguments = command_line(
                name,
                origin.machine(machine) if isinstance(origin, Snapshot) else machine,
                cards,
                shell=channels[0].theirs.fileno() if channels else -1,
                words=kernel_words(machine.arch, *own),
                memory=_memory(machine, origin),
            )
            inherited = list(descriptors)
            if origin is not None:
                self._state = passed.enter_context(origin.state.open("rb")).fileno()
                inherited.append(self._state)
                arguments += ["-incoming", "defer"]
            qemu = Qemu(*arguments, channels=channels, pass_fds=inherited, arch=machine.arch)
            self.qemu = stack.enter_context(closing(qemu))
            self._resources = stack.pop_all()

    @property
    def has_named_memory(self) -> bool:
        return bool(_memory(self._machine, self.origin))

    async def come_up(self) -> None:
        """Returns when it takes commands, or has started if there is no shell. Raises QemuError if it does not."""
        await self.qemu.started(f"guest {self._name}: ")
        if isinstance(self.origin, Snapshot):
            await self._go_on(self.origin)
        elif self.origin is not None:
            with self.qemu.bounded(f"guest {self._name}: booting", CLONE_TIMEOUT_S):
                await migration.load(self.qemu, self._state, memory=False)
                await self._become_itself()
        elif self.shell is not None:
            with self.qemu.bounded(f"guest {self._name}: booting", BOOT_TIMEOUT_S):
                await self.shell.open()
                self.has_answered = True

    async def _go_on(self, origin: Snapshot) -> None:
        """As the machine that it was; its clock is set, if it has a shell that can do that."""
        with self.qemu.bounded(f"guest {self._name}: going on from a snapshot", BOOT_TIMEOUT_S):
            await migration.load(self.qemu, self._state, memory=True)
            if self.shell is not None:
                self.shell.resume(origin.facts.shell)
                await self.shell.run(f"date -s @{int(time.time())}", b"")
                self.has_answered = True

    async def _become_itself(self) -> None:
        assert isinstance(self.shell, VirtioShell)
        done = await self.shell.call("become", *self._own, f"vswitch.time={int(time.time())}")
        self.has_answered = True
        if not done.ok:
            raise QemuError(f"guest {self._name}: a clone cannot become itself: {done.stderr.strip()}")

    async def listen_for_consoles(self, path: str) -> None:
        """Has QEMU let one client at a time onto the serial console. What is printed there is kept as ever."""
        address = {"type": "unix", "data": {"path": path}}
        log = {"logfile": "/dev/stdout", "logappend": True}
        backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False, **log}}
        await self.qemu.qmp("chardev-change", id="console", backend=backend)

    def close(self) -> None:
        """Ends it at once."""
        self._resources.close()


def _memory(machine: Machine, origin: Template | Snapshot | None) -> str:
    """The memory backend of a machine, if it is to have one."""
    if machine.shares_memory:
        return "memory-backend-memfd,share=on"
    if isinstance(origin, Template):
        return origin.memory()
    return "memory-backend-ram" if origin is not None and origin.facts.named_memory else ""


def _shell_at(channel: Channel, name: str, machine: Machine) -> Shell:
    if isinstance(machine.image, GuestImage):
        return VirtioShell(channel)
    login = machine.login
    assert login is not None
    return SerialShell(channel, name, login.user, login.password, login.prompt)
