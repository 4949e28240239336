"""A machine that runs: QEMU, and the shell in it. It boots, or it is a clone of a template that has booted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing

from vswitch.testing import template
from vswitch.testing.guest_image import GuestImage
from vswitch.testing.machine import Card, Machine, command_line, kernel_words
from vswitch.testing.qemu import Channel, Qemu, QemuError
from vswitch.testing.shell import SerialShell, Shell, VirtioShell
from vswitch.testing.template import BOOT_TIMEOUT_S, Template

CLONE_TIMEOUT_S = 20.0


class Running:
    """`shell` is None where nobody says how to get one. `own` are the words that make the tiny guest itself.

    `has_answered`: its shell has. `descriptors` are what the cards' netdevs name by `fd=`. Raises QemuError if there is
    no QEMU.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        cards: Sequence[Card],
        own: Sequence[str],
        *,
        descriptors: Sequence[int] = (),
        clone_of: Template | None = None,
    ) -> None:
        self.shell: Shell | None = None
        self.has_answered = False
        self._name = name
        self._own = own
        self._is_clone = clone_of is not None
        self._state = -1
        with ExitStack() as stack, ExitStack() as passed:
            channels = []
            if isinstance(machine.image, GuestImage) or machine.login is not None:
                channels.append(stack.enter_context(closing(Channel())))
                self.shell = _shell_at(channels[0], name, machine)
            arguments = command_line(
                name,
                machine,
                cards,
                shell=channels[0].theirs.fileno() if channels else -1,
                words=kernel_words(*own),
                memory_file=clone_of.memory_file() if clone_of is not None else "",
            )
            inherited = list(descriptors)
            if clone_of is not None:
                self._state = passed.enter_context(clone_of.state.open("rb")).fileno()
                inherited.append(self._state)
                arguments += ["-incoming", "defer"]
            self.qemu = stack.enter_context(closing(Qemu(*arguments, channels=channels, pass_fds=inherited)))
            self._resources = stack.pop_all()

    async def come_up(self) -> None:
        """Returns when it takes commands, or has started if there is no shell. Raises QemuError if it does not."""
        await self.qemu.started(f"guest {self._name}: ")
        if self.shell is None:
            return
        with self.qemu.bounded(f"guest {self._name}: booting", CLONE_TIMEOUT_S if self._is_clone else BOOT_TIMEOUT_S):
            if self._is_clone:
                await template.load(self.qemu, self._state)
                await self._become_itself()
            else:
                await self.shell.open()
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


def _shell_at(channel: Channel, name: str, machine: Machine) -> Shell:
    if isinstance(machine.image, GuestImage):
        return VirtioShell(channel)
    login = machine.login
    assert login is not None
    return SerialShell(channel, name, login.user, login.password, login.prompt)
