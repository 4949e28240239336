"""The guest's image: what `build` makes and refuses, and what a guest that is booted from it does."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.e2e.rig import require_qemu
from tests.needs import require
from tests.signals import default_signals
from tests.waiting import until
from vswitch.testing import build_process, guest_image, guest_scripts
from vswitch.testing.boards import ARCHES
from vswitch.testing.guest_image import GuestImage, GuestImageError, SourceError, Wanted, build
from vswitch.testing.machine import Machine, own_words
from vswitch.testing.qemu import Channel, Qemu, QemuError
from vswitch.testing.running import Running
from vswitch.testing.shell import VirtioShell
from vswitch.testing.template import find

TIMEOUT_S = 90.0
TOOL = Path(__file__).parents[2] / "tools" / "guest_image"
NFT_MODULES = ("nf_tables", "nft_ct")
Answer = tuple[int, bytes, bytes]  # status, stdout, stderr


class Client:
    """The host's side of the protocol that INIT tells."""

    def __init__(self, qemu: Qemu, port: Channel, sent: int = 0) -> None:
        self.qemu = qemu
        self._port = port
        self._sent = sent  # commands before: no number is used twice

    async def send(self, command: str, stdin: bytes = b"") -> int:
        self._sent += 1
        quoted = "".join(f"\\x{byte:02x}" for byte in command.encode())
        await self._port.send(f"{self._sent} {len(stdin)} $'{quoted}'\n".encode() + stdin)
        return self._sent

    async def receive(self) -> tuple[int, Answer]:
        buffer = self._port.buffer
        with self.qemu.bounded("an answer", TIMEOUT_S):
            while (start := buffer.find(b"\n") + 1) == 0:
                await self._port.receive()
            number, status, out_size, err_size = map(int, buffer[:start].split())
            while len(buffer) < (end := start + out_size + err_size):
                await self._port.receive()
        out, err = bytes(buffer[start : start + out_size]), bytes(buffer[start + out_size : end])
        del buffer[:end]
        return number, (status, out, err)

    async def run(self, command: str, stdin: bytes = b"") -> Answer:
        number = await self.send(command, stdin)
        answered, answer = await self.receive()
        assert answered == number
        return answer

    async def out(self, command: str, stdin: bytes = b"") -> str:
        """What a command prints that ends well."""
        status, out, err = await self.run(command, stdin)
        assert status == 0, err
        return out.decode()


@asynccontextmanager
async def booted(image: GuestImage, *arguments: str, words: str = "") -> AsyncIterator[Client]:
    with closing(Channel()) as port:
        line = "-machine q35 -accel tcg -m 192 -no-reboot -chardev stdio,id=console,signal=off"
        line += f" -serial chardev:console -chardev socket,id=port,fd={port.theirs.fileno()}"
        line += " -device virtio-serial-pci -device virtserialport,chardev=port -device virtio-rng-pci"
        append = f"console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check {words}"
        files = ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", append]
        with closing(Qemu(*line.split(), *files, *arguments, channels=[port])) as qemu:
            await qemu.started()
            yield Client(qemu, port)


@asynccontextmanager
async def cloned(image: GuestImage) -> AsyncIterator[Client]:
    """One that has booted, where it does not matter how it boots."""
    machine = Machine(image)
    with closing(Running("tiny", machine, [], own_words("tiny", []), origin=await find(machine, []))) as running:
        await running.come_up()
        assert isinstance(running.shell, VirtioShell)
        yield Client(running.qemu, running.shell._channel, running.shell._commands)


async def status_of(qemu: Qemu) -> int:
    """How QEMU ended, by itself."""
    return await trio.to_thread.run_sync(lambda: qemu.process.wait(TIMEOUT_S))


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return built()


def built(*, packages: tuple[str, ...] = (), modules: tuple[str, ...] = ()) -> GuestImage:
    require_qemu()
    try:
        return build(packages=packages, modules=modules)
    except GuestImageError as error:
        require(False, str(error))
        raise


# -- the protocol --------------------------------------------------------------------------------------------


async def test_stdout_stderr_and_status_are_apart(image: GuestImage) -> None:
    async with cloned(image) as guest:
        assert await guest.run("echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")
        assert await guest.run("echo err >/dev/stderr; hostname") == (0, b"tiny\n", b"err\n")
        assert await guest.run("true") == (0, b"", b"")
        assert await guest.run("readlink /proc/self/fd/0; cat") == (0, b"/dev/null\n", b"")


