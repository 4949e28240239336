"""A user network whose process hangs: it is given time, and then replaced."""

import json
import os
import signal
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.endpoints.user_guest import Guest, child_of
from tests.peers import until
from tests.waiting import is_over
from vswitch import RefusedError, VSwitch
from vswitch.endpoints.user import child
from vswitch.endpoints.user.watchdog import ASK_S, HANGS, SILENT_MAX

pytestmark = pytest.mark.usefixtures("libslirp")

A = "52:54:00:00:00:0a"
SAID = f"net: the process of this network has ended: {HANGS}; it is started again"


async def pass_questions(clock: MockClock, count: int) -> None:
    """The time of so many questions passes."""
    for _ in range(count):
        clock.jump(ASK_S)
        await wait_all_tasks_blocked(0.01)


async def test_one_that_hangs_is_replaced_and_leases_are_kept(
    switch: VSwitch, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await switch.attach("user://10.0.2.0/24?name=net&dhcpstart=10.0.2.100")
    a = await Guest.plugged_into(switch, "a", A)
    await a.lease("web")
    before = child_of(os.getpid())
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    await a.ask("discover")  # nobody reads that
    await pass_questions(clock, SILENT_MAX + 1)
    await until(lambda: SAID in caplog.messages)
    await until(lambda: child_of(os.getpid()) not in (None, before))
    await until(lambda: next(port for port in switch.ports() if port.name == "net").up)
    assert is_over(before)
    assert [(lease.name, lease.ip) for lease in switch.user_networks.leases()] == [("web", "10.0.2.100")]
    assert await a.lease() == "10.0.2.100"


async def test_one_that_is_slow_is_not(switch: VSwitch, clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    a = await Guest.plugged_into(switch, "a", A)
    before = child_of(os.getpid())
    assert before is not None
    for _ in range(2):
        os.kill(before, signal.SIGSTOP)
        await pass_questions(clock, SILENT_MAX - 1)
        os.kill(before, signal.SIGCONT)
        await a.lease()  # so it has spoken
        await pass_questions(clock, 1)
    assert child_of(os.getpid()) == before
    assert SAID not in caplog.messages


@pytest.mark.parametrize("reads", ["", "sock.recv(1 << 20)"], ids=["deaf", "dumb"])
async def test_one_that_hangs_before_it_is_ready_keeps_nobody_waiting(
    switch: VSwitch, clock: MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reads: str
) -> None:
    """Also with more leases than its socket takes before they are read."""
    (tmp_path / "hangs.py").write_text(HANGING.format(reads=reads))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(child, "PROGRAM", "hangs")
    file = tmp_path / "leases"
    file.write_text(json.dumps([lease(number) for number in range(256, 1280)]))
    refused: list[RefusedError] = []

    async def attach() -> None:
        with pytest.raises(RefusedError) as caught:
            await switch.attach(f"user://10.0.0.0/20?leases={file}")
        refused.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attach)
        await until((tmp_path / "hangs").exists)
        clock.jump(child.START_TIMEOUT_S)
    assert str(refused[0]) == f"user://10.0.0.0/20: it was not ready within {child.START_TIMEOUT_S:g} s"
    assert switch.ports() == []


def lease(number: int) -> dict[str, object]:
    """A long one."""
    mac, ip = f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", f"10.0.{number >> 8}.{number & 255}"
    return {"mac": mac, "ip": ip, "port": "p" * 100, "name": "n" * 63, "until_s": 9e9}


HANGING = """
import socket, sys, time, pathlib
sock = socket.socket(fileno=int(sys.argv[2]))
{reads}
pathlib.Path(__file__).with_suffix("").touch()
while True:
    time.sleep(60)
"""
