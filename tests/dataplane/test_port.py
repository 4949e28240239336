"""The egress queue: order, the bound, and the memory that what waits really holds."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import drops, take
from tests.frames import BROADCAST, frame, framed, mac, unframed
from vswitch.dataplane import compiled
from vswitch.dataplane.port import QUEUE_BYTES_MIN, SMALL, Port, QueuePool


def enqueue(port: Port, frames: list[bytes]) -> None:
    chunk = framed(frames)
    port.enqueue(chunk, 0, len(chunk), len(frames))


def numbered(number: int, size: int) -> bytes:
    return frame(BROADCAST, mac(1), size, payload=number.to_bytes(4))


sizes = st.one_of(st.integers(18, 100), st.integers(SMALL - 40, SMALL + 40), st.integers(1500, 9000))


@given(
    st.lists(st.lists(sizes, min_size=1, max_size=6), max_size=25),
    st.lists(st.integers(1, 20_000), max_size=60),
    st.booleans(),
)
def test_whatever_the_link_takes_comes_out_whole_and_in_order(
    runs: list[list[int]], portions: list[int], blocked: bool
) -> None:
    """Runs go in, the link takes arbitrary portions in between, and may be found full at any time."""
    port = Port(0, QueuePool(1 << 40), 1 << 30)
    wanted = b""
    sent = b""
    number = 0
    for run, portion in zip(runs, portions + [1] * len(runs), strict=False):
        frames = [numbered(number + at, size) for at, size in enumerate(run)]
        number += len(frames)
        wanted += framed(frames)
        enqueue(port, frames)
        if blocked and portion % 3 == 0:
            port.block()
        ready = b"".join(run.chunk[run.start : run.end] for run in port.waiting())[port.head_sent :]
        sent += ready[:portion]
        port.sent(min(portion, len(ready)))
        assert port.tx_frames == whole_frames(sent)
        assert port.tx_frames + port.queued_frames == number
        if port.queued_frames == 0:
            port.unblock()
    sent += b"".join(run.chunk[run.start : run.end] for run in port.waiting())[port.head_sent :]
    assert sent == wanted


def whole_frames(stream: bytes) -> int:
    frames = at = 0
    while len(stream) - at >= 4 and (at := at + 4 + int.from_bytes(stream[at : at + 4])) <= len(stream):
        frames += 1
    return frames


def test_a_full_queue_drops_at_the_tail_frame_by_frame() -> None:
    port = Port(0, QueuePool(), QUEUE_BYTES_MIN)
    port.block()
    enqueue(port, [numbered(at, 1020) for at in range(200)])  # 1,024 bytes each: 128 fit
    assert port.queued_frames == 128
    assert drops(port) == {"queue_full": 72}
    enqueue(port, [numbered(999, 1020)])
    assert drops(port) == {"queue_full": 73}
    assert take(port) == [numbered(at, 1020) for at in range(128)]


def test_a_frame_that_is_partly_sent_is_never_dropped() -> None:
    port = Port(0, QueuePool(), QUEUE_BYTES_MIN)
    frames = [numbered(at, 60_000) for at in range(4)]
    enqueue(port, frames)
    port.sent(60_004 + 1000)
    port.block()  # room for two of the three that wait
    assert drops(port) == {"queue_full": 1}
    rest = b"".join(run.chunk[run.start : run.end] for run in port.waiting())[port.head_sent :]
    assert rest == framed(frames[1:3])[1000:]


def test_clear_counts_what_was_queued() -> None:
    port = Port(0, QueuePool())
    enqueue(port, [numbered(at, 60) for at in range(5)])
    port.sent(10)
    port.clear()
    assert drops(port) == {"port_down": 5}
    enqueue(port, [numbered(9, 60)])
    assert take(port) == [numbered(9, 60)]


@pytest.mark.parametrize("size", [14, 60, 64, 300, 1100, 1514, 9000, 69632][:: 1 if compiled() else 3])
@pytest.mark.parametrize("share", [1, 3, 50])
def test_a_full_queue_holds_at_most_about_twice_its_bound(size: int, share: int) -> None:
    """Of each chunk of up to 256 KiB, one frame in `share` goes to a port that is full."""
    bound = 1 << 20  # twice of which comes in all
    port = Port(0, QueuePool(), bound)
    enqueue(port, [numbered(0, 60)])
    port.block()
    data = frame(BROADCAST, mac(1), size)
    per_chunk = 256 * 1024 // (4 + size)
    share = min(share, per_chunk)
    pattern = framed([data] * per_chunk)
    tracemalloc.start()
    try:
        for _ in range(8 * share):
            chunk = bytes(bytearray(pattern))  # as each read makes a new one
            for at in range(0, per_chunk, share):
                port.enqueue(chunk, at * (4 + size), (at + 1) * (4 + size), 1)
            del chunk
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert drops(port)["queue_full"] > 0
    assert port.queued_bytes > bound - 4 - size
    assert held <= 2.2 * bound
    assert len(unframed(b"".join(run.chunk[run.start : run.end] for run in port.waiting()))) == port.queued_frames


def test_a_slow_trickle_into_a_full_queue_does_not_pin_its_chunks() -> None:
    """One small frame of every large chunk waits here; the rest of the chunk must be free to go."""
    port = Port(0, QueuePool(), 1 << 20)
    enqueue(port, [numbered(0, 60)])
    port.block()
    data = framed([frame(BROADCAST, mac(1), 60)])
    tracemalloc.start()
    try:
        for _ in range(1000):
            chunk = bytes(256 * 1024 - len(data)) + data
            port.enqueue(chunk, len(chunk) - len(data), len(chunk), 1)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 512 * 1024


def test_many_stalled_ports_share_one_pool_and_a_single_one_gets_all_it_may_have() -> None:
    pool = QueuePool(8 * QUEUE_BYTES_MIN)
    ports = [Port(index, pool, 4 * QUEUE_BYTES_MIN) for index in range(12)]
    for port in ports:
        port.block()
    for _ in range(1000):
        enqueue(ports[0], [numbered(1, 1020)])
    assert ports[0].queued_bytes == 4 * QUEUE_BYTES_MIN
    for port in ports:
        for _ in range(1000):
            enqueue(port, [numbered(1, 1020)])
    assert all(port.queued_bytes >= QUEUE_BYTES_MIN for port in ports)
    assert pool.used == sum(port.queued_bytes for port in ports) <= pool.size + len(ports) * QUEUE_BYTES_MIN
    for port in ports:
        port.clear()
    assert pool.used == 0
