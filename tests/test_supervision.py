"""What fails beside forwarding ends alone: an exception put into every task that a switch starts, by name."""

import logging
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
import trio.testing

from tests.certificates import authority
from tests.endpoints.kinds import vde_plug
from tests.frames import BROADCAST, frame, mac
from tests.peers import TIMEOUT_S, Peer, check_balance, until
from vswitch import VSwitch
from vswitch.control.capture_requests import CaptureRequest, FileRequest
from vswitch.control.recording import RecordLimits
from vswitch.supervision import Failures, contain, contain_once_started, keep_running


class InjectedError(Exception):
    pass


def inject(task: trio.lowlevel.Task) -> bool:
    """Has what a task waits for raise an error; whether it waits for something that can."""

    def fail() -> Any:
        raise InjectedError(f"put into {task.name}")

    if task._abort_func is None:
        return False
    task._attempt_abort(fail)
    return True


def descendants(nursery: trio.Nursery) -> Iterator[trio.lowlevel.Task]:
    for task in nursery.child_tasks:
        yield task
        for inner in task.child_nurseries:
            yield from descendants(inner)


def tasks_of(switch: VSwitch) -> list[trio.lowlevel.Task]:
    """Every task that the switch runs."""
    outer = switch._nursery.parent_task
    nurseries = [nursery for nursery in outer.child_nurseries if nursery is not switch._nursery]
    (data_plane,) = [nursery for nursery in nurseries if any(task.name == "forwarding" for task in nursery.child_tasks)]
    return [*descendants(data_plane), *descendants(switch._nursery)]


@asynccontextmanager
async def everything(directory: Path) -> AsyncIterator[tuple[VSwitch, Peer, Peer]]:
    """A switch with a task of every kind, and two stations that no other task has to do with."""
    async with AsyncExitStack() as stack:
        switch = await stack.enter_async_context(VSwitch(record=RecordLimits(2**20, 60)))
        control = str(directory / "default.ctl")
        await switch.serve_control(control)
        a = await stack.enter_async_context(await Peer.plugged_into(switch, name="a"))
        b = await stack.enter_async_context(await Peer.plugged_into(switch, name="b"))
        tcp = await switch.attach("tcp://127.0.0.1:0?name=tcp")
        await stack.enter_async_context(await Peer.connected_to(tcp.url))
        tls = authority().files("switch")
        secure = await switch.attach(f"tcp://127.0.0.1:0?name=secure&vlan=99&tls={tls}")
        await switch.attach(f"{secure.url}?connect&name=uplink&vlan=99&tls={tls}")  # a loop that no frame is in
        await switch.attach(f"unix://{directory}/one.sock?name=one&single")
        await switch.attach(f"unix://{directory}/nobody.sock?connect&name=away")
        await switch.attach("udp://127.0.0.1:0?name=udp")
        await switch.attach("udp://127.0.0.1:0?name=remote&remote=127.0.0.1:9")
        await switch.attach(f"unixgram://{directory}/dgram.sock?name=unixgram")
        await switch.attach("mcast://239.255.77.9:47777?name=group")
        await switch.attach("vxlan://127.0.0.1:0?vni=1&learn&name=segment")
        await switch.attach("l2tpv3://127.0.0.1:0?remote=127.0.0.1:9&session=1&name=session")
        await switch.attach(f"vde://{directory}/vde?name=vde&mgmt={directory}/mgmt")
        await stack.enter_async_context(await vde_plug(directory / "vde", directory / "client"))
        await stack.enter_async_context(await Peer.plugged_into(switch, name="c"))
        await stack.enter_async_context(await trio.open_unix_socket(f"{directory}/mgmt"))
        await switch.serve_metrics("127.0.0.1:0")
        await switch.attach(f"unix://{directory}/qmp.sock?single&name=qmp&qmp={directory}/vm.qmp")
        switch.attachments.end_with("one", os.pidfd_open(os.getpid()))
        with socket.socket(socket.AF_UNIX) as passed_on:
            passed_on.bind(f"{directory}/passed.ctl")
            passed_on.listen()
            await switch.serve_control("", passed_on.detach())
        following = await stack.enter_async_context(await trio.open_unix_socket(control))
        await following.send_all(b"GET /v1/events/stream HTTP/1.1\r\nHost: v\r\n\r\n")
        assert await following.receive_some()
        request = b"GET /v1/capture HTTP/1.1\r\nHost: v\r\n\r\n"
        for said in (b"", b"GET /v1/st", request):
            stream = await stack.enter_async_context(await trio.open_unix_socket(control))
            if said:
                await stream.send_all(said)
            if said == request:
                assert await stream.receive_some()
        live = await switch.captures.prepare(CaptureRequest(ports=("a",)))
        await switch.captures.write(FileRequest(path=str(directory / "a.pcapng"), floor=0), live)
        await until(lambda: {port.name for port in switch.ports()} >= {"tcp.1", "vde.1", "group", "secure.1"})
        await until(lambda: (directory / "a.pcapng").exists())
        await trio.testing.wait_all_tasks_blocked(0.01)
        yield switch, a, b


