"""Snapshots: machines as they were, gone back to, and started from, by this test and later ones."""

import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.guest import guest_image
from vswitch import InputError
from vswitch.testing import Disk, Guest, Lan, Nic, snapshot
from vswitch.testing.machine import Machine
from vswitch.testing.snapshot import SNAPSHOTS_MAX, find


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots are made in a place of the test's own."""
    guest_image()
    monkeypatch.setattr(snapshot, "default_cache", lambda: tmp_path)


async def test_a_guest_goes_back_to_what_it_was(lan: Lan) -> None:
    a, b = await lan.guest("a"), await lan.host("b")
    await a.run("echo before >/tmp/mark; ip address add 10.9.0.1/24 dev eth0; (sleep 1000; echo) >/dev/null 2>&1 &")
    await a.snapshot()
    assert await b.ping(a.ip), "it goes on"
    await a.run("echo after >/tmp/mark; ip address flush dev eth0; killall sleep; hostname other; date -s @0")
    await a.restore()
    done = await a.run("cat /tmp/mark; hostname; ip -o -4 address show eth0 | wc -l; pidof sleep | wc -w")
    assert done.stdout.split() == ["before", "a", "2", "1"]
    assert int((await a.run("date +%s")).stdout) > 1_700_000_000
    assert await b.ping(a.ip)
    assert await a.get("/sys/class/net/eth0/address") == f"{a.mac}\n".encode()
    await a.restore()
    assert (await a.run("cat /tmp/mark")).stdout == "before\n"
    async with a.crash():
        pass
    assert not await a.run("test -e /tmp/mark"), "it is a new one"
    await a.restore()
    assert await a.run("test -e /tmp/mark")
    with pytest.raises(InputError, match=r"guest a: there is no snapshot 'else' of such a machine; boot one, and keep"):
        await a.restore("else")
    with pytest.raises(InputError, match=r"'\.\./x' cannot be a snapshot's name"):
        await a.snapshot("../x")
    assert await a.run("true")


async def test_another_test_starts_where_one_has_prepared_it() -> None:
    prepared: list[str] = []

    async def prepare(guest: Guest) -> None:
        prepared.append(guest.name)
        await guest.run("echo prepared >/tmp/mark")

    for number in range(2):
        async with Lan() as lan:
            other = await lan.host("other")
            cards = [Nic(), Nic("")]
            db = await lan.guest("db", nics=cards, start="ready", prepare=prepare)
            assert (db.ip, (await db.run("cat /tmp/mark")).stdout) == ("10.0.0.2", "prepared\n")
            assert await other.ping(db.ip)
            assert prepared == ["db"], number
            with pytest.raises(InputError, match=r"twin: db is the machine of snapshot 'ready' already"):
                await lan.guest("twin", nics=cards, start="ready")
            assert list(lan.guests) == ["db"]
            with pytest.raises(InputError, match=r"x: there is no snapshot 'ready' .* or give prepare="):
                await lan.guest("x", start="ready")
            await lan.remove(db)
            if number:
                again = await lan.guest("again", nics=cards, start="ready")
                assert (again.mac, again.links[1].mac) == (db.mac, db.links[1].mac)
                assert (await again.run("hostname")).stdout == "db\n"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty one, with a marker in its first sector."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"base".ljust(1 << 20, b"\0"))
    return path


async def drive(guest: Guest, command: str) -> str:
    """Has QEMU read or write a sector of the disk, as the machine would."""
    answer: str = await guest.qmp("human-monitor-command", **{"command-line": f'qemu-io disk0 "{command} 512 512"'})
    return answer


async def test_the_disk_is_as_it_was(lan: Lan, disk: Path) -> None:
    async def has(value: int) -> bool:
        return "failed" not in await drive(guest, f"read -P {value}")

    guest = await lan.guest("x", image=Disk(disk, format="raw"))
    await drive(guest, "write -P 1")
    await guest.snapshot("one")
    await drive(guest, "write -P 2")
    assert await has(2)
    await guest.restore("one")
    assert await has(1)
    await drive(guest, "write -P 3")
    await guest.snapshot("two")  # on top of the other one
    await guest.restore("one")
    assert await has(1)
    await drive(guest, "write -P 4")
    await guest.snapshot("one")  # in the place of what it runs on
    await guest.restore("two")
    assert await has(3)
    await guest.restore("one")
    assert await has(4)
    await guest.power_off()
    await guest.boot()
    assert await has(0), "the image itself is as ever"


async def test_a_disk_that_keeps_what_is_written_has_no_snapshots(lan: Lan, disk: Path) -> None:
    kept = await lan.guest("kept", image=Disk(disk, format="raw", keep=True))
    with pytest.raises(InputError, match=r"its disk keeps what is written; a snapshot needs Disk\(keep=False\)"):
        await kept.snapshot()


async def test_what_is_damaged_or_of_another_machine_is_none(lan: Lan, tmp_path: Path) -> None:
    guest = await lan.guest("x", netboot=True)
    await guest.snapshot()
    found = find(guest.machine, ["virtio-net-pci"], "ready")
    assert found is not None
    assert find(guest.machine, ["virtio-net-pci"] * 2, "ready") is None
    assert find(Machine(None, memory="64M"), ["virtio-net-pci"], "ready") is None
    found.state.write_bytes(b"")
    assert find(guest.machine, ["virtio-net-pci"], "ready") is None
    await guest.snapshot()
    assert find(guest.machine, ["virtio-net-pci"], "ready") == found
    for number in range(SNAPSHOTS_MAX + 1):
        directory = found.directory.with_name(f"old-{number}")
        shutil.copytree(found.directory, directory)
        os.utime(directory, (number, number))
    await guest.snapshot("new")
    names = {path.name for path in found.directory.parent.iterdir() if path.is_dir()}
    assert names == {"new", "ready", *(f"old-{number}" for number in range(3, SNAPSHOTS_MAX + 1))}
