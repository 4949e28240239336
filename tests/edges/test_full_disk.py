"""Captures leave room on the disk, and files are whole when there is none."""

import ctypes
import errno
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.descriptors import descriptors, opened_since
from tests.edges.capture_files import (
    FRAME,
    HEADER,
    MIB,
    NOW_S,
    TRAILER,
    begin,
    block,
    blocks_of,
    files,
    in_child,
    name,
    packet,
    packets_of,
    refused,
)
from tests.needs import require
from vswitch.edges.capture_file import CaptureFile, CaptureStopped, Rotation
from vswitch.errors import RefusedError

# Room for others.


class Disk(NamedTuple):
    """What statvfs says of a file system, in blocks of 1 KiB."""

    f_bavail: int
    f_blocks: int
    f_frsize: int = 1024


def test_nothing_is_written_below_the_floor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 100 * MIB
    monkeypatch.setattr(os, "statvfs", lambda file: Disk(free // 1024, 10**9))
    capture = begin(path, floor=None)
    capture.write(FRAME, 1, NOW_S)
    portion = FRAME * (16 * MIB // len(FRAME) + 1)
    free = 64 * MIB + len(portion) - 1024
    with pytest.raises(CaptureStopped) as caught:
        capture.write(portion, len(portion) // len(FRAME), NOW_S)
    assert str(caught.value) == (
        f"the capture to {path} has stopped: free space there would fall below 64 MiB; make some"
    )
    assert path.read_bytes() == HEADER + FRAME + TRAILER


def test_a_capture_is_refused_below_the_floor_and_an_earlier_one_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda file: Disk(64 * 1024, 10**9))
    path.write_text("earlier")
    assert "free space there would fall below 64 MiB" in refused_below(path, None)
    assert path.read_text() == "earlier"
    begin(path, floor=63 * MIB).close()
    assert path.read_bytes() == HEADER + TRAILER


def refused_below(path: Path, floor: int | None) -> str:
    with pytest.raises(RefusedError) as caught:
        begin(path, floor=floor)
    return str(caught.value)


def test_the_floor_is_a_twentieth_of_a_small_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 51
    monkeypatch.setattr(os, "statvfs", lambda file: Disk(free, 1000))
    begin(path, floor=None).close()
    free = 50
    assert "below 0.0488 MiB" in refused_below(path, None)


def test_a_file_system_without_limit_has_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda file: Disk(0, 0))  # as tmpfs with size=0
    capture = begin(path, floor=64 * MIB)
    capture.write(FRAME, 1, NOW_S)
    capture.close()
    assert path.read_bytes() == HEADER + FRAME + TRAILER


def test_free_space_is_looked_up_every_16_mib(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def statvfs(file: int | str) -> Disk:
        asked.append(file)
        return Disk(2**40, 2**41)

    monkeypatch.setattr(os, "statvfs", statvfs)
    portion = packet(bytes(MIB - 32))
    capture = begin(path)
    for _ in range(64):
        capture.write(portion, 1, NOW_S)
    capture.close()
    assert 4 <= len(asked) <= 6


def test_free_space_is_looked_up_for_each_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 10 * MIB
    monkeypatch.setattr(os, "statvfs", lambda file: Disk(free // 1024, 10**9))
    capture = begin(path, Rotation(frames=1), floor=MIB)
    capture.write(FRAME * 2, 2, NOW_S)
    free = MIB
    with pytest.raises(CaptureStopped, match="below 1 MiB"):
        capture.write(FRAME, 1, NOW_S)
    assert [path.with_name(found).read_bytes() for found in files(path.parent)] == [HEADER + FRAME + TRAILER] * 2


@given(st.integers(0, 64), st.lists(st.integers(1, 20), min_size=1, max_size=9))
@example(3, [1, 1, 1])
@example(3, [1, 1, 1, 1])
def test_the_floor_is_not_passed_by_ourselves(left: int, portions: list[int]) -> None:
    """Though free space is not looked up for each portion. All is in MiB, but nothing is really written."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        capture = begin(Path(directory) / "lan.pcapng", floor=MIB)
        written = 0

        def pwrite(file: int, content: memoryview, at: int) -> int:
            nonlocal written
            written += len(content)
            return len(content)

        patch.setattr(os, "pwrite", pwrite)
        patch.setattr(os, "statvfs", lambda file: Disk(MIB + left * MIB - written, 2**40, 1))
        patch.setattr(os, "ftruncate", lambda file, size: None)
        capture._room = 0
        wanted = 0
        for megabytes in portions:
            wanted += megabytes
            try:
                capture.write(LARGE[: megabytes * MIB], 1, NOW_S)
            except CaptureStopped:
                assert wanted > left, "there was room"
                break
        else:
            assert wanted <= left
            patch.undo()
            capture.close()
        assert written <= left * MIB + len(TRAILER)


LARGE = bytes(20 * MIB)


# Full disks.


def with_capacity(capacity: int, monkeypatch: pytest.MonkeyPatch, error: int = errno.ENOSPC) -> None:
    """Files can have so many bytes: the last write is short, the next one fails."""
    really = os.pwrite

    def pwrite(file: int, content: memoryview, at: int) -> int:
        if content and at >= capacity:
            raise OSError(error, os.strerror(error))
        return really(file, content[: capacity - at], at)

    monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_begun_block_is_cut_off_again(path: Path, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    capture = begin(path)
    with_capacity(len(HEADER) + 5 * len(FRAME) + 50, monkeypatch, error)
    capture.write(FRAME * 3, 3, NOW_S)
    with pytest.raises(CaptureStopped) as caught:
        capture.write(FRAME * 3, 3, NOW_S)
    assert str(caught.value) == f"the capture to {path} has stopped: {os.strerror(error)}"
    assert path.read_bytes() == HEADER + FRAME * 5 + TRAILER
    assert opened_since(before) == {}
    with pytest.raises(CaptureStopped, match="is over"):
        capture.write(FRAME, 1, NOW_S)
    capture.close()
    assert path.read_bytes() == HEADER + FRAME * 5 + TRAILER


@given(st.integers(len(HEADER), 1000), st.lists(st.lists(st.binary(max_size=99), max_size=4), max_size=6))
@example(len(HEADER) + len(FRAME) + 11, [[b"\xff" * 60] * 2])
@example(len(HEADER) + len(FRAME), [[b"\xff" * 60] * 2])
@example(len(HEADER) + 1, [[b""]])
def test_whatever_the_capacity_the_file_is_whole(capacity: int, portions: list[list[bytes]]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        with_capacity(capacity, patch)
        capture = begin(Path(directory) / "lan.pcapng")
        written: list[bytes] = []
        stopped = False
        for contents in portions:
            frames = [packet(content) for content in contents]
            written += frames
            try:
                capture.write(b"".join(frames), len(frames), NOW_S)
            except CaptureStopped:
                stopped = True
                break
        capture.close()
        content = (Path(directory) / "lan.pcapng").read_bytes()
        kept = packets_of(content)
        assert kept == written[: len(kept)]
        assert stopped == (len(kept) < len(written))
        size = len(HEADER) + len(b"".join(kept))
        if stopped:
            assert size + len(written[len(kept)]) > capacity, "as much as there was room for"
        assert content == HEADER + b"".join(kept) + (TRAILER if size + len(TRAILER) <= capacity else b"")


def test_a_write_of_nothing_does_not_go_on_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = begin(path)
    monkeypatch.setattr(os, "pwrite", lambda file, content, at: 0)
    with pytest.raises(CaptureStopped, match="Input/output error"):
        capture.write(FRAME, 1, NOW_S)
    assert path.read_bytes() == HEADER


def test_no_file_is_left_that_has_no_header(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    with_capacity(len(HEADER) - 1, monkeypatch)
    assert "No space left on device" in refused(path)
    assert not files(path.parent)
    assert opened_since(before) == {}


def test_the_files_before_one_that_has_no_header_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = begin(path, Rotation(frames=2))
    capture.write(FRAME * 2, 2, NOW_S)
    with_capacity(0, monkeypatch)
    with pytest.raises(CaptureStopped, match="No space left on device"):
        capture.write(FRAME, 1, NOW_S)
    assert files(path.parent) == [name(1)]
    assert path.with_name(name(1)).read_bytes() == HEADER + FRAME * 2  # the trailer has had no room either


def test_what_the_system_says_at_the_end_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = begin(path)
    really = os.close

    def close(file: int) -> None:
        really(file)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))  # as NFS does

    monkeypatch.setattr(os, "close", close)
    with pytest.raises(CaptureStopped, match="Disk quota exceeded"):
        capture.close()
    capture.close()


def fill(path: Path) -> bytes:
    """Writes until the system refuses; then the file, and behind it what was said."""
    capture = CaptureFile(str(path), HEADER, lambda: TRAILER, NOW_S, floor=0)
    portion = packet(bytes(1000)) * 100
    try:
        while True:
            capture.write(portion, 100, NOW_S)
    except CaptureStopped as error:
        capture.close()
        return path.read_bytes() + block(SAID, str(error).ljust(1000).encode())


SAID = 0xBAD  # a custom block: the child's answer


def test_where_files_may_not_grow_they_are_whole(path: Path) -> None:
    limit = 300_007

    def work() -> bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return fill(path)

    status, output = in_child(work)
    assert status == 0
    *found, said = blocks_of(output)
    assert b"File too large" in said
    frames = (limit - len(HEADER)) // len(packet(bytes(1000)))
    room = limit - len(HEADER) - frames * len(packet(bytes(1000)))
    assert b"".join(found) == path.read_bytes()
    assert len(packets_of(path.read_bytes())) == frames
    assert (found[-1] == TRAILER) == (room >= len(TRAILER))


CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 1 << 18
NOT_ALLOWED = 77


def on_tmpfs(directory: Path, size: int, work: Callable[[], bytes]) -> bytes:
    """What `work` answers in a child that sees a tmpfs at `directory`; nobody else does."""
    libc: Any = ctypes.CDLL(None, use_errno=True)

    def child() -> bytes:
        if (
            libc.unshare(CLONE_NEWNS)
            or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            or libc.mount(b"tmpfs", os.fsencode(directory), b"tmpfs", 0, f"size={size}".encode())
        ):
            os._exit(NOT_ALLOWED)
        return work()

    status, output = in_child(child)
    require(status != NOT_ALLOWED, "mounting a tmpfs in a mount namespace is not allowed here")
    assert status == 0
    return output


def test_on_a_full_file_system_the_file_is_whole(path: Path) -> None:
    *found, said = blocks_of(on_tmpfs(path.parent, MIB, lambda: fill(path)))
    assert b"No space left on device" in said
    assert found[:2] == blocks_of(HEADER)
    assert len(packets_of(b"".join(found))) >= 1000
    assert not path.exists(), "it was on the tmpfs"


def test_a_tmpfs_without_limit_has_room(path: Path) -> None:
    def work() -> bytes:
        CaptureFile(str(path), HEADER, lambda: TRAILER, NOW_S).close()
        return path.read_bytes()

    assert on_tmpfs(path.parent, 0, work) == HEADER + TRAILER


def test_old_files_make_room_for_new_ones(path: Path) -> None:
    def work() -> bytes:
        capture = CaptureFile(str(path), HEADER, lambda: TRAILER, NOW_S, Rotation(size=300_000, keep=3))
        for _ in range(100):
            capture.write(packet(bytes(1000)) * 100, 100, NOW_S)
        capture.close()
        return "".join(f"{found}\n" for found in files(path.parent)).encode()

    assert len(on_tmpfs(path.parent, MIB, work).splitlines()) == 3
