"""Standard output, for people and programs: what is printed is out at once, or it is an error of one line."""

import os
import sys

from vswitch.errors import RefusedError


def say(text: str) -> None:
    """Print a text and a newline. Paths come out as the bytes they are. Raises RefusedError, BrokenPipeError."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(errors="surrogateescape") + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Python would try once more when it exits, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RefusedError(f"cannot write to standard output: {error.strerror}") from None
