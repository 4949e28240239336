"""Guests: what they are told, what becomes of them, and images of other people."""

import gzip
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.e2e.guest import guest_image
from vswitch import InputError
from vswitch.testing import CommandFailed, Disk, Guest, GuestImage, Kernel, Lan, Login, Nic, QemuError, Result
from vswitch.testing.guest_image import Entry, cpio
from vswitch.testing.shell import VirtioShell


@pytest.fixture(autouse=True)
def image() -> GuestImage:
    return guest_image()


async def test_what_a_guest_is_told(lan: Lan, tmp_path: Path) -> None:
    a = await lan.guest("a", append="loglevel=4 mine=1")
    result = await a.run("cat; echo oops >&2; exit 3", input=b"in\xff\0")
    assert (result.ok, result.status, result.output, result.stdout, result.stderr) == (
        *(False, 3, b"in\xff\0", "in\\xff\0"),
        "oops\n",
    )
    with pytest.raises(CommandFailed, match="exit 3: status 3: oops"):
        result.check()
    assert (await a.run("hostname; cat /sys/class/net/eth0/address /proc/cmdline")).stdout.startswith(f"a\n{a.mac}\n")
    content = bytes(range(256)) * 10_000  # more than one piece
    (tmp_path / "here").write_bytes(content)
    await a.put(tmp_path / "here", "/tmp/a file", mode=0o750)
    await a.put(b"", "/tmp/empty")
    assert await a.get("/tmp/a file") == content
    assert await a.get("/tmp/empty") == b""
    assert await a.get("/tmp/a file", tmp_path / "back") == b""
    assert (tmp_path / "back").read_bytes() == content
    assert b"MemTotal" in await a.get("/proc/meminfo")
    await a.put("#!/bin/sh\necho höher\n", "/tmp/script", mode=0o755)
    assert (await a.run("/tmp/script")).stdout == "höher\n"
    assert (await a.run("stat -c %a '/tmp/a file'")).stdout == "750\n"
    with pytest.raises(CommandFailed, match="No such file"):
        await a.get("/tmp/nothing")
    with pytest.raises(QemuError, match=r"sleep 9: no answer in 0\.1 s"):
        await a.run("sleep 9", timeout=0.1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.wait_for, "test -e /tmp/flag")
        await a.run("touch /tmp/flag")
    with pytest.raises(QemuError, match=r"test -e /no: did not succeed within 0\.3 s"):
        await a.wait_for("test -e /no", timeout=0.3)
    await a.run("echo look at me >/dev/console")
    assert await a.wait_for_console("look at (me|you)") == "look at me"
    with pytest.raises(QemuError, match="no 'nobody' on its console"):
        await a.wait_for_console("nobody", timeout=0.1)
    assert (await a.qmp("query-status"))["status"] == "running"
    with pytest.raises(InputError, match="already"):
        await lan.guest("a")
    assert repr(a) == f"<Guest a 10.0.0.1 {a.mac}>"


@asynccontextmanager
async def losing_a_command(guest: Guest, why: str) -> AsyncIterator[None]:
    """A command runs when the block begins, and has no result in the end."""

    async def lost() -> None:
        with pytest.raises(QemuError, match=f"sleep 60: {why}"):
            await guest.run("sleep 60", timeout=90)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lost)
        await guest.wait_for("pidof sleep")
        yield


async def test_what_becomes_of_a_guest(lan: Lan) -> None:
    a = await lan.guest("a")
    b = await lan.host("b")
    assert await b.ping(a.ip)
    async with a.pause():
        assert (await a.qmp("query-status"))["status"] == "paused"
        assert not await b.ping(a.ip, timeout=0.3)
    assert await b.ping(a.ip, timeout=5)
    await a.set_link(False)
    await a.wait_for("grep 0 /sys/class/net/eth0/carrier")
    assert not await b.ping(a.ip, timeout=0.3)
    await a.set_link(True)
    await a.wait_for("grep 1 /sys/class/net/eth0/carrier")
    assert await b.ping(a.ip, timeout=5)
    await a.run("touch /tmp/mark")
    async with losing_a_command(a, "the guest was reset meanwhile"):
        await a.reset()
    assert not (await a.run("test -e /tmp/mark")).ok
    async with a.crash():
        assert not a.running
        with pytest.raises(QemuError, match="guest a is not running"):
            await a.run("true")
        assert [port.name for port in lan.switch.ports()] == ["b"]
    assert await b.ping(a.ip, timeout=5)
    await a.shutdown()
    assert not a.running
    assert "Power down" in a.console


