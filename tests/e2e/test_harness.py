"""The harness by itself, without any switch, so that a failing test elsewhere is not about the harness."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.e2e.guest import Guest, Nic, boot, guest_image
from tests.e2e.rig import rig
from vswitch.testing.qemu import QemuError

FRAME = bytes.fromhex("ffffffffffff 525400000001 88b5") + b"payload".ljust(46)


@pytest.fixture(autouse=True, scope="module")
def machine_that_runs_guests() -> None:
    guest_image()


async def test_two_guests_ping_and_carry_data_unharmed() -> None:
    left, right = socket.socketpair()
    a = Guest("a", Nic(f"socket,fd={left.fileno()}", ip="10.0.0.1/24"), pass_fds=[left.fileno()])
    b = Guest("b", Nic(f"socket,fd={right.fileno()}", ip="10.0.0.2/24"), pass_fds=[right.fileno()])
    with left, right:
        async with boot(a, b):
            ping = await a.run("ping -c 3 -i 0.1 10.0.0.2")
            assert ping.ok
            assert "3 packets received" in ping.stdout
            assert b.nics[0].mac in (await a.run("ip neigh show 10.0.0.2")).stdout

            # httpd listens by the time that it returns.
            await b.run("dd if=/dev/urandom of=/tmp/data bs=1M count=8; httpd -h /tmp")
            served = await b.run("md5sum </tmp/data")
            fetched = await a.run("wget -q -O - http://10.0.0.2/data | md5sum")
            assert (fetched.status, fetched.stdout) == (0, served.stdout)


async def test_guest_runs_commands() -> None:
    async with boot(Guest("lonely")) as (guest,):
        assert (await guest.run("hostname")).stdout == "lonely\n"

        result = await guest.run("echo out; echo err >&2; exit 7")
        assert (result.ok, result.status, result.stdout, result.stderr) == (False, 7, "out\n", "err\n")

        # Neither bytes that are no text, nor what looks like the protocol, nor broken syntax does harm.
        assert (await guest.run(r"printf '1 0 3\n\377\000'")).stdout == "1 0 3\n\\xff\0"
        assert (await guest.run("echo 'unterminated")).status == 2
        assert (await guest.run("cat; yes | head -c 1000000")).stdout == "y\n" * 500_000

        # Commands run at the same time, and each gets its own output.
        outputs = {}

        async def fill(name: str, command: str) -> None:
            outputs[name] = (await guest.run(command)).stdout

        await guest.run("mkfifo /tmp/x /tmp/y /tmp/z")
        async with trio.open_nursery() as nursery:
            for name in "xyz":
                nursery.start_soon(fill, name, f"cat /tmp/{name}")
            for name in "zyx":
                nursery.start_soon(fill, f"to {name}", f"echo {name} >/tmp/{name}")
        assert outputs == {"x": "x\n", "y": "y\n", "z": "z\n", "to x": "", "to y": "", "to z": ""}

        # A timeout concerns that command only, and so does what stays in the background.
        with pytest.raises(QemuError, match=r"no answer in 0\.5 s"):
            await guest.run("sleep 1; echo late", timeout=0.5)
        assert (await guest.run("(sleep 1; echo later) & echo now")).stdout == "now\n"
        assert (await guest.run("sleep 1.5; echo on time")).stdout == "on time\n"


async def test_guest_is_stopped_continued_and_unplugged() -> None:
    async with boot(Guest("a", Nic("hubport,hubid=0", ip="10.0.0.1/24"))) as (guest,):
        await guest.qmp("stop")
        assert (await guest.qmp("query-status"))["status"] == "paused"
        with pytest.raises(QemuError, match="no answer"):
            await guest.run("true", timeout=0.5)
        await guest.qmp("cont")
        assert (await guest.run("true")).ok

        await guest.qmp("set_link", name="nic0", up=False)
        assert (await guest.run("until grep 0 /sys/class/net/eth0/carrier; do usleep 10000; done")).ok
        with pytest.raises(QemuError, match="Device 'nic9' not found"):
            await guest.qmp("set_link", name="nic9", up=False)


async def test_death_of_a_guest_is_told_with_its_console() -> None:
    async with boot(Guest("a")) as (guest,):
        with pytest.raises(QemuError, match=r"(?s)QEMU ended with status 0.*Kernel panic"):
            await guest.run("echo c >/proc/sysrq-trigger")
        with pytest.raises(QemuError, match="QEMU ended"):
            await guest.qmp("query-status")


async def test_guest_that_does_not_come_up_shows_its_console() -> None:
    with pytest.raises(QemuError, match=r"(?s)guest a: booting.*RTNETLINK.*Kernel panic"):
        async with boot(Guest("a", Nic("hubport,hubid=0", ip="10.0.0.999/24")), cold=True):
            pass


async def test_rig_carries_frames_both_ways() -> None:
    near, a = socket.socketpair()
    far, b = socket.socketpair()
    with near, a, far, b:
        fds = (a.fileno(), b.fileno())
        async with rig(f"socket,fd={fds[0]}", f"socket,fd={fds[1]}", pass_fds=fds):
            for sender, receiver in ((near, far), (far, near)):
                sender.sendall(len(FRAME).to_bytes(4, "big") + FRAME)
                assert await received(receiver, 4 + len(FRAME)) == len(FRAME).to_bytes(4, "big") + FRAME


async def test_rig_tells_why_qemu_refused() -> None:
    with pytest.raises(QemuError, match="nonsense"):
        async with rig("nonsense", "hubport,hubid=1"):
            pass


async def test_qemu_ends_when_its_test_is_cancelled() -> None:
    with trio.CancelScope() as scope:
        async with rig("hubport,hubid=1", "hubport,hubid=2") as qemu:
            scope.cancel()
            await trio.sleep_forever()
    assert qemu.process.returncode == -signal.SIGKILL


async def test_qemu_does_not_outlive_a_killed_test() -> None:
    code = """if True:
        import trio
        from tests.e2e.rig import rig

        async def main():
            async with rig("hubport,hubid=1", "hubport,hubid=2") as qemu:
                print(qemu.process.pid, flush=True)
                await trio.sleep_forever()

        trio.run(main)
    """
    tester = await trio.lowlevel.open_process(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE
    )
    with trio.fail_after(20):
        assert tester.stdout is not None
        qemu = os.pidfd_open(int(await tester.stdout.receive_some()))
        tester.kill()
        await tester.wait()
        await tester.stdout.aclose()
    try:
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(qemu)  # which is when the process has ended
    except trio.TooSlowError:
        signal.pidfd_send_signal(qemu, signal.SIGKILL)
        raise
    finally:
        os.close(qemu)


async def received(sock: socket.socket, size: int) -> bytes:
    data = b""
    with trio.fail_after(5):
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock.dup())) as stream:
            while len(data) < size:
                data += await stream.receive_some(size - len(data))
    return data
