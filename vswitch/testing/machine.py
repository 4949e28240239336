"""Machines that QEMU runs for a guest, as its command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vswitch.errors import InputError
from vswitch.testing.boards import ARCHES, WITH_PCI, X86_64
from vswitch.testing.guest_image import GuestImage

CARDS_IN_SLOTS = 16  # of their own: QEMU finds them; there are some 28 in all
FIRST_SHARED_SLOT, CARDS_MAX = 8, 8 * 23
DRIVE = "disk0"  # QEMU's name for it


@dataclass(frozen=True)
class Kernel:
    """A kernel to boot, and what goes with it."""

    kernel: str | Path
    initrd: str | Path | None = None
    append: str = "console=ttyS0"


@dataclass(frozen=True)
class Disk:
    """A disk image to boot. What the guest writes is lost in the end, unless `keep`."""

    path: str | Path
    format: str = "qcow2"
    keep: bool = False


@dataclass(frozen=True)
class WrittenDisk(Disk):
    """A disk and what was written on it: layers of qcow2 that name no backing file, the oldest first."""

    layers: Sequence[Path] = ()


Image = GuestImage | Kernel | Disk


@dataclass(frozen=True)
class Share:
    """A directory of this machine's, as a file system in a guest: at `/mnt/NAME` unless `at` says where."""

    directory: str | Path
    at: str = ""
    writable: bool = False

    @property
    def place(self) -> str:
        return self.at or f"/mnt/{Path(self.directory).absolute().name}"

    def check(self) -> None:
        """Raises InputError if it is no directory."""
        if not Path(self.directory).is_dir():
            raise InputError(f"{self.directory} is no directory, which could be shared")


def image_modules(modules: Sequence[str], shares: Sequence[Share]) -> list[str]:
    """The modules of a tiny guest's image, with those that it needs for what is shared with it."""
    return [*modules, *(("9p", "9pnet_virtio") if shares else ())]


@dataclass(frozen=True)
class Login:
    """How to get a shell on the serial console: wait for `prompt`, answer with the user and, if asked, the password."""

    user: str = "root"
    password: str = ""
    prompt: str = "login: "


@dataclass(frozen=True)
class Machine:
    """What QEMU is to run. `image` None boots nothing of ours: from the network, or what `arguments` say."""

    image: Image | None
    login: Login | None = None
    accelerator: str = "tcg"
    memory: str = "192M"
    cpus: int = 1
    arguments: Sequence[str] = ()
    append: str = ""  # more words for the kernel
    shares: Sequence[Share] = ()
    arch: str = X86_64
    board: str = ""  # as QEMU's -machine has it; "" for the usual one
    shares_memory: bool = False  # with the switch, as vhost-user takes it

    @property
    def has_pci(self) -> bool:
        return (self.board or ARCHES[self.arch].board).partition(",")[0] in WITH_PCI

    def check(self, name: str) -> None:
        """Raises InputError for a guest of that name that cannot be."""
        if self.arch not in ARCHES:
            raise InputError(f"{name}: arch is {self.arch!r}; there are {', '.join(ARCHES)}")
        for share in self.shares:
            share.check()

    def usual_card(self, name: str) -> str:
        """As QEMU's `-device` has it. Raises InputError if the board is not known to have one."""
        if self.has_pci:
            return "virtio-net-pci"
        if isinstance(self.image, GuestImage):
            raise InputError(f"{name}: the tiny guest needs PCI, and {self.board} is not known to have it")
        raise InputError(f"{name}: which card does {self.board} take? say it in nics: Nic(device='virtio-net-device')")


@dataclass(frozen=True)
class Card:
    """A network card. `netdev` is what QEMU takes after `-netdev`, without its id; `chardev` the same after `-chardev`,
    for a netdev that has one."""

    netdev: str
    mac: str
    device: str = "virtio-net-pci"
    chardev: str = ""


