"""Guests: machines that QEMU runs, on the LAN of a test."""

import io
import logging
import re
import shlex
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any, BinaryIO

import trio

from vswitch.errors import InputError
from vswitch.testing import snapshot, template
from vswitch.testing.faults import Fault, Restore
from vswitch.testing.guest_image import GuestImage
from vswitch.testing.link import DHCP, Link
from vswitch.testing.machine import Card, Machine, own_words, quoted
from vswitch.testing.namespace import Namespace
from vswitch.testing.program import needed
from vswitch.testing.qemu import Qemu, QemuError, telling_lines
from vswitch.testing.running import Running
from vswitch.testing.screen import png_of
from vswitch.testing.shell import Result, Shell, VirtioShell
from vswitch.testing.snapshot import Facts, Snapshot
from vswitch.testing.template import BOOT_TIMEOUT_S, NoTemplateError, Template
from vswitch.testing.timeline import Timeline

COMMAND_TIMEOUT_S = 30.0
EVERY_S = 0.1
NAMES_TIMEOUT_S = 2.0
PIECE_BYTES = 1 << 20  # of a file, at a time
SSH_OPTIONS = ("-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR")

_log = logging.getLogger(__name__)


class GuestDied(Exception):
    """A guest's QEMU has ended, and no test asked for it. The text ends with the last lines of its console."""


