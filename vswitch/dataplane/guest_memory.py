"""A guest's memory, shared by vhost-user: regions of files that its QEMU has mapped too.

What the guest has in memory is read as compiled code reads bytes, without an object for each access: before a region's
mapping lies the header of a bytes object, so that the region is the content of one. It is no constant, as the guest
writes to it: whoever reads a number twice may find two.

A file that can shrink would end this process with SIGBUS when its lost pages are touched: see `can_shrink`.
"""

import ctypes
import fcntl
import mmap
import os
import sys
from collections.abc import Callable
from typing import Final, final

from librt.vecs import append, vec
from mypy_extensions import i64

from vswitch.dataplane.mmsg import BYTES_AT

_SEAL_SHRINK: Final = 2  # F_SEAL_SHRINK; Linux include/uapi/linux/fcntl.h
_GET_SEALS: Final = 1034  # F_GET_SEALS
_RESERVED: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
_SHARED_HERE: Final = mmap.MAP_SHARED | 0x10  # MAP_FIXED
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE
_FAILED: Final = ctypes.c_void_p(-1).value
_REFERENCES: Final = 1 << 20  # so many that nobody frees what is no object of Python's
_SIZE_BEFORE: Final = 16  # where the size is, before the bytes: then comes the hash

_libc = ctypes.CDLL(None, use_errno=True)
_mmap: Callable[[int | None, int, int, int, int, int], int] = _libc.mmap
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
)
_libc.mmap.restype = ctypes.c_void_p
_munmap: Callable[[int, int], int] = _libc.munmap
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def can_shrink(fd: int) -> bool:
    """Whether others may cut the file, as it is no memfd, or one without F_SEAL_SHRINK (fcntl(2))."""
    try:
        return not fcntl.fcntl(fd, _GET_SEALS) & _SEAL_SHRINK
    except OSError:
        return True


@final
class Mapping:
    """The first `size` bytes of a file, shared. Raises OSError.

    `content` is to be read, `view` to be written. Nobody may hold either after `close`.
    """

    def __init__(self, fd: int, size: int) -> None:
        page = max(mmap.PAGESIZE, os.fstat(fd).st_blksize)  # of huge pages, that is their size
        size = (size + page - 1) & -page
        self._room = size + 2 * page
        self._start = self._checked(_mmap(None, self._room, _READ_WRITE, _RESERVED, -1, 0))
        place = (self._start + 2 * page - 1) & -page
        try:
            self._checked(_mmap(place, size, _READ_WRITE, _SHARED_HERE, fd, 0))
        except OSError:
            _munmap(self._start, self._room)
            raise
        self.view = memoryview((ctypes.c_ubyte * size).from_address(place)).cast("B")
        self.content = self._as_bytes(place, size)

    def _checked(self, address: int) -> int:
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return address

    def _as_bytes(self, place: int, size: int) -> bytes:
        """The object that a header makes of what is mapped (CPython Include/cpython/bytesobject.h)."""
        header = place - BYTES_AT
        ctypes.memmove(header, id(b"any other"), BYTES_AT)
        ctypes.c_ssize_t.from_address(header).value = _REFERENCES
        ctypes.c_ssize_t.from_address(place - _SIZE_BEFORE).value = size
        content: bytes = ctypes.cast(header, ctypes.py_object).value
        return content

    def close(self) -> None:
        """Raises BufferError if somebody still has it; then it stays mapped."""
        if sys.getrefcount(self.content) > _REFERENCES + 2:  # the attribute, and the argument
            raise BufferError("a mapping is in use")
        self.content = b""
        self.view.release()
        _munmap(self._start, self._room)


@final
class GuestMemory:
    """Regions by the addresses that the guest has for them, and by those that its QEMU has."""

    def __init__(self) -> None:
        self.mappings: list[Mapping] = []
        self.contents: list[bytes] = []
        self.views: list[memoryview] = []
        self._guest: vec[i64] = vec[i64]()
        self._user: vec[i64] = vec[i64]()
        self._sizes: vec[i64] = vec[i64]()
        self._offsets: vec[i64] = vec[i64]()

    def add(self, guest_address: i64, user_address: i64, size: i64, fd: int, offset: i64) -> None:
        """A region of `size` bytes that starts at an offset of a file. Raises OSError."""
        mapping = Mapping(fd, offset + size)
        self.mappings.append(mapping)
        self.contents.append(mapping.content)
        self.views.append(mapping.view)
        self._guest = append(self._guest, guest_address)
        self._user = append(self._user, user_address)
        self._sizes = append(self._sizes, size)
        self._offsets = append(self._offsets, offset)

    def find(self, address: i64, size: i64) -> i64:
        """The region that has all of what the guest has at an address; -1 if there is none."""
        return self._find(self._guest, address, size)

    def find_user(self, address: i64, size: i64) -> i64:
        """The same for an address of its QEMU's."""
        return self._find(self._user, address, size)

    def place(self, region: i64, address: i64) -> i64:
        """Where in the region's mapping that is."""
        return self._offsets[region] + address - self._guest[region]

    def place_user(self, region: i64, address: i64) -> i64:
        return self._offsets[region] + address - self._user[region]

    def _find(self, starts: vec[i64], address: i64, size: i64) -> i64:
        region: i64 = 0
        count: i64 = len(starts)
        while region < count:
            within = address - starts[region]
            if within >= 0 and within <= self._sizes[region] - size:
                return region
            region += 1
        return -1

    def close(self) -> None:
        self.contents.clear()
        self.views.clear()
        for mapping in self.mappings:
            mapping.close()
        self.mappings.clear()
