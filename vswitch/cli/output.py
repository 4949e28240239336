"""Standard output, for people and programs: what is printed is out at once, or it is an error of one line."""

import os
import sys

from vswitch.errors import RefusedError


def say(text: str) -> None:
    """Print a text and a newline. Paths come out as the bytes they are. Raises RefusedError, BrokenPipeError."""
    if sys.stdout is None:  # closed by whoever started us
        return
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(errors="surrogateescape") + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up()
        raise RefusedError(f"cannot write to standard output: {error.strerror}") from None


def give_up() -> None:
    """Standard output takes nothing: keep Python from trying once more when it exits, and complaining."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
