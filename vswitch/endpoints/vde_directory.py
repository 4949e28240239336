"""The directory of a VDE switch: made or checked, opened to whom it should be, swept and removed.

It holds `ctl`, where clients connect, a socket `PORT.N` for each client, and the clients' own sockets `.PID-N`
(vde2 src/vde_switch/datasock.c).
"""

import contextlib
import grp
import os
import re
import socket
import stat
from collections.abc import Iterator

from vswitch.endpoints.url import EndpointConfig, check_vde_directory
from vswitch.errors import InputError, RefusedError

CTL = "ctl"
MODE_DEFAULT = 0o600
DIRMODE_DEFAULT = 0o2700
GID_MAX = 2**32 - 1  # which stands for none

_OURS = re.compile(r"[0-9]{3,5}\.[0-9]+")
_CLIENTS = re.compile(r"\.[0-9]+-[0-9]+")


def modes(config: EndpointConfig) -> tuple[int, int]:
    """Permissions of the control socket and of the directory; one that is not given follows from the other."""
    mode, dirmode = config.mode, config.dirmode
    if mode is None and dirmode is None:
        return MODE_DEFAULT, DIRMODE_DEFAULT
    if mode is None:
        assert dirmode is not None
        return dirmode & 0o666, dirmode
    if dirmode is None:
        enter = sum(bit for bit in (0o100, 0o010, 0o001) if mode & (bit << 1 | bit << 2))
        dirmode = 0o2000 | mode & 0o666 | enter
    return mode, dirmode


def group_id(config: EndpointConfig) -> int:
    """The group that the sockets are for, or -1. Raises InputError."""
    if config.group is None:
        return -1
    try:
        if config.group.isdecimal() and int(config.group) < GID_MAX:
            return int(config.group)
        return grp.getgrnam(config.group).gr_gid
    except (KeyError, ValueError):  # also a name that none can have
        raise InputError(f"{config.url}: group: there is no group {config.group!r}") from None


def full_path(config: EndpointConfig) -> str:
    """The directory's path, with which the sockets in it are named. Raises InputError if it is too long for them."""
    path = os.path.abspath(config.path)
    try:
        return check_vde_directory(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


@contextlib.contextmanager
def directory(config: EndpointConfig) -> Iterator[tuple[str, bool]]:
    """The directory's path, made if need be, and whether it is all ours, then removed on exit.

    Only this user gets into one that was made. Raises RefusedError, InputError.
    """
    path = full_path(config)
    try:
        os.mkdir(path, 0o700)
        ours = True
    except FileExistsError:
        ours = _check(path)
    except OSError as error:
        raise RefusedError(f"cannot make the directory {path}: {error.strerror}") from None
    try:
        yield path, ours
    finally:
        if ours:
            with contextlib.suppress(OSError):  # clients may have left something
                os.rmdir(path)


def open_to_others(path: str, mode: int, group: int) -> None:
    """Give a directory its group and permissions, once no other switch can be in it. Raises RefusedError."""
    try:
        found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(found, -1, group)
            os.fchmod(found, mode)
        finally:
            os.close(found)
    except OSError as error:
        raise RefusedError(f"cannot open {path} to others: {error.strerror}") from None


def _check(path: str) -> bool:
    """Whether a directory that is there already is nothing but a VDE switch's. Raises RefusedError."""
    try:
        found = os.lstat(path)
    except OSError as error:
        raise RefusedError(f"cannot look at {path}: {error.strerror}") from None
    if stat.S_ISLNK(found.st_mode):
        raise RefusedError(f"{path} is a symbolic link; give the directory itself")
    if not stat.S_ISDIR(found.st_mode):
        raise RefusedError(f"{path} exists and is not a directory; remove it or use another path")
    if found.st_uid != os.geteuid():
        raise RefusedError(f"{path} is another user's directory (uid {found.st_uid}); use another path")
    try:
        names = os.listdir(path)
    except OSError as error:
        raise RefusedError(f"cannot look into {path}: {error.strerror}") from None
    return CTL in names and all(name == CTL or _OURS.fullmatch(name) or _CLIENTS.fullmatch(name) for name in names)


def sweep(path: str, ending: bool = False) -> None:
    """Remove what a dead switch and dead clients have left, while the control socket is ours.

    With the `ending` of a switch, the sockets of clients that live on go, too: they are of no use to them any more.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            if _OURS.fullmatch(name) or (ending and _CLIENTS.fullmatch(name)):
                remove_socket(f"{path}/{name}")
            elif _CLIENTS.fullmatch(name):
                remove_dead(f"{path}/{name}")


def remove_socket(path: str) -> None:
    """Remove a socket if it is there."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


def remove_dead(path: str) -> None:
    """Remove a datagram socket that nobody has open any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            remove_socket(path)


def is_clients(path: str, name: bytes) -> bool:
    """Whether an address is one that a client has made in the directory."""
    head, _, tail = os.fsdecode(name).rpartition("/")
    return head == path and _CLIENTS.fullmatch(tail) is not None
