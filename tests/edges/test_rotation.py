"""A row of capture files that goes on by size, time or number of frames."""

import errno
import os
import struct
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.edges.capture_files import (
    AROUND,
    FRAME,
    HEADER,
    INTERFACE,
    NOW_S,
    NOW_TEXT,
    ONE_INTERFACE,
    TRAILER,
    begin,
    block,
    blocks_of,
    files,
    name,
    packet,
    packets_of,
)
from vswitch.edges.capture_file import NONE, CaptureFile, CaptureStopped, Rotation, read_rotation
from vswitch.errors import InputError

# What a rotation may be.


@pytest.mark.parametrize(
    ("texts", "keep", "rotation"),
    [
        ([], None, NONE),
        (["100MB"], None, Rotation(size=10**8)),
        (["60s"], None, Rotation(seconds=60.0)),
        (["5min"], None, Rotation(seconds=300.0)),
        (["10000frames"], None, Rotation(frames=10_000)),
        (["1 frames"], None, Rotation(frames=1)),
        (["100MB,60s", " 7frames "], 10, Rotation(size=10**8, seconds=60.0, frames=7, keep=10)),
        (["1KiB"], 1, Rotation(size=1024, keep=1)),
    ],
)
def test_a_rotation_is_by_any_of_size_time_and_frames(texts: list[str], keep: int | None, rotation: Rotation) -> None:
    found = read_rotation(texts, keep)
    assert found == rotation
    assert [type(value) for value in found] == [type(value) for value in rotation]


