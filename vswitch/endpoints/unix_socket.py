"""Listening on a unix socket path that only this user may use, and that is ours to use.

A stale socket of this user's, one that nobody listens on, is replaced. Anything else at the path stays.
"""

import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from vswitch.errors import RefusedError

BACKLOG = 1024
LOCK_TRIES = 10
LOCK_PAUSE_S = 0.005


@contextlib.contextmanager
def listen(path: str) -> Iterator[socket.socket]:
    """A listening stream socket at `path`, mode 0600 from its first moment; removed on exit if it is still ours.

    Raises RefusedError when the path is in use, is not a socket, or belongs to another user.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with sock:
        os.fchmod(sock.fileno(), 0o600)  # Linux gives this mode to the path when it is bound
        with _directory_lock(path):
            _remove_stale(path)
            try:
                sock.bind(path)
                ours = os.lstat(path)
                if stat.S_IMODE(ours.st_mode) != 0o600:
                    os.chmod(path, 0o600)  # a umask took even our own access away
                sock.listen(BACKLOG)  # before that it looks stale to others
            except OSError as error:
                raise RefusedError(f"cannot listen on {path}: {_reason(error)}") from None
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):  # it is gone, or the directory lets us change nothing any more
                found = os.lstat(path)
                if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                    os.unlink(path)


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except OSError:
        return  # nothing there, or bind will say what is wrong
    if not stat.S_ISSOCK(found.st_mode):
        raise RefusedError(f"{path} exists and is not a socket; remove it or use another path")
    if found.st_uid != os.geteuid():
        raise RefusedError(f"{path} is another user's socket (uid {found.st_uid}); use another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            raise RefusedError(f"{path} is in use ({_reason(error)}); use another path") from None
        else:
            raise RefusedError(f"{path} is in use: somebody listens there; use another path")


@contextlib.contextmanager
def _directory_lock(path: str) -> Iterator[None]:
    """Keeps two of us from replacing the same stale socket: the second would remove the first's new one.

    Waited for briefly only: others may hold it for their own reasons.
    """
    try:
        directory = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # bind will say what is wrong
        return
    try:
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(LOCK_PAUSE_S)
        yield
    finally:
        os.close(directory)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
