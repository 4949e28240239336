"""Captures of a running switch: nothing of what it does is lost or held up, whoever reads, and however it ends."""

import errno
import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests import captures as files
from tests.captures import IN, OUT, Read, parse
from tests.frames import BROADCAST, frame, framed, mac
from tests.needs import require
from tests.peers import TIMEOUT_S, Peer, check_balance, until
from vswitch import InputError, RefusedError, VSwitch, heap
from vswitch.control import capture_requests, captures
from vswitch.control.capture_requests import CaptureRequest, CaptureSummary, FileRequest
from vswitch.control.captures import LiveCapture
from vswitch.control.operations import read_body, read_query
from vswitch.control.recording import RecordLimits
from vswitch.edges import capture, packet_filter

FILTERS = "no libpcap here"


@asynccontextmanager
async def lan() -> AsyncIterator[tuple[VSwitch, Peer, Peer]]:
    """A switch, and the guests at its ports `a` and `b`."""
    with trio.fail_after(TIMEOUT_S):
        async with (
            VSwitch() as switch,
            await Peer.plugged_into(switch, name="a") as a,
            await Peer.plugged_into(switch, name="b") as b,
        ):
            yield switch, a, b


def numbered(count: int, start: int = 0, size: int = 60) -> list[bytes]:
    return [frame(BROADCAST, mac(1), size, payload=number.to_bytes(4)) for number in range(start, start + count)]


async def say(a: Peer, b: Peer, frames: list[bytes]) -> None:
    """From `a` to `b`, who has it when this returns."""
    await a.send(*frames)
    assert await b.receive(len(frames)) == frames


async def rest(stream: AsyncGenerator[bytes, None]) -> bytes:
    with trio.fail_after(TIMEOUT_S):
        return b"".join([portion async for portion in stream])


async def streamed(switch: VSwitch, **request: Any) -> tuple[LiveCapture, AsyncGenerator[bytes, None], bytes]:
    """A capture that has begun: its stream, and what has come of it."""
    live = await switch.captures.prepare(CaptureRequest(**request))
    stream = live.stream()
    return live, stream, await anext(stream)


def check(read: Read, frames: list[bytes]) -> None:
    """It has these frames from `a` to `b`, and accounts for all."""
    assert read.frames("a", IN) == read.frames("b", OUT) == frames
    assert [packet.id for packet in read.at("a", IN)] == [packet.id for packet in read.at("b", OUT)]
    read.check_statistics()


def readable(path: Path) -> Read:
    read = files.read(path)
    read.check_statistics()
    return read


async def test_a_stream_has_what_passes_from_its_first_bytes_on(tmp_path: Path) -> None:
    async with lan() as (switch, a, b):
        await say(a, b, numbered(5))
        live, stream, content = await streamed(switch)
        await say(a, b, numbered(50, 5))
        live.end()
        path = tmp_path / "stream.pcapng"
        path.write_bytes(content + await rest(stream))
        check(files.read(path), numbered(50, 5))
        await say(a, b, numbered(5))


async def test_what_passes_while_the_last_portion_is_read_is_there_or_not_counted() -> None:
    """Statistics that do not add up look like lost frames."""
    async with lan() as (switch, a, b):
        live, stream, content = await streamed(switch)
        await say(a, b, numbered(5))
        live.end()
        content += await anext(stream)
        await say(a, b, numbered(7, 5))
        parse(content + await rest(stream)).check_statistics()


async def test_a_port_that_comes_last_and_says_nothing_is_in_the_stream() -> None:
    async with lan() as (switch, a, b):
        live, stream, content = await streamed(switch)
        await say(a, b, numbered(5))
        content += await anext(stream)
        async with await Peer.plugged_into(switch, name="late"):
            live.end()
            read = parse(content + await rest(stream))
    assert [interface.name for interface in read.ports] == ["a", "b", "late"]
    read.check_statistics()


async def test_captures_start_and_stop_during_traffic_without_a_lost_frame(tmp_path: Path) -> None:
    """Each has all that was said from its begin to its end, in one row, and a later one all that came after it."""
    async with lan() as (switch, a, b):
        running: list[tuple[LiveCapture, Path, int]] = []
        ended: list[tuple[Path, int, int]] = []
        talking = trio.Event()

        async def talk(said: list[bytes]) -> None:
            for at in range(0, len(said), 10):
                await a.send(*said[at : at + 10])
                heard.extend(await b.receive(10))
                talking.set()

        heard: list[bytes] = []
        said = numbered(3000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, said)
            with trio.fail_after(TIMEOUT_S):
                await talking.wait()
                for number in range(5):
                    live = await switch.captures.prepare(CaptureRequest())
                    path = tmp_path / f"{number}.pcapng"
                    await switch.captures.write(FileRequest(path=str(path)), live)
                    running.append((live, path, len(heard)))
                    if number % 2:
                        live, path, first = running.pop(0)
                        last = len(heard)
                        live.end()
                        await live.done.wait()
                        ended.append((path, first, last))
        assert heard == said
        for live, path, first in running:
            live.end()
            await live.done.wait()
            ended.append((path, first, len(said)))
    assert len(ended) == 5
    for path, first, last in ended:
        read = readable(path)
        found = read.frames("a", IN)
        begun = said.index(found[0])
        assert found == said[begun : begun + len(found)]
        assert begun <= first + 10  # what is on its way to `b` came in before
        assert begun + len(found) >= last
        assert len(read.frames("b", OUT)) in range(len(found) - 10, len(found) + 11)


