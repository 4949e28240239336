"""Builds the tiny Linux guest that tests boot: a kernel and an initramfs, from Debian packages, without root.

The guest is Debian's cloud kernel, busybox, iperf3 and whatever other packages a test asks for, with their
libraries, all as Debian ships them. Nothing is compiled or installed: packages are downloaded and unpacked
below the cache directory, and what the guest needs is written into a cpio archive right here, device nodes
included, which is what makes root unnecessary. Where there is no apt, or no network for it, the image is made
of the host's own kernel and busybox, as virtme-ng does it.

The image is kept under a digest of this file, of compression.py and guest_scripts.py, and of what was asked for.
So a second call returns at once, without apt and without a network, and an edit here makes a new image. It is built
in a temporary directory beside its final place and then renamed, so that concurrent builders cannot hurt each other.
What a builder leaves that is killed, the next one removes.

The guest takes commands from its first virtio-serial port, as `guest_scripts.INIT` tells. What the kernel has to say,
and whatever stops the boot, goes to the serial console. With `-no-reboot`, whatever ends the guest ends QEMU: a
panic (with `panic=-1`), an init that fails, `poweroff`, `reboot`. To have it boot again, there is QMP: `set-action`
with `reboot: reset`, `system_reset`, the event RESET, and `set-action` with `reboot: shutdown` only when the guest
answers, because the firmware resets the machine once more by itself.

Only the standard library is used, here and in what it imports, so that this runs with nothing installed.
The parts of this file: `build`, the two sources (Debian, the host), what is taken from either, the archive.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from vswitch.testing import build_process, compression, guest_scripts
from vswitch.testing.boards import ARCHES, X86_64
from vswitch.testing.build_process import CommandError, work_directory
from vswitch.testing.compression import CompressionError, fast_kernel, uncompressed

PACKAGES = ("busybox-static", "iperf3")
# Debian's small kernel for a processor, and the one to take for a module that the small one has not.
KERNELS = ("linux-image-cloud-{}", "linux-image-{}")
LARGE_ONLY = {"9p"}  # what is known to be such a module, so that the small one need not be looked into
# Of the dependencies, only these are followed: the real kernel behind its metapackage, and shared libraries.
FOLLOWED = ("linux-image-", "lib", "zlib1g")
# What the guest loads. The modules these depend on come along, those built into the kernel are skipped.
MODULES = ("virtio_pci", "virtio_mmio", "virtio_console", "virtio_net", "virtio_rng", "8021q", "af_packet")
# Drivers of what no two guests may share: a template loads them last. Nothing depends on them.
OWN_MODULES = ("virtio_net", "virtio_rng")
APT_OPTIONS = ("-oAPT::Sandbox::User=root", "-oAcquire::Retries=3", "-oAcquire::http::Timeout=30")
PROGRAM_DIRECTORIES = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin")
# Where a host keeps its libraries; Debian has a directory per architecture, Alpine all in /lib and /usr/lib.
LIBRARY_DIRECTORIES = (
    *("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64"),
    *("lib", "usr/lib", "usr/local/lib64", "usr/local/lib"),
)
# What programs can do without, of what their packages bring.
UNUSED_DATA = ("usr/share/doc/", "usr/share/info/", "usr/share/lintian/", "usr/share/locale/", "usr/share/man/")
ROOT = Path("/")
WANTED = "wanted"

# -- building ------------------------------------------------------------------------------------------------


class GuestImageError(Exception):
    """The image cannot be built. The text is one line: what happened, and what to do about it."""


class NoModuleError(GuestImageError):
    """The kernel has no such module."""


class SourceError(GuestImageError):
    """One of the two sources has nothing for us: the other one may have. In contrast to a request that makes
    no sense, such as one for a module that Debian's kernel has not."""


@dataclass(frozen=True)
class GuestImage:
    """What `qemu-system-x86_64 -kernel … -initrd …` takes."""

    kernel: Path
    initrd: Path


