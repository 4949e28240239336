"""Where switches' sockets are: in a directory that only this user can enter.

Which one follows from the environment, and what starts a switch (a service manager, ssh, cron, sudo) often has another
one than who asks it. So commands look in the usual places of this user's, too.
"""

import os
import stat
import tempfile
from pathlib import Path

from vswitch.errors import InputError, RefusedError
from vswitch.values import check_unix_path

ELSEWHERE = "VSWITCH_PATH"
# Beside the control socket of a lab, or of a test that stands still: a directory of its guests' sockets.
LAB, CONSOLE, QMP, SSH = ".lab", ".console", ".qmp", ".ssh"
BY_HAND = "lab"  # a file there, of a lab that was started by hand


def directory() -> Path:
    """`$XDG_RUNTIME_DIR/vswitch`, or a private directory under the temp dir; not made yet. Raises RefusedError."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base):
        return Path(base) / "vswitch"
    try:
        return Path(tempfile.gettempdir()) / f"vswitch-{os.geteuid()}"
    except FileNotFoundError:
        raise RefusedError("there is no temporary directory; set XDG_RUNTIME_DIR to your own directory") from None


def places() -> list[Path]:
    """Where control sockets are looked for: first in the directory of this environment. Raises RefusedError."""
    named = os.environ.get(ELSEWHERE)
    if named is not None:
        others = [Path(name) for name in named.split(os.pathsep) if name]
    else:
        uid = os.geteuid()
        temps = (os.environ.get("TMPDIR") or "/tmp", "/tmp")
        others = [Path(f"/run/user/{uid}/vswitch"), *(Path(temp) / f"vswitch-{uid}" for temp in temps)]
    return list(dict.fromkeys([directory(), *others]))


def make_directory() -> Path:
    """The directory, made and closed to others if need be. Raises RefusedError if it is not this user's."""
    path = directory()
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        if stat.S_IMODE(_check_ours(path).st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise RefusedError(f"cannot use {path}: {error.strerror}; set XDG_RUNTIME_DIR to your own directory") from None
    return path


def socket_path(file: str) -> str:
    """The path of a socket in the directory, which is made. Raises RefusedError, InputError if it is too long."""
    path = directory() / file
    try:
        check_unix_path(str(path))
    except InputError as error:
        variable = "TMPDIR" if path.parent.name.startswith("vswitch-") else "XDG_RUNTIME_DIR"
        raise InputError(f"{path}: {error}: set {variable} to a shorter directory, or give a shorter --name") from None
    make_directory()
    return str(path)


def control_sockets() -> list[Path]:
    """Those of this user's switches that seem to run, in the order of `places`.

    Raises RefusedError if the directory of this environment is not this user's; others that are not are left out.
    """
    found: dict[tuple[int, int], list[Path]] = {}  # by directory, which may be had by two names
    own, *others = places()
    for path in (own, *others):
        try:
            status = _check_ours(path)
            if path == own or not status.st_mode & 0o077:
                found.setdefault((status.st_dev, status.st_ino), sorted(path.glob("*.ctl")))
        except FileNotFoundError:
            continue
        except OSError as error:
            if path == own:
                raise RefusedError(f"cannot look into {path}: {error.strerror}") from None
        except RefusedError:
            if path == own:
                raise
    return [path for paths in found.values() for path in paths]


def _check_ours(path: Path) -> os.stat_result:
    """What stat says of the directory, which anybody may have made under the temp directory first."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise RefusedError(f"{path} is not a directory of this user's; remove it or set XDG_RUNTIME_DIR")
    return found
