"""What an endpoint stands on may go, and come back: a socket's path, and the directory it is in."""

import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.endpoints.kinds import Unixgram, vde_plug
from tests.frames import BROADCAST, frame, mac
from tests.peers import TIMEOUT_S, DatagramPeer, Peer, until, up
from vswitch import VSwitch
from vswitch.control import client, operations

WITNESS = frame(BROADCAST, mac(9))


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as path:
        found = Path(path) / "lan"
        found.mkdir()
        yield found


@asynccontextmanager
async def witnessed() -> AsyncIterator[tuple[VSwitch, Peer]]:
    """A switch, and a station that hears what others send."""
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="witness") as witness:
        yield switch, witness


async def hears(witness: Peer, station: Peer | DatagramPeer) -> None:
    await station.send(WITNESS)
    assert await witness.receive(1) == [WITNESS]


@pytest.mark.parametrize("what", ["the path", "the directory"])
async def test_a_listener_is_there_again_and_who_was_in_stays(
    directory: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = directory / "lan.sock"
    async with witnessed() as (switch, witness):
        await switch.attach(f"unix://{path}?name=lab")
        async with await Peer.connected_to(f"unix://{path}") as before:
            await hears(witness, before)
            if what == "the path":
                os.unlink(path)
            else:
                shutil.rmtree(directory)
                await until(lambda: "cannot listen" in caplog.text)
                os.mkdir(directory)
            await until(path.is_socket)
            assert os.stat(path).st_mode & 0o777 == 0o600
            async with await Peer.connected_to(f"unix://{path}") as after:
                await hears(witness, after)
                await hears(witness, before)
                assert up(switch) == {"witness", "lab.1", "lab.2"}
    assert f"lab: {path} was removed" in caplog.text
    assert f"lab: {path} is there again" in caplog.text
    assert "Errno" not in caplog.text


async def test_what_somebody_else_has_put_there_stays(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = directory / "lan.sock"
    async with witnessed() as (switch, witness):
        await switch.attach(f"unix://{path}")
        os.unlink(path)
        path.write_text("mine")
        await until(lambda: "exists and is not a socket" in caplog.text)
        assert path.read_text() == "mine"
        os.unlink(path)
        await until(path.is_socket)
        async with await Peer.connected_to(f"unix://{path}") as guest:
            await hears(witness, guest)


async def test_datagram_peers_come_in_again(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with witnessed() as (switch, witness), Unixgram(directory) as kind:
        url = await kind.target()
        await switch.attach(url, name="lab")
        path = Path(str(url).partition("://")[2])
        station = await kind.station()
        await station.send(WITNESS)
        assert await witness.receive(1) == [WITNESS]
        os.unlink(path)
        await until(lambda: "is there again" in caplog.text)
        again = await kind.station()
        await again.send(WITNESS)
        assert await witness.receive(1) == [WITNESS]
        again.close()
        station.close()


@pytest.mark.parametrize("what", ["the path", "the directory"])
async def test_the_control_socket_is_there_again_and_streams_go_on(directory: Path, what: str) -> None:
    path = directory / "default.ctl"
    async with witnessed() as (switch, witness):
        await switch.serve_control(str(path))
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b"GET /v1/capture HTTP/1.1\r\nHost: v\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            if what == "the path":
                os.unlink(path)
            else:
                shutil.rmtree(directory)
            await until(path.is_socket)
            assert os.stat(directory).st_mode & 0o777 in (0o700, 0o755)
            assert b'"ports":1' in await trio.to_thread.run_sync(client.ask, path, operations.STATUS)
            await witness.send(WITNESS)
            assert await stream.receive_some()


@pytest.mark.parametrize("what", ["ctl", "the directory", "all in it"])
async def test_a_vde_switch_is_there_again_and_who_was_in_stays(
    directory: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    lan = directory / "vde"
    async with witnessed() as (switch, witness):
        await switch.attach(f"vde://{lan}?name=lab&mode=0660&dirmode=2750")
        async with await vde_plug(lan, lan / f".{os.getpid():05d}-00001") as before:
            await hears(witness, before)
            names = set(os.listdir(lan))
            if what == "ctl":
                os.unlink(lan / "ctl")
            elif what == "the directory":
                shutil.rmtree(lan)
            else:
                for path in lan.iterdir():
                    path.unlink()
            await until(lambda: "ctl is there again" in caplog.text)
            assert [os.stat(path).st_mode & 0o7777 for path in (lan, lan / "ctl")] == [0o2750, 0o660]
            assert set(os.listdir(lan)) == (names if what == "ctl" else {"ctl"})
            async with await vde_plug(lan, lan / f".{os.getpid():05d}-00002") as after:
                for sender, receiver in ((before, after), (after, before)):
                    await hears(witness, sender)
                    assert await receiver.receive(1) == [WITNESS]
                assert up(switch) == {"witness", "lab.1", "lab.2"}
    assert f"lab: {lan}/ctl was removed" in caplog.text
    assert not lan.exists()


async def test_another_vde_switch_that_has_taken_the_directory_keeps_it(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lan = directory / "vde"
    async with witnessed() as (switch, _), VSwitch() as other:
        await switch.attach(f"vde://{lan}?name=lab")
        shutil.rmtree(lan)
        taken = await other.attach(f"vde://{lan}")
        await until(lambda: "somebody listens there" in caplog.text)
        async with await vde_plug(lan, directory / "client"):
            assert up(other) == {"vde1.1"}
        await until(lambda: not up(other))
        await taken.detach()
        await until(lambda: "ctl is there again" in caplog.text)
        async with await vde_plug(lan, directory / "client2"):
            assert up(switch) == {"witness", "lab.1"}
    assert not lan.exists()


async def test_a_vde_switch_whose_directory_another_has_taken_leaves_it_alone(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lan = directory / "vde"
    async with witnessed() as (switch, _), VSwitch() as other:
        lab = await switch.attach(f"vde://{lan}?name=lab")
        shutil.rmtree(lan)
        await other.attach(f"vde://{lan}")
        await until(lambda: "somebody listens there" in caplog.text)
        async with await vde_plug(lan, lan / f".{os.getpid():05d}-00001"):
            names = set(os.listdir(lan))
            await lab.detach()
            assert set(os.listdir(lan)) == names


async def test_a_management_socket_is_there_again_and_sessions_go_on(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory / "mgmt"
    prompt = b"vde$ "

    async def ask(stream: trio.SocketStream, line: bytes) -> bytes:
        await stream.send_all(line)
        answer = b""
        with trio.fail_after(TIMEOUT_S):
            while not answer.endswith(prompt):
                answer += await stream.receive_some()
        return answer

    async with VSwitch() as switch:
        await switch.attach(f"vde://{directory}/vde?mgmt={path}&mgmtmode=0660&mgmtgroup={os.getgid()}")
        async with await trio.open_unix_socket(path) as before:
            await ask(before, b"")
            os.unlink(path)
            await until(lambda: f"{path} is there again" in caplog.text)
            assert os.stat(path).st_mode & 0o777 == 0o660
            async with await trio.open_unix_socket(path) as after:
                await ask(after, b"")
                for session in (before, after):
                    assert b"1000 Success" in await ask(session, b"showinfo\n")
        assert up(switch) == set()
    assert not path.exists()