async def test_a_guest_may_end_at_any_moment(lan: Lan) -> None:
    a = await lan.guest("a")
    async with a.crash():  # before anybody has looked whether it ends
        pass
    async with losing_a_command(a, "QEMU ended with status -9"), a.crash():
        pass
    await a.shutdown()
    await a.boot()
    qemu = a._alive()
    await a.shutdown()
    assert await qemu.ended() == 0, "also when asked late"


async def test_a_shutdown_takes_an_end_for_an_answer(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU may end before it has passed the shell's answer on."""

    async def lose_the_answer(self: VirtioShell, command: str, input: bytes) -> None:
        await self._send(command, input)
        while True:
            await self._channel.receive()

    a = await lan.guest("a")
    monkeypatch.setattr(VirtioShell, "run", lose_the_answer)
    await a.shutdown()
    assert not a.running


async def test_several_boot_side_by_side(lan: Lan) -> None:
    first = await lan.host("first")
    a, b = await lan.boot("a", "b")
    assert [machine.ip for machine in (first, a, b)] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert (await a.run(f"ping -c 1 {b.ip}")).ok
    await a.run("echo 10.9.9.9 mine >>/etc/hosts")
    late = await lan.host("late")
    for guest, known in ((a, ("a", "b", "first", "late", "localhost")), (b, ("a", "b", "first", "late"))):
        for name in known:
            assert (await guest.run(f"ping -c 1 {name}")).ok, name
    await lan.remove(late)
    async with b.pause():
        late = await lan.host("late", ip="10.0.0.77")  # does not wait for b
    await b.wait_for("grep '10.0.0.77 late' /etc/hosts")
    assert (await b.run("grep -c late /etc/hosts")).stdout == "1\n"
    assert (await a.run("grep -c 'late\\|mine' /etc/hosts")).stdout == "2\n"
    await b.reset()
    assert (await b.run("ping -c 1 late")).ok
    with pytest.raises(InputError, match="already"):
        await lan.boot("c", "a")


async def test_many_cards_and_one_more(lan: Lan) -> None:
    host = await lan.host("host")
    cards = [Nic(ip="", port={"up": False})] * 28
    port = ["-device", "pcie-root-port,id=spare"]
    guest = await lan.guest("many", nics=[Nic(), *cards, Nic(ip="10.1.0.1/24")], arguments=port)
    assert (await guest.run(f"ping -c 1 {host.ip}")).ok
    assert (await guest.run("cat /sys/class/net/eth29/address")).stdout.strip() == guest.links[-1].mac
    with pytest.raises(QemuError, match=r"(?s)hotplugging.*arguments=.*pcie-root-port,id=spare.*add bus='spare'"):
        await guest.qmp("device_add", driver="virtio-rng-pci")
    await guest.qmp("device_add", driver="virtio-rng-pci", bus="spare")
    with pytest.raises(InputError, match="more: 185 cards; a guest has room for 184"):
        await lan.guest("more", nics=[Nic()] * 185)


async def test_what_qemu_refuses_comes_with_advice(lan: Lan) -> None:
    with pytest.raises(QemuError, match=r"No 'PCI' bus(?s:.*)leave out -M microvm"):
        await lan.guest("micro", arguments=["-M", "microvm"])
    with pytest.raises(QemuError, match=r"no slot/function(?s:.*)addr=0x1e\.0,multifunction=on"):
        await lan.guest("full", arguments=["-device", "virtio-rng-pci"] * 30)


async def test_one_that_does_not_boot_says_why_and_is_gone(lan: Lan) -> None:
    with pytest.raises(QemuError, match=r"(?s)guest a: booting: QEMU ended with status 0; .*Kernel panic"):
        await lan.guest("a", append="rdinit=/nowhere root=/dev/nothing")
    assert not lan.guests["a"].running
    assert "Kernel panic" in lan.guests["a"].console
    assert lan.switch.ports() == []


GETTY = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
if grep -q lacks= /proc/cmdline; then mount -t tmpfs -o ro tmpfs /tmp; fi
exec setsid getty -L 115200 ttyS0 vt100
"""
PASSWD = r"root:$1$ab$dslkcXxVH.x8LwW1W/oAB/:0:0:root:/root:/bin/sh" + "\n"
# This busybox has every program; a function is found before it.
PROFILE = """
for word in $(cat /proc/cmdline); do
    case $word in lacks=*) word=${word#*=}; IFS=,; for name in $word; do eval "$name() { return 127; }"; done ;; esac
done
unset IFS
"""
SECRET = Login("root", "secret")


@pytest.fixture
def own(image: GuestImage, tmp_path: Path) -> Kernel:
    """An image of one's own with a login on its serial console."""
    entries = [
        Entry("getty", 0o100755, GETTY.encode()),
        Entry("etc", 0o040755),
        Entry("etc/passwd", 0o100644, PASSWD.encode()),
        Entry("etc/profile", 0o100644, PROFILE.encode()),
    ]
    initrd = tmp_path / "initrd"
    initrd.write_bytes(image.initrd.read_bytes() + gzip.compress(b"".join(cpio(entries))))
    return Kernel(image.kernel, initrd, append="console=ttyS0 rdinit=/getty quiet no_timer_check")


async def test_images_of_ones_own_with_a_login_on_the_serial_console(lan: Lan, own: Kernel) -> None:
    """The first has all of busybox, the others are like OpenWrt and worse."""
    stock = "lacks=base64,tr,mktemp,stty"
    found: dict[str, Guest] = {}

    async def boot(name: str, append: str) -> None:
        found[name] = await lan.guest(name, image=own, login=SECRET, append=append)

    async with trio.open_nursery() as nursery:
        for name, append in (("full", ""), ("stock", stock), ("od", f"{stock},hexdump")):
            nursery.start_soon(boot, name, append)
    for guest in found.values():
        assert "login:" in guest.console
        data = bytes(range(256)) * 4 + b"in\xff\n"
        result = await guest.run("cat; printf \"it's\t\"; echo $HOME; echo 'oops! 100%' >&2; exit 3", input=data)
        assert (result.status, result.output, result.errors) == (3, data + b"it's\t/root\n", b"oops! 100%\n")
        assert await guest.run("true") == Result("true", 0, b"", b"")
        assert (await guest.run("echo $(\n  echo two\n)")).stdout == "two\n"
        await guest.put(data, "/dev/shm-file")
        assert await guest.get("/dev/shm-file") == data
    assert (await found["stock"].run("echo a >/tmp/a")).stderr.strip().endswith("Read-only file system")


async def test_a_person_may_sit_at_that_console_while_commands_wait(
    lan: Lan, own: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        guest = await lan.guest("own", image=own, login=SECRET)
        assert (await lan.open("x")).guests == ["own"]
        async with await trio.open_unix_socket(f"{directory}/vswitch/x.lab/own.console") as console:
            shown = b""
            await console.send_all(b"echo by''hand\n")
            while b"byhand" not in shown:
                shown += await console.receive_some()
            with trio.move_on_after(0.1) as limit:
                await guest.run("true")
            assert limit.cancelled_caught
        assert (await guest.run("echo again")).stdout == "again\n"


async def test_a_result_is_one_or_an_error(lan: Lan, own: Kernel) -> None:
    guest = await lan.guest("own", image=own, login=SECRET)
    # Whatever the kernel prints is no part of a result.
    noise = "while :; do echo '<0>look' >/dev/kmsg; usleep 20000; done"
    await guest.run(f"({noise}) >/dev/null 2>&1 & echo $! >/dev/noise")
    for number in range(5):
        assert (await guest.run(f"seq {number} 400")).output.split() == [b"%d" % n for n in range(number, 401)]
    await guest.run("kill $(cat /dev/noise)")
    with pytest.raises(QemuError, match="guest own: its shell's answer is not whole; is its disk full"):
        await guest.run("mount -t tmpfs -o ro tmpfs /tmp")  # on top of its own files
    with pytest.raises(QemuError, match="guest own: its shell cannot write what it is told; is the disk full"):
        await guest.run("true")


@pytest.mark.parametrize(
    ("lacks", "login", "said"),
    [
        ("lacks=base64,hexdump,od,xxd", SECRET, "lacks any of base64, hexdump, od, xxd; add that to the image$"),
        ("lacks=printf", SECRET, "guest own: the shell on its console lacks printf; add that to the image$"),
        ("", Login("root", "wrong"), "Login incorrect: the console lets in no 'root' with that password$"),
    ],
)
async def test_what_a_console_lacks_is_said_when_it_boots(
    lan: Lan, own: Kernel, lacks: str, login: Login, said: str
) -> None:
    with pytest.raises(QemuError, match=said):
        await lan.guest("own", image=own, login=login, append=lacks)


async def test_a_disk(lan: Lan, tmp_path: Path) -> None:
    """A boot sector that says hello to the serial port, and halts: mov dx,0x3f8; mov si,text; lodsb; out dx,al …"""
    text = b"hello from a disk\r\n\0"
    code = bytes.fromhex("31c08ed8 be207c baf803 ac 84c0 7403 ee ebf8 f4 ebfd".replace(" ", ""))
    sector = (code.ljust(0x20, b"\x90") + text).ljust(510, b"\0") + struct.pack("<H", 0xAA55)
    disk = tmp_path / "disk,1.img"
    disk.write_bytes(sector + bytes(1 << 20))
    guest = await lan.guest("disk", image=Disk(disk, format="raw"))
    await guest.wait_for_console("hello from a disk")
    with pytest.raises(QemuError, match="guest disk has no shell"):
        await guest.run("true")
