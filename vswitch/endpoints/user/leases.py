"""The leases that a user network has given: told to each process as it starts, and kept in a file if one is named."""

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

import msgspec
import trio

from vswitch.endpoints.endpoint import log
from vswitch.endpoints.user.file_lock import FileLock
from vswitch.errors import RefusedError

LEASES_MAX = 1024
LEASE_S_MAX = 86400.0
FILE_MAX = 1 << 20
SAVE_S = 1.0  # how often the file is written at most
AGAIN_S = 10.0  # when it could not be
LAST_SAVE_S = 2.0  # how long that may take at the end

Label = Annotated[str, msgspec.Meta(max_length=63, pattern="^[a-z0-9-]*$")]
Mac = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]


class Lease(msgspec.Struct):
    """As a process tells it, and the next one is told."""

    mac: Mac
    ip: Annotated[str, msgspec.Meta(max_length=15)]
    port: Annotated[str, msgspec.Meta(max_length=100, pattern="^[ -~]*$")]
    name: Label
    until_s: float


class Leases:
    """`is_guests` says whether a guest may have an address."""

    def __init__(self, is_guests: Callable[[IPv4Address], bool]) -> None:
        self._is_guests = is_guests
        self._path: str | None = None
        self._lock: FileLock | None = None
        self._by_mac: dict[str, Lease] = {}
        self._changed = trio.Event()

    async def load(self, path: str | None) -> None:
        """What a file has, which is written from now on, and is nobody else's until `close`. Raises RefusedError."""
        self._path = path
        if path is None:
            return
        self._lock = await trio.to_thread.run_sync(FileLock, path, abandon_on_cancel=True)
        for lease in await trio.to_thread.run_sync(_read, Path(path), abandon_on_cancel=True):
            with suppress(ValueError):  # another network's
                self.keep(lease)
        self._changed = trio.Event()

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    @property
    def known(self) -> list[Lease]:
        return list(self._by_mac.values())

    def of(self, mac: str) -> Lease | None:
        return self._by_mac.get(mac)

    def keep(self, lease: Lease) -> None:
        """Raises ValueError if no such lease can be."""
        if not self._is_guests(IPv4Address(lease.ip)):
            raise ValueError("a lease of no guest's address")
        lease.until_s = min(lease.until_s, time.time() + LEASE_S_MAX)
        for other in [other for other in self.known if lease.mac == other.mac or lease.ip == other.ip]:
            del self._by_mac[other.mac]
        self._by_mac[lease.mac] = lease
        if len(self._by_mac) > LEASES_MAX:
            del self._by_mac[next(iter(self._by_mac))]
        self._changed.set()

    async def keep_saved(self) -> None:
        """Write the file when something has changed, until cancelled; what is new then is written, too."""
        if self._path is None:
            return
        said = ""
        try:
            while True:
                await self._changed.wait()
                await trio.sleep(SAVE_S)
                changed, self._changed = self._changed, trio.Event()
                problem = await trio.to_thread.run_sync(_save, self._path, self.known, abandon_on_cancel=True)
                if problem and problem != said:
                    log.warning("cannot write leases to %s: %s", self._path, problem)
                said = problem
                if problem:
                    self._changed = changed  # it is tried again
                    await trio.sleep(AGAIN_S)
        finally:
            if self._changed.is_set():
                with trio.move_on_after(LAST_SAVE_S, shield=True):
                    await trio.to_thread.run_sync(_save, self._path, self.known, abandon_on_cancel=True)


def _read(path: Path) -> list[Lease]:
    """Raises RefusedError."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(FILE_MAX), type=list[Lease])
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RefusedError(f"cannot read leases from {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise RefusedError(f"{path} holds no leases; name another file, or move this one away") from None


def _save(path: str, leases: list[Lease]) -> str:
    """All of it, or nothing. Answers what is wrong, if something is."""
    try:
        descriptor, name = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), prefix=".leases-")
        try:
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(leases)) + b"\n")
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        return error.strerror or str(error)
    return ""