async def test_what_a_reader_that_stops_does_not_take_is_missed_exactly() -> None:
    async with lan() as (switch, a, b):
        switch.captures._budget.size = 20_000
        live, stream, content = await streamed(switch)
        for at in range(0, 1000, 50):
            await say(a, b, numbered(50, at))
        assert live.summary().missed > 0
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                nonlocal content
                async with aclosing(stream):
                    async for portion in stream:
                        content += portion

            nursery.start_soon(drain)
            await until(lambda: live._capture.held() == 0)
            await say(a, b, numbered(1, 1000))
            live.end()
        read = parse(content)
        missed = live.summary().missed
        assert live.summary().frames == len(read.packets)
        assert missed == 2002 - len(read.packets)
        read.check_statistics()
        assert [counted.received for counted in read.statistics.values()] == [0, 1001, 1001]
        assert [0, *(packet.missed for packet in read.packets[-2:])] == [
            counted.missed for counted in read.statistics.values()
        ]
        check_balance(switch)


async def test_a_lossless_capture_has_forwarding_wait_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "FULL", 20_000)
    burst = numbered(2000, size=1000)
    async with lan() as (switch, a, b):
        live, stream, content = await streamed(switch, lossless=True, count=2 * len(burst))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, a, b, burst)
            content += await rest(stream)
        check(parse(content), burst)
        assert live.summary().missed == 0


@pytest.mark.parametrize("how", ["it is ended", "its reader goes away"])
async def test_when_a_lossless_capture_is_over_forwarding_goes_on(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "FULL", 20_000)
    async with lan() as (switch, a, b):
        live, stream, _ = await streamed(switch, lossless=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, a, b, numbered(1000, size=1000))
            await until(lambda: live._capture.held() > captures.FULL)
            await trio.testing.wait_all_tasks_blocked(0.01)
            if how == "it is ended":
                live.end()
                await rest(stream)
            else:
                await stream.aclose()


async def test_a_full_disk_ends_the_capture_and_not_the_forwarding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(captures, "FULL", 1000)
    path = tmp_path / "full.pcapng"
    written = os.pwrite

    def pwrite(file: int, data: bytes, offset: int) -> int:
        if offset + len(data) > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    async with lan() as (switch, a, b):
        live = await switch.captures.prepare(CaptureRequest(lossless=True))
        await switch.captures.write(FileRequest(path=str(path), floor=0), live)
        with trio.fail_after(TIMEOUT_S):
            number = 0
            while not live.done.is_set():
                await say(a, b, numbered(50, number))
                number += 50
        await say(a, b, numbered(50))
        assert live.summary().stopped is not None
        assert "No space left on device" in str(live.summary().stopped)
        assert str(path) in caplog.text
    read = files.read(path)
    assert read.packets
    assert read.frames("a", IN) == numbered(len(read.frames("a", IN)))


async def test_when_the_switch_ends_the_file_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "lan.pcapng"
    async with lan() as (switch, a, b):
        await switch.captures.write(FileRequest(path=str(path)), await switch.captures.prepare(CaptureRequest()))
        await say(a, b, numbered(100))
    check(files.read(path), numbered(100))


async def test_files_are_rotated_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    async with lan() as (switch, a, b):
        live = await switch.captures.prepare(CaptureRequest(ports=("a",), count=2000))
        await switch.captures.write(FileRequest(path=str(tmp_path / "lan.pcapng"), rotate=("64KiB", "700frames")), live)
        for at in range(0, 2000, 100):
            await say(a, b, numbered(100, at))
        with trio.fail_after(TIMEOUT_S):
            await live.done.wait()
        assert live.summary() == CaptureSummary(frames=2000, missed=0, stopped=None)
    check_rotated(sorted(tmp_path.iterdir()))  # noqa: ASYNC240


def check_rotated(paths: list[Path]) -> None:
    reads = [files.read(path) for path in paths]
    assert [data for read in reads for data in read.frames("a", IN)] == numbered(2000)
    assert 3 <= len(reads) <= 6
    assert all(len(read.packets) <= 700 for read in reads)
    assert all(path.stat().st_size <= 64 * 1024 for path in paths)


