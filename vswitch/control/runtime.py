"""Where a switch's sockets are: a directory that only this user can enter."""

import os
import stat
import tempfile
from pathlib import Path

from vswitch.errors import RefusedError


def directory() -> Path:
    """`$XDG_RUNTIME_DIR/vswitch`, or a private directory under the temp dir; not made yet."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base):
        return Path(base) / "vswitch"
    return Path(tempfile.gettempdir()) / f"vswitch-{os.geteuid()}"


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


def control_path(name: str) -> Path:
    """The control socket of the switch called `name`."""
    return directory() / f"{name}.ctl"


def names() -> list[str]:
    """The names of this user's switches that seem to run. Raises RefusedError if the directory is not this user's."""
    path = directory()
    try:
        _check_ours(path)
        return sorted(path.stem for path in path.glob("*.ctl"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RefusedError(f"cannot look into {path}: {error.strerror}") from None


def _check_ours(path: Path) -> os.stat_result:
    """What stat says of the directory, which anybody may have made under the temp directory first."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise RefusedError(f"{path} is not a directory of this user's; remove it or set XDG_RUNTIME_DIR")
    return found
