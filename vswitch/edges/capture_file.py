"""Where a capture is written: one file, or a row of them that goes on by size, time or number of frames.

*It can be read at any time.* What comes are whole pcapng blocks, and each portion is one write, continued only if it
was short. When the disk is full, or the file may not grow, the begun block is cut off again, the trailer is put there
if it fits, and the capture stops. Nothing is synced: a crash of the machine may cost the last seconds, a crash of the
program nothing but a block it was in the middle of; waiting for the disk would hold up the program's end.

*It leaves room for others.* A capture stops before the file system has less free space than the floor. That is looked
up for each file and every 16 MiB at most, and in time not to pass the floor by ourselves.

*Only regular files, closed to others* (0600 at most, from their first moment), since they hold what guests say. As with
other capture programs an earlier file at the path goes; but it is replaced, not rewritten. So whoever has it open, or
has it by a hard link, keeps what it was and sees nothing of the new one. What may not go makes a refusal: another
user's file, one that is read-only, one that a capture is being written to (it is locked), symbolic links, directories,
devices. So do FIFOs: a reader that pauses would hold up the capture, and the end of the program with it.
`tail -c +1 -f FILE | wireshark -k -i -` does it with a file.

*Rotation* names files as dumpcap does, `lan_00001_20261122160000.pcapng`: the number goes on, the time is the local one
at which the file was begun. Never is one of these names taken from an earlier file: that number is left out. No file
passes the size, trailer included, or the number of frames, unless one frame is too much by itself, or an interface is
declared when it is full; none but the first is begun without a frame for it. The oldest are deleted first, then a new
one is made, so there never are more than `keep`; only those that this capture has made, if they still are the same.

Everything here may block on the disk, and is for a thread; one call at a time. pcapng blocks are little-endian here:
type, length of the whole block (32 bits each), …
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from vswitch import units
from vswitch.errors import InputError, RefusedError, path_advice

FLOOR_DEFAULT = 64 * 2**20
FLOOR_PART = 20  # on a small file system a twentieth of it is left free
CHECK_BYTES = 16 * 2**20
NAMES_TRIED = 1000

_FRAMES = re.compile(r"([0-9]{1,18}) ?frames")
_UNIT = re.compile(r"[A-Za-z/%]*$")
_ROTATE_LIKELY = "100MB, 60s or 10000frames"
_BLOCK_HEAD = struct.Struct("<II")
_BLOCK_MIN = 12


class CaptureStopped(RefusedError):
    """Nothing more is written to a capture; its text says why, and where."""


class Rotation(NamedTuple):
    """When a new file is begun, each None if it does not matter; and how many are kept, None for all."""

    size: int | None = None
    seconds: float | None = None
    frames: int | None = None
    keep: int | None = None


NONE = Rotation()


def read_rotation(texts: Iterable[str], keep: int | None = None) -> Rotation:
    """What `--rotate 100MB,60s --rotate 10000frames --keep 10` asks for. Raises InputError."""
    found: dict[str, int | float] = {}
    for text in (part.strip() for written in texts for part in written.split(",")):
        limit, what = _limit(text)
        if what in found:
            raise InputError(f"has two limits of {what}; write one of each at most, like {_ROTATE_LIKELY}")
        if not limit:
            raise InputError(f"{text!r} would never fill a file; write one like {_ROTATE_LIKELY}")
        found[what] = limit
    if keep is not None and not found:
        raise InputError(f"keep={keep} needs to know when a new file is begun; add rotate, like {_ROTATE_LIKELY}")
    if keep is not None and keep < 1:
        raise InputError(f"keep={keep} keeps no file; write 1 or more")
    size, frames = found.get("size"), found.get("frames")
    return Rotation(
        None if size is None else int(size), found.get("time"), None if frames is None else int(frames), keep
    )


def _limit(text: str) -> tuple[int | float, str]:
    if frames := _FRAMES.fullmatch(text):
        return int(frames[1]), "frames"
    unit = _UNIT.search(text)
    if unit and unit[0] in units.SIZE_BYTES:
        return units.size(text), "size"
    if unit and unit[0] in units.DURATION_S:
        return units.duration(text), "time"
    raise InputError(f"{text!r} is no limit of a file; write one like {_ROTATE_LIKELY}")


def check_path(path: str) -> str:
    """A path that a file can have. Raises InputError."""
    if not os.path.basename(path) or "\0" in path:
        raise InputError(f"{path!r} is no file's name; write one like lan.pcapng")
    return path


class CaptureFile:
    """The file that a capture is being written to, and those before it.

    `header`: the blocks that each file begins with; `declare` adds to them. `trailer` gives those that it ends with; it
    is called in the thread that writes, and may be called when nothing ends. `now_s` is Unix time, for names;
    `steady_s` is the same moment by a clock that nobody sets, for ages, if there is one. `floor`: bytes to leave free
    on the file system, 0 for none, None for 64 MiB or a twentieth of it, whichever is less.

    The first file is there at once. Raises InputError if the path cannot be one, and RefusedError if the system will
    not have it; then nothing has been made.
    """

    path: str  # of the file that is being written, absolute

    def __init__(
        self,
        path: str,
        header: bytes,
        trailer: Callable[[], bytes],
        now_s: float,
        rotation: Rotation = NONE,
        floor: int | None = None,
        steady_s: float | None = None,
    ) -> None:
        check_path(path)
        self._header = header
        self._trailer = trailer
        self._rotation = rotation
        self._floor = floor
        self._number = 0
        self._file = -1
        self._size = 0
        self._frames = 0
        self._begun_s = steady_s = now_s if steady_s is None else steady_s
        self._trailer_size = 0
        self._room = 0  # bytes that may be written before free space is looked up again
        self._made: deque[_Made] = deque()  # those that are complete, if they are to be deleted some time
        try:
            self.path = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)  # whatever the cwd is later
            self._prefix, self._suffix = os.path.splitext(self.path)
            _check_earlier(self.path, rotating=rotation != NONE)
            self._begin(now_s, steady_s)
        except OSError as error:
            raise RefusedError(f"cannot write {path}: {_reason(error)}{path_advice(error)}") from None

    def declare(self, blocks: bytes) -> None:
        """Appends blocks that later files need as well, before what comes after them: interfaces.

        Interfaces are numbered by their order in a file, so this is the only way to add one. Raises CaptureStopped.
        """
        with self._stopping():
            self._header += blocks
            self._put(memoryview(blocks))
            self._measure_trailer()

    def write(self, blocks: bytes, frames: int, now_s: float, steady_s: float | None = None) -> None:
        """Appends whole blocks, one for each frame; where the rotation asks for it, a new file is begun between them.

        Raises CaptureStopped once nothing more can be written; what did get into the file are whole blocks, and stays.
        """
        with self._stopping():
            steady_s = now_s if steady_s is None else steady_s
            due = self._rotation.seconds is not None and steady_s - self._begun_s >= self._rotation.seconds
            rest = memoryview(blocks)
            while rest:
                if due:
                    self._rotate(now_s, steady_s)
                size, count = self._fitting(rest, frames)
                self._put(rest[:size])
                self._frames += count
                rest, frames = rest[size:], frames - count
                due = True  # of what is left, nothing fits

    def close(self) -> None:
        """Ends the file; may be called again. Raises CaptureStopped if the system says that some of it is lost."""
        if self._file >= 0:
            with self._stopping():
                self._finish()

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """Whatever the system refuses in its body ends the capture, with a file that is as complete as can be."""
        if self._file < 0:
            raise CaptureStopped(f"the capture to {self.path} is over")
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):  # the first reason is the one to tell
                self._finish()
            raise CaptureStopped(f"the capture to {self.path} has stopped: {_reason(error)}") from None

    def _fitting(self, blocks: memoryview, frames: int) -> tuple[int, int]:
        """How many bytes, and frames, go into the file that there is."""
        size_max, frames_max = self._rotation.size or sys.maxsize, self._rotation.frames or sys.maxsize
        size_left, frames_left = size_max - self._size - self._trailer_size, frames_max - self._frames
        if len(blocks) <= size_left and frames <= frames_left:
            return len(blocks), frames
        fitting = _whole(blocks, size_left, frames_left)
        if fitting == (0, 0) and not self._frames:
            return _whole(blocks, sys.maxsize, 1)
        return fitting

    def _rotate(self, now_s: float, steady_s: float) -> None:
        if not self._frames:
            self._begun_s = steady_s  # nothing has come until now
            return
        self._finish()
        self._begin(now_s, steady_s)

    def _begin(self, now_s: float, steady_s: float) -> None:
        """A new file with its header, or none at all."""
        while self._rotation.keep and len(self._made) >= self._rotation.keep:
            self._made.popleft().delete()
        self._room = 0
        self._make_room(len(self._header))
        self._file = self._create(now_s)
        self._size = self._frames = 0
        self._begun_s = steady_s
        try:
            self._append(memoryview(self._header))
        except OSError:
            os.close(self._file)
            self._file = -1
            os.unlink(self.path)
            raise
        self._measure_trailer()

    def _create(self, now_s: float) -> int:
        if self._rotation == NONE:
            _remove_earlier(self.path)
            return _create(self.path)
        begun = time.strftime("%Y%m%d%H%M%S", time.localtime(now_s))
        for _ in range(NAMES_TRIED):
            self._number += 1
            self.path = f"{self._prefix}_{self._number:05}_{begun}{self._suffix}"
            with contextlib.suppress(FileExistsError):
                return _create(self.path)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _finish(self) -> None:
        """Ends the file, if there is one."""
        if self._file < 0:
            return
        try:
            with contextlib.suppress(OSError):  # the disk may be full, and without it the file can be read too
                self._append(memoryview(self._trailer()))
            if self._rotation.keep:
                status = os.fstat(self._file)
                self._made.append(_Made(self.path, status.st_dev, status.st_ino, self._size))
        finally:
            file, self._file = self._file, -1
            os.close(file)

    def _put(self, blocks: memoryview) -> None:
        if blocks:
            self._make_room(len(blocks))
            self._append(blocks)

    def _append(self, blocks: memoryview) -> None:
        """Writes all of the blocks; with an OSError, those that were written whole."""
        done = 0
        try:
            while done < len(blocks):
                written = os.pwrite(self._file, blocks[done:], self._size + done)
                if not written:  # some file systems say so, and would for ever
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                done += written
        except OSError:
            done, _ = _whole(blocks, done)
            with contextlib.suppress(OSError):  # the first reason is the one to tell
                os.ftruncate(self._file, self._size + done)
            raise
        finally:
            self._size += done

    def _make_room(self, size: int) -> None:
        if size > self._room:
            found = os.statvfs(self._file if self._file >= 0 else os.path.dirname(self.path))
            total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
            if not total:  # a tmpfs without limit, or one that cannot tell
                free = sys.maxsize
            floor = min(FLOOR_DEFAULT, total // FLOOR_PART) if self._floor is None else self._floor
            if floor and free - size < floor:
                raise OSError(errno.ENOSPC, f"free space there would fall below {floor / 2**20:.3g} MiB; make some")
            self._room = max(size, min(CHECK_BYTES, free - floor))
        self._room -= size

    def _measure_trailer(self) -> None:
        if self._rotation.size is not None:
            self._trailer_size = len(self._trailer())


class _Made(NamedTuple):
    """A file that this capture has made and completed."""

    path: str
    device: int
    inode: int
    size: int  # inode numbers are soon used again

    def delete(self) -> None:
        """Deletes it, but nothing that has taken its place."""
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino, found.st_size) == self[1:]:
                os.unlink(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise OSError(error.errno, f"{_reason(error)} when {self.path} was to be deleted") from None


def _whole(blocks: memoryview, size: int, count: int = sys.maxsize) -> tuple[int, int]:
    """The bytes and the number of the leading blocks that are whole within `size` bytes, at most `count`."""
    at = found = 0
    while at < len(blocks) and found < count:
        end = at + _BLOCK_HEAD.unpack_from(blocks, at)[1]
        if end > size:
            break
        if end < at + _BLOCK_MIN:
            raise ValueError(f"no pcapng block at {at}")
        at, found = end, found + 1
    return at, found


def _create(path: str) -> int:
    """A new file, for this user alone and locked; raises FileExistsError rather than touch what is there."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(file).st_mode & 0o600 != 0o600:  # the umask took even our own access away
            os.fchmod(file, 0o600)
        _lock(file, path)
    except BaseException:
        os.close(file)
        raise
    return file


def _remove_earlier(path: str) -> None:
    """Takes an earlier file away, if it can be written to and nobody captures to it. Raises OSError, RefusedError."""
    try:
        earlier = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _lock(earlier, path)
        os.unlink(path)
    finally:
        os.close(earlier)


def _check_earlier(path: str, rotating: bool) -> None:
    """Refuses what may not be replaced, unopened: to open a FIFO can wait, to open a device can start it.

    A rotating capture only takes names that are made from `path`, so another user's file there does not matter.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise RefusedError(f"{path} is a symbolic link; name the file itself")
    if stat.S_ISDIR(found.st_mode):
        raise RefusedError(f"{path} is a directory; name a file in it")
    if stat.S_ISFIFO(found.st_mode):
        raise RefusedError(f"{path} is a FIFO; name a file, and read along with: tail -c +1 -f FILE")
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError(f"{path} is not a regular file; use another path")
    if found.st_uid != os.geteuid() and not rotating:
        raise RefusedError(f"{path} is another user's file (uid {found.st_uid}); use another path")


def _lock(file: int, path: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RefusedError(f"{path} is being written by another capture; use another path") from None
    except OSError:
        return  # not every file system has locks


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