async def test_a_count_is_kept_exactly() -> None:
    async with lan() as (switch, a, b):
        live, stream, content = await streamed(switch, count=7)
        await say(a, b, numbered(50))
        read = parse(content + await rest(stream))
    assert len(read.packets) == live.summary().frames == 7
    read.check_statistics()


async def test_it_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with VSwitch() as switch:
        live = await switch.captures.prepare(CaptureRequest(duration_s=60))
        before = trio.current_time()
        content = b"".join([portion async for portion in live.stream()])
        assert trio.current_time() - before == pytest.approx(60)
    assert parse(content).packets == []


@pytest.mark.parametrize("before", ["nothing", "something long ago"])
async def test_what_a_port_says_last_and_never_gets_is_in_the_stream_at_its_time(before: str) -> None:
    """The switch takes the one in, and drops the other, outside the loop's own turns."""
    async with lan() as (switch, a, b):
        here, there = socket.socketpair()
        with here:
            await switch.attach(there, name="c")
            flood = numbered(100, size=10_000)  # more than `c` takes, who does not read
            await say(a, b, flood)
            live, stream, content = await streamed(switch)
            if before != "nothing":
                await say(a, b, flood[:1])
            began_ns = time.time_ns()
            (port,) = (port for port in switch._ports if port.name == "c")
            here.sendall(framed([frame(BROADCAST, mac(3))]))
            waiting = port.port.queued_frames
            assert waiting > 10
            switch._ports.links.unplug(port, "test")  # which is not awaited: the loop has not seen what came
            live.end()
            read = parse(content + await rest(stream))
    assert read.frames("c", IN) == [frame(BROADCAST, mac(3))]
    lost = [packet for packet in read.at("c", OUT) if packet.comment]
    assert [packet.comment for packet in lost] == ["dropped: port_down"] * waiting
    assert all(began_ns <= packet.time_ns <= time.time_ns() for packet in [*read.at("c", IN), *lost])


async def test_a_wrong_filter_is_said_in_libpcaps_words() -> None:
    require(packet_filter.is_available(), FILTERS)
    async with VSwitch() as switch:
        with pytest.raises(InputError, match=r"host and.*syntax error"):
            await switch.captures.prepare(CaptureRequest(filter="host and"))


async def test_without_libpcap_only_filters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_filter, "_library_names", lambda: iter(["no-such-library.so"]))
    packet_filter._libpcap.cache_clear()
    async with lan() as (switch, a, b):
        with pytest.raises(RefusedError, match="libpcap"):
            await switch.captures.prepare(CaptureRequest(filter="arp"))
        live, stream, content = await streamed(switch)
        await say(a, b, numbered(3))
        live.end()
        check(parse(content + await rest(stream)), numbered(3))