def command_line(
    name: str,
    machine: Machine,
    cards: Sequence[Card],
    *,
    shell: int = -1,
    words: str = "",
    memory: str = "",
    random: str = "",
) -> list[str]:
    """Arguments for QEMU.

    `shell` is the descriptor of where commands come from: the tiny guest's port, or else the serial console, if there
    is a login. `words` are what the tiny guest's kernel is told. `memory` is a memory backend of QEMU's, with its
    options, if the memory is to be one. `random` is the id of an object of QEMU's, if one is to give random numbers
    instead of the host's kernel.
    """
    named = ",memory-backend=ram" if memory else ""
    arch = ARCHES[machine.arch]
    arguments = ["-name", name, "-machine", f"{machine.board or arch.board}{named}", "-accel", machine.accelerator]
    arguments += ["-cpu", arch.cpu] if arch.cpu and machine.accelerator == "tcg" else []
    arguments += ["-m", machine.memory, "-smp", str(machine.cpus), "-no-reboot"]
    if memory:
        kind, _, options = memory.partition(",")
        size = f"size={machine.memory}"
        arguments += ["-object", ",".join(filter(None, [kind, "id=ram", size, options]))]
    console = "stdio,id=console,signal=off"
    if isinstance(machine.image, GuestImage):
        arguments += ["-chardev", f"socket,id=shell,fd={shell}"]
        arguments += ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=shell"]
    elif machine.login is not None:
        console = f"socket,id=console,fd={shell},logfile=/dev/stdout,logappend=on"
    arguments += _booted(machine, words)
    arguments += ["-chardev", console, "-serial", "chardev:console"]
    if machine.has_pci:
        arguments += ["-device", f"virtio-rng-pci,rng={random}" if random else "virtio-rng-pci"]
    for number, share in enumerate(machine.shares):
        path, readonly = quoted(Path(share.directory).absolute()), "off" if share.writable else "on"
        options = f"path={path},mount_tag=share{number},readonly={readonly},multidevs=remap"
        arguments += ["-virtfs", f"local,security_model=none,{options}"]
    for index, card in enumerate(cards):
        # The tiny guest boots from nowhere else; only cards on PCI can be told so.
        rom = ",romfile=" if isinstance(machine.image, GuestImage) and "-pci" in card.device else ""
        if card.chardev:
            arguments += ["-chardev", f"{card.chardev},id=card{index}"]
        at = f",chardev=card{index}" if card.chardev else ""
        arguments += ["-netdev", f"{card.netdev},id=net{index}{at}"]
        place = place_of(index) if len(cards) > CARDS_IN_SLOTS else ""
        arguments += ["-device", f"{card.device},id=nic{index},netdev=net{index},mac={card.mac}{rom}{place}"]
    return [*arguments, *machine.arguments]


def _booted(machine: Machine, words: str) -> list[str]:
    """What the machine boots."""
    image = machine.image
    if isinstance(image, GuestImage):
        return [
            "-kernel",
            str(image.kernel),
            "-initrd",
            str(image.initrd),
            "-append",
            f"{words} {machine.append}".strip(),
        ]
    if isinstance(image, Kernel):
        initrd = ["-initrd", str(image.initrd)] if image.initrd is not None else []
        return ["-kernel", str(image.kernel), "-append", f"{image.append} {machine.append}".strip(), *initrd]
    if isinstance(image, Disk):
        return ["-drive", _drive(image)]
    return []


def _drive(disk: Disk) -> str:
    """Options of QEMU's -drive. Of several layers, the last one is the drive, and each has the one before below it."""
    layers = [(disk.format, disk.path)]
    if isinstance(disk, WrittenDisk):
        layers += [("qcow2", layer) for layer in disk.layers]
    options = [f"id={DRIVE}", "if=virtio", f"snapshot={'off' if disk.keep else 'on'}"]
    for depth, (kind, path) in enumerate(reversed(layers)):
        below = "backing." * depth
        options += [f"{below}driver={kind}", f"{below}file.filename={quoted(path)}"]
    return ",".join(options)


def quoted(path: str | Path) -> str:
    """A path as the value of an option, where a comma would end it."""
    return str(path).replace(",", ",,")


def place_of(card: int) -> str:
    """Where one of many cards goes: eight share a slot, so that a PCI bus has room for all."""
    return f",addr={FIRST_SHARED_SLOT + card // 8:#x}.{card % 8},multifunction=on"


def kernel_words(arch: str, *own: str) -> str:
    """What the tiny guest's kernel is told, with `own` for the guest itself: see `own_words`.

    A panic restarts the machine at once, which -no-reboot turns into QEMU's end. Leaving out the self-tests of the
    kernel's ciphers saves a quarter of a second, and accounting for stalls (psi) some of each process's time. Testing
    the timer, and comparing clocks, takes a machine that has its processor to itself: on a busy one the kernel finds no
    timer and panics, or takes a slow clock.
    """
    quick = ("cryptomgr.notests", "psi=0", "no_timer_check", "tsc=reliable")
    return " ".join([f"console={ARCHES[arch].console}", "quiet", "panic=-1", *quick, *own])


def own_words(name: str, addresses: Sequence[object], gateway: str = "") -> list[str]:
    """What makes a guest itself, as `guest_scripts.BECOME` takes it: `addresses` are its cards', with prefix length;
    none where there is none."""
    words = [f"vswitch.name={name}"]
    words += [f"vswitch.ip{index or ''}={address}" for index, address in enumerate(addresses) if address]
    return [*words, f"vswitch.gateway={gateway}"] if gateway else words
