"""The C library's heap: what it keeps between chunks, and when it gives memory back. Does nothing without glibc."""

import ctypes
import functools
from contextlib import suppress

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


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
