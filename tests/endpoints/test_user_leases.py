"""Leases of a user network that are kept in a file."""

import json
import os
import stat
from pathlib import Path

import pytest
from scapy.layers.dhcp import BOOTP

from tests.endpoints.user_guest import Guest
from tests.peers import until
from vswitch import RefusedError, VSwitch

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
