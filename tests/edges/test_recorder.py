"""The flight recorder: what it keeps, for how long, and how much memory that takes."""

import gc
import sys

from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import bridge, receive, take, taken
from tests.frames import BROADCAST, frame, framed, mac
from vswitch.dataplane import compiled
from vswitch.dataplane.drops import PASSED
from vswitch.dataplane.journal import IN, OUT, Entry
from vswitch.edges.recorder import Recorder, weight

FOREVER = 1 << 60


def entry(chunk: bytes, time_ns: int = 0, port: int = 0) -> Entry:
    return Entry(port, IN, PASSED, chunk, 0, len(chunk), 1, 0, time_ns)


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 50)), max_size=60), st.integers(200, 20_000))
def test_it_keeps_the_newest_within_its_size_and_age(turns: list[tuple[int, int]], size_max: int) -> None:
    recorder = Recorder(size_max, 200)
    kept: list[tuple[int, int]] = []
    now = 0
    for size, pause in turns:
        now += pause
        recorder.take([entry(b"x" * size)], now)
        kept.append((now, weight([entry(b"x" * size)])))
        while kept and (sum(weight for _, weight in kept) > size_max or kept[0][0] < now - 200):
            del kept[0]
        assert [(segment.now, segment.size) for segment in recorder.segments] == kept
        assert recorder.size == sum(weight for _, weight in kept) <= size_max


def test_a_step_of_the_clock_that_stamps_empties_nothing() -> None:
    recorder = Recorder(FOREVER, 1000)
    for now, stamp_ns in ((0, 10**18), (100, 10**18 + 3600 * 10**9), (200, 10**18 - 3600 * 10**9)):
        recorder.take([entry(b"x", stamp_ns)], now)
    assert [segment.number for segment in recorder.segments] == [0, 1, 2]
    recorder.take([entry(b"x", 0)], 1101)
    assert [segment.number for segment in recorder.segments] == [2, 3]


def test_a_chunk_is_charged_once_for_all_that_lies_in_it() -> None:
    chunk, other, rebuilt = b"x" * 100_000, b"y" * 100_000, b"z" * 50_000
    one = weight([entry(chunk)])
    assert one > 100_000
    assert weight([entry(chunk)] * 10) - one < 2000
    assert weight([entry(chunk), entry(rebuilt)] * 10) - one < 55_000
    assert weight([entry(chunk), entry(other)]) == 2 * one


def test_what_is_charged_is_what_is_held() -> None:
    """As for received chunks: the process's own count of bytes, and what the recorder says, agree within a tenth."""
    recorder = Recorder(FOREVER, FOREVER)
    held = 0
    for number in range(50):
        chunk = framed([frame(BROADCAST, mac(1), 500 + number)] * 40)
        entries = [entry(chunk, port=port) for port in range(5)]
        recorder.take(entries, 0)
        held += sys.getsizeof(chunk) + sum(sys.getsizeof(each) for each in entries) + sys.getsizeof(entries)
    assert 0.9 * held < int(recorder.size) < 1.15 * held
    if compiled():  # millions of them are nothing to the collector
        assert not any(gc.is_tracked(each) for each in entries)


def test_what_it_keeps_are_the_received_chunks_themselves() -> None:
    switch = bridge(3)
    switch.journal.on = True
    chunk = framed([frame(BROADCAST, mac(1), 1000)] * 5)
    switch.ingress(switch.ports[0], chunk, 0, 0)
    recorder = Recorder(FOREVER, FOREVER)
    recorder.take(taken(switch), 0)
    (segment,) = recorder.segments
    assert [(each.port, each.direction) for each in segment.entries] == [(0, IN), (1, OUT), (2, OUT)]
    assert all(each.chunk is chunk for each in segment.entries)
    receive(switch, 1, [frame(mac(1), mac(2))])
    take(switch.ports[0])
    assert len(recorder.segments) == 1


def test_nothing_to_keep_is_nothing() -> None:
    recorder = Recorder(100, FOREVER)
    recorder.take([], 0)
    assert (recorder.size, len(recorder.segments)) == (0, 0)
    recorder.take([entry(b"x" * 1000)], 0)  # more than it may keep at all
    assert (recorder.size, len(recorder.segments)) == (0, 0)
