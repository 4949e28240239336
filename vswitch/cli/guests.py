"""What commands that run guests have in common."""

from collections.abc import Iterator
from contextlib import contextmanager

from vswitch.errors import RefusedError, innermost


def check_needs(command: str) -> None:
    """Raises RefusedError, which says what to install, where guests cannot be run."""
    try:
        from vswitch.testing import lan
        from vswitch.testing.qemu import what_is_missing
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "scapy":
            raise
        is_missing = isinstance(error, ModuleNotFoundError)
        raise RefusedError(f"{command} needs scapy: pip install scapy" if is_missing else str(error)) from None
    assert lan
    if missing := what_is_missing():
        raise RefusedError(missing)


@contextmanager
def refusing() -> Iterator[None]:
    """What guests and their images end with is told in one line."""
    from vswitch.testing import GuestDied, GuestImageError, QemuError

    try:
        yield
    except* (GuestDied, GuestImageError, QemuError) as group:
        raise RefusedError(in_one_line(group)) from None


def in_one_line(error: BaseException) -> str:
    """The first of the errors: the first line of its text and, where that announces what QEMU printed, the last line
    that is QEMU's own, or else the guest's."""
    error = innermost(error)
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    if not first.endswith(":"):
        return first
    printed = [line.strip() for line in rest if line.strip()] or ["nothing"]
    own = [line for line in printed if line.startswith("qemu")]
    return f"{first} {(own or printed)[-1]}"
