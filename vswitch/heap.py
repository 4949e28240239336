"""Memory: how much there is to have, what the C library's heap keeps of it, and when it gives it back (glibc only)."""

import ctypes
import functools
import sys
from contextlib import suppress
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep(size: int) -> None:
    """Keep up to `size` free bytes at the heap's end, and chunks up to `size` on the heap; for the whole process.

    Received chunks come and go. By default glibc gives the heap's end back each time, and the page faults of
    getting it again cost as much as the copy.
    """
    with suppress(OSError, AttributeError):
        _libc().mallopt(M_MMAP_THRESHOLD, size)
        _libc().mallopt(M_TRIM_THRESHOLD, size)


def trim() -> None:
    """Give free memory back to the system, wherever on the heap it is; takes milliseconds for a large heap."""
    with suppress(OSError, AttributeError):
        _libc().malloc_trim(0)


def available() -> int:
    """Bytes that this process may still take: what the machine has, and what its control group may have."""
    return min(_machine(), _group())


def _machine() -> int:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, amount, *_ = line.split()
            if name == "MemAvailable:":
                return int(amount) * 1024
    return sys.maxsize


def _group() -> int:
    """Of cgroup v2 (Linux Documentation/admin-guide/cgroup-v2.rst), the tightest of those we are in."""
    room = sys.maxsize
    with suppress(OSError):
        own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
        for group in (Path(own), *Path(own).parents):
            with suppress(OSError, ValueError):  # the root has none, and "max" is no bound
                at = Path("/sys/fs/cgroup") / group
                most = int((at / "memory.max").read_text())
                room = min(room, most - int((at / "memory.current").read_text()))
    return max(room, 0)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
