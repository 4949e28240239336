"""Where captures are written: what is there can always be read, is ours alone, and nothing else is touched."""

import errno
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.descriptors import descriptors, opened_since
from tests.edges.capture_files import (
    FRAME,
    HEADER,
    NOW_S,
    ONE_INTERFACE,
    TRAILER,
    begin,
    files,
    in_child,
    name,
    packet,
    refused,
)
from tests.needs import require
from tests.umasks import umask
from vswitch.edges import capture_file
from vswitch.edges.capture_file import NONE, CaptureFile, CaptureStopped, Rotation
from vswitch.errors import InputError, RefusedError

NOBODY = 65534


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
    before = descriptors()
    capture = begin(path)
    capture.close()
    capture.close()
    assert opened_since(before) == {}
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

        said = f"cannot write {path}: Permission denied; use a path where you may write"
        assert in_child(work) == (0, said.encode())
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
