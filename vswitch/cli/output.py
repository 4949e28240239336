"""Standard output and error, for people and programs: what is said is out at once, or it is an error of one line.

A program that forwards says it `in_background`: then it does not wait for whoever reads.
"""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vswitch.errors import RefusedError
from vswitch.outlet import Outlet, OutletLog

LAST_WORDS_S = 0.5  # how long to wait, in the end, for somebody who does not read

_printed: Outlet | None = None


def say(text: str, end: str = "\n") -> None:
    """Print a text and a newline. Paths come out as the bytes they are. Raises RefusedError, BrokenPipeError."""
    if sys.stdout is None:  # closed by whoever started us
        return
    if _printed is not None:
        if _printed.error is not None:
            raise _refused(_printed.error)
        _printed.put(text + end)
        return
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write((text + end).encode(errors="surrogateescape"))
        sys.stdout.buffer.flush()
    except OSError as error:
        raise _refused(error) from None


def complain(text: str) -> None:
    """Print a line on standard error, for at most a moment: who is to read it may never do so."""
    if sys.stderr is not None:
        outlet = Outlet(sys.stderr.fileno())
        outlet.put(f"{text}\n")
        outlet.flush(LAST_WORDS_S)


@contextmanager
def in_background(log_format: logging.Formatter | str, level: int = logging.INFO) -> Iterator[None]:
    """Have threads write what is said and logged, and what anything else prints."""
    global _printed
    stdout, stderr = sys.stdout, sys.stderr
    errors = Outlet(stderr.fileno()) if stderr is not None else None
    if stdout is not None:
        stdout.flush()
        _printed = Outlet(stdout.fileno())
    if errors is not None:
        handler = OutletLog(errors)
        handler.setFormatter(logging.Formatter(log_format) if isinstance(log_format, str) else log_format)
        logging.basicConfig(handlers=[handler], level=level)
        sys.stderr = _Text(errors)
    try:
        yield
    finally:
        for outlet in (_printed, errors):
            if outlet is not None:
                outlet.flush(LAST_WORDS_S)
        _printed = None
        sys.stderr = stderr


async def said() -> None:
    """Return when all that was said in the background is out. Raises RefusedError, BrokenPipeError."""
    if _printed is not None:
        try:
            await _printed.flushed()
        except OSError as error:
            raise _refused(error) from None


def give_up() -> None:
    """Standard output takes nothing: keep Python from trying once more when it exits, and complaining."""
    with suppress(OSError):  # no descriptor is left for it
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)


def _refused(error: OSError) -> OSError | RefusedError:
    if isinstance(error, BrokenPipeError):
        return error
    give_up()
    return RefusedError(f"cannot write to standard output: {error.strerror}")


class _Text(io.TextIOBase):
    """An outlet as a file, for what does not know better than to print."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._outlet.put(text)
        return len(text)
