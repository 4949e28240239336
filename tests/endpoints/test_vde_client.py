"""Plugging into a VDE switch: the port that it asks for, and switches that are none."""

import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.endpoints.kinds import SUN_PATH, FakeVdeSwitch, sockaddr_un, vde_plug
from tests.frames import BROADCAST, frame, mac
from tests.peers import TIMEOUT_S, Peer, until, up
from vswitch import VSwitch
from vswitch.endpoints.stream.connector import RETRY_MAX_S


async def pass_time_until(clock: MockClock, condition: Callable[[], object]) -> None:
    """Let the clock run ahead until `condition()` is true."""
    with trio.fail_after(100 * TIMEOUT_S):
        while not condition():
            clock.jump(RETRY_MAX_S / 4)
            await trio.sleep(0.005)


async def test_it_gets_the_port_that_it_asks_for(directory: Path) -> None:
    async with VSwitch() as far, VSwitch() as near:
        await far.attach(f"vde://{directory}/lan", name="lab")
        await near.attach(f"vde://{directory}/lan?connect&port=7", name="uplink")
        assert (up(near), up(far)) == ({"uplink"}, {"lab.7"})
        (port,) = far.ports()
        assert port.peer == f"vswitch uplink pid={os.getpid()}"
        async with await Peer.plugged_into(near) as here, await Peer.plugged_into(far) as there:
            await here.send(frame(BROADCAST, mac(1)))
            assert await there.receive(1) == [frame(BROADCAST, mac(1))]
            await there.send(frame(mac(1), mac(2)))
            assert await here.receive(1) == [frame(mac(1), mac(2))]
    assert os.listdir(directory) == []


async def test_a_port_that_is_taken_is_asked_for_until_it_is_free(
    directory: Path, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with VSwitch() as far, VSwitch() as near:
        await far.attach(f"vde://{directory}/lan", name="lab")
        async with await vde_plug(directory / "lan", directory / "client", kind=7 << 8):
            await near.attach(f"vde://{directory}/lan?connect&port=7", name="uplink")
            assert up(near) == set()
            assert "uplink: cannot connect to " in caplog.text
            assert "it turned us away; will keep trying" in caplog.text
        await pass_time_until(clock, lambda: up(near) == {"uplink"})
        assert up(far) == {"lab.7"}
        assert caplog.text.count("uplink: cannot connect") == 1


async def test_nobody_there_is_said_once_and_waited_for(
    directory: Path, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with VSwitch() as near, VSwitch() as far:
        await near.attach(f"vde://{directory}/lan?connect", name="uplink")
        for _ in range(5):
            clock.jump(RETRY_MAX_S)
            await trio.sleep(0.005)
        assert caplog.text.count("No such file or directory; will keep trying") == 1
        for _ in range(2):
            lab = await far.attach(f"vde://{directory}/lan", name="lab")
            await pass_time_until(clock, lambda: up(near) == {"uplink"})
            assert up(far) == {"lab.1"}
            await lab.detach()
            await until(lambda: up(near) == set())
            assert not (directory / "lan").exists()


async def hangs_up(ctl: trio.SocketStream) -> None:
    ctl.socket.close()


async def says_nothing(ctl: trio.SocketStream) -> None:
    await ctl.receive_some(4096)  # until it is given up


def answers(reply: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def answer(ctl: trio.SocketStream) -> None:
        await ctl.send_all(reply)
        await ctl.receive_some(4096)

    return answer


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        (hangs_up, "it turned us away"),
        (says_nothing, "no answer"),
        (answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "it answers with a reply of 28 bytes"),
        (answers(sockaddr_un(b"/x")[:-1]), "it answers with a reply of 109 bytes"),
        (answers(sockaddr_un(b"/x") + b"\0"), "it answers with a reply of 111 bytes"),
        (answers(b"\xff" * (2 + SUN_PATH)), "it answers with a reply that names no socket"),
        (answers(bytes(2 + SUN_PATH)), "it answers with a reply that names no socket"),
        (answers(sockaddr_un(b"/nonexistent/socket")), "No such file or directory"),
        (answers(sockaddr_un(b"/dev/null")), "Connection refused"),
        (answers(sockaddr_un(b"x" * SUN_PATH)), "AF_UNIX path too long"),
    ],
)
async def test_what_is_no_vde_switch_is_said_to_be_none_until_one_is_there(
    directory: Path,
    clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    behave: Callable[[trio.SocketStream], Awaitable[None]],
    said: str,
) -> None:
    async with VSwitch() as near, trio.open_nursery() as nursery:
        with socket.socket(socket.AF_UNIX) as sock:
            (directory / "lan").mkdir()
            sock.bind(bytes(directory / "lan" / "ctl"))
            sock.listen()
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            attached = trio.Event()

            async def attach() -> None:
                await near.attach(f"vde://{directory}/lan?connect", name="uplink")
                attached.set()

            nursery.start_soon(attach)
            with trio.fail_after(TIMEOUT_S):
                async with await listener.accept() as ctl:
                    await ctl.receive_some(4096)
                    (bound,) = (name for name in os.listdir(directory / "lan") if name.startswith("."))
                    await behave(ctl)
                await attached.wait()
            assert up(near) == set()
            assert f"{said}; will keep trying" in caplog.text
            assert not (directory / "lan" / bound).exists()  # the next try has one of its own, perhaps already
            accepted: list[FakeVdeSwitch] = []

            async def accept() -> None:
                accepted.append(await FakeVdeSwitch.accepting(listener, directory / "lan" / "001.1"))

            nursery.start_soon(accept)
            await pass_time_until(clock, lambda: up(near) == {"uplink"} and bool(accepted))
            (far,) = accepted
            async with far, await Peer.plugged_into(near) as other:
                await far.send(frame(BROADCAST, mac(1)))
                assert await other.receive(1) == [frame(BROADCAST, mac(1))]
        nursery.cancel_scope.cancel()
    assert sorted(os.listdir(directory / "lan")) == ["001.1", "ctl"]


async def test_a_switch_that_talks_on_is_not_listened_to(directory: Path) -> None:
    async with VSwitch() as near:
        (directory / "lan").mkdir()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(bytes(directory / "lan" / "ctl"))
            sock.listen()
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.attach, f"vde://{directory}/lan?connect")
                far = await FakeVdeSwitch.accepting(listener, directory / "lan" / "001.1")
            assert far.ctl is not None
            async with far, await Peer.plugged_into(near, name="other") as other:
                with trio.fail_after(TIMEOUT_S):
                    await far.ctl.send_all(bytes(1 << 20))
                await far.send(frame(BROADCAST, mac(1)))
                assert await other.receive(1) == [frame(BROADCAST, mac(1))]
                assert up(near) == {"vde1", "other"}