def has_failed(switch: VSwitch, times: int) -> bool:
    return switch.failures.total == times


# These end for good, as somebody has come by them who can come again.
ENDS = (
    "a connection",
    "a peer of",
    "a client",
    "a console on",
    "the capture to",
    "the end of",
    "the process of",
    "endpoint c",
    "starlette",
)


def names_of(switch: VSwitch) -> Counter[str]:
    """What must always run, by name."""
    return Counter(task.name for task in tasks_of(switch) if not task.name.startswith(ENDS))


async def test_an_exception_in_any_task_does_not_stop_forwarding(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    number = 0
    with TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        async with everything(Path(directory)) as (switch, a, b):
            must_run = names_of(switch)
            assert {
                "forwarding",
                "ageing",
                "giving memory back",
                "the control socket",
                "endpoint tcp",
                "the metrics socket",
                "the carrier of qmp",
            } <= must_run.keys()
            assert must_run["the control socket"] == 2
            names = sorted({task.name for task in tasks_of(switch)})
            assert any(name.startswith("a client of vde") for name in names)
            assert any("capture" in name for name in names)
            put = 0
            for name in [name for name in names if name not in ("endpoint a", "endpoint b")]:
                for task in [task for task in tasks_of(switch) if task.name == name]:
                    failed = switch.failures.total
                    if not inject(task):
                        continue
                    put += 1
                    number += 1
                    numbered = frame(BROADCAST, mac(1), payload=number.to_bytes(4))
                    await a.send(numbered)
                    assert await b.receive(1) == [numbered], name
                    if not name.startswith(ENDS):
                        await until(partial(has_failed, switch, failed + 1))
                    await until(lambda: names_of(switch) == must_run)
                    assert (await switch.macs())[0].port == "a"
            assert put >= len(must_run)
            check_balance(switch)
            assert switch.status().failures == switch.failures.total >= len(must_run)
            with trio.fail_after(TIMEOUT_S):
                async with await trio.open_unix_socket(f"{directory}/default.ctl") as stream:
                    await stream.send_all(b"GET /v1/failures HTTP/1.0\r\n\r\n")
                    answer = b"".join([data async for data in stream])
    for failure in switch.failures.kept():
        assert failure.reference in caplog.text
        assert failure.reference.encode() in answer
    assert "forwarding has failed: InjectedError: put into forwarding" in caplog.text


async def test_a_failure_is_logged_in_a_line_counted_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures()

    async def fail(text: str) -> None:
        raise ValueError(text)

    for _ in range(3):
        assert not await contain(failures, "a test", fail, "two\nlines \x1b[31m")
    assert failures.total == 3
    (failure,) = failures.kept()
    assert (failure.count, failure.what) == (3, "a test")
    assert "in fail" in failure.details
    (record,) = caplog.records
    assert record.message == (f"a test has failed: ValueError: two lines \\x1b[31m (reference {failure.reference})")


async def test_what_is_kept_of_failures_is_bounded() -> None:
    failures = Failures()
    for number in range(100):
        source = compile("\n" * number + "raise ValueError", "many", "exec")
        with pytest.raises(ValueError, match=r"^$") as caught:
            exec(source)
        failures.note("many", caught.value)
    assert failures.total == 100
    assert len(failures.kept()) == 32


async def test_it_starts_again_with_growing_pauses(autojump_clock: trio.testing.MockClock) -> None:
    failures = Failures()
    begun: list[float] = []

    async def fail_five_times() -> None:
        begun.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if len(begun) < 6:
            raise ValueError

    await keep_running(failures, "a test", fail_five_times)
    assert [round(after - before, 3) for before, after in pairwise(begun)] == [
        0,
        0.01,
        0.02,
        0.04,
        0.08,
    ]


async def test_cancelled_while_something_fails_it_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    failures = Failures()

    async def fail_when_cancelled() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError

    with trio.move_on_after(1) as scope:
        await keep_running(failures, "a test", fail_when_cancelled)
    assert scope.cancelled_caught
    assert failures.total == 1


async def test_before_it_has_started_an_error_is_raised_as_it_is() -> None:
    failures = Failures()

    async def refuse(started: object) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no$"):
        await contain_once_started(failures, "a test", refuse, lambda: None, again=True)
    assert failures.total == 0