@pytest.mark.parametrize(
    ("texts", "keep", "said"),
    [
        (["100"], None, "write one like 100MB, 60s or 10000frames"),
        (["100mb"], None, "write one like 100MB"),
        ([""], None, "write one like 100MB"),
        (["MB"], None, "write one like 10MiB"),
        (["frames"], None, "write one like 100MB"),
        (["1.5frames"], None, "write one like 100MB"),
        (["-1s"], None, "write one like 10s"),
        (["100MB,"], None, "write one like 100MB"),
        (["9" * 5000 + "frames"], None, "write one like 100MB"),
        (["9" * 30 + "MB"], None, "more than any machine has"),
        (["0s"], None, "never fill"),
        (["0B"], None, "never fill"),
        (["0frames"], None, "never fill"),
        (["100MB", "1GB"], None, "two limits of size"),
        (["1s,1h"], None, "two limits of time"),
        (["1frames,2frames"], None, "two limits of frames"),
        ([], 3, "add rotate"),
        (["1s"], 0, "write 1 or more"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_rotation_is_answered_with_the_likely_form(texts: list[str], keep: int | None, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_rotation(texts, keep)
    assert said in str(caught.value)


@given(st.lists(st.text() | st.from_regex(r"\d{1,3}[a-zA-Z]{0,6},?", fullmatch=True), max_size=3), st.integers(-1, 9))
@example(["1s"], 1)
def test_any_text_is_a_rotation_or_an_error_of_one_printable_line(texts: list[str], keep: int) -> None:
    found: Rotation | InputError
    try:
        found = read_rotation(texts, keep)
    except InputError as error:
        found = error
    if isinstance(found, InputError):
        assert str(found).isprintable()
    else:
        assert all(limit is None or limit > 0 for limit in found)


# Rotation.


def test_by_number_of_frames(path: Path) -> None:
    frames = [packet(bytes([n])) for n in range(10)]
    capture = begin(path, Rotation(frames=4))
    assert files(path.parent) == [name(1)]
    capture.write(b"".join(frames[:3]), 3, NOW_S)
    capture.write(frames[3], 1, NOW_S)
    assert files(path.parent) == [name(1)], "a new file is for a new frame"
    capture.write(b"".join(frames[4:]), 6, NOW_S + 1)
    capture.close()
    assert files(path.parent) == [name(1), name(2, 1), name(3, 1)]
    for number, wanted in ((name(1), frames[:4]), (name(2, 1), frames[4:8]), (name(3, 1), frames[8:])):
        assert path.with_name(number).read_bytes() == HEADER + b"".join(wanted) + TRAILER


def test_by_size(path: Path) -> None:
    capture = begin(path, Rotation(size=AROUND + 3 * len(FRAME)))
    for _ in range(7):
        capture.write(FRAME, 1, NOW_S)
    capture.close()
    found = [path.with_name(found).read_bytes() for found in files(path.parent)]
    assert found == [HEADER + FRAME * 3 + TRAILER] * 2 + [HEADER + FRAME + TRAILER]


@pytest.mark.parametrize("size", [AROUND + 2 * len(FRAME), AROUND + 3 * len(FRAME) - 1])
def test_by_size_within_a_portion(path: Path, size: int) -> None:
    capture = begin(path, Rotation(size=size))
    capture.write(FRAME * 5, 5, NOW_S)
    capture.close()
    found = [path.with_name(found).read_bytes() for found in files(path.parent)]
    assert found == [HEADER + FRAME * 2 + TRAILER] * 2 + [HEADER + FRAME + TRAILER]


def test_a_frame_that_is_too_large_has_a_file_of_its_own(path: Path) -> None:
    capture = begin(path, Rotation(size=1))
    capture.write(FRAME * 3, 3, NOW_S)
    capture.close()
    assert [path.with_name(found).read_bytes() for found in files(path.parent)] == [HEADER + FRAME + TRAILER] * 3


@pytest.mark.parametrize(("short_of", "packets"), [(0, [2, 1]), (1, [1, 1, 1])])
def test_by_size_the_trailer_is_counted_as_it_is_now(path: Path, short_of: int, packets: list[int]) -> None:
    trailer = [TRAILER]
    limit = len(HEADER + ONE_INTERFACE + 2 * FRAME + 2 * TRAILER) - short_of
    capture = CaptureFile(str(path), HEADER, lambda: b"".join(trailer), NOW_S, Rotation(size=limit))
    trailer.append(TRAILER)
    capture.declare(ONE_INTERFACE)
    capture.write(FRAME * 3, 3, NOW_S)
    capture.close()
    found = [path.with_name(found).read_bytes() for found in files(path.parent)]
    assert [len(packets_of(content)) for content in found] == packets
    assert all(len(content) <= limit for content in found)


def test_what_is_no_block_is_the_programmers_error(path: Path) -> None:
    capture = begin(path, Rotation(frames=1))
    with pytest.raises(ValueError, match="no pcapng block at 0"):
        capture.write(bytes(100), 2, NOW_S)
    capture.close()


def test_by_time(path: Path) -> None:
    capture = begin(path, Rotation(seconds=60.0))
    for later_s in (0, 59, 60, 119, 121):
        capture.write(FRAME, 1, NOW_S + later_s)
    capture.close()
    assert files(path.parent) == [name(1), name(2, 60), name(3, 121)]
    assert [len(packets_of(path.with_name(found).read_bytes())) for found in files(path.parent)] == [2, 2, 1]


def test_by_time_no_file_is_left_empty(path: Path) -> None:
    capture = begin(path, Rotation(seconds=60.0))
    capture.write(b"", 0, NOW_S + 100)
    capture.write(FRAME, 1, NOW_S + 200)
    capture.write(FRAME, 1, NOW_S + 259)
    capture.write(b"", 0, NOW_S + 300)
    assert files(path.parent) == [name(1)]
    capture.write(FRAME, 1, NOW_S + 300)
    assert files(path.parent) == [name(1), name(2, 300)]
    capture.close()


@pytest.mark.parametrize("step_s", [-7200, 7200])
def test_by_time_whatever_the_clock_is_set_to(step_s: int, path: Path) -> None:
    """The age of a file is by the clock that nobody sets, its name by the other."""
    capture = CaptureFile(str(path), HEADER, lambda: TRAILER, NOW_S, Rotation(seconds=60.0), 0, steady_s=5.0)
    capture.write(FRAME, 1, NOW_S + step_s, 5.0)
    capture.write(FRAME, 1, NOW_S + step_s + 59, 64.0)
    assert files(path.parent) == [name(1)]
    capture.write(FRAME, 1, NOW_S + step_s + 60, 65.0)
    assert files(path.parent) == [name(1), name(2, step_s + 60)]
    capture.close()


def test_whichever_comes_first(path: Path) -> None:
    capture = begin(path, Rotation(size=AROUND + 4 * len(FRAME), seconds=60.0, frames=3))
    capture.write(FRAME * 3, 3, NOW_S)
    capture.write(FRAME, 1, NOW_S)  # frames
    capture.write(FRAME, 1, NOW_S + 60)  # time
    capture.write(packet(bytes(4 * len(FRAME) - 32)), 1, NOW_S + 60)  # size
    capture.close()
    assert files(path.parent) == [name(1), name(2), name(3, 60), name(4, 60)]


def test_each_file_has_the_interfaces_in_the_same_order(path: Path) -> None:
    other = block(INTERFACE, struct.pack("<HHI", 1, 0, 64))
    capture = begin(path, Rotation(frames=1))
    capture.write(FRAME, 1, NOW_S)
    capture.declare(other)
    capture.write(FRAME * 2, 2, NOW_S)
    capture.close()
    first, *others = [path.with_name(found).read_bytes() for found in files(path.parent)]
    assert first == HEADER + FRAME + other + TRAILER
    assert others == [HEADER + other + FRAME + TRAILER] * 2


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("lan", "lan_00001_{}"),
        ("a.b.pcapng", "a.b_00001_{}.pcapng"),
        (".hidden", ".hidden_00001_{}"),
        ("a.b/lan", "a.b/lan_00001_{}"),
    ],
)
def test_the_number_goes_before_the_suffix(tmp_path: Path, given: str, wanted: str) -> None:
    (tmp_path / "a.b").mkdir()
    capture = begin(tmp_path / given, Rotation(frames=1))
    capture.close()
    assert capture.path == str(tmp_path / wanted.format(NOW_TEXT))
    assert Path(capture.path).exists()


def test_the_number_goes_on_past_five_digits(path: Path) -> None:
    capture = begin(path, Rotation(frames=1, keep=1))
    capture._number = 99_999
    capture.write(FRAME * 2, 2, NOW_S)
    capture.close()
    assert files(path.parent) == [f"lan_100000_{NOW_TEXT}.pcapng"]


def test_a_name_that_is_taken_is_left_out(path: Path) -> None:
    taken = path.with_name(name(2))
    taken.write_text("precious")
    capture = begin(path, Rotation(frames=1, keep=2))
    capture.write(FRAME * 4, 4, NOW_S)
    capture.close()
    assert files(path.parent) == [name(2), name(4), name(5)]
    assert taken.read_text() == "precious"


def test_a_new_capture_leaves_the_files_of_another_alone(path: Path) -> None:
    for _ in range(2):
        capture = begin(path, Rotation(frames=1, keep=1))
        capture.write(FRAME * 2, 2, NOW_S)
        capture.close()
    assert files(path.parent) == [name(2), name(3)]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_never_more_files_than_are_kept(path: Path, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    really = os.open

    def watched(where: str, flags: int, mode: int = 0o777) -> int:
        nonlocal most
        file = really(where, flags, mode)
        most = max(most, len(files(path.parent)))
        return file

    monkeypatch.setattr(os, "open", watched)
    capture = begin(path, Rotation(frames=1, keep=keep))
    capture.write(FRAME * 7, 7, NOW_S)
    capture.close()
    assert most == keep
    assert files(path.parent) == [name(number) for number in range(8 - keep, 8)]


@pytest.mark.parametrize("content", [b"precious", HEADER + FRAME + TRAILER], ids=["other", "same"])
def test_what_has_taken_the_place_of_an_old_file_stays(path: Path, content: bytes) -> None:
    capture = begin(path, Rotation(frames=1, keep=2))
    capture.write(FRAME * 2, 2, NOW_S)
    replaced = path.with_name(name(1))
    new = path.with_name("new")
    new.write_bytes(content)
    new.rename(replaced)
    capture.write(FRAME * 3, 3, NOW_S)
    capture.close()
    assert files(path.parent) == [name(1), name(4), name(5)]
    assert replaced.read_bytes() == content


def test_a_file_whose_inode_is_another_ones_now_stays(path: Path) -> None:
    capture = begin(path, Rotation(frames=1, keep=2))
    capture.write(FRAME * 2, 2, NOW_S)
    path.with_name(name(1)).write_text("precious")  # as if made anew, with an inode number used again
    capture.write(FRAME, 1, NOW_S)
    capture.close()
    assert path.with_name(name(1)).read_text() == "precious"


def test_it_does_not_matter_if_an_old_file_is_gone_already(path: Path) -> None:
    capture = begin(path, Rotation(frames=1, keep=2))
    capture.write(FRAME * 2, 2, NOW_S)
    path.with_name(name(1)).unlink()
    capture.write(FRAME, 1, NOW_S)
    capture.close()
    assert files(path.parent) == [name(2), name(3)]


def test_it_stops_when_old_files_cannot_be_deleted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def immutable(path: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)

    capture = begin(path, Rotation(frames=1, keep=2))
    capture.write(FRAME * 2, 2, NOW_S)
    monkeypatch.setattr(os, "unlink", immutable)
    with pytest.raises(CaptureStopped) as caught:
        capture.write(FRAME, 1, NOW_S)
    assert f"Operation not permitted when {path.with_name(name(1))} was to be deleted" in str(caught.value)
    assert [path.with_name(found).read_bytes() for found in files(path.parent)] == [HEADER + FRAME + TRAILER] * 2


def test_it_stops_when_no_new_file_can_be_made(path: Path) -> None:
    directory = path.parent / "directory"
    directory.mkdir()
    capture = begin(directory / "lan.pcapng", Rotation(frames=1))
    directory.rename(path.parent / "moved")
    with pytest.raises(CaptureStopped, match="No such file or directory"):
        capture.write(FRAME * 2, 2, NOW_S)
    with pytest.raises(CaptureStopped, match="is over"):
        capture.write(FRAME, 1, NOW_S)
    capture.close()
    assert (path.parent / "moved" / name(1)).read_bytes() == HEADER + FRAME + TRAILER


ROTATIONS = st.builds(
    Rotation,
    st.none() | st.integers(1, 1000),
    st.none() | st.floats(0.1, 10),
    st.none() | st.integers(1, 9),
    st.none() | st.integers(1, 4),
)
PORTIONS = st.lists(st.tuples(st.lists(st.binary(max_size=200), max_size=8), st.floats(0, 10)), max_size=8)


@given(ROTATIONS, PORTIONS)
@example(Rotation(size=AROUND + 36), [([b"", b"1234"], 0.0)])
def test_together_the_files_have_what_was_written(
    rotation: Rotation, portions: list[tuple[list[bytes], float]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        capture = begin(Path(directory) / "lan.pcapng", rotation)
        written: list[bytes] = []
        now_s = NOW_S
        for contents, later_s in portions:
            now_s += later_s
            frames = [packet(content) for content in contents]
            written += frames
            capture.write(b"".join(frames), len(frames), now_s)
            if rotation.keep:
                assert len(os.listdir(directory)) <= rotation.keep
        capture.close()
        found: list[bytes] = []
        for file in files(Path(directory)):
            content = (Path(directory) / file).read_bytes()
            assert content.startswith(HEADER)
            assert content.endswith(TRAILER)
            assert blocks_of(content) == blocks_of(HEADER) + packets_of(content) + blocks_of(TRAILER)
            frames = packets_of(content)
            assert frames or not written
            assert len(frames) <= (rotation.frames or sys.maxsize)
            assert len(content) <= (rotation.size or sys.maxsize) or len(frames) <= 1
            found += frames
        assert found == (written if rotation.keep is None else written[len(written) - len(found) :])
        if (rotation.size, rotation.seconds) == (None, None) and rotation.frames and not rotation.keep:
            assert len(files(Path(directory))) == max(1, -(-len(written) // rotation.frames)), "none is begun early"