def build(
    cache: Path | None = None, *, packages: Collection[str] = (), modules: Collection[str] = (), arch: str = X86_64
) -> GuestImage:
    """The image: from the cache directory if it is there, or else built and put there, which takes some
    seconds and a network.

    `packages` names more Debian packages, such as `nftables`. Their programs are in the guest's /bin, with
    the libraries they need, and their data where it belongs; nothing of what else they depend on. Typed
    without a path, the name of a busybox applet means the applet: `/bin/ip` is iproute2's. `modules` names
    more kernel modules to load, such as `nft_ct`: nothing is loaded on demand. For one that Debian's cloud kernel has
    not, such as `9p`, it is Debian's kernel for all machines.

    `arch` is the processor, `x86_64` or `aarch64`. `cache` defaults to `$VSWITCH_CACHE`, or else to `vswitch` in
    `$XDG_CACHE_HOME` or `~/.cache`. An image takes 60 MB there, and 150 MB more while it is being built. Several
    threads and processes may call this at once. Without apt, or if it fails, the image is made of the host's kernel,
    busybox and iperf3, if any, and kept apart from Debian's: once apt works again, Debian's it is.

    Raises GuestImageError.
    """
    try:
        check(packages, modules, arch)
        return build_valid((cache or default_cache()) / "guest", Wanted.of(packages, modules, arch))
    except GuestImageError as error:
        raise GuestImageError(f"no guest image: {error}") from error
    except OSError as error:
        why = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise GuestImageError(
            f"no guest image: {why}; set VSWITCH_CACHE to a writable directory with 200 MB free"
        ) from error


