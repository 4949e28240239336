"""Leases of a user network that are kept in a file."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from scapy.layers.dhcp import BOOTP

from tests.endpoints.user_guest import Guest
from tests.peers import until
from vswitch import RefusedError, VSwitch
from vswitch.control.config import SwitchConfig
from vswitch.endpoints.url import parse
from vswitch.endpoints.user.file_lock import FileLock

pytestmark = pytest.mark.usefixtures("libslirp")

A, B = "52:54:00:00:00:0a", "52:54:00:00:00:0b"


async def test_guests_have_the_same_addresses_when_the_switch_was_started_again(tmp_path: Path) -> None:
    file = tmp_path / "lab.leases"
    url = f"user://10.0.2.0/24?name=net&leases={file}"
    async with VSwitch() as switch:
        await switch.attach(url)
        for mac, name in ((A, "web"), (B, "db")):
            guest = await Guest.plugged_into(switch, name, mac)
            await guest.lease(name)
        await until(file.exists)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [kept["name"] for kept in json.loads(file.read_text())] == ["web", "db"], "also what came last"
    async with VSwitch() as switch:
        await switch.attach(url)
        assert [(lease.name, lease.ip) for lease in switch.user_networks.leases()] == [
            ("web", "10.0.2.15"),
            ("db", "10.0.2.16"),
        ]
        b = await Guest.plugged_into(switch, "db", B)
        assert await b.lease() == "10.0.2.16"
    assert os.listdir(tmp_path) == [file.name], "nothing is left beside it"


async def test_leases_of_another_network_are_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "lab.leases"
    kept = {"mac": A, "ip": "10.0.3.15", "port": "a", "name": "web", "until_s": 9e9}
    file.write_text(json.dumps([kept, kept | {"ip": "10.0.2.2", "mac": B}]))
    async with VSwitch() as switch:
        await switch.attach(f"user://10.0.2.0/24?leases={file}")
        assert switch.user_networks.leases() == []


@pytest.mark.parametrize("content", ["precious", '{"a": 1}', '[{"mac": "x"}]', "[" * 100_000])
async def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "thesis.txt"
    file.write_text(content)
    async with VSwitch() as switch:
        with pytest.raises(RefusedError) as caught:
            await switch.attach(f"user://10.0.2.0/24?leases={file}")
    assert str(caught.value) == f"{file} holds no leases; name another file, or move this one away"
    assert file.read_text() == content


async def test_a_file_that_cannot_be_written_is_said_once_and_leases_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "gone" / "lab.leases"
    async with VSwitch() as switch:
        await switch.attach(f"user://10.0.2.0/24?name=net&leases={file}")
        a = await Guest.plugged_into(switch, "a", A)
        assert await a.lease() == "10.0.2.15"
        said = f"cannot write leases to {file}: No such file or directory"
        await until(lambda: said in caplog.messages)
        assert [lease.ip for lease in switch.user_networks.leases()] == ["10.0.2.15"]


async def test_as_many_leases_as_are_remembered_are_told_to_the_process(tmp_path: Path) -> None:
    file = tmp_path / "lab.leases"
    kept = [
        {"mac": f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", "ip": f"10.0.{number >> 8}.{number & 255}"}
        | {"port": "p" * 100, "name": "n" * 63, "until_s": 9e9}
        for number in range(256, 1280)
    ]
    file.write_text(json.dumps(kept))
    async with VSwitch() as switch:
        await switch.attach(f"user://10.0.0.0/20?leases={file}")
        assert len(switch.user_networks.leases()) == 1024
        a = await Guest.plugged_into(switch, "a", "52:54:00:00:01:00")
        with_port = await a.dhcp("discover")
        assert with_port[BOOTP].yiaddr == "10.0.1.0"


async def test_two_networks_have_a_file_each(tmp_path: Path) -> None:
    file, other = tmp_path / "lab.leases", tmp_path / "link"
    other.symlink_to(tmp_path)
    async with VSwitch() as switch, VSwitch() as beside:
        await switch.attach(f"user://10.0.2.0/24?name=net&leases={file}")
        for wherever in (switch, beside):
            with pytest.raises(RefusedError) as caught:
                await wherever.attach(f"user://10.0.3.0/24?leases={other / file.name}")
            said = f"{other / file.name} has the leases of a user network that runs; name another file"
            assert str(caught.value) == said
        await switch.attachments.detach("net")
        await beside.attach(f"user://10.0.3.0/24?leases={file}")
    assert os.listdir(tmp_path) == ["link"]


async def test_a_reload_gives_a_file_to_another_network(tmp_path: Path) -> None:
    file = tmp_path / "lab.leases"
    before, after = (
        SwitchConfig(endpoints=(parse(f"user://{network}/24?leases={file}&name={name}"),))
        for network, name in (("10.0.2.0", "net"), ("10.0.3.0", "other"))
    )
    wanted = [before]
    async with VSwitch() as switch:
        await switch.configuration.begin(before, lambda: wanted[0])
        wanted[0] = after
        await switch.configuration.reload(dry_run=False)
        assert [info.name for info in switch.endpoints()] == ["other"]


def test_a_lock_ends_with_its_process_and_needs_no_order(tmp_path: Path) -> None:
    """The one that is killed leaves its file."""
    file = str(tmp_path / "lab.leases")
    program = "import sys, vswitch.endpoints.user.file_lock as f; f.FileLock(sys.argv[1]); print(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program.replace("f.F", "kept = f.F"), file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        with pytest.raises(RefusedError):
            FileLock(file)
        process.kill()
    assert os.listdir(tmp_path) == [".lab.leases.lock"]
    FileLock(file).close()
    assert os.listdir(tmp_path) == []


def test_a_lock_file_that_its_owner_removes_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, flock = FileLock(str(tmp_path / "lab.leases")), fcntl.flock

    def late(file: IO[bytes], operation: int) -> None:
        first.close()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    second = FileLock(str(tmp_path / "lab.leases"))
    monkeypatch.undo()
    with pytest.raises(RefusedError):
        FileLock(str(tmp_path / "lab.leases"))
    second.close()


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS])
def test_where_there_are_no_locks_it_goes_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def none(*_: object) -> None:
        raise OSError(error, "none")

    monkeypatch.setattr(fcntl, "flock", none)
    for path in (tmp_path / "lab.leases", tmp_path / "gone" / "lab.leases"):
        FileLock(str(path)).close()
