"""Captures block by block: what is in them is what was seen, as independent readers read it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import captures
from tests.captures import IN, OUT, Interface, Read, parse
from tests.frames import BROADCAST, frame, framed, mac
from vswitch.dataplane.drops import DROP_REASONS, PASSED, QUEUE_FULL
from vswitch.dataplane.journal import UNKNOWN, Entry
from vswitch.dataplane.offload import GSO_TCPV4, needs_segments, unfinished_of
from vswitch.edges.capture import SNAPLEN_MAX, Budget, Capture, Piece

NOW_NS = 1_795_363_200_123_456_789
PLENTY = 1 << 24


def made(held_max: int = PLENTY, budget: Budget | None = None, **parameters: Any) -> Capture:
    """A capture of two ports, 0 and 1, which has its budget for itself or shares one."""
    budget = budget or Budget(held_max)
    capture = Capture("vswitch test", budget, **parameters)
    budget.captures.append(capture)
    capture.add_interface(0, "web", "tcp://127.0.0.1:1234")
    capture.add_interface(1, "lab.1", "unix:///lab.sock?name=läb")
    return capture


def entry(
    *frames: bytes, port: int = 0, direction: int = IN, reason: int = PASSED, first: int = 0, time_ns: int = NOW_NS
) -> Entry:
    """In the middle of a chunk, as runs are."""
    before, run = framed([b"before"]), framed(frames)
    chunk = before + run + b"\0\0\0"
    return Entry(port, direction, reason, chunk, len(before), len(before) + len(run), len(frames), first, time_ns)


def portion(capture: Capture) -> list[Piece]:
    """Its pieces, which have as many frames as they say."""
    pieces = capture.portion()
    for piece in pieces:
        found = [kind for kind, _ in captures.blocks(piece.blocks)]
        assert found == [captures.PACKET] * piece.frames
        assert found
    return pieces


def drained(capture: Capture) -> bytes:
    """A portion, written, with the interfaces that it needs."""
    blocks = capture.new_interfaces()
    for piece in portion(capture):
        blocks += piece.blocks
        capture.wrote(piece)
    return blocks


def content(capture: Capture, *entries: Entry) -> bytes:
    """The whole capture, if these entries are all there is."""
    header = capture.header()
    capture.take(list(entries), 0)
    return header + drained(capture) + capture.trailer(NOW_NS + 1)


Write = Callable[[bytes], Read]


@pytest.fixture
def everybody(tmp_path: Path) -> Write:
    """Reads a capture with everything that can; they have to agree."""

    def write(content: bytes) -> Read:
        path = tmp_path / "capture.pcapng"
        path.write_bytes(content)
        read = captures.read(path)
        read.check_statistics()
        return read

    return write


def test_everybody_reads_what_was_seen(everybody: Write) -> None:
    burst = [frame(BROADCAST, mac(1), size, payload=b"x") for size in range(60, 65)]
    read = everybody(
        content(
            made(),
            entry(*burst, first=7),
            entry(*burst[:3], port=1, direction=OUT, first=7),
            entry(*burst[3:], port=1, direction=OUT, first=10, reason=QUEUE_FULL, time_ns=NOW_NS + 1),
            entry(burst[0], port=1, first=1 << 40, time_ns=NOW_NS + 10**9),
            entry(burst[0], port=0, direction=OUT, first=UNKNOWN, time_ns=NOW_NS + 10**9),
        )
    )
    assert read.application == "vswitch test"
    assert read.ports == [
        Interface("web", "tcp://127.0.0.1:1234", SNAPLEN_MAX, ""),
        Interface("lab.1", "unix:///lab.sock?name=läb", SNAPLEN_MAX, ""),
    ]
    assert read.frames("web", IN) == read.frames("lab.1", OUT) == burst
    assert [packet.id for packet in read.at("web", IN)] == [packet.id for packet in read.at("lab.1", OUT)]
    assert [packet.id for packet in read.packets[-3:]] == [11, 1 << 40, None]
    assert [packet.comment for packet in read.packets] == [""] * 8 + ["dropped: queue_full"] * 2 + [""] * 2
    assert [packet.time_ns - NOW_NS for packet in read.packets] == [0] * 8 + [1] * 2 + [10**9] * 2
    assert {packet.missed for packet in read.packets} == {0}
    assert read.statistics == {0: (0, 0, NOW_NS + 1), 1: (6, 0, NOW_NS + 1), 2: (6, 0, NOW_NS + 1)}


def test_each_reason_to_drop_a_frame_is_its_comment(everybody: Write) -> None:
    data = frame(BROADCAST, mac(1))
    read = everybody(content(made(), *(entry(data, reason=number) for number in range(len(DROP_REASONS)))))
    assert [packet.comment for packet in read.packets] == [f"dropped: {reason}" for reason in DROP_REASONS]


def test_what_is_left_to_do_for_a_frame_is_its_comment(everybody: Write) -> None:
    data = frame(BROADCAST, mac(1), 60_000)
    whole = entry(data)
    left = [needs_segments(GSO_TCPV4, 1448, 34), unfinished_of(bytes([1, 0, 0, 0, 0, 0, 34, 0, 16, 0]))]
    entries = [
        Entry(0, IN, reason, whole.chunk, whole.start, whole.end, 1, 0, NOW_NS, unfinished)
        for unfinished in left
        for reason in (PASSED, QUEUE_FULL)
    ]
    read = everybody(content(made(), *entries))
    assert [packet.comment for packet in read.packets] == [
        "left to do: segments of 1448 bytes of data, each with its checksum",
        "dropped: queue_full; left to do: segments of 1448 bytes of data, each with its checksum",
        "left to do: its checksum",
        "dropped: queue_full; left to do: its checksum",
    ]
    assert {packet.data for packet in read.packets} == {data}


@pytest.mark.parametrize("snaplen", [1, 59, 60, 61, 64, SNAPLEN_MAX])
def test_of_each_frame_as_much_is_kept_as_was_asked_for(snaplen: int, everybody: Write) -> None:
    burst = [frame(BROADCAST, mac(1), size) for size in (14, 60, 61, 1500)]
    read = everybody(content(made(snaplen=snaplen), entry(*burst)))
    assert {interface.snaplen for interface in read.ports} == {snaplen}
    assert [packet.length for packet in read.packets] == [14, 60, 61, 1500]
    assert [packet.data for packet in read.packets] == [data[:snaplen] for data in burst]


def test_a_frame_of_any_length_ends_where_it_ends(everybody: Write) -> None:
    burst = [bytes(range(size)) for size in range(20)] + [bytes(69632)]
    read = everybody(content(made(), entry(*burst)))
    assert [packet.data for packet in read.packets] == burst


def test_what_does_not_match_is_neither_there_nor_counted(everybody: Write) -> None:
    asked = []

    def matches(data: bytes) -> bool:
        asked.append(data)
        return data[14] % 2 == 1

    burst = [frame(BROADCAST, mac(1), payload=bytes([number])) for number in range(6)]
    read = everybody(
        content(made(matches=matches, filter_text="ether[14] & 1 = 1", snaplen=14), entry(*burst, first=100))
    )
    assert asked == burst, "a filter sees whole frames"
    assert [packet.id for packet in read.packets] == [101, 103, 105]
    assert {interface.filter for interface in read.ports} == {"ether[14] & 1 = 1"}
    assert read.statistics[1][:2] == (3, 0)


def test_only_what_was_dropped_is_there_if_that_is_asked_for(everybody: Write) -> None:
    burst = [frame(BROADCAST, mac(number)) for number in range(1, 4)]
    read = everybody(
        content(
            made(only_drops=True),
            entry(*burst),
            entry(*burst[:1], port=1, direction=OUT),
            entry(*burst[1:], port=1, direction=OUT, reason=QUEUE_FULL, first=1),
        )
    )
    assert [(packet.data, packet.id, packet.port) for packet in read.packets] == [
        (burst[1], 1, "lab.1"),
        (burst[2], 2, "lab.1"),
    ]
    assert [counted[:2] for counted in read.statistics.values()] == [(0, 0), (0, 0), (2, 0)]


@pytest.mark.parametrize("frames_max", [1, 3, 4, 6])
def test_it_takes_as_many_frames_as_it_is_to(frames_max: int, everybody: Write) -> None:
    burst = [frame(BROADCAST, mac(number)) for number in range(1, 4)]
    capture = made(frames_max=frames_max)
    assert not capture.is_complete()
    read = everybody(content(capture, entry(*burst), entry(*burst, port=1, direction=OUT), entry(*burst)))
    assert capture.is_complete()
    assert [packet.data for packet in read.packets] == (burst + burst)[:frames_max]
    assert sum(counted.received for counted in read.statistics.values()) == capture.frames == frames_max


def test_without_a_limit_it_is_never_complete() -> None:
    capture = made()
    capture.take([entry(*[frame(BROADCAST, mac(1))] * 100)], 0)
    assert not capture.is_complete()


def test_what_it_cannot_hold_is_missed_exactly_and_said(everybody: Write) -> None:
    """At each interface by itself: in its next packet, and in the end."""
    capture = made(held_max=500)
    burst = [frame(BROADCAST, mac(1), 60, payload=bytes([number])) for number in range(10)]
    whole = capture.header()
    capture.take([entry(*burst), entry(*burst[:3], port=1, direction=OUT)], 0)
    whole += drained(capture)
    kept = capture.frames
    assert 0 < kept < 10
    assert capture.missed() == 13 - kept
    capture.take([entry(burst[8], first=8), entry(burst[9], first=9)], 0)
    whole += drained(capture)
    read = everybody(whole + capture.trailer(NOW_NS))
    assert [packet.data for packet in read.packets] == [*burst[:kept], burst[8], burst[9]]
    assert [packet.missed for packet in read.packets] == [0] * kept + [10 - kept, 0]
    assert read.statistics == {0: (0, 0, NOW_NS), 1: (12, 10 - kept, NOW_NS), 2: (3, 3, NOW_NS)}


def test_what_was_given_away_is_held_until_it_is_written() -> None:
    capture = made(held_max=500)
    data = frame(BROADCAST, mac(1))
    header = capture.header()
    capture.take([entry(data)], 0)
    assert 0 < capture.held() <= 500
    (given,) = portion(capture)
    assert capture.held() == len(given.blocks)
    capture.take([entry(*[data] * 10)], 0)
    (later,) = portion(capture)
    kept = capture.frames - 1
    assert 0 < kept < 10
    assert capture.held() == len(given.blocks) + len(later.blocks)
    capture.take([entry(data)], 0)
    assert capture.missed() == 11 - kept
    capture.wrote(given)
    assert capture.held() == len(later.blocks)
    capture.wrote(later)
    assert capture.held() == 0
    capture.take([entry(data)], 0)
    (last,) = portion(capture)
    blocks = header + given.blocks + later.blocks + last.blocks
    assert [packet.missed for packet in parse(blocks).packets] == [0] * (1 + kept) + [11 - kept]


def test_an_interface_that_comes_later_is_declared_before_its_first_packet(everybody: Write) -> None:
    data = frame(BROADCAST, mac(1))
    capture = made()
    whole = capture.header()
    capture.take([entry(data), entry(data, port=5)], 0)  # which nobody captures yet
    whole += drained(capture)
    capture.add_interface(5, "late", "tap://late")
    capture.take([entry(data, first=1), entry(data, port=5, first=1)], 0)
    whole += drained(capture)
    read = everybody(whole + capture.trailer(NOW_NS))
    assert [interface.name for interface in read.ports] == ["web", "lab.1", "late"]
    assert [(packet.port, packet.id) for packet in read.packets] == [("web", 0), ("web", 1), ("late", 1)]


def test_a_port_that_takes_the_number_of_one_that_is_gone_is_another_interface(everybody: Write) -> None:
    data = frame(BROADCAST, mac(1))
    capture = made()
    whole = capture.header()
    capture.take([entry(data)], 0)
    capture.remove_interface(0)
    capture.remove_interface(77)  # one that was never captured
    capture.take([entry(data, first=1)], 0)
    capture.add_interface(0, "other", "tcp://other")
    capture.take([entry(data, first=2)], 0)
    whole += drained(capture)
    read = everybody(whole + capture.trailer(NOW_NS))
    assert [(packet.port, packet.id) for packet in read.packets] == [("web", 0), ("other", 2)]
    assert [counted.received for counted in read.statistics.values()] == [0, 1, 0, 1]


def test_a_frame_without_a_port_is_in_no_capture() -> None:
    assert parse(content(made(), entry(frame(BROADCAST, mac(1)), port=-1))).packets == []


def test_without_ports_and_frames_it_is_a_capture_too(everybody: Write) -> None:
    capture = Capture("nobody", Budget(PLENTY))
    read = everybody(capture.header() + capture.trailer(NOW_NS))
    assert (read.application, read.ports, read.packets) == ("nobody", [], [])
    assert read.statistics == {0: (0, 0, NOW_NS)}


@pytest.mark.parametrize("name", ["", "a", "abc", "abcd", "Ünïcödé", "x" * 300])
def test_a_name_of_any_length_is_whole(name: str, everybody: Write) -> None:
    capture = Capture("test", Budget(PLENTY))
    capture.add_interface(0, name or "n", name * 3)
    read = everybody(content(capture, entry(frame(BROADCAST, mac(1)))))
    assert read.ports == [Interface(name or "n", name * 3, SNAPLEN_MAX, "")]


seen = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([IN, OUT]),
        st.integers(PASSED, len(DROP_REASONS) - 1),
        st.lists(st.binary(max_size=300), min_size=1, max_size=6),
        st.integers(UNKNOWN, (1 << 63) - 100),
        st.integers(0, (1 << 63) - 1),
        st.booleans(),
    ),
    max_size=12,
)


@given(seen, st.integers(0, 2000), st.integers(1, 200), st.integers(0, 20), st.booleans())
def test_whatever_is_seen_is_read_back_or_counted(
    bursts: list[tuple[int, int, int, list[bytes], int, int, bool]],
    held_max: int,
    snaplen: int,
    frames_max: int,
    only_drops: bool,
) -> None:
    """Against a list: what there was room for, and how many there were between."""
    capture = made(held_max, snaplen=snaplen, frames_max=frames_max, only_drops=only_drops)
    whole = capture.header()
    expected: list[tuple[int, int, bytes, int, int, int | None, str]] = []
    received = [0, 0]
    for port, direction, reason, frames, first, time_ns, drain in bursts:
        taken = capture.frames
        capture.take([entry(*frames, port=port, direction=direction, reason=reason, first=first, time_ns=time_ns)], 0)
        kept = capture.frames - taken
        wanted = port < 2 and not (only_drops and reason == PASSED)
        assert 0 <= kept <= (len(frames) if wanted else 0)
        if wanted:
            full = frames_max and capture.frames >= frames_max
            received[port] += kept if full else len(frames)
        for number, data in enumerate(frames[:kept]):
            frame_id = None if first == UNKNOWN else first + number
            comment = "" if reason == PASSED else f"dropped: {DROP_REASONS[reason]}"
            expected.append((port, direction, data[:snaplen], len(data), time_ns, frame_id, comment))
        if drain:
            whole += drained(capture)
    whole += drained(capture)
    read = parse(whole + capture.trailer(NOW_NS))
    assert [
        (packet.interface - 1, packet.direction, packet.data, packet.length, packet.time_ns, packet.id, packet.comment)
        for packet in read.packets
    ] == expected
    read.check_statistics()
    assert capture.missed() == sum(counted.missed for counted in read.statistics.values())
    if not frames_max:
        assert [counted.received for counted in read.statistics.values()] == [0, *received]


def test_much_is_given_away_in_pieces_in_the_order_it_was_seen() -> None:
    """Which are for a file, or an answer, one at a time."""
    capture = made()
    burst = [number.to_bytes(4) + bytes(996) for number in range(2000)]
    header = capture.header()
    capture.take([entry(*burst[:1000]), entry(*burst[1000:], port=1, direction=OUT, first=1000)], 0)
    pieces = capture.portion()
    assert len(pieces) >= 5
    assert sum(len(piece.blocks) for piece in pieces) == capture.held()
    assert max(len(piece.blocks) for piece in pieces) < 300_000
    read = parse(header + b"".join(piece.blocks for piece in pieces))
    assert [packet.data for packet in read.packets] == burst
    assert [packet.id for packet in read.packets] == list(range(2000))
    assert capture.portion() == []


def test_the_one_that_holds_most_makes_room_and_is_told_what_it_misses() -> None:
    """A reader that is fast misses nothing, however many are slow."""
    budget = Budget(64 * 1024)
    slow, fast = made(budget=budget), made(budget=budget)
    blocks = {slow: slow.header(), fast: fast.header()}
    number = 0
    for _ in range(50):
        for capture in (slow, fast):
            capture.take([entry(*[frame(BROADCAST, mac(1), 200)] * 20, first=number)], 0)
        number += 20
        assert slow.held() + fast.held() <= budget.size + 1000
        blocks[fast] += drained(fast)
    assert (fast.missed(), fast.frames) == (0, 1000)
    while slow.held():
        blocks[slow] += drained(slow)
    slow.take([entry(frame(BROADCAST, mac(1)), first=number)], 0)
    blocks[slow] += drained(slow)
    read = parse(blocks[slow] + slow.trailer(NOW_NS))
    assert 0 < slow.missed() == 1001 - len(read.packets) == sum(packet.missed for packet in read.packets)
    assert slow.frames == len(read.packets)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40), st.integers(20, 400), st.booleans()), max_size=60),
    st.integers(20_000, 100_000),
)
def test_captures_share_what_they_may_hold_and_account_for_every_frame(
    steps: list[tuple[int, int, int, bool]], size: int
) -> None:
    budget = Budget(size)
    everyone = [made(budget=budget) for _ in range(4)]
    blocks = [capture.header() for capture in everyone]
    frames = 0
    for reader, count, length, second in steps:
        run = entry(*[frame(BROADCAST, mac(1), length)] * count, port=int(second))
        for capture in everyone:
            capture.take([run], 0)
        frames += count
        assert sum(capture.held() for capture in everyone) <= size + len(everyone) * 500
        if reader < len(everyone):
            blocks[reader] += drained(everyone[reader])
    for number, capture in enumerate(everyone):
        while capture.held():
            blocks[number] += drained(capture)
        for port in (0, 1):
            capture.take([entry(frame(BROADCAST, mac(1)), port=port)], 0)
        while capture.held():
            blocks[number] += drained(capture)
        read = parse(blocks[number] + capture.trailer(NOW_NS))
        said = sum(packet.missed for packet in read.packets)
        assert len(read.packets) + said == frames + 2
        assert (capture.frames, capture.missed()) == (len(read.packets), said)
        read.check_statistics()


def test_a_lossless_capture_takes_all_and_the_others_make_room() -> None:
    budget = Budget(32 * 1024)
    careful, other = made(budget=budget, lossless=True), made(budget=budget)
    for _ in range(40):
        for capture in (careful, other):
            capture.take([entry(*[frame(BROADCAST, mac(1), 200)] * 10)], 0)
    assert careful.missed() == 0
    assert other.held() < 4096
    assert other.missed() > 300