async def test_a_filter_that_matches_nothing_leaves_nothing() -> None:
    require(packet_filter.is_available(), FILTERS)
    async with lan() as (switch, a, b):
        live, stream, content = await streamed(switch, filter="arp")
        await say(a, b, numbered(3))
        arp = frame(BROADCAST, mac(1))[:12] + b"\x08\x06" + bytes(46)
        await say(a, b, [arp])
        live.end()
        check(parse(content + await rest(stream)), [arp])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "port": ({"ports": ("a", "nobody")}, r"'nobody'.*there are a, b"),
    "snaplen": ({"snaplen": 0}, "snap length"),
    "long snaplen": ({"snaplen": 262145}, "snap length"),
    "count": ({"count": -1}, "count"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_cannot_be_captured_is_said(what: str) -> None:
    request, said = WRONG[what]
    async with lan() as (switch, _, _):
        with pytest.raises(InputError, match=said):
            await switch.captures.prepare(CaptureRequest(**request))


async def test_a_file_that_cannot_be_had_is_refused_and_nothing_is_watched(tmp_path: Path) -> None:
    async with lan() as (switch, a, b):
        live = await switch.captures.prepare(CaptureRequest())
        with pytest.raises(RefusedError, match="No such file"):
            await switch.captures.write(FileRequest(path=str(tmp_path / "no" / "where")), live)
        assert not switch._ports.bridge.journal.on
        await say(a, b, numbered(3))


async def test_while_nobody_watches_nothing_is_written() -> None:
    async with lan() as (switch, a, b):
        journal = switch._ports.bridge.journal
        live, stream, _ = await streamed(switch)
        assert journal.on
        live.end()
        await rest(stream)
        assert not journal.on
        await say(a, b, numbered(3))
        assert journal.entries == []


async def test_who_hangs_up_on_the_api_ends_its_capture(tmp_path: Path) -> None:
    """Also while nothing is said, when there is nothing to send that would fail."""
    path = str(tmp_path / "ctl")
    async with lan() as (switch, _, _):
        await switch.serve_control(path)
        async with await trio.open_unix_socket(path) as sock:
            await sock.send_all(b"GET /v1/capture HTTP/1.1\r\nHost: x\r\n\r\n")
            with trio.fail_after(TIMEOUT_S):
                await sock.receive_some()
                await until(lambda: switch._ports.bridge.journal.on)
        await until(lambda: not switch._ports.bridge.journal.on)


async def test_what_a_filter_of_a_users_own_raises_ends_that_capture_only(caplog: pytest.LogCaptureFixture) -> None:
    def fail(data: bytes) -> bool:
        raise ZeroDivisionError("a test's own")

    async with lan() as (switch, a, b):
        live, stream, content = await streamed(switch)
        failing = await switch.captures.prepare(CaptureRequest(), fail)
        async with failing:
            await say(a, b, numbered(10))
            await say(a, b, numbered(10, 10))
            assert failing.stopped is not None
            assert "ZeroDivisionError" in failing.stopped
        assert switch.failures.total == 1
        assert "a capture has failed: ZeroDivisionError: a test's own" in caplog.text
        live.end()
        check(parse(content + await rest(stream)), numbered(20))


async def test_a_lossless_capture_that_nobody_reads_ends_and_forwarding_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(captures, "FULL", 20_000)
    monkeypatch.setattr(captures, "LOSSLESS_PATIENCE_S", 0.05)
    async with lan() as (switch, a, b):
        live, stream, content = await streamed(switch, lossless=True)
        await say(a, b, numbered(100, size=1000))
        await say(a, b, numbered(100, 100, size=1000))
        assert live.summary().stopped == "nothing of it was taken for 0.05 s"
        assert "a lossless capture has ended" in caplog.text
        read = parse(content + await rest(stream))
    kept = len(read.frames("a", IN))
    assert 10 < kept < 200
    assert read.frames("a", IN) == numbered(kept, size=1000)


async def test_a_disk_that_hangs_holds_up_neither_forwarding_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(captures, "LAST_WRITES_S", 0.05)
    hangs = threading.Event()
    written = os.pwrite

    def pwrite(file: int, data: bytes, offset: int) -> int:
        if offset > 1000:
            hangs.wait(TIMEOUT_S)
        return written(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    try:
        async with lan() as (switch, a, b):
            await switch.captures.write(
                FileRequest(path=str(tmp_path / "lan.pcapng"), floor=0), await switch.captures.prepare(CaptureRequest())
            )
            for at in range(0, 200, 50):
                await say(a, b, numbered(50, at))
        assert "is cut off: its disk takes nothing" in caplog.text
    finally:
        hangs.set()


async def test_a_step_of_the_clock_empties_no_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    async with (
        VSwitch(record=RecordLimits(2**20, 60.0)) as switch,
        await Peer.plugged_into(switch, name="a") as a,
        await Peer.plugged_into(switch, name="b") as b,
    ):
        for at, step_s in enumerate((0, 3600, -7200)):
            now_ns += step_s * 10**9
            await say(a, b, numbered(10, 10 * at))
        read = parse(b"".join([portion async for portion in switch.captures.recorded(CaptureRequest())]))
        moment = switch.captures.moment()
        await say(a, b, numbered(1, 30))
        since = parse(b"".join([portion async for portion in switch.captures.recorded(CaptureRequest(), since=moment)]))
    assert read.frames("a", IN) == numbered(30)
    assert since.frames("a", IN) == numbered(1, 30)
    assert len({packet.time_ns for packet in read.packets}) == 3


def test_there_is_no_recording_beyond_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "available", lambda: 100 * 2**20)
    VSwitch(record=RecordLimits(75 * 2**20, 60.0))
    with pytest.raises(RefusedError, match="there is not the memory to record 76 MiB; record 75MiB at most"):
        VSwitch(record=RecordLimits(76 * 2**20, 60.0))


def test_a_request_has_the_snap_length_that_captures_have() -> None:
    assert capture_requests.SNAPLEN_MAX == capture.SNAPLEN_MAX


OUT_OF_RANGE = ["snaplen=0", f"snaplen={10**30}", "count=-1", f"count={2**64}", "duration_s=nan", "duration_s=-1"]


@pytest.mark.parametrize("query", OUT_OF_RANGE)
def test_what_is_asked_for_is_in_range(query: str) -> None:
    name, _, value = query.partition("=")
    with pytest.raises(InputError):
        read_query(CaptureRequest, [(name, value)])


def test_a_body_that_is_no_text_is_the_clients_fault() -> None:
    with pytest.raises(InputError, match="the body does not say what is asked for"):
        read_body(FileRequest, b'{"path": "\xff"}')
