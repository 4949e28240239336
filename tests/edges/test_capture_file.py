"""Where captures are written: what is there can always be read, is ours alone, and nothing else is touched."""

import ctypes
import errno
import os
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.needs import require
from vswitch.edges import capture_file
from vswitch.edges.capture_file import NONE, CaptureFile, CaptureStopped, Rotation, read_rotation
from vswitch.errors import InputError, RefusedError

NOBODY = 65534
NOW_S = 1_795_363_200.0  # 2026-11-22 16:00:00 UTC
NOW_TEXT = time.strftime("%Y%m%d%H%M%S", time.localtime(NOW_S))
MIB = 2**20

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6


def block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


def packet(content: bytes, interface: int = 0) -> bytes:
    padding = bytes(-len(content) % 4)
    return block(PACKET, struct.pack("<IIIII", interface, 0, 0, len(content), len(content)) + content + padding)


ONE_INTERFACE = block(INTERFACE, struct.pack("<HHI", 1, 0, 0))
HEADER = block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)) + ONE_INTERFACE
TRAILER = block(STATISTICS, struct.pack("<III", 0, 0, 0))
FRAME = packet(b"\xff" * 60)  # 92 bytes
AROUND = len(HEADER) + len(TRAILER)


def blocks_of(content: bytes) -> list[bytes]:
    """The blocks of a file; fails unless it ends with a whole one."""
    found = []
    while content:
        assert len(content) >= 12, "a begun block"
        size = struct.unpack_from("<I", content, 4)[0]
        assert len(content) >= size, "a begun block"
        assert content[size - 4 : size] == content[4:8]
        found.append(content[:size])
        content = content[size:]
    return found


def packets_of(content: bytes) -> list[bytes]:
    return [found for found in blocks_of(content) if found[:4] == struct.pack("<I", PACKET)]


def begin(path: Path, rotation: Rotation = NONE, floor: int | None = 0, now_s: float = NOW_S) -> CaptureFile:
    return CaptureFile(str(path), HEADER, lambda: TRAILER, now_s, rotation, floor)


def refused(path: Path | str, rotation: Rotation = NONE) -> str:
    with pytest.raises(RefusedError) as caught:
        begin(Path(path), rotation)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    return message


