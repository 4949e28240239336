"""A unix socket at a path that only this user may use, and that is ours to use.

A stale socket of this user's, one that nobody listens on, is replaced. Anything else at the path stays. A socket whose
path is removed is made again.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import trio

from vswitch.endpoints.comeback import serve_again
from vswitch.endpoints.endpoint import log
from vswitch.errors import RefusedError, path_advice, printable

BACKLOG = 1024
LOCK_TRIES = 10
LOCK_PAUSE_S = 0.005
LOOK_S = 0.5  # how often to look whether a path is still there


class InUseError(RefusedError):
    """Somebody listens at the path."""


AnySocket = socket.socket | trio.socket.SocketType


@contextlib.contextmanager
def bind(
    path: str, kind: socket.SocketKind = socket.SOCK_STREAM, mode: int = 0o600, group: int = -1
) -> Iterator[socket.socket]:
    """A socket at `path`, closed to others from its first moment; a stream socket listens. Removed on exit if it is
    still ours. `mode` and `group` (a gid, -1: the process's) say whom it is opened to.

    Raises RefusedError when the path is in use, is not a socket, or belongs to another user.
    """
    sock = socket.socket(socket.AF_UNIX, kind)
    with sock:
        os.fchmod(sock.fileno(), mode & 0o600)  # Linux gives this mode to the path when it is bound
        with _directory_lock(path):
            _remove_stale(path, kind)
            try:
                sock.bind(path)
                ours = _identity(path)
            except OSError as error:
                raise RefusedError(f"cannot listen on {path}: {_reason(error)}{path_advice(error)}") from None
            try:
                open_to_others(path, mode, group)
                if kind == socket.SOCK_STREAM:
                    sock.listen(BACKLOG)  # before that it looks stale to others
            except OSError as error:
                _remove(path, ours)
                raise RefusedError(f"cannot listen on {path}: {_reason(error)}") from None
        try:
            yield sock
        finally:
            _remove(path, ours)


def _remove(path: str, ours: tuple[int, int] | None) -> None:
    """Remove a socket that we have made, unless another is there by now."""
    with contextlib.suppress(OSError):  # it is gone, or the directory lets us change nothing any more
        if _identity(path) == ours:
            os.unlink(path)


async def keep_bound(
    path: str,
    who: str,
    serve: Callable[[trio.socket.SocketType], Awaitable[object]],
    started: Callable[[], None],
    *,
    mode: int = 0o600,
    group: int = -1,
    prepare: Callable[[], object] = lambda: None,
) -> None:
    """Serve on a listening socket at `path`, and on a new one whenever the path is removed, until cancelled.

    `prepare` is called before it is made again. Raises RefusedError before it has `started`.
    """

    async def listen(started: Callable[[], None]) -> None:
        with bind(path, mode=mode, group=group) as sock:
            started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, trio.socket.from_stdlib_socket(sock))
                await removed(path, who)
                nursery.cancel_scope.cancel()

    await serve_again(who, path, listen, started, prepare)


async def removed(path: str, who: str) -> None:
    """Return, and say so, when what is at a path now is gone, or something else is there."""
    ours = _identity(path)
    while _identity(path) == ours:  # noqa: ASYNC110 (inotify would tell, for a descriptor and the libc's own calls)
        await trio.sleep(LOOK_S)
    log.warning("%s: %s was removed", who, path)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove_stale(path: str, kind: socket.SocketKind) -> None:
    try:
        found = os.lstat(path)
    except OSError:
        return  # nothing there, or bind will say what is wrong
    if not stat.S_ISSOCK(found.st_mode):
        raise RefusedError(f"{path} exists and is not a socket; remove it or use another path")
    if found.st_uid != os.geteuid():
        raise RefusedError(f"{path} is another user's socket (uid {found.st_uid}); use another path")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            raise InUseError(f"{path} is in use ({_reason(error)}); use another path") from None
        else:
            raise InUseError(f"{path} is in use: somebody listens there; use another path")


def remove_stale(path: str) -> None:
    """Removes a stream socket that nobody listens on. Raises RefusedError if it is in use, or not ours to remove."""
    with _directory_lock(path):
        _remove_stale(path, socket.SOCK_STREAM)


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


def open_to_others(path: str, mode: int, group: int = -1, user: int = -1) -> None:
    """Give a socket that we have just bound its owners and permissions. Raises OSError.

    By a descriptor: whoever can write to the directory may put something else of ours at the path.
    """
    found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(found)
        if not stat.S_ISSOCK(status.st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        if group != -1 or user != -1:
            os.chown(f"/proc/self/fd/{found}", user, group)
        if stat.S_IMODE(status.st_mode) != mode:  # also when the umask took even our own access away
            os.chmod(f"/proc/self/fd/{found}", mode)
    finally:
        os.close(found)


def peer_uid(sock: AnySocket) -> int:
    """The user at the other end of a connection. Raises OSError."""
    return _credentials(sock)[1]


def peer_text(sock: AnySocket) -> str:
    """Who is at the other end of a connection, for people. Raises OSError if nobody is any more."""
    pid, uid = _credentials(sock)
    return process_text(pid) or f"pid {pid}, uid {uid}"


def process_text(pid: int) -> str | None:
    """A process, for people; None if there is none."""
    try:
        command = Path(f"/proc/{pid}/comm").read_text(errors="backslashreplace").strip()
    except OSError:
        return None
    return f"{printable(command)} (pid {pid})"


def _credentials(sock: AnySocket) -> tuple[int, int]:
    pid, uid, _ = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
