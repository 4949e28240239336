"""Templates: tiny guests that have booted once, kept in the cache for clones of them to start from.

A template is a guest's memory, as a file, and the state of its devices, as QEMU's migration writes it. A clone maps the
memory privately and loads the state, so it goes on where the template was stopped: it has booted, and is nobody yet.
What no two guests may share, their cards' addresses and their random numbers above all, begins in the clone
(`guest_scripts.BECOME`). QEMU's part is docs/devel/migration (x-ignore-shared), as Kata Containers use it.

There is one for each kind of machine. It lies beside its image, and goes with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from vswitch.endpoints.guests import qemu_program
from vswitch.endpoints.guests.qemu import guest_mac
from vswitch.testing import migration
from vswitch.testing.build_process import work_directory
from vswitch.testing.guest_image import WANTED, GuestImage
from vswitch.testing.image_cache import MANIFEST, least_used
from vswitch.testing.machine import Card, Machine, command_line, kernel_words, quoted
from vswitch.testing.qemu import Channel, Qemu, QemuError
from vswitch.testing.shell import VirtioShell

DIRECTORY = "templates"
MEMORY, STATE = "memory", "state"
PER_IMAGE_MAX = 8
# Cards whose driver only the clone loads, so that it finds the clone's own address.
DEVICES = {"virtio-net-pci", "virtio-net-pci-transitional", "virtio-net-pci-non-transitional"}
# What a template must not have: random numbers, and cards.
IS_NOBODY = "dmesg >/run/dmesg && ! grep 'crng init done' /run/dmesg && rm /run/dmesg && ! ls -d /sys/class/net/eth*"
# Nobody but each clone's own source is to give it random numbers: a template's has a host that never answers.
SILENT = ("-chardev", "null,id=nobody", "-object", "rng-egd,id=silent,chardev=nobody")
NO_SEEDS = {"aarch64": ("-machine", "dtb-randomness=off")}  # which the board would give a kernel
WORDS = ("vswitch.template", "random.trust_cpu=off", "random.trust_bootloader=off")
BOOT_TIMEOUT_S = 90.0
SAVE_TIMEOUT_S = 30.0
LOCK_POLL_S = 0.05

_unmakeable: set[Path] = set()  # in this process: what failed once is not tried again


class NoTemplateError(Exception):
    """A guest has to boot, and the text says why."""


@dataclass(frozen=True)
class Template:
    directory: Path

    def memory(self) -> str:
        """A memory backend of QEMU's: a clone's writes are its own."""
        return f"memory-backend-file,mem-path={quoted(self.directory / MEMORY)},share=off"

    @property
    def state(self) -> Path:
        return self.directory / STATE

    def is_whole(self) -> bool:
        """Whether its files are as they were made. Reading 200 MB would take longer than a clone."""
        try:
            return bool(json.loads((self.directory / MANIFEST).read_bytes()) == _manifest(self.directory))
        except (OSError, ValueError):
            return False

    def remove(self) -> None:
        """Clones that run keep what they have."""
        with suppress(OSError), work_directory(self.directory.parent) as work:  # or somebody else removes it
            self.directory.rename(work / self.directory.name)


async def find(machine: Machine, devices: Sequence[str]) -> Template | None:
    """The template for such a machine with such cards, made if need be; None if it has to boot.

    Only the tiny guest has one, as it comes, with virtio cards. Who shares its memory cannot have a private copy of a
    template's. Raises NoTemplateError, the first time, where none can be made.
    """
    image = machine.image
    if not isinstance(image, GuestImage) or machine.arguments or machine.append:
        return None
    if machine.shares or machine.shares_memory:
        return None
    if not (image.kernel.parent / WANTED).exists() or {device.partition(",")[0] for device in devices} - DEVICES:
        return None
    template = Template(image.kernel.parent / DIRECTORY / key(machine, devices))
    if template.directory in _unmakeable:
        return None
    try:
        template.directory.parent.mkdir(exist_ok=True)
        async with _locked(template.directory.with_suffix(".lock")):
            if not template.is_whole():
                template.remove()
                await _make(template, machine, devices)
                _remove_old(template.directory.parent)
        os.utime(template.directory)
    except (OSError, QemuError) as error:
        _unmakeable.add(template.directory)
        why = error.strerror if isinstance(error, OSError) else error
        raise NoTemplateError(f"no template can be kept in {template.directory.parent}: {why}") from error
    return template


def key(machine: Machine, devices: Sequence[str]) -> str:
    """Names the kind of machine: what its state depends on, beside its image."""
    program = qemu_program.find(machine.arch)
    file = os.stat(program) if program else None
    qemu = (program, file.st_size, int(file.st_mtime)) if file else ()
    parts = (machine.accelerator, machine.memory, machine.cpus, machine.board, *devices, *qemu)
    if machine.accelerator != "tcg":  # the guest sees the host's processor
        with suppress(OSError):
            cpu = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
            parts += (*(line for line in cpu.splitlines() if line.startswith(("model", "flags"))),)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Of all processes, one makes a template; the others wait for it."""
    with path.open("wb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await trio.sleep(LOCK_POLL_S)
            except OSError:  # where a file system has no locks, several may make it
                break
        yield


async def _make(template: Template, machine: Machine, devices: Sequence[str]) -> None:
    """Boots a machine whose cards lead nowhere, stops it when its shell answers, and keeps it."""
    with work_directory(template.directory.parent) as work, ExitStack() as stack:
        new = work / "new"
        new.mkdir()
        (new / MEMORY).touch(0o600)
        channel = stack.enter_context(closing(Channel()))
        cards = [Card(f"hubport,hubid={n}", guest_mac(f"/template/{n}"), device) for n, device in enumerate(devices)]
        arguments = command_line(
            "template",
            machine,
            cards,
            shell=channel.theirs.fileno(),
            words=kernel_words(machine.arch, *WORDS),
            random="silent",
            memory=f"memory-backend-file,mem-path={quoted(new / MEMORY)},share=on",
        )
        arguments += [*SILENT, *NO_SEEDS.get(machine.arch, ())]
        with closing(Qemu(*arguments, channels=[channel], arch=machine.arch)) as qemu:
            await qemu.started()
            shell = VirtioShell(channel)
            with qemu.bounded("a template: booting", BOOT_TIMEOUT_S):
                await shell.open()
                if not (found := await shell.call("eval", IS_NOBODY)).ok:
                    raise QemuError(f"its kernel has what is to be each clone's own: {found.stdout.strip()}")
            await _save(qemu, new / STATE)
        os.utime(new / MEMORY)
        (new / MANIFEST).write_text(json.dumps(_manifest(new)))
        try:
            new.rename(template.directory)
        except OSError:
            if not template.is_whole():  # else another one was faster
                raise


async def _save(qemu: Qemu, path: Path) -> None:
    with qemu.bounded("a template: keeping it", SAVE_TIMEOUT_S):
        await qemu.execute("stop")
        await migration.save(qemu, path, memory=False)


def _manifest(directory: Path) -> dict[str, list[int]]:
    """Sizes and times, in seconds, as archives keep them."""
    found = {name: (directory / name).stat() for name in (MEMORY, STATE)}
    return {name: [file.st_size, int(file.st_mtime)] for name, file in found.items()}


def _remove_old(directory: Path) -> None:
    for path in least_used(directory, PER_IMAGE_MAX):
        Template(path).remove()