def files(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def name(number: int, later_s: float = 0) -> str:
    return f"lan_{number:05}_{time.strftime('%Y%m%d%H%M%S', time.localtime(NOW_S + later_s))}.pcapng"


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


class Ended(NamedTuple):
    status: int
    output: bytes


def in_child(work: Callable[[], bytes]) -> Ended:
    """What a child process of ours answers; it may change its limits, its user and its mounts."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(readable)
            with open(writable, "wb") as output:
                output.write(work())
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    os.close(writable)
    with open(readable, "rb") as output:
        answer = output.read()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), answer)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lan.pcapng"


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


# One file.


def test_a_file_is_its_header_what_was_written_and_its_trailer(path: Path) -> None:
    capture = begin(path)
    assert path.read_bytes() == HEADER
    capture.write(packet(b"one") + packet(b"two"), 2, NOW_S)
    assert path.read_bytes() == HEADER + packet(b"one") + packet(b"two")
    capture.write(packet(b"three"), 1, NOW_S + 1e6)
    capture.close()
    assert path.read_bytes() == HEADER + packet(b"one") + packet(b"two") + packet(b"three") + TRAILER
    assert capture.path == str(path)
    assert files(path.parent) == ["lan.pcapng"]


def test_it_may_be_closed_again_but_not_written_to(path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    capture = begin(path)
    capture.close()
    capture.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with pytest.raises(CaptureStopped, match=re.escape(f"{path} is over")):
        capture.write(FRAME, 1, NOW_S)
    with pytest.raises(CaptureStopped, match=re.escape(f"{path} is over")):
        capture.declare(ONE_INTERFACE)
    assert path.read_bytes() == HEADER + TRAILER


def test_the_trailer_is_as_of_the_end(path: Path) -> None:
    said = [TRAILER]
    capture = CaptureFile(str(path), HEADER, lambda: said[0], NOW_S)
    said[0] = TRAILER + TRAILER
    capture.close()
    assert path.read_bytes() == HEADER + TRAILER + TRAILER


def test_an_interface_may_be_declared_later(path: Path) -> None:
    capture = begin(path)
    capture.write(FRAME, 1, NOW_S)
    capture.declare(ONE_INTERFACE)
    capture.write(packet(b"", 1), 1, NOW_S)
    capture.close()
    assert path.read_bytes() == HEADER + FRAME + ONE_INTERFACE + packet(b"", 1) + TRAILER


def test_wireshark_reads_it(path: Path) -> None:
    capinfos = shutil.which("capinfos")
    require(capinfos, "capinfos not found: install the package wireshark-common")
    assert capinfos is not None
    capture = begin(path)
    capture.write(FRAME * 3, 3, NOW_S)
    capture.close()
    found = subprocess.run([capinfos, "-c", "-M", str(path)], capture_output=True, text=True, check=True)
    assert re.search(r"Number of packets:\s+3\n", found.stdout)
    assert "cut short" not in found.stdout + found.stderr


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o177, 0o377, 0o777])
def test_only_this_user_may_read_it_whatever_the_umask(path: Path, mask: int) -> None:
    with umask(mask):
        capture = begin(path, Rotation(frames=1))
        capture.write(FRAME * 2, 2, NOW_S)
    assert [stat.filemode((path.parent / found).stat().st_mode) for found in files(path.parent)] == ["-rw-------"] * 2
    capture.close()


def test_it_never_is_open_to_others_nor_inherited(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    really = os.open

    def watched(where: str, flags: int, mode: int = 0o777) -> int:
        asked.append((flags, mode))
        return really(where, flags, mode)

    monkeypatch.setattr(os, "open", watched)
    with umask(0):
        begin(path).close()
    flags, mode = asked[-1]
    assert mode == 0o600
    assert flags & (os.O_EXCL | os.O_CLOEXEC) == os.O_EXCL | os.O_CLOEXEC


def test_a_relative_path_is_relative_to_where_it_was_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    capture = begin(Path(path.name), Rotation(frames=1))
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    capture.write(FRAME * 2, 2, NOW_S)
    capture.close()
    assert files(path.parent) == ["elsewhere", name(1), name(2)]
    assert not files(elsewhere)
    assert capture.path == str(path.parent / name(2))


def test_each_portion_is_written_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    really = os.pwrite

    def watched(file: int, content: memoryview, at: int) -> int:
        written.append(bytes(content))
        return really(file, content, at)

    monkeypatch.setattr(os, "pwrite", watched)
    capture = begin(path)
    capture.write(FRAME * 1000, 1000, NOW_S)
    capture.close()
    assert written == [HEADER, FRAME * 1000, TRAILER]


def test_a_short_write_is_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, at: really(file, content[:7], at))
    capture = begin(path)
    capture.write(FRAME * 5, 5, NOW_S)
    capture.close()
    assert path.read_bytes() == HEADER + FRAME * 5 + TRAILER


def test_what_was_written_is_there_if_the_program_is_killed(path: Path) -> None:
    def work() -> bytes:
        capture = begin(path)
        capture.write(FRAME * 100, 100, NOW_S)
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    assert in_child(work).status == -signal.SIGKILL
    assert path.read_bytes() == HEADER + FRAME * 100
    begin(path).close()  # and nobody holds the file any more


# What is at the path already.


def test_an_earlier_file_is_replaced_and_its_readers_see_nothing_of_the_new_one(path: Path) -> None:
    path.write_text("earlier" * 1000)
    path.chmod(0o666)
    link = path.with_name("link")
    link.hardlink_to(path)
    with path.open() as reader:
        capture = begin(path)
        capture.write(FRAME, 1, NOW_S)
        capture.close()
        assert reader.read() == "earlier" * 1000
    assert path.read_bytes() == HEADER + FRAME + TRAILER
    assert stat.filemode(path.stat().st_mode) == "-rw-------"
    assert link.read_text() == "earlier" * 1000


def test_a_file_that_is_being_captured_to_stays(path: Path) -> None:
    capture = begin(path)
    assert "another capture" in refused(path)
    capture.write(FRAME, 1, NOW_S)
    capture.close()
    assert path.read_bytes() == HEADER + FRAME + TRAILER
    begin(path).close()


def test_locks_are_not_needed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    path.write_text("earlier")
    begin(path).close()
    assert path.read_bytes() == HEADER + TRAILER


@pytest.mark.parametrize("target", ["file", "directory", "nothing"])
@pytest.mark.parametrize("rotation", [NONE, Rotation(frames=1)])
def test_a_symbolic_link_stays_and_so_does_what_it_leads_to(path: Path, target: str, rotation: Rotation) -> None:
    aim = path.with_name("aim")
    path.symlink_to(aim)
    if target == "file":
        aim.write_text("precious")
    elif target == "directory":
        aim.mkdir()
    before = files(path.parent)
    assert "symbolic link; name the file itself" in refused(path, rotation)
    assert files(path.parent) == before
    assert path.is_symlink()
    assert target != "file" or aim.read_text() == "precious"


def test_a_symbolic_link_that_appears_meanwhile_is_not_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aim = path.with_name("aim")
    aim.write_text("precious")
    path.symlink_to(aim)
    monkeypatch.setattr(capture_file, "_check_earlier", lambda path, rotating: None)
    refused(path)
    assert aim.read_text() == "precious"
    assert path.is_symlink()


def test_a_symbolic_link_in_the_place_of_the_next_file_is_not_followed(path: Path) -> None:
    aim = path.with_name("aim")
    path.with_name(name(2)).symlink_to(aim)
    capture = begin(path, Rotation(frames=1))
    capture.write(FRAME * 2, 2, NOW_S)
    capture.close()
    assert capture.path == str(path.with_name(name(3)))
    assert not aim.exists()


def test_a_directory_may_be_reached_by_a_symbolic_link(path: Path) -> None:
    (path.parent / "directory").mkdir()
    (path.parent / "link").symlink_to("directory")
    begin(path.parent / "link" / "lan.pcapng").close()
    assert (path.parent / "directory" / "lan.pcapng").read_bytes() == HEADER + TRAILER


@pytest.mark.parametrize("rotation", [NONE, Rotation(frames=1)])
def test_a_directory_stays(path: Path, rotation: Rotation) -> None:
    path.mkdir()
    assert "is a directory; name a file in it" in refused(path, rotation)
    assert files(path.parent) == ["lan.pcapng"]


@pytest.mark.parametrize("reader", [False, True])
@pytest.mark.parametrize("rotation", [NONE, Rotation(frames=1)])
def test_a_fifo_is_refused_at_once(path: Path, reader: bool, rotation: Rotation) -> None:
    os.mkfifo(path, 0o600)
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if reader else -1
    signal.alarm(20)  # opening it would wait for a reader
    try:
        assert "tail -c +1 -f FILE" in refused(path, rotation)
    finally:
        signal.alarm(0)
        if reader:
            os.close(file)
    assert path.is_fifo()


def test_a_fifo_that_appears_meanwhile_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(path)
    monkeypatch.setattr(capture_file, "_check_earlier", lambda path, rotating: None)
    signal.alarm(20)
    try:
        refused(path)
    finally:
        signal.alarm(0)
    assert path.is_fifo()


@pytest.mark.parametrize("rotation", [NONE, Rotation(frames=1)])
def test_a_device_stays(path: Path, rotation: Rotation) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # not /dev/null itself: a failing test could replace it
    except PermissionError:
        require(False, "only root can make a device")
    assert "not a regular file" in refused(path, rotation)
    assert path.is_char_device()
    assert files(path.parent) == ["lan.pcapng"]


def test_a_socket_stays() -> None:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory, socket.socket(socket.AF_UNIX) as other:
        path = Path(directory) / "lan.sock"
        other.bind(str(path))
        assert "not a regular file" in refused(path)
        assert path.is_socket()


def test_another_users_file_stays(path: Path) -> None:
    require(os.geteuid() == 0, "only root can give a file to another user")
    path.write_text("precious")
    os.chown(path, NOBODY, NOBODY)
    message = refused(path)
    assert "another user" in message
    assert str(NOBODY) in message
    assert path.read_text() == "precious"
    begin(path, Rotation(frames=1)).close()  # which is not about this name
    assert files(path.parent) == ["lan.pcapng", name(1)]
    assert path.read_text() == "precious"


def test_a_file_that_may_not_be_written_stays() -> None:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        path = Path(directory) / "lan.pcapng"
        path.write_text("precious")
        path.chmod(0o400)
        if os.geteuid() == 0:
            for mine in (path, path.parent):
                os.chown(mine, NOBODY, NOBODY)

        def work() -> bytes:
            if os.geteuid() == 0:
                os.setresuid(NOBODY, NOBODY, NOBODY)
            try:
                begin(path)
            except RefusedError as error:
                return str(error).encode()
            return b"not refused"

        assert in_child(work) == (0, f"cannot write {path}: Permission denied".encode())
        assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("part", "said"),
    [("missing/lan.pcapng", "No such file"), ("x" * 300, "too long"), ("file/lan.pcapng", "Not a directory")],
)
@pytest.mark.parametrize("rotation", [NONE, Rotation(frames=1)])
def test_a_path_that_cannot_be_is_refused(tmp_path: Path, part: str, said: str, rotation: Rotation) -> None:
    (tmp_path / "file").touch()
    assert said in refused(tmp_path / part, rotation)
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize("path", ["", "/tmp/", "lan\0.pcapng"])
def test_what_is_no_name_is_an_error_of_input(path: str) -> None:
    with pytest.raises(InputError, match="write one like"):
        CaptureFile(path, HEADER, lambda: TRAILER, NOW_S)


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


def test_by_time_when_the_clock_is_set_back(path: Path) -> None:
    capture = begin(path, Rotation(seconds=60.0))
    capture.write(FRAME, 1, NOW_S - 7200)
    capture.write(FRAME, 1, NOW_S - 7200 + 59)
    assert files(path.parent) == [name(1)]
    capture.write(FRAME, 1, NOW_S - 7200 + 60)
    assert len(files(path.parent)) == 2
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
    descriptors = len(os.listdir("/proc/self/fd"))
    capture = begin(path)
    with_capacity(len(HEADER) + 5 * len(FRAME) + 50, monkeypatch, error)
    capture.write(FRAME * 3, 3, NOW_S)
    with pytest.raises(CaptureStopped) as caught:
        capture.write(FRAME * 3, 3, NOW_S)
    assert str(caught.value) == f"the capture to {path} has stopped: {os.strerror(error)}"
    assert path.read_bytes() == HEADER + FRAME * 5 + TRAILER
    assert len(os.listdir("/proc/self/fd")) == descriptors
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
    descriptors = len(os.listdir("/proc/self/fd"))
    with_capacity(len(HEADER) - 1, monkeypatch)
    assert "No space left on device" in refused(path)
    assert not files(path.parent)
    assert len(os.listdir("/proc/self/fd")) == descriptors


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
