"""Guests: what they are told, what becomes of them, and images of other people."""

import gzip
import struct
from pathlib import Path

import pytest
import trio

from tests.e2e.guest import guest_image
from vswitch import InputError
from vswitch.testing import CommandFailed, Disk, GuestImage, Kernel, Lan, Login, QemuError
from vswitch.testing.guest_image import Entry, cpio


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
    async with trio.open_nursery() as nursery:

        async def lost() -> None:
            with pytest.raises(QemuError, match="sleep 60: the guest was reset meanwhile"):
                await a.run("sleep 60", timeout=90)

        nursery.start_soon(lost)
        await a.wait_for("pidof sleep")
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


async def test_several_boot_side_by_side(lan: Lan) -> None:
    first = await lan.host("first")
    a, b = await lan.boot("a", "b", append="loglevel=4")
    assert [machine.ip for machine in (first, a, b)] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert (await a.run(f"ping -c 1 {b.ip}")).ok
    with pytest.raises(InputError, match="already"):
        await lan.boot("c", "a")


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
exec setsid getty -L 115200 ttyS0 vt100
"""
PASSWD = r"root:$1$ab$dslkcXxVH.x8LwW1W/oAB/:0:0:root:/root:/bin/sh" + "\n"


async def test_an_image_of_ones_own_with_a_login_on_its_serial_console(
    lan: Lan, image: GuestImage, tmp_path: Path
) -> None:
    own = [
        Entry("getty", 0o100755, GETTY.encode()),
        Entry("etc", 0o040755),
        Entry("etc/passwd", 0o100644, PASSWD.encode()),
    ]
    initrd = tmp_path / "initrd"
    initrd.write_bytes(image.initrd.read_bytes() + gzip.compress(b"".join(cpio(own))))
    kernel = Kernel(image.kernel, initrd, append="console=ttyS0 rdinit=/getty quiet no_timer_check")
    guest = await lan.guest("own", image=kernel, login=Login("root", "secret"))
    result = await guest.run('cat; echo "it\'s" $HOME; echo oops >&2; exit 3', input=b"in\xff\n" * 200)
    assert (result.status, result.output, result.errors) == (3, b"in\xff\n" * 200 + b"it's /root\n", b"oops\n")
    assert (await guest.run("true")).ok
    assert "login:" in guest.console


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
