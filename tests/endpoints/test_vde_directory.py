"""The directory of a VDE switch: whose it is, who may use it, what is left in it and what is not."""

# ruff: noqa: ASYNC240 — the files of a temporary directory keep nobody waiting

import grp
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.program import Home
from tests.endpoints.kinds import sockaddr_un, vde_plug, vde_request
from tests.needs import require
from tests.peers import TIMEOUT_S, until, up
from tests.umasks import umask
from vswitch import VSwitch
from vswitch.endpoints.url import VDE_NAME_MAX, parse
from vswitch.errors import InputError, RefusedError
from vswitch.values import UNIX_PATH_MAX

NOBODY = 65534


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "lan.vde"


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.lstat().st_mode):04o}"


async def refused(path: Path, **parameters: object) -> str:
    """What is said to a switch that cannot use a directory."""
    async with VSwitch() as switch:
        with pytest.raises((RefusedError, InputError)) as caught:
            await switch.attach(f"vde://{path}", **parameters)
        assert switch.ports() == []
        assert switch.endpoints() == []
    message = str(caught.value)
    assert message.isprintable()
    return message


async def check_works(path: Path, **parameters: object) -> None:
    """A switch can use the directory, and leaves nothing of its own."""
    async with VSwitch() as switch:
        await switch.attach(f"vde://{path}", **parameters)
        async with await vde_plug(path, path.parent / "client"):
            assert up(switch) == {"vde1.1"}
        await until(lambda: not switch.ports())
    (path.parent / "client").unlink()


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize(
    ("parameters", "modes"),
    [
        ({}, ("2700", "0600")),
        ({"mode": "0600"}, ("2700", "0600")),
        ({"mode": "0660"}, ("2770", "0660")),
        ({"mode": "0666"}, ("2777", "0666")),
        ({"mode": "666"}, ("2777", "0666")),
        ({"dirmode": "0750"}, ("0750", "0640")),
        ({"dirmode": "2770"}, ("2770", "0660")),
        ({"dirmode": "0755", "mode": "0666"}, ("0755", "0666")),
    ],
    ids=str,
)
async def test_permissions_are_what_is_asked_for_whatever_the_umask(
    directory: Path, path: Path, parameters: dict[str, str], modes: tuple[str, str], mask: int
) -> None:
    async with VSwitch() as switch:
        with umask(mask):
            await switch.attach(f"vde://{path}", **parameters)
            async with await vde_plug(path, directory / "client"):
                (its,) = path.glob("001.*")
                assert (mode(path), mode(path / "ctl"), mode(its)) == (*modes, modes[1])


@pytest.mark.parametrize("named", [False, True])
async def test_directory_and_sockets_are_given_to_a_group(directory: Path, path: Path, named: bool) -> None:
    require(os.geteuid() == 0, "only root can give files to any group")
    group = grp.getgrgid(NOBODY)
    wanted = group.gr_name if named else str(group.gr_gid)
    async with VSwitch() as switch:
        await switch.attach(f"vde://{path}?mode=0660", group=wanted)
        async with await vde_plug(path, directory / "client"):
            (its,) = path.glob("001.*")
            for made in (path, path / "ctl", its):
                assert (made.lstat().st_uid, made.lstat().st_gid) == (0, NOBODY)
            assert mode(path) == "2770"


@pytest.mark.parametrize("group", ["", "no such group", "-1", "4294967295", "9" * 30, "a%00b", "%ff", "²"])
async def test_a_group_that_there_is_not_is_said_to_be_none(path: Path, group: str) -> None:
    async with VSwitch() as switch:
        with pytest.raises(InputError, match="group: there is no group"):
            await switch.attach(f"vde://{path}?group={group}")
    assert not path.exists()


async def test_a_symbolic_link_is_refused_wherever_it_leads(directory: Path, path: Path) -> None:
    (directory / "real").mkdir()
    for aim in ("real", "missing"):
        path.symlink_to(directory / aim)
        assert f"{path} is a symbolic link" in await refused(path)
        path.unlink()
    assert os.listdir(directory) == ["real"]


async def test_what_is_no_directory_stays(path: Path) -> None:
    path.write_text("precious")
    assert f"{path} exists and is not a directory" in await refused(path)
    assert path.read_text() == "precious"


async def test_another_users_directory_is_refused(path: Path) -> None:
    require(os.geteuid() == 0, "only root can give a directory to another user")
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    assert f"{path} is another user's directory (uid {NOBODY})" in await refused(path)
    assert os.listdir(path) == []


async def test_a_directory_whose_parent_is_missing_is_named(path: Path) -> None:
    assert f"{path}/a: No such file or directory" in await refused(path / "a")
    assert not path.exists()


