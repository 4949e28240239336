"""Files beneath a folder, opened by names that guests choose.

The kernel sees to it that a name leads to nothing outside, whatever links are there and whoever changes them meanwhile
(openat2(2), RESOLVE_BENEATH). Where it has no such call, or a container forbids it, names are followed one step at a
time, and links not at all.
"""

import ctypes
import errno
import os
import stat
import struct
from pathlib import Path

_OPENAT2 = 437  # on all machines that have Landlock
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08  # linux/openat2.h
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO without a writer does not block
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class Folder:
    """Keeps a descriptor of the folder until it is closed: the path is not looked at again. Raises OSError."""

    def __init__(self, path: str | bytes | Path) -> None:
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def open(self, name: str) -> int:
        """A descriptor of a regular file, to be read and closed by the caller. Raises OSError, whatever the name is."""
        try:
            path = name.encode(errors="surrogateescape")
        except UnicodeEncodeError:  # a surrogate that stands for no byte
            path = b"\0"
        if b"\0" in path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        try:
            file = _open_beneath(self._fd, path)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            file = _walk(self._fd, path)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise PermissionError(errno.EACCES, "not a regular file")
        return file


def _open_beneath(folder: int, path: bytes) -> int:
    how = struct.pack("QQQ", _FLAGS, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    file = int(_libc.syscall(_OPENAT2, folder, path, how, ctypes.c_size_t(len(how))))
    if file < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return file


def _walk(folder: int, path: bytes) -> int:
    *steps, last = path.split(b"/")
    if path.startswith(b"/") or b".." in (*steps, last):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    at = os.dup(folder)
    try:
        for step in steps:
            below = os.open(step or b".", _STEP, dir_fd=at)
            os.close(at)
            at = below
        return os.open(last, _FLAGS | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)