class Guest:
    """A guest, which `lan.guest` makes and boots.

    `ip` and `mac` are its first card's; `links` are its cables.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        links: Sequence[Link],
        nursery: trio.Nursery,
        gateway: str,
        when_up: Callable[["Guest"], Awaitable[None]],
        on_the_lan_of: Callable[[Link], Awaitable[Namespace]],
        timeline: Timeline,
        *,
        cold: bool = False,
        may_end: bool = False,
    ) -> None:
        self.name = name
        self.links = list(links)
        self.machine = machine
        self._nursery = nursery
        self._gateway = gateway
        self._when_up = when_up
        self._on_the_lan_of = on_the_lan_of
        self._timeline = timeline
        self._cold = cold
        self._may_end = may_end
        self._is_up = False
        self._running: Running | None = None
        self.has_died = False  # and nobody has asked for it
        self._last_console = ""
        self._expected_to_end = False
        self._ending = trio.Lock()  # held while its cables are taken out
        self._knows: list[tuple[str, str]] = []  # names that it was told since it came up

    def __repr__(self) -> str:
        words = [self.name, self.ip, self.mac] if self.links else [self.name]
        return f"<Guest {' '.join(filter(None, words))}{'' if self.running else ', not running'}>"

    @property
    def mac(self) -> str:
        return self.links[0].mac

    @property
    def ip(self) -> str:
        return self.links[0].ip

    @property
    def console(self) -> str:
        """The last of what the guest printed on its serial console, and QEMU."""
        return self._running.qemu.output if self._running is not None else self._last_console

    @property
    def running(self) -> bool:
        return self._running is not None

    @property
    def is_up(self) -> bool:
        """Whether it runs, and has come as far as to take commands."""
        return self._is_up

    @property
    def alive(self) -> Running:
        """What runs it now. Raises QemuError if nothing does."""
        if self._running is None:
            raise QemuError(f"guest {self.name} is not running")
        return self._running

    async def run(self, command: str, *, input: bytes = b"", timeout: float = COMMAND_TIMEOUT_S) -> Result:  # noqa: ASYNC109
        """Runs a command as root, in a shell of its own. Several may run at once.

        Returns when the command itself ends; what it has left in the background runs on. Raises QemuError, with the
        console, if the guest dies, or if `timeout` seconds pass: then, too, the command runs on.
        """
        with self._alive().bounded(f"guest {self.name}: {command}", timeout):
            return await self._a_shell().run(command, input)

    async def put(self, content: bytes | str | Path, path: str, *, mode: int = 0o644) -> None:
        """Writes a file in the guest: bytes, a text, or what is in the file here that a `Path` names, of any size."""
        quoted = shlex.quote(path)
        (await self.run(f": >{quoted} && chmod {mode:o} {quoted}")).check()
        with _opened(content) as file:
            while piece := file.read(PIECE_BYTES):
                (await self.run(f"cat >>{quoted}", input=piece)).check()

    async def get(self, path: str, into: Path | None = None) -> bytes:
        """What is in a file in the guest; or nothing, and it is in the file here that `into` names.

        A large file comes in pieces, as what a command prints takes memory in the guest.
        """
        quoted = shlex.quote(path)
        size = int((await self.run(f"stat -L -c %s {quoted}")).check().stdout)
        with into.open("wb") if into is not None else io.BytesIO() as file:
            piece = f"dd if={quoted} bs={PIECE_BYTES} count=1 2>/dev/null"
            commands = [f"{piece} skip={number}" for number in range(-(-size // PIECE_BYTES))]
            if size <= PIECE_BYTES:  # or it does not say, as those in /proc
                commands = [f"cat {quoted}"]
            for command in commands:
                file.write((await self.run(command)).check().output)
            return file.getvalue() if isinstance(file, io.BytesIO) else b""

    async def wait_for(self, command: str, *, timeout: float = COMMAND_TIMEOUT_S) -> Result:  # noqa: ASYNC109
        """Runs a command again and again until it succeeds. Raises QemuError if it has not after `timeout` seconds."""
        result: Result | None = None
        with trio.move_on_after(timeout):
            while not (result := await self.run(command, timeout=timeout)).ok:  # noqa: ASYNC110
                await trio.sleep(EVERY_S)
            return result
        said = f"{result.stderr or result.stdout}".strip() if result is not None else "no answer"
        raise QemuError(f"guest {self.name}: {command}: did not succeed within {timeout:g} s; last: {said}")

    async def wait_for_console(self, pattern: str, *, timeout: float = BOOT_TIMEOUT_S) -> str:  # noqa: ASYNC109
        """Waits until the console shows what a regular expression matches, and answers that."""
        with trio.move_on_after(timeout):
            while not (found := re.search(pattern, self.console)):
                self._alive()
                await trio.sleep(EVERY_S)
            return found[0]
        said = telling_lines(self.console)
        raise QemuError(f"guest {self.name}: no {pattern!r} on its console within {timeout:g} s; {said}")

    async def qmp(self, command: str, /, **arguments: object) -> Any:
        """Executes a QMP command: `qmp("query-status")`."""
        return await self._alive().qmp(command, **arguments)

    async def snapshot(self, name: str = "ready") -> None:
        """Keeps the machine as it is now: memory, devices, and what it has written to its disk; then it goes on.

        For `restore`, and for `lan.guest(..., start=name)` in this test and later ones. Raises InputError, QemuError.
        """
        running = self.alive
        async with running.shell.still() if running.shell is not None else nullcontext():
            facts = Facts(
                macs=[link.mac for link in self.links],
                ips=[str(link.interface or "") for link in self.links],
                named_memory=running.has_named_memory,
                shell=running.shell.position if running.shell is not None else 0,
            )
            origin = running.origin if isinstance(running.origin, Snapshot) else None
            await snapshot.keep(running.qemu, self.machine, self._devices, name, facts, origin)

    async def restore(self, name: str = "ready") -> None:
        """Has the machine be as it was at a snapshot. Raises InputError if there is none of that name."""
        found = snapshot.find(self.machine, self._devices, name)
        if found is None:
            raise InputError(f"guest {self.name}: {snapshot.missing(name)}")
        await self.power_off()
        await self.boot(found)

    @property
    def _devices(self) -> list[str]:
        return [link.nic.device for link in self.links]

    async def ssh(self, user: str = "root") -> str:
        """A command line for a session in it, by this machine's ssh, from a namespace on the LAN; a command may follow.

        The guest has to run a server. Nothing is kept of its host key, as another guest may have its address soon. With
        `user` "", options for ssh may follow, too.
        Raises InputError if its first card has no address, and as `Lan.namespace` does.
        """
        if not self.ip:
            raise InputError(f"guest {self.name} has no address; give its first card one")
        who = f"{user}@{self.ip}" if user else self.ip
        own = await self._on_the_lan_of(self.links[0])
        return shlex.join([*own.entering, needed("ssh", "openssh-client"), *SSH_OPTIONS, who])

    async def screenshot(self) -> bytes:
        """Its screen, as a PNG. Raises QemuError if it has none."""
        with tempfile.TemporaryDirectory(prefix="vs-") as directory:
            path = Path(directory) / "screen.ppm"
            await self.qmp("screendump", filename=str(path))
            return png_of(path.read_bytes())

    async def stop(self) -> None:
        """Halts its processors, as if time stood still; `cont` has it go on."""
        await self.qmp("stop")

    async def cont(self) -> None:
        await self.qmp("cont")

    def pause(self) -> Fault:
        """Stopped until it is restored."""

        async def inject() -> Restore:
            await self.stop()
            return self.cont

        return Fault(inject, f"pause of {self.name}", self._timeline)

    async def set_link(self, up: bool, card: int = 0) -> None:
        """Takes the carrier of a card away, as the guest sees it, or gives it back."""
        await self.qmp("set_link", name=f"nic{card}", up=up)

    def crash(self) -> Fault:
        """Killed, as by a power cut; booted anew when it is restored."""

        async def inject() -> Restore:
            self._alive()
            await self.power_off()
            return self.boot

        return Fault(inject, f"crash of {self.name}", self._timeline)

    async def reset(self) -> None:
        """Presses the reset button; returns when the guest is up again."""
        qemu, shell = self._alive(), self._a_shell()
        self._is_up = False
        await qemu.qmp("set-action", reboot="reset")  # despite -no-reboot
        await qemu.qmp("system_reset")
        await qemu.event("RESET")
        with qemu.bounded(f"guest {self.name}: booting", BOOT_TIMEOUT_S):
            await shell.open()
        await qemu.qmp("set-action", reboot="shutdown")  # not before: the BIOS resets once more
        await self._now_up()

    async def shutdown(self, *, timeout: float = COMMAND_TIMEOUT_S) -> None:  # noqa: ASYNC109
        """Presses the power button (ACPI), and for the tiny guest powers it off; returns when QEMU has ended."""
        qemu = self._alive()
        self._expected_to_end = True
        try:
            with qemu.bounded(f"guest {self.name}: shutting down", timeout):
                with suppress(EOFError):  # it may end before it answers
                    if isinstance(self.machine.image, GuestImage):
                        await self._a_shell().run("poweroff -f", b"")
                    else:
                        await qemu.execute("system_powerdown")
                await qemu.ended()
        except QemuError:
            self._expected_to_end = False
            raise
        await self.power_off()

    async def boot(self, origin: Snapshot | None = None) -> None:
        """Starts it; returns when it takes commands, or at once where nobody says how to get a shell.

        It goes on from `origin`, if there is one. The tiny guest goes on from where a template was left that has
        booted, unless it is `cold`. From then on its nursery ends with GuestDied if QEMU ends and nobody has asked for
        it.

        Raises QemuError if it runs, or does not come up.
        """
        if self._may_end and (self._running is None or self._running.qemu.has_ended):
            await self.power_off()  # what ran it may have ended this moment
        if self._running is not None:
            raise QemuError(f"guest {self.name} is running")
        if origin is not None:
            await self._start(origin)
        why = await self._clone() if origin is None else ""
        if self._running is None:
            await self._start(None)
            if why:
                _log.warning("guest %s has booted: %s", self.name, why)
        self._nursery.start_soon(self._watch, self._alive())
        await self._now_up()

    async def _clone(self) -> str:
        """Starts it as a clone, if it can be one. Answers what is wrong where it should be, and cannot."""
        if self._cold:
            return ""
        try:
            found = await template.find(self.machine, self._devices)
        except NoTemplateError as error:
            return str(error)
        if found is None:
            return ""
        try:
            await self._start(found)
        except (OSError, QemuError) as error:  # its files may be gone meanwhile
            if self._running is not None and self._running.has_answered:
                raise
            found.remove()
            await self.power_off()
            return f"a template did not work, and is removed: {error}"
        return ""

    async def _start(self, found: Template | Snapshot | None) -> None:
        """Raises QemuError if it does not come up."""
        self._expected_to_end = False
        with ExitStack() as stack:  # what is QEMU's own when it has started
            cables: list[int] = []
            cards = [await self._card(link, stack, cables) for link in self.links]
            static = ["" if link.nic.ip == DHCP else link.interface for link in self.links]
            own = own_words(self.name, static, self._gateway)
            running = Running(self.name, self.machine, cards, own, descriptors=cables, origin=found)
        self._running = running
        await running.come_up()

    async def _card(self, link: Link, stack: ExitStack, cables: list[int]) -> Card:
        """A card that is plugged in; what QEMU has to be given for it is added to `cables`."""
        if not link.nic.shares_memory:
            cables.append(stack.enter_context(await link.plug()).fileno())
            return Card(f"socket,fd={cables[-1]}", link.mac, link.nic.device)
        device = link.nic.device
        if "-pci" in device and self.machine.accelerator == "tcg":
            device += ",vectors=0"  # see endpoints/guests/qemu.py
        return Card("vhost-user", link.mac, device, f"socket,path={quoted(await link.listen())}")

    async def _mount(self) -> None:
        """Has it see the directories that are shared with it (Linux' filesystems/9p). Raises QemuError."""
        for number, share in enumerate(self.machine.shares):
            at, options = shlex.quote(share.place), "trans=virtio,version=9p2000.L,msize=262144"
            mode = "rw" if share.writable else "ro"
            command = f"mkdir -p {at} && mount -t 9p -o {mode},{options} share{number} {at}"
            if not (done := await self.run(command)):
                raise QemuError(f"guest {self.name}: {share.place} cannot be mounted: {done.stderr.strip()}")

    async def _ask_for_addresses(self) -> None:
        """Raises QemuError if it is given none."""
        for number, link in enumerate(self.links):
            if link.nic.ip != DHCP:
                continue
            card, name = f"eth{number}", shlex.quote(self.name)
            asked = await self.run(f"udhcpc -nq -i {card} -x hostname:{name} >/dev/null && ip -4 -o addr show {card}")
            given = re.search(r"inet (\S+)", asked.stdout)
            if given is None:
                raise QemuError(f"guest {self.name}: no DHCP server gives {card} an address")
            link.interface = IPv4Interface(given[1])

    async def _now_up(self) -> None:
        if self.alive.shell is not None:
            await self._mount()
            await self._ask_for_addresses()
        self._is_up = True
        self._knows = []
        await self._when_up(self)

    async def tell_names(self, addresses: Sequence[tuple[str, str]]) -> None:
        """Writes names and their addresses into the tiny guest's /etc/hosts, in the place of those told before.

        One that is paused does it when it goes on. One that knows them is not told again: of guests that come up side
        by side, each would be told as often as there are guests.
        """
        shell = self._running.shell if self._running is not None else None
        if not self._is_up or not isinstance(shell, VirtioShell) or addresses == self._knows:
            return
        with trio.move_on_after(NAMES_TIMEOUT_S), suppress(EOFError, QemuError):
            await shell.call("know", *(word for name, address in addresses for word in (address, name)))
            self._knows = list(addresses)

    async def power_off(self) -> None:
        """Ends QEMU at once, and takes the cables out."""
        self._expected_to_end = True
        self._is_up = False
        if self._running is not None:
            running, self._running = self._running, None
            self._last_console = running.qemu.output
            running.close()
        async with self._ending:
            for link in self.links:
                await link.unplug()

    async def _watch(self, qemu: Qemu) -> None:
        """Raises GuestDied when QEMU ends and nobody has asked for it."""
        status = await qemu.ended()
        if not self._expected_to_end and self._running is not None and self._running.qemu is qemu:
            said = f"QEMU ended with status {status}; {telling_lines(qemu.output)}"
            if not self._may_end:
                self.has_died = True
                raise GuestDied(f"guest {self.name} has died: {said}")
            _log.warning("guest %s has ended: %s", self.name, " ".join(said.split()[-12:]))
            await self.power_off()

    def _alive(self) -> Qemu:
        return self.alive.qemu

    def _a_shell(self) -> Shell:
        if self._running is None or self._running.shell is None:
            raise QemuError(f"guest {self.name} has no shell: give lan.guest a login=Login(…) for its serial console")
        return self._running.shell


def _opened(content: bytes | str | Path) -> BinaryIO:
    if isinstance(content, Path):
        return content.open("rb")
    return io.BytesIO(content.encode() if isinstance(content, str) else content)