def default_cache() -> Path:
    """Raises GuestImageError where nobody says where it is."""
    if own := os.environ.get("VSWITCH_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vswitch"
    except RuntimeError:
        raise GuestImageError("there is no home directory; set VSWITCH_CACHE to a writable directory") from None


def is_built(packages: Collection[str] = (), modules: Collection[str] = (), arch: str = X86_64) -> bool:
    """Whether `build` has an image of these, of either source, in the cache already. Raises GuestImageError."""
    name = digest(Wanted.of(packages, modules, arch))
    return any((default_cache() / "guest" / made).exists() for made in (name, f"{name}-host"))


@dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    arch: str = X86_64

    def text(self) -> str:
        """As the image has it in a file."""
        return "".join(f"{' '.join(names)}\n" for names in (self.packages, self.modules, [self.arch]))

    @classmethod
    def of(cls, packages: Iterable[str], modules: Iterable[str], arch: str) -> Wanted:
        """Of names in any order."""
        return cls(tuple(sorted(set(packages))), tuple(sorted(set(modules))), arch)

    @classmethod
    def read(cls, text: str) -> Wanted:
        """Raises ValueError."""
        packages, modules, arch = text.splitlines()
        return cls(tuple(packages.split()), tuple(modules.split()), arch)


def check(packages: Iterable[str], modules: Iterable[str], arch: str = X86_64) -> None:
    """Raises GuestImageError for what cannot be the name of one."""
    if arch not in ARCHES:
        raise GuestImageError(f"there are no guests of {arch!r}; there are {', '.join(ARCHES)}")
    validate("package", r"[a-z0-9][a-z0-9+.-]+", packages)
    validate("module", r"[A-Za-z0-9_-]+", modules)


def validate(what: str, pattern: str, names: Iterable[str]) -> None:
    for name in names:
        if not re.fullmatch(pattern, name):
            raise GuestImageError(f"{name!r} is no name of a {what}; it has to match {pattern}")


def build_valid(directory: Path, wanted: Wanted) -> GuestImage:
    name = digest(wanted)
    debian, host = directory / name, directory / f"{name}-host"
    if debian.exists():
        return image_in(debian)
    why_not_debian = "there is no apt-get and no dpkg-deb here"
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        try:
            return put_debian(debian, wanted)
        except SourceError as error:
            why_not_debian = f"{error} (has apt-get a network, and the cache 200 MB of space?)"
    try:
        if wanted.packages:
            raise GuestImageError(f"packages ({', '.join(wanted.packages)}) come from Debian only")
        return image_in(host) if host.exists() else put(host, wanted, lambda work: host_parts(ROOT, wanted.arch))
    except GuestImageError as error:
        raise GuestImageError(
            f"not from Debian: {why_not_debian}; not from this host: {error}; or else copy the cache directory "
            f"{directory.parent} here from a Debian machine"
        ) from error


def put_debian(directory: Path, wanted: Wanted) -> GuestImage:
    small, large = (partial(debian_parts, kernel=kernel, wanted=wanted) for kernel in KERNELS)
    if LARGE_ONLY.intersection(wanted.modules):
        return put(directory, wanted, large)
    try:
        return put(directory, wanted, small)
    except NoModuleError:
        return put(directory, wanted, large)


def digest(wanted: Wanted) -> str:
    """Names the image. The same source builds the same image, but for what Debian has updated meanwhile."""
    sources = b"".join(Path(file).read_bytes() for file in (__file__, compression.__file__, guest_scripts.__file__))
    return hashlib.sha256(wanted.text().encode() + sources).hexdigest()[:16]


def image_in(directory: Path) -> GuestImage:
    return GuestImage(directory / "kernel", directory / "initramfs")


def put(directory: Path, wanted: Wanted, get_parts: Callable[[Path], Parts]) -> GuestImage:
    """Builds the image of the parts that `get_parts`, given a directory to work in, finds; all or nothing."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with work_directory(directory.parent) as work:
        image = work / "image"
        write_image(image, get_parts(work), wanted.modules)
        (image / WANTED).write_text(wanted.text())
        try:
            image.rename(directory)
        except OSError:
            if not directory.exists():  # else another builder was faster, with the same result
                raise
    return image_in(directory)


def write_image(directory: Path, parts: Parts, modules: Sequence[str]) -> None:
    directory.mkdir()
    image = image_in(directory)
    # Neither is packed: an emulated processor would take a second to unpack them, at each boot.
    image.kernel.write_bytes(fast_kernel(parts.kernel.read_bytes()))
    image.initrd.write_bytes(b"".join(cpio(initramfs(parts, modules))))


@dataclass(frozen=True)
class Parts:
    """What an image is made of: files of either source. `modules` is a directory like /lib/modules/6.1.0;
    `programs` and `libraries` are by name, and `package_files` by the path they are packaged with, such as
    usr/sbin/nft, symbolic links among them."""

    kernel: Path
    modules: Path
    programs: dict[str, Path]
    libraries: dict[str, Path]
    package_files: dict[str, Path] = field(default_factory=dict)


def run(*command: str | Path, cwd: Path | None = None) -> bytes:
    """What the program prints. Raises SourceError, without advice, if it fails."""
    try:
        return build_process.run(command, cwd)
    except CommandError as error:
        raise SourceError(str(error)) from error


# -- parts from Debian ---------------------------------------------------------------------------------------


def debian_parts(work: Path, kernel: str, wanted: Wanted) -> Parts:
    unpacked = work / "unpacked"
    debian = ARCHES[wanted.arch].debian
    for archive in download(work, sorted({kernel.format(debian), *PACKAGES, *wanted.packages}), debian):
        directory = unpacked / archive.name.partition("_")[0]
        directory.mkdir(parents=True)
        run("dpkg-deb", "--extract", archive, directory)
    parts = Parts(
        kernel=find(unpacked, "boot/vmlinuz-*"),
        modules=find(unpacked, "modules.builtin").parent,
        programs={"busybox": find(unpacked, "bin/busybox"), "iperf3": find(unpacked, "bin/iperf3")},
        libraries=files_by_name(unpacked, sorted(unpacked.rglob("*.so*"))),
    )
    for package in wanted.packages:
        for path in sorted((unpacked / package).rglob("*")):
            place = str(path.relative_to(unpacked / package))
            if (path.is_symlink() or path.is_file()) and not place.startswith(UNUSED_DATA):
                parts.package_files[place] = path
    return parts


def download(work: Path, packages: Sequence[str], arch: str) -> list[Path]:
    """The packages, and those of the libraries they need, as .deb files. The system's package lists will do
    if they are there and still true; if not, we fetch our own, which needs no root either."""
    # Where a system keeps no digest of its package lists, as containers do, each call would make one, in a second.
    digest_file = f"-oDir::Cache::pkgcache={work / 'pkgcache.bin'}"
    of_arch = (f"-oAPT::Architecture={arch}", f"-oAPT::Architectures={arch}", digest_file, *APT_OPTIONS)
    try:
        return download_with(work / "packages", packages, of_arch)
    except SourceError:
        state, apt_cache = work / "apt" / "state", work / "apt" / "cache"
        for directory in (state / "lists" / "partial", apt_cache / "archives" / "partial"):
            directory.mkdir(parents=True)
        options = (*of_arch, f"-oDir::State={state}", f"-oDir::Cache={apt_cache}")
        run("apt-get", *options, "-oAPT::Update::Error-Mode=any", "update")
        return download_with(work / "packages-again", packages, options)


def download_with(directory: Path, packages: Sequence[str], options: Sequence[str]) -> list[Path]:
    wanted: set[str] = set()
    found = set(packages)
    while found:
        wanted |= found
        lines = run("apt-cache", *options, "depends", "--important", *sorted(found)).decode()
        names = re.findall(r"Depends: ([^<\s]+)", lines)
        found = {name for name in names if name.startswith(FOLLOWED)} - wanted
    directory.mkdir()
    run("apt-get", *options, "download", *sorted(wanted), cwd=directory)
    return sorted(directory.glob("*.deb"))


def find(unpacked: Path, pattern: str) -> Path:
    for path in sorted(unpacked.rglob(pattern)):
        if path.is_file():
            return path
    raise GuestImageError(f"these packages have no {pattern}; change {__file__}")


# -- parts from the host -------------------------------------------------------------------------------------


def host_parts(root: Path, arch: str = X86_64) -> Parts:
    """Parts from an installed Linux. What is missing is told all at once, in a SourceError."""
    if (machine := os.uname().machine) != arch:
        raise SourceError(f"the guest is {arch}, this machine {machine}")
    missing = []
    programs = {}
    try:
        kernel, modules = host_kernel(root)
    except SourceError as error:
        missing.append(str(error))
    for name in ("busybox", "iperf3"):
        for directory in (*os.get_exec_path(), *PROGRAM_DIRECTORIES):
            path = root / directory.lstrip("/") / name
            if name not in programs and os.path.isfile(path) and within(root, path):
                programs[name] = path
    if "busybox" not in programs:
        missing.append("no busybox on PATH: install busybox, best a static one")
    elif absent := absent_applets(programs["busybox"].read_bytes()):
        missing.append(f"{programs['busybox']} has no {', '.join(absent)}: install a complete one (busybox-static)")
    if missing:
        raise SourceError("; ".join(missing))
    libraries = [path for pattern in LIBRARY_DIRECTORIES for path in sorted(root.glob(f"{pattern}/*.so*"))]
    return Parts(kernel, modules, programs, files_by_name(root, libraries))


def host_kernel(root: Path) -> tuple[Path, Path]:
    """The kernel that is running, or else another one that is installed, and the directory of its modules."""
    running = os.uname().release
    directories = {path.name: path for place in ("lib", "usr/lib") for path in root.glob(f"{place}/modules/*")}
    unreadable = None
    for release in sorted(directories, key=lambda release: (release != running, release)):
        modules = directories[release]
        for kernel in (root / "boot" / f"vmlinuz-{release}", modules / "vmlinuz"):
            if not (os.path.isfile(kernel) and os.path.isfile(modules / "modules.builtin")):
                continue
            if os.access(kernel, os.R_OK, effective_ids=True):
                return kernel, modules
            unreadable = unreadable or kernel
    if unreadable:
        raise SourceError(f"the kernel is not readable: sudo chmod a+r {unreadable}")
    raise SourceError(
        f"no kernel with its modules in {root / 'boot'} and {root / 'lib/modules'}: install your distribution's"
        " kernel package"
    )


def absent_applets(busybox: bytes) -> list[str]:
    """Those APPLETS that are not in busybox's table, which is its applets' names, each ended by a zero."""
    return [name for name in guest_scripts.APPLETS if b"\0" + name.encode() + b"\0" not in busybox]


# -- what is taken from either -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One file of the archive: `mode` tells its type, `device` the numbers of a device node. The content of a
    symbolic link is its target."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def initramfs(parts: Parts, modules: Sequence[str]) -> list[Entry]:
    directories = ("modules", "modules/own", "proc", "root", "run", "sys", "tmp")
    entries = [Entry(path, stat.S_IFDIR | 0o755) for path in directories]
    # Programs are in one directory, and libraries in another, by whatever path they are called.
    entries += [link("sbin", "/bin"), link("usr/bin", "/bin"), link("usr/sbin", "/bin"), link("lib64", "/lib")]
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    entries.append(Entry("dev/null", stat.S_IFCHR | 0o666, device=(1, 3)))
    entries.append(program("init", guest_scripts.INIT.encode()))
    entries.append(program("etc/udhcpc/default.script", guest_scripts.UDHCPC.encode()))
    entries += [plain(f"etc/{name}", text.encode()) for name, text in guest_scripts.ETC.items()]
    files = [program(f"bin/{name}", path.read_bytes()) for name, path in parts.programs.items()]
    files += filter(None, (package_file(place, path) for place, path in parts.package_files.items()))
    entries += files
    entries += [program(f"lib/{name}", content) for name, content in libraries(parts, files).items()]
    for number, (name, content) in enumerate(modules_content(parts, modules).items()):
        directory = "modules/own" if name in OWN_MODULES else "modules"
        entries.append(plain(f"{directory}/{number:03}-{name}.ko", content))  # the scripts' globs sort
    return with_directories(entries)


def program(path: str, content: bytes) -> Entry:
    return Entry(path, stat.S_IFREG | 0o755, content)


def plain(path: str, content: bytes) -> Entry:
    return Entry(path, stat.S_IFREG | 0o644, content)


def link(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def package_file(place: str, path: Path) -> Entry | None:
    """None for a program's other name (/sbin/ip, of /bin/ip) that is the same in the guest."""
    guest_path = guest_place(place)
    if path.is_symlink():
        target = guest_place(os.path.normpath(os.path.join("/", os.path.dirname(place), os.readlink(path)))[1:])
        return None if target == guest_path else link(guest_path, f"/{target}")
    return Entry(guest_path, stat.S_IFREG | (path.stat().st_mode & 0o777), path.read_bytes())


def guest_place(place: str) -> str:
    """Where a package's file is in the guest, whose programs are all in one directory."""
    directory, name = os.path.split(place)
    return f"bin/{name}" if directory in PROGRAM_DIRECTORIES else place


def with_directories(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, one of each path, and before them the directories they are in, outermost first."""
    by_path = {entry.path: entry for entry in entries}
    parents = {str(parent) for path in by_path for parent in PurePosixPath(path).parents} - {"."}
    for path in sorted(parents - by_path.keys()):
        by_path[path] = Entry(path, stat.S_IFDIR | 0o755)
    directories = sorted(path for path, entry in by_path.items() if stat.S_ISDIR(entry.mode))
    return [by_path.pop(path) for path in directories] + list(by_path.values())


def libraries(parts: Parts, files: Iterable[Entry]) -> dict[str, bytes]:
    """What binaries link against, directly or not, by name: every library name in them that we have a file
    for. That includes what they would load later, by dlopen, as libc loads libgcc_s to end threads."""
    found: dict[str, bytes] = {}
    unread = [file.content for file in files]
    while unread:
        content = unread.pop()
        if not content.startswith(b"\x7fELF"):
            continue
        for name in re.findall(rb"\0((?:lib|ld-)[\w.+-]+\.so(?:\.[\w.]+)?)(?=\0)", content):
            path = parts.libraries.get(name.decode())
            if path is not None and path.name not in found:
                found[path.name] = path.read_bytes()
                unread.append(found[path.name])
    return dict(sorted(found.items()))


def modules_content(parts: Parts, more: Sequence[str]) -> dict[str, bytes]:
    """The modules by name, each after those it depends on."""
    built_in = {module_name(line) for line in (parts.modules / "modules.builtin").read_text().splitlines()}
    files = {module_name(path.name): path for path in parts.modules.rglob("*.ko*")}
    inserted: dict[str, bytes] = {}

    def insert(name: str) -> None:
        if name in inserted or name in built_in:
            return
        if name not in files:
            raise NoModuleError(f"the kernel {parts.modules.name} has no module {name}")
        content = module_content(files[name])
        for dependency in module_facts(content, "depends"):
            insert(module_name(dependency))
        # A softdep may be an alias of a module's: libcrc32c asks for the algorithm crc32c, not for its file.
        for dependency in module_facts(content, "softdep"):
            for candidate in (module_name(dependency), module_name(dependency) + "_generic"):
                if candidate in files:
                    insert(candidate)
        inserted[name] = content

    for name in (*MODULES, *more):
        insert(module_name(name))
    return inserted


def module_content(path: Path) -> bytes:
    try:
        return uncompressed(path.read_bytes())
    except CompressionError as error:
        raise SourceError(f"{path}: {error}") from error


def module_facts(content: bytes, key: str) -> list[str]:
    """The modules that a module names in its section .modinfo, either `depends=a,b` or `softdep=pre: a b post: c`."""
    facts = re.findall(rb"\0%s=([^\0]*)(?=\0)" % key.encode(), content)
    before = [re.sub(r"^pre:|\bpost:.*", "", fact.decode()) for fact in facts]
    return re.findall(r"[\w-]+", " ".join(before))


def module_name(path: str) -> str:
    """The kernel's name of a module file: `kernel/drivers/char/hw_random/virtio-rng.ko` is virtio_rng."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def within(root: Path, path: Path) -> bool:
    """Whether the path stays below `root` when symbolic links are followed, absolute ones included."""
    return path.resolve().is_relative_to(root.resolve())


def files_by_name(root: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """The first file of each name."""
    found: dict[str, Path] = {}
    for path in paths:
        if path.name not in found and os.path.isfile(path) and within(root, path):
            found[path.name] = path
    return found


# -- the archive ---------------------------------------------------------------------------------------------


def cpio(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The archive in pieces, in the format "newc" (cpio(5)), everything owned by root and dated 1970."""
    for inode, entry in enumerate((*entries, Entry("TRAILER!!!", 0)), start=1):
        name = entry.path.encode() + b"\0"
        owner, group, links, modified, disk, checksum = 0, 0, 1, 0, (0, 0), 0
        fields = [inode, entry.mode, owner, group, links, modified, len(entry.content), *disk]
        fields += [*entry.device, len(name), checksum]
        yield padded(b"070701" + b"".join(b"%08x" % field for field in fields) + name)
        yield padded(entry.content)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
