"""Builds the tiny Linux guest that tests boot: a kernel and an initramfs, from Debian packages, without root.

The guest is Debian's cloud kernel, busybox, and iperf3 with its libraries, all as Debian ships them. Nothing
is compiled or installed: packages are downloaded and unpacked below the cache directory, and what the guest
needs is written into a cpio archive right here, device nodes included, which is what makes root unnecessary.

The image is kept under a digest of this file. So a second call returns at once, without apt and without a
network, and an edit here makes a new image. It is built in a temporary directory beside its final place and
then renamed, so that concurrent builders cannot hurt each other.

The guest takes commands from its first virtio-serial port, as `INIT` tells below. What the kernel has to say,
and whatever stops the boot, goes to the serial console.

Only the standard library is used, so that this file runs by itself, with nothing installed.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("linux-image-cloud-amd64", "busybox-static", "iperf3")
# Of the dependencies, only these are followed: the real kernel behind its metapackage, and shared libraries.
FOLLOWED = ("linux-image-", "lib")
# What the guest loads. The modules these depend on come along, those built into the kernel are skipped.
MODULES = ("virtio_pci", "virtio_console", "virtio_net", "virtio_rng", "8021q")
COMMAND_TIMEOUT_S = 600
APT_OPTIONS = ("-oAPT::Sandbox::User=root", "-oAcquire::Retries=3", "-oAcquire::http::Timeout=30")

INIT = r"""#!/bin/busybox sh
# A step that fails ends init; then the kernel panics and QEMU, run with -no-reboot, ends.
set -e
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# Nothing on the wire that no test asked for: sysctl -w net.ipv6.conf.eth0.disable_ipv6=0 asks for IPv6, and
# has its address at once, without duplicate address detection.
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
for module in /modules/*; do insmod $module; done

# vswitch.name=HOST, vswitch.ip=ADDRESS/LENGTH for eth0, vswitch.ip1= for eth1 and so on.
ip link set lo up
for word in $(cat /proc/cmdline); do
    case $word in
        vswitch.name=*) hostname ${word#*=} ;;
        vswitch.ip*=*)
            index=${word%%=*}
            index=${index#vswitch.ip}
            ip address add ${word#*=} broadcast + dev eth${index:-0} ;;
    esac
done
for nic in /sys/class/net/eth*; do
    if [ -e $nic ]; then ip link set ${nic##*/} up; fi
done

# Commands come in as lines "NUMBER BASE64" and run at the same time, each in a shell of its own. When one
# ends, "NUMBER STATUS SIZE" goes out and then SIZE bytes, its stdout and stderr. Until then its output is in
# a file, so that neither odd bytes nor a process left running in the background can spoil the framing.
until [ -c /dev/vport0p1 ]; do usleep 5000; done
mkfifo /run/ended
exec 8<>/dev/vport0p1 9<>/run/ended
while read -r number status <&9; do
    size=$(stat -c %s /run/$number)
    echo $number $status $size
    head -c $size /run/$number
    rm /run/$number
done >&8 &
while read -r number command <&8; do
    (
        status=0
        sh -c "$(echo $command | base64 -d)" </dev/null >/run/$number 2>&1 8>&- 9>&- || status=$?
        echo $number $status >&9
    ) &
done
"""


class GuestImageError(Exception):
    """The image cannot be built. The text is one line: what happened, and what to do about it."""


@dataclass(frozen=True)
class GuestImage:
    """What `qemu-system-x86_64 -kernel … -initrd …` takes."""

    kernel: Path
    initrd: Path


def build(cache: Path | None = None) -> GuestImage:
    """The image: from the cache directory if it is there, or else built and put there, which takes some
    seconds and a network.

    `cache` defaults to `$VSWITCH_CACHE`, or else to `vswitch` in `$XDG_CACHE_HOME` or `~/.cache`. The image
    takes 20 MB there, and 150 MB more while it is being built. Several threads and processes may call this
    at once.

    Raises GuestImageError.
    """
    try:
        directory = (cache or default_cache()) / "guest" / digest()
        image = GuestImage(directory / "vmlinuz", directory / "initramfs.gz")
        if not directory.exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="building-", dir=directory.parent) as work:
                build_in(Path(work), Path(work, "image"))
                try:
                    Path(work, "image").rename(directory)
                except OSError:
                    if not directory.exists():  # else another builder was faster, with the same result
                        raise
        return image
    except (OSError, RuntimeError) as error:
        raise GuestImageError(
            f"no guest image: {error}; set VSWITCH_CACHE to a writable directory with 200 MB free"
        ) from error


def default_cache() -> Path:
    if own := os.environ.get("VSWITCH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vswitch"


def digest() -> str:
    """Names the image. The same source builds the same image, but for what Debian has updated meanwhile."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def build_in(work: Path, image: Path) -> None:
    unpacked = work / "unpacked"
    for package in download(work):
        run("dpkg-deb", "--extract", package, unpacked)
    image.mkdir()
    shutil.copyfile(find(unpacked, "boot/vmlinuz-*"), image / "vmlinuz")
    # Level 1 is quick to write, and halves the size already. A boot takes as long with any.
    archive = gzip.compress(b"".join(cpio(initramfs(unpacked))), compresslevel=1, mtime=0)
    (image / "initramfs.gz").write_bytes(archive)


