"""A unix socket's path: only ours to use, and only what is ours is ever removed."""

import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import pytest

from tests.needs import require
from tests.umasks import umask
from vswitch.endpoints import unix_socket
from vswitch.errors import RefusedError

NOBODY = 65534


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        yield Path(directory) / "lan.sock"


def bound(path: Path) -> socket.socket:
    """A socket that is bound to a path and that nobody listens on."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    return sock


def refused(path: Path) -> str:
    with pytest.raises(RefusedError) as caught, unix_socket.bind(str(path)):
        pass
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    return message


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o177, 0o777])
def test_only_this_user_may_connect_whatever_the_umask(path: Path, mask: int) -> None:
    with umask(mask), unix_socket.bind(str(path)):
        assert stat.filemode(path.lstat().st_mode) == "srw-------"


def test_it_listens_and_the_path_goes_with_it(path: Path) -> None:
    with unix_socket.bind(str(path)) as sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        accepted, _ = sock.accept()
        accepted.close()
    assert sock.fileno() == -1
    assert not os.path.lexists(path)


def test_a_relative_path_will_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with unix_socket.bind(path.name):
        assert stat.S_ISSOCK(path.lstat().st_mode)
    assert not path.exists()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    bound(path).close()
    before = path.lstat()
    with unix_socket.bind(str(path)) as sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        sock.accept()[0].close()
        assert (path.lstat().st_ino, path.lstat().st_ctime_ns) != (before.st_ino, before.st_ctime_ns)


def test_a_socket_that_somebody_listens_on_stays_and_works(path: Path) -> None:
    with bound(path) as other:
        other.listen()
        assert "in use" in refused(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))


def test_a_socket_whose_listener_is_too_busy_to_answer_stays(path: Path) -> None:
    with bound(path) as other, ExitStack() as stack:
        other.listen(0)
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        assert "in use" in refused(path)
    assert path.is_socket()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_of_another_kind_that_is_in_use_stays(path: Path, kind: int) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        if kind != socket.SOCK_DGRAM:
            other.listen()
        assert "in use" in refused(path)
    assert path.is_socket()


def test_what_is_no_socket_stays(path: Path) -> None:
    path.write_text("precious")
    assert "not a socket" in refused(path)
    assert path.read_text() == "precious"


def test_a_directory_stays(path: Path) -> None:
    path.mkdir()
    assert "not a socket" in refused(path)
    assert path.is_dir()


@pytest.mark.parametrize("target", ["live", "stale", "file", "nothing"])
def test_a_symbolic_link_stays_and_so_does_what_it_leads_to(path: Path, target: str) -> None:
    aim = path.with_name("aim")
    path.symlink_to(aim)
    with ExitStack() as stack:
        if target in ("live", "stale"):
            other = stack.enter_context(bound(aim))
            if target == "live":
                other.listen()
            else:
                other.close()
        elif target == "file":
            aim.write_text("precious")
        refused(path)
        assert path.is_symlink()
        assert aim.exists() == (target != "nothing")


def test_another_users_socket_stays_even_if_nobody_listens(path: Path) -> None:
    require(os.geteuid() == 0, "only root can give a file to another user")
    bound(path).close()
    os.chown(path, NOBODY, NOBODY)
    message = refused(path)
    assert "another user" in message
    assert str(NOBODY) in message
    assert path.is_socket()


def test_a_directory_that_is_missing_is_named(path: Path) -> None:
    assert "No such file or directory" in refused(path.parent / "missing" / "lan.sock")


def test_what_somebody_else_put_in_its_place_stays(path: Path) -> None:
    with unix_socket.bind(str(path)):
        path.unlink()
        path.write_text("precious")
    assert path.read_text() == "precious"


def test_another_socket_put_in_its_place_stays(path: Path) -> None:
    with unix_socket.bind(str(path)), ExitStack() as stack:
        path.rename(path.with_name("moved"))
        stack.enter_context(bound(path))
    assert path.is_socket()


def test_it_does_not_matter_if_the_path_is_gone_already(path: Path) -> None:
    with unix_socket.bind(str(path)):
        path.unlink()


def test_the_path_goes_even_if_the_body_fails(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), unix_socket.bind(str(path)):
        _ = 1 / 0
    assert not path.exists()


def test_somebody_who_holds_a_lock_on_the_directory_cannot_keep_us_out(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with unix_socket.bind(str(path)):
            assert path.is_socket()
    finally:
        os.close(directory)


def test_of_many_who_replace_a_stale_socket_at_once_one_has_it(path: Path) -> None:
    bound(path).close()
    many = 8
    start, finish = Barrier(many, timeout=20), Barrier(many, timeout=20)

    def contend(_: int) -> bool:
        start.wait()
        try:
            with unix_socket.bind(str(path)), socket.socket(socket.AF_UNIX) as client:
                finish.wait()  # nobody lets go before all have tried
                client.connect(str(path))
                return True
        except RefusedError:
            finish.wait()
            return False

    with ThreadPoolExecutor(many) as pool:
        assert sum(pool.map(contend, range(many))) == 1
    assert not path.exists()