async def test_input_arrives_to_the_byte_whatever_its_size(image: GuestImage) -> None:
    async with cloned(image) as guest:
        for size in (1, 4096, 65536, 1 << 20):
            data = os.urandom(size)
            expected = hashlib.sha256(data).hexdigest()
            assert (await guest.out("sha256sum", data)).split() == [expected, "-"]
            assert await guest.run("tee /dev/stderr", data) == (0, data, data)
        assert await guest.run("true", b"1 0 dHJ1ZQ==\n" * 1000) == (0, b"", b"")  # input that nobody reads


async def test_several_commands_with_input_at_the_same_time(image: GuestImage) -> None:
    async with cloned(image) as guest:
        expected: dict[int, Answer] = {}
        answers: dict[int, Answer] = {}

        async def receive() -> None:
            for _ in range(9):
                number, answer = await guest.receive()
                answers[number] = answer

        slow = await guest.send("until [ -e /tmp/go ]; do usleep 10000; done; cat", b"slow")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for status in range(7):
                data = os.urandom(100_000 + status)
                number = await guest.send(f"cat >/tmp/$$; head -c 999 /tmp/$$ >&2; cat /tmp/$$; exit {status}", data)
                expected[number] = (status, data, data[:999])
            expected[await guest.send("touch /tmp/go")] = (0, b"", b"")
            expected[slow] = (0, b"slow", b"")
        assert answers == expected


async def test_what_is_left_in_the_background_runs_on(image: GuestImage) -> None:
    async with cloned(image) as guest:
        assert await guest.run("(sleep 1; echo late; echo done >/tmp/done) & echo now") == (0, b"now\n", b"")
        assert await guest.out("until [ -e /tmp/done ]; do usleep 10000; done; cat /tmp/done") == "done\n"


# -- the machine ---------------------------------------------------------------------------------------------


async def test_file_systems_and_programs(image: GuestImage) -> None:
    async with cloned(image) as guest:
        for place in ("/tmp", "/run", "/dev/pts", "/proc", "/sys"):
            await guest.out(f"grep ' {place} ' /proc/mounts")
        for program in ("httpd", "nc", "wget", "telnetd", "udhcpc", "iperf3"):
            assert (await guest.out(f"which {program}")) == f"/bin/{program}\n"
        assert (await guest.out("iperf3 --version")).startswith("iperf")


async def test_the_gateway_and_a_lease(image: GuestImage) -> None:
    """Three cards, two of them on one hub: a DHCP server at one, its client at the other."""
    cards = "-netdev hubport,id=a,hubid=0 -netdev hubport,id=b,hubid=1 -netdev hubport,id=c,hubid=1"
    for index, netdev in enumerate("abc"):
        cards += f" -device virtio-net-pci,netdev={netdev},mac=52:54:00:00:00:0{index},romfile="
    words = "vswitch.ip=10.0.0.1/24 vswitch.gateway=10.0.0.254 vswitch.ip1=10.9.0.1/24"
    config = "start 10.9.0.20\nend 10.9.0.20\ninterface eth1\nlease_file /tmp/leases\npidfile /tmp/pid\n"
    config += "option subnet 255.255.255.0\noption router 10.9.0.2\noption dns 10.9.0.3 10.9.0.4\noption domain lan\n"
    async with booted(image, *cards.split(), words=words) as guest:
        assert "default via 10.0.0.254 dev eth0" in await guest.out("ip route")
        await guest.out("cat >/tmp/conf; touch /tmp/leases; udhcpd -S /tmp/conf", config.encode())
        await guest.out("udhcpc -i eth2 -n -q")
        assert "10.9.0.20/24 brd 10.9.0.255 scope global eth2" in await guest.out("ip address show eth2")
        assert "default via 10.9.0.2 dev eth2" in await guest.out("ip route")
        assert await guest.out("cat /etc/resolv.conf") == "search lan\nnameserver 10.9.0.3\nnameserver 10.9.0.4\n"


@pytest.mark.parametrize("command", ["poweroff", "poweroff -f", "reboot", "echo c >/proc/sysrq-trigger"])
async def test_qemu_ends_with_the_guest(image: GuestImage, command: str) -> None:
    async with cloned(image) as guest:
        await guest.out("true")
        await guest.send(command)
        assert await status_of(guest.qemu) == 0


