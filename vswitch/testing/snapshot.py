"""Snapshots: machines as they were at a moment, kept in the cache to be gone back to, or to start from.

A snapshot is what QEMU's migration writes of a machine that stands still, and what the machine has written to its disk
by then. Who goes on from it is the same machine again, with the same MAC addresses, names and open connections; so of
one snapshot one machine at a time is on a LAN. (Clones, of which there are many, are in template.py.)

There is one of a name for each kind of machine and image. Of each, the SNAPSHOTS_MAX that were used last are kept.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import trio

from vswitch.errors import InputError
from vswitch.testing import migration, template
from vswitch.testing.build_process import work_directory
from vswitch.testing.guest_image import GuestImage, default_cache
from vswitch.testing.image_cache import MANIFEST, OF, SNAPSHOTS, file_stamp, least_used
from vswitch.testing.link import Nic
from vswitch.testing.machine import DRIVE, Disk, Kernel, Machine, WrittenDisk
from vswitch.testing.qemu import Qemu, QemuError

STATE, LAYER = "state", ".qcow2"
SNAPSHOTS_MAX = 8
SAVE_TIMEOUT_S = 300.0
PIECE_BYTES = 1 << 20
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,62}")


@dataclass(frozen=True)
class Facts:
    """What is to be known of a machine beside its state: its cards' addresses, and what its shell has got to.

    `named_memory`: its memory is a backend of ours, as a clone's is.
    """

    macs: list[str]
    ips: list[str]
    named_memory: bool
    shell: int  # see `Shell.position`


@dataclass(frozen=True)
class Snapshot:
    directory: Path
    facts: Facts

    @property
    def state(self) -> Path:
        return self.directory / STATE

    @property
    def layers(self) -> list[Path]:
        """What was written to its disk, the oldest first."""
        return sorted(self.directory.glob(f"*{LAYER}"), key=lambda path: int(path.name.removesuffix(LAYER)))

    def machine(self, machine: Machine) -> Machine:
        """The machine that goes on from here: with the disk as it was."""
        disk = machine.image
        if not isinstance(disk, Disk):
            return machine
        return replace(machine, image=WrittenDisk(disk.path, disk.format, layers=self.layers))


def find(machine: Machine, devices: Sequence[str], name: str) -> Snapshot | None:
    """The snapshot of that name of such a machine with such cards, if it is there, and whole.

    Raises InputError for a name.
    """
    directory = _directory(machine, devices) / _checked(name)
    try:
        said = json.loads((directory / MANIFEST).read_bytes())
        if said.pop("size") != (directory / STATE).stat().st_size:
            return None
        found = Snapshot(directory, Facts(**said))
        os.utime(directory)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
    return found


def missing(name: str) -> str:
    """Says that there is none of that name."""
    return f"there is no snapshot {name!r} of such a machine; boot one, and keep it: await guest.snapshot({name!r})"


def cards_of(facts: Facts, cards: Sequence[Nic]) -> list[Nic]:
    """A machine's cards, as it goes on with the addresses that it had."""
    known = zip(cards, facts.macs, facts.ips, strict=True)
    return [replace(card, mac=mac, ip=ip if card.ip is None else card.ip) for card, mac, ip in known]


async def keep(
    qemu: Qemu, machine: Machine, devices: Sequence[str], name: str, facts: Facts, origin: Snapshot | None
) -> None:
    """Keeps a machine as it is now, in the place of an older snapshot of that name; it stands still meanwhile.

    `origin` is the snapshot that it went on from, if it did. Raises QemuError, InputError.
    """
    if isinstance(machine.image, Disk) and machine.image.keep:
        raise InputError("its disk keeps what is written; a snapshot needs Disk(keep=False)")
    directory = _directory(machine, devices)
    kept = directory / _checked(name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / OF).write_text(json.dumps(_files(machine.image)))
        with work_directory(directory) as work:
            new = work / "new"
            new.mkdir()
            with qemu.bounded(f"the snapshot {name}", SAVE_TIMEOUT_S):
                await qemu.execute("stop")
                try:
                    await migration.save(qemu, new / STATE, memory=True)
                    if isinstance(machine.image, Disk):  # whose writes are in its file by now
                        await _copy_disk(qemu, new, origin.layers if origin is not None else [])
                finally:
                    with trio.CancelScope(shield=True), suppress(EOFError, QemuError):
                        await qemu.execute("cont")
            said = asdict(facts) | {"size": (new / STATE).stat().st_size}
            (new / MANIFEST).write_text(json.dumps(said))
            with suppress(FileNotFoundError):
                kept.rename(work / "old")
            new.rename(kept)
    except OSError as error:
        raise QemuError(f"the snapshot {name} cannot be kept in {directory}: {error.strerror}") from None
    for path in least_used(directory, SNAPSHOTS_MAX):
        shutil.rmtree(path, ignore_errors=True)


async def _copy_disk(qemu: Qemu, directory: Path, below: Sequence[Path]) -> None:
    """What was written to the disk, and the layers below it. QEMU has it in a file that has no name any more.

    (Its drive-backup is not for a disk with snapshot=on: QEMU 7.2 then removes the image itself.)
    """
    for number, layer in enumerate(below):
        os.link(layer, directory / f"{number}{LAYER}")  # it never changes
    drives = {drive["device"]: drive for drive in await qemu.execute("query-block")}
    said = json.loads(drives[DRIVE]["inserted"]["file"].removeprefix("json:"))
    name = f"{said['file']['filename']} (deleted)"
    for descriptor in os.listdir(f"/proc/{qemu.process.pid}/fd"):
        source = f"/proc/{qemu.process.pid}/fd/{descriptor}"
        if os.readlink(source) == name:
            await trio.to_thread.run_sync(_copy_sparsely, Path(source), directory / f"{len(below)}{LAYER}")
            return
    raise QemuError(f"QEMU does not say where the disk's writes are: no {name}")


def _copy_sparsely(source: Path, target: Path) -> None:
    with source.open("rb") as readable, target.open("xb") as writable:
        reader, writer = readable.fileno(), writable.fileno()
        size = os.fstat(reader).st_size
        os.ftruncate(writer, size)
        at = 0
        while at < size:
            try:
                at = os.lseek(reader, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # there is no more
                    raise
                return
            end = os.lseek(reader, at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(reader, min(PIECE_BYTES, end - at), at)
                os.pwrite(writer, data, at)
                at += len(data)


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a snapshot's name; use up to 63 letters, digits and _.-")
    return name


def _directory(machine: Machine, devices: Sequence[str]) -> Path:
    """Of the snapshots of such a machine. Raises InputError if there can be none."""
    if machine.shares_memory:
        raise InputError("its memory is shared by vhost-user, and QEMU keeps no such machine; give it other cards")
    kind = template.key(machine, devices), _files(machine.image), machine.arguments, machine.append, machine.login
    return default_cache() / SNAPSHOTS / hashlib.sha256(repr(kind).encode()).hexdigest()[:16]


def _files(image: object) -> list[list[object]]:
    """What an image is made of: a path, and what stat says of it, each."""
    paths: list[str | Path | None] = []
    if isinstance(image, Disk):
        paths = [image.path]
    elif isinstance(image, Kernel | GuestImage):
        paths = [image.kernel, image.initrd]
    return [file_stamp(Path(path).absolute()) for path in paths if path is not None]