async def test_a_path_may_be_as_long_as_its_sockets_allow(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = UNIX_PATH_MAX - VDE_NAME_MAX
    path = directory / ("x" * (longest - len(bytes(directory)) - 1))
    await check_works(path)
    for connect in ("", "?connect"):
        with pytest.raises(InputError, match=f"use one of at most {longest} bytes"):
            parse(f"vde://{path}x{connect}")
    monkeypatch.chdir(directory)  # a relative path is as long as the absolute one
    await check_works(Path(path.name))
    for connects in (False, True):
        assert f"use one of at most {longest} bytes" in await refused(Path(path.name + "x"), connect=connects)
    assert os.listdir(directory) == []


async def test_a_relative_path_is_told_to_clients_in_full(
    directory: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    async with VSwitch() as switch:
        await switch.attach(f"vde://{path.name}/")
        monkeypatch.chdir("/")
        async with await vde_plug(path, directory / "client") as client:
            assert os.path.dirname(client.sock.getpeername()) == str(path)
    assert not path.exists()


async def test_a_directory_that_was_there_stays_as_it_is(path: Path) -> None:
    path.mkdir(mode=0o711)
    await check_works(path, mode="0666")
    assert mode(path) == "0711"
    assert os.listdir(path) == []


async def test_a_directory_with_other_things_stays_and_so_do_they(path: Path) -> None:
    path.mkdir(mode=0o755)
    (path / "precious").write_text("precious")
    (path / "001.1").write_text("looks like ours")
    (path / ".00001-00001").mkdir()
    await check_works(path)
    assert mode(path) == "0755"
    assert sorted(os.listdir(path)) == [".00001-00001", "001.1", "precious"]
    assert (path / "001.1").read_text() == "looks like ours"


async def test_a_control_socket_that_is_something_else_stays(path: Path) -> None:
    path.mkdir()
    (path / "ctl").write_text("precious")
    assert f"{path}/ctl exists and is not a socket" in await refused(path)
    assert (path / "ctl").read_text() == "precious"


async def test_a_second_switch_is_refused_and_changes_nothing(directory: Path, path: Path) -> None:
    async with VSwitch() as switch:
        await switch.attach(f"vde://{path}?mode=0660")
        async with await vde_plug(path, path / ".00001-00001") as client:
            before = sorted(os.listdir(path))
            message = await refused(path, mode="0666")
            assert f"{path}/ctl is in use" in message
            assert "use another path" in message
            assert sorted(os.listdir(path)) == before
            assert (mode(path), mode(path / "ctl")) == ("2770", "0660")
            assert up(switch) == {"vde1.1"}
            assert await client.sock.send(bytes(60)) == 60
            async with await vde_plug(path, directory / "client"):
                assert up(switch) == {"vde1.1", "vde1.2"}
    assert not path.exists()


@pytest.mark.parametrize("parameters", [{"mgmt": "/nonexistent/mgmt"}, {"group": "no such group"}], ids=str)
async def test_what_does_not_start_leaves_nothing(path: Path, parameters: dict[str, str]) -> None:
    await refused(path, **parameters)
    assert not path.exists()


async def test_a_switch_that_was_killed_is_cleaned_up_after_and_its_live_clients_are_left_alone(
    directory: Path, path: Path
) -> None:
    with ExitStack() as stack:
        with Home(directory).serve(f"vde://{path}"):  # killed when the block ends
            clients = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) for _ in range(2)]
            for number, client in enumerate(clients):
                client.bind(bytes(path / f".0000{number}-00001"))
                ctl = stack.enter_context(socket.socket(socket.AF_UNIX))
                ctl.settimeout(TIMEOUT_S)
                ctl.connect(bytes(path / "ctl"))
                ctl.send(vde_request(client.getsockname().encode()))
                assert len(ctl.recv(4096)) == len(sockaddr_un(b""))
        clients[0].close()
        assert sorted(name[:7] for name in os.listdir(path)) == [".00000-", ".00001-", "001.0", "002.1", "ctl"]
        async with VSwitch() as switch:
            await switch.attach(f"vde://{path}")
            assert sorted(os.listdir(path)) == [".00001-00001", "ctl"]
            async with await vde_plug(path, path / ".00003-00001"):
                assert up(switch) == {"vde1.1"}
    assert not path.exists()


async def test_what_clients_leave_under_other_names_does_not_hold_up_the_end(path: Path) -> None:
    async with VSwitch() as switch:
        await switch.attach(f"vde://{path}")
        async with await vde_plug(path, path / "mine"):
            pass
    assert os.listdir(path) == ["mine"]
    await check_works(path)


async def test_a_directory_that_is_gone_already_does_not_hold_up_the_end(directory: Path, path: Path) -> None:
    async with VSwitch() as switch:
        await switch.attach(f"vde://{path}")
        async with await vde_plug(path, directory / "client"):
            path.rename(directory / "elsewhere")
    assert not path.exists()