async def test_qemu_ends_when_init_fails(image: GuestImage) -> None:
    async with booted(image, words="vswitch.gateway=192.0.2.1") as guest:
        with pytest.raises(QemuError, match=r"(?s)ended with status 0.*unreachable.*Attempted to kill init"):
            await guest.run("true")


async def test_the_guest_boots_again_after_a_reset(image: GuestImage) -> None:
    async with booted(image) as guest:
        await guest.out("touch /tmp/before")
        # The firmware resets once more by itself, so -no-reboot may return only when the guest is up again.
        await guest.qemu.qmp("set-action", reboot="reset")
        await guest.qemu.qmp("system_reset")
        booted_again = False
        while not booted_again:
            await guest.send("[ ! -e /tmp/before ]")
            with trio.move_on_after(20):  # a command that the old guest took is lost with it
                booted_again = (await guest.receive())[1][0] == 0
        await guest.qemu.qmp("set-action", reboot="shutdown")
        await guest.send("reboot")
        assert await status_of(guest.qemu) == 0


# -- packages and modules ------------------------------------------------------------------------------------


async def test_nftables_drops_and_counts() -> None:
    image = await trio.to_thread.run_sync(lambda: built(packages=("nftables",), modules=NFT_MODULES))
    rules = """
        table inet f {
            chain in {
                type filter hook input priority 0;
                ct state established counter accept
                ip daddr 127.0.0.9 icmp type echo-request counter drop
            }
        }"""
    async with booted(image) as guest:
        await guest.out("nft add table inet f && /usr/sbin/nft -f -", rules.encode())
        assert (await guest.run("ping -c 2 -W 1 127.0.0.9"))[0] == 1
        await guest.out("ping -c 1 127.0.0.1")
        assert "echo-request counter packets 2 bytes 168 drop" in await guest.out("nft list ruleset")


def test_a_program_that_a_package_has_twice_is_there_once(tmp_path: Path) -> None:
    """As iproute2's /sbin/ip is a link to /bin/ip: in the guest these are one place."""
    (tmp_path / "ip").write_bytes(b"program")
    (tmp_path / "same").symlink_to("/bin/ip")
    (tmp_path / "beside").symlink_to("../bin/ip")
    (tmp_path / "other").symlink_to("ip")
    (program,) = filter(None, [guest_image.package_file("bin/ip", tmp_path / "ip")])
    assert (program.path, program.content) == ("bin/ip", b"program")
    assert guest_image.package_file("sbin/ip", tmp_path / "same") is None
    assert guest_image.package_file("sbin/ip", tmp_path / "beside") is None
    (alias,) = filter(None, [guest_image.package_file("usr/bin/ip6", tmp_path / "other")])
    assert (alias.path, alias.content) == ("bin/ip6", b"/bin/ip")


def test_each_combination_has_its_own_digest() -> None:
    packages = [(), ("a1",), ("a1", "b1")]
    some = [Wanted(names, modules, arch) for names in packages for modules in packages for arch in ARCHES]
    assert len(set(map(guest_image.digest, some))) == len(some)
    assert [Wanted.read(one.text()) for one in some] == some


@pytest.mark.parametrize("name", ["", "a", "Nft", "-oX", "a b", "../x", "nftables\n"])
def test_a_package_name_is_checked(name: str, tmp_path: Path) -> None:
    with pytest.raises(GuestImageError, match=r"^no guest image: .* is no name of a package"):
        build(tmp_path, packages=[name])


@pytest.mark.parametrize("name", ["", "a.ko", "a/b", "a b", "a\n"])
def test_a_module_name_is_checked(name: str, tmp_path: Path) -> None:
    with pytest.raises(GuestImageError, match=r"^no guest image: .* is no name of a module"):
        build(tmp_path, modules=[name])


def test_what_a_module_asks_for() -> None:
    content = b"\0alias=x\0depends=a,b-c\0softdep=pre: crc32c sha1 post: late\0depends=\0"
    assert guest_image.module_facts(content, "depends") == ["a", "b-c"]
    assert guest_image.module_facts(content, "softdep") == ["crc32c", "sha1"]


def test_directories_come_before_what_is_in_them() -> None:
    entries = [guest_image.plain("usr/lib/a/b", b"1"), guest_image.link("usr/bin", "/bin"), guest_image.plain("c", b"")]
    entries.append(guest_image.plain("c", b"2"))
    ordered = guest_image.with_directories(entries)
    assert [entry.path for entry in ordered] == ["usr", "usr/lib", "usr/lib/a", "usr/lib/a/b", "usr/bin", "c"]
    assert ordered[-1].content == b"2"