# -- packages ------------------------------------------------------------------------------------------------


def download(work: Path) -> list[Path]:
    """The packages, and those of the libraries they need, as .deb files. The system's package lists will do
    if they are there and still true; if not, we fetch our own, which needs no root either."""
    try:
        return download_with(work / "packages", APT_OPTIONS)
    except GuestImageError:
        state, apt_cache = work / "apt" / "state", work / "apt" / "cache"
        for directory in (state / "lists" / "partial", apt_cache / "archives" / "partial"):
            directory.mkdir(parents=True)
        options = (*APT_OPTIONS, f"-oDir::State={state}", f"-oDir::Cache={apt_cache}")
        run("apt-get", *options, "-oAPT::Update::Error-Mode=any", "update")
        return download_with(work / "packages-again", options)


def download_with(directory: Path, options: Sequence[str]) -> list[Path]:
    wanted: set[str] = set()
    found = set(PACKAGES)
    while found:
        wanted |= found
        lines = run("apt-cache", *options, "depends", "--important", *sorted(found))
        names = re.findall(r"Depends: ([^<\s]+)", lines)
        found = {name for name in names if name.startswith(FOLLOWED)} - wanted
    directory.mkdir()
    run("apt-get", *options, "download", *sorted(wanted), cwd=directory)
    return sorted(directory.glob("*.deb"))


def run(*command: str | Path, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=True,
        )
    except FileNotFoundError as error:
        raise GuestImageError(
            f"no guest image: {command[0]} not found; build it on Debian and copy the cache directory here"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise GuestImageError(
            f"no guest image: {command[0]} took more than {COMMAND_TIMEOUT_S} s; try again"
        ) from error
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line and not line.startswith("W: ")]
        why = said[0] if said else f"exit status {error.returncode}"
        raise GuestImageError(
            f"no guest image: {command[0]}: {why}; has apt-get a network here, and the cache 200 MB of space?"
        ) from error
    return done.stdout


# -- what goes into the guest --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One file of the archive: `mode` tells its type, `device` the numbers of a device node."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def initramfs(unpacked: Path) -> Iterator[Entry]:
    for path in ("bin", "dev", "lib", "lib64", "modules", "proc", "root", "run", "sys", "tmp"):
        yield Entry(path, stat.S_IFDIR | 0o755)
    yield Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield Entry("dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    yield program("init", INIT.encode())
    yield program("bin/busybox", find(unpacked, "bin/busybox").read_bytes())
    iperf3 = find(unpacked, "bin/iperf3").read_bytes()
    yield program("bin/iperf3", iperf3)
    for name, content in libraries(unpacked, iperf3).items():
        yield program(f"lib64/{name}" if name.startswith("ld-") else f"lib/{name}", content)
    for number, (name, content) in enumerate(modules(unpacked).items()):
        yield Entry(f"modules/{number:02}-{name}.ko", stat.S_IFREG | 0o644, content)  # the glob in INIT sorts


def program(path: str, content: bytes) -> Entry:
    return Entry(path, stat.S_IFREG | 0o755, content)


def libraries(unpacked: Path, content: bytes) -> dict[str, bytes]:
    """What a binary links against, directly or not, by name: every library name in it that we have a file
    for. That includes what it would load later, by dlopen, as libc loads libgcc_s to end threads."""
    found: dict[str, bytes] = {}
    unread = [content]
    while unread:
        for name in re.findall(rb"\0((?:lib|ld-)[\w.+-]+\.so\.\d+)(?=\0)", unread.pop()):
            path = next(unpacked.rglob(name.decode()), None)
            if path is not None and path.name not in found:
                found[path.name] = path.read_bytes()
                unread.append(found[path.name])
    return dict(sorted(found.items()))


def modules(unpacked: Path) -> dict[str, bytes]:
    """The modules by name, each after those it depends on."""
    built_in = {module_name(line) for line in find(unpacked, "modules.builtin").read_text().splitlines()}
    files = {module_name(path.name): path for path in unpacked.rglob("*.ko*")}
    inserted: dict[str, bytes] = {}

    def insert(name: str) -> None:
        if name in inserted or name in built_in:
            return
        if name not in files:
            raise GuestImageError(f"no guest image: this kernel has no module {name}; change {__file__}")
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":  # as of Debian 13
            content = lzma.decompress(content)
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for dependency in depends[1].decode().split(",") if depends and depends[1] else ():
            insert(module_name(dependency))
        inserted[name] = content

    for name in MODULES:
        insert(name)
    return inserted


def module_name(path: str) -> str:
    """The kernel's name of a module file: `kernel/drivers/char/hw_random/virtio-rng.ko` is virtio_rng."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def find(unpacked: Path, pattern: str) -> Path:
    for path in sorted(unpacked.rglob(pattern)):
        if path.is_file():
            return path
    raise GuestImageError(f"no guest image: these packages have no {pattern}; change {__file__}")


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


def main(arguments: Sequence[str]) -> int:
    description = "Builds the image of the tests' guest, if it is not there yet, and prints its two paths."
    argparse.ArgumentParser(prog="guest_image", description=description).parse_args(arguments)
    try:
        image = build()
    except GuestImageError as error:
        print(error, file=sys.stderr)
        return 1
    print(image.kernel, image.initrd, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
