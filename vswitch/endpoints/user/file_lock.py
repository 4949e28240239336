"""A file that one user network has for itself, among all processes, as long as it runs.

The file is replaced whenever it is written, and a lock on it would be on the old one. So there is another one beside
it, which is locked, and is removed in the end; if the process is killed, the lock ends with it (flock(2)).
"""

import fcntl
import os
from contextlib import ExitStack, suppress
from typing import IO

from vswitch.errors import RefusedError


class FileLock:
    """Raises RefusedError if another one has the file. Where nothing can be written, there is nothing to lock."""

    def __init__(self, path: str) -> None:
        folder, name = os.path.split(os.path.realpath(path))
        self._path = os.path.join(folder, f".{name}.lock")
        self._file: IO[bytes] | None = None
        with suppress(OSError):
            while self._file is None:
                self._file = self._lock(path)

    def close(self) -> None:
        """It is removed while it is locked: who has opened it already, finds then that it is gone."""
        if self._file is not None:
            with self._file, suppress(OSError):
                os.unlink(self._path)
            self._file = None

    def _lock(self, path: str) -> IO[bytes] | None:
        """None if it was gone when we had it. Raises OSError if there can be none: not every file system has locks."""
        with ExitStack() as closing:
            file = closing.enter_context(open(self._path, "ab", opener=_opener))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RefusedError(f"{path} has the leases of a user network that runs; name another file") from None
            try:
                if not os.path.samestat(os.fstat(file.fileno()), os.lstat(self._path)):
                    return None
            except FileNotFoundError:
                return None
            closing.pop_all()
            return file


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
