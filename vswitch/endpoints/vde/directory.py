"""The directory of a VDE switch: made or checked, opened to whom it should be, swept and removed. And made again.

It holds `ctl`, where clients connect, a socket `PORT.N` for each client, and the clients' own sockets `.PID-N`
(vde2 src/vde_switch/datasock.c).
"""

import contextlib
import grp
import os
import re
import socket
import stat

from vswitch.endpoints import unix_socket
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError, RefusedError, path_advice

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


def group_id(config: EndpointConfig, parameter: str = "group") -> int:
    """The group that a parameter says sockets are for, or -1. Raises InputError."""
    group: str | None = getattr(config, parameter)
    if group is None:
        return -1
    try:
        if group.isdecimal() and int(group) < GID_MAX:
            return int(group)
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):  # also a name that none can have
        raise InputError(f"{config.url}: {parameter}: there is no group {group!r}") from None


class Directory:
    """The directory at `path` with its `ctl`, while a switch has it. Raises InputError if there is no such group."""

    def __init__(self, config: EndpointConfig) -> None:
        self.path = config.absolute().path
        self.ctl = f"{self.path}/{CTL}"
        self.mode, self._dirmode = modes(config)
        self.group = group_id(config)
        self._ours = False  # nothing but ours is in it
        self._listening = contextlib.ExitStack()
        self._listens = False

    def listen(self) -> socket.socket:
        """Bind `ctl`, with the directory made if need be; it is this object's to close. Raises RefusedError."""
        self.lose()  # what an attempt that has failed may have left
        ours = self._make()
        sock = self._listening.enter_context(unix_socket.bind(self.ctl, mode=self.mode, group=self.group))
        self._listens = True
        if ours:  # and no other switch can be in it any more
            self._open_to_others()
        return sock

    def lose(self) -> None:
        """Somebody has removed `ctl`; what else is ours in the directory is in use."""
        self._listens = False
        self._listening.close()

    def close(self) -> None:
        """Remove what is ours."""
        if self._listens:
            sweep(self.path, ending=True)
        self.lose()
        if self._ours:
            with contextlib.suppress(OSError):  # clients may have left something
                os.rmdir(self.path)

    def _make(self) -> bool:
        """Make the directory; answers whether it is new, or has nothing but ours in it. Raises RefusedError.

        Only this user gets into one that was made.
        """
        try:
            os.mkdir(self.path, 0o700)
            ours = True
        except FileExistsError:
            ours = _check(self.path)
        except OSError as error:
            raise RefusedError(f"cannot make the directory {self.path}: {error.strerror}{path_advice(error)}") from None
        self._ours = self._ours or ours
        return ours

    def _open_to_others(self) -> None:
        try:
            found = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchown(found, -1, self.group)
                os.fchmod(found, self._dirmode)
            finally:
                os.close(found)
        except OSError as error:
            raise RefusedError(f"cannot open {self.path} to others: {error.strerror}") from None


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