# -- from the host's own kernel and busybox ------------------------------------------------------------------


@pytest.fixture(scope="module")
def host_root(image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed Linux: Debian's, with a dynamically linked busybox, no iperf3, and modules compressed in
    each way there is."""
    root, work = tmp_path_factory.mktemp("host"), tmp_path_factory.mktemp("work")
    try:
        archives = guest_image.download(work, ["linux-image-cloud-amd64", "busybox"], "amd64")
    except GuestImageError as error:
        require(False, str(error))
    for archive in archives:
        subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)
    for index, path in enumerate(sorted(root.glob("lib/modules/*/kernel/**/*virtio*.ko"))):
        content = path.read_bytes()
        if index % 4 == 0:
            path.with_suffix(".ko.xz").write_bytes(lzma.compress(content, preset=0))
        elif index % 4 == 1:
            path.with_suffix(".ko.gz").write_bytes(gzip.compress(content))
        elif index % 4 == 2 and shutil.which("zstd"):
            subprocess.run(["zstd", "-q", path, "-o", path.with_suffix(".ko.zst")], check=True)
        else:
            continue
        path.unlink()
    return root


@pytest.fixture
def no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH without apt; returns its only directory."""
    programs = tmp_path / "programs"
    programs.mkdir()
    if zstd := shutil.which("zstd"):
        (programs / "zstd").symlink_to(zstd)
    monkeypatch.setenv("PATH", str(programs))
    return programs


@pytest.fixture
def empty_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(guest_image, "ROOT", root)
    return root


async def test_without_apt_the_hosts_own_kernel_boots(
    host_root: Path, no_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(guest_image, "ROOT", host_root)
        image = build(tmp_path, modules=["bridge"])
        assert build(tmp_path, modules=["bridge"]) == image
    monkeypatch.undo()  # PATH
    async with booted(image) as guest:
        assert await guest.run("cat; ip link add b type bridge; echo err >&2", b"in") == (0, b"in", b"err\n")
        assert (await guest.run("which iperf3"))[0] == 1


async def test_if_apt_fails_the_hosts_own_kernel_will_do(
    host_root: Path, no_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_apt(no_apt)
    monkeypatch.setattr(guest_image, "ROOT", host_root)
    with ThreadPoolExecutor() as pool:  # concurrent builders
        images = set(pool.map(build, [tmp_path] * 3))
    assert [image.kernel.is_file() and image.initrd.is_file() for image in images] == [True]
    assert [path.name for path in (tmp_path / "guest").iterdir()] == [guest_image.digest(Wanted()) + "-host"]


def test_both_reasons_are_told_in_one_line(no_apt: Path, empty_root: Path, tmp_path: Path) -> None:
    broken_apt(no_apt)
    message = refusal(tmp_path)
    assert "not from Debian: apt-get: E: no network" in message
    assert "not from this host: no kernel with its modules" in message
    assert "no busybox on PATH: install busybox" in message
    assert "copy the cache directory" in message


def test_a_module_that_the_kernel_has_not(
    host_root: Path, no_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_image, "ROOT", host_root)
    assert "has no module nft_nothing" in refusal(tmp_path, modules=["nft_nothing"])


def test_packages_come_from_debian_only(no_apt: Path, empty_root: Path, tmp_path: Path) -> None:
    message = refusal(tmp_path, packages=["nftables"])
    assert "there is no apt-get and no dpkg-deb here" in message
    assert "packages (nftables) come from Debian only" in message


def test_a_busybox_that_lacks_applets(no_apt: Path, empty_root: Path, tmp_path: Path) -> None:
    (empty_root / "bin").mkdir()
    names = (name for name in guest_scripts.APPLETS if name not in ("usleep", "dd"))
    (empty_root / "bin/busybox").write_bytes(b"\0" + b"".join(name.encode() + b"\0" for name in names))
    assert f"{empty_root}/bin/busybox has no dd, usleep: install" in refusal(tmp_path)


def test_a_kernel_that_only_root_can_read(no_apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with unprivileged_directory() as root:
        (root / "boot").mkdir()
        (root / "usr/lib/modules/6.1.0").mkdir(parents=True)
        (root / "usr/lib/modules/6.1.0/modules.builtin").touch()
        (root / "boot/vmlinuz-6.1.0").touch(mode=0)
        monkeypatch.setattr(guest_image, "ROOT", root)
        with without_root():
            message = refusal(root)
        assert f"the kernel is not readable: sudo chmod a+r {root}/boot/vmlinuz-6.1.0" in message


def test_a_link_out_of_the_root_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libc.so.6").symlink_to("/etc/passwd")
    assert guest_image.files_by_name(tmp_path, tmp_path.glob("lib/*")) == {}
    assert list(guest_image.files_by_name(Path("/"), tmp_path.glob("lib/*"))) == ["libc.so.6"]


def test_the_tool_prints_two_paths(image: GuestImage) -> None:
    nothing_installed = "-IS"
    done = subprocess.run([sys.executable, nothing_installed, TOOL], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(image.kernel), str(image.initrd)]


# -- what a builder leaves -----------------------------------------------------------------------------------


@contextmanager
def builder(cache: Path, root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A builder in a process of its own, which waits for apt, and apt for a program that it has started."""
    programs = root / "waiting"
    programs.mkdir()
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        (programs / name).write_text("#!/bin/sh\nsleep 1000 &\nwait\n")
        (programs / name).chmod(0o755)
    environment = {"PATH": f"{programs}:{os.defpath}", "VSWITCH_CACHE": str(cache)}
    with default_signals():
        process = subprocess.Popen([sys.executable, "-IS", TOOL], cwd=root, env=environment)
    with process:
        try:
            until(lambda: "sleep" in running(cache), "apt has started a program")
            yield process
        finally:
            process.kill()


def running(cache: Path) -> list[str]:
    """The programs that know of the cache."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if f"VSWITCH_CACHE={cache}" in (process / "environ").read_text(errors="replace").split("\0"):
                found.append((process / "cmdline").read_text().partition("\0")[0])
    return found


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL])
def test_what_a_builder_has_started_ends_with_it_and_what_it_leaves_is_removed(
    no_apt: Path, empty_root: Path, tmp_path: Path, number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    with builder(cache, tmp_path) as process:
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == -number
        until(lambda: running(cache) == [], "all that it has started has ended")
    assert len(list((cache / "guest").iterdir())) == 1
    broken_apt(no_apt)
    refusal(cache)
    assert list((cache / "guest").iterdir()) == []


def test_what_is_not_known_to_be_left_by_the_dead_stays(no_apt: Path, empty_root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    guest = cache / "guest"
    broken_apt(no_apt)
    with builder(cache, tmp_path):
        (living,) = guest.iterdir()
        dead, old, young = (guest / f"building-{name}" for name in ("dead", "old", "young"))
        for directory in (dead, old, young):
            (directory / "work" / "packages").mkdir(parents=True)
        (dead / build_process.LOCK).touch()
        too_long_ago = time.time() - build_process.UNLOCKED_MAX_AGE_S - 1
        os.utime(old, (too_long_ago, too_long_ago))
        refusal(cache)
        assert set(guest.iterdir()) == {living, young}
        assert "sleep" in running(cache)


def test_an_interrupt_ends_what_a_program_has_started(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        script = "VSWITCH_CACHE=$0 sleep 1000 & kill -USR1 $PPID; wait"
        with pytest.raises(KeyboardInterrupt):
            guest_image.run("/bin/sh", "-c", script, tmp_path)
    finally:
        signal.signal(signal.SIGUSR1, before)
    until(lambda: running(tmp_path) == [], "sleep has ended")


def test_a_program_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_process, "COMMAND_TIMEOUT_S", 0.01)
    with pytest.raises(SourceError, match=r"^sleep took more than 0\.01 s$"):
        guest_image.run("sleep", "1000")


@contextmanager
def unprivileged_directory() -> Iterator[Path]:
    """A directory that everybody can read and write, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="vs-") as path:
        Path(path).chmod(0o777)
        yield Path(path)


@contextmanager
def without_root() -> Iterator[None]:
    """Root can read anything; as nobody, we cannot."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def broken_apt(programs: Path) -> None:
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        (programs / name).write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
        (programs / name).chmod(0o755)


def refusal(cache: Path, *, packages: Sequence[str] = (), modules: Sequence[str] = ()) -> str:
    with pytest.raises(GuestImageError) as caught:
        build(cache, packages=packages, modules=modules)
    message = str(caught.value)
    assert message.startswith("no guest image: ")
    assert "\n" not in message
    return message
