"""The terminal that a person sits at: whether there is one, and waiting there in a way that can be ended."""

import os
import select
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

IN, OUT = 0, 1
LOCAL_MODES = 3  # where termios has them


def is_attended() -> bool:
    """Whether somebody can be asked: this process is in the foreground of the terminal that it reads and writes."""
    try:
        return os.isatty(IN) and os.isatty(OUT) and os.tcgetpgrp(IN) == os.getpgrp()
    except OSError:
        return False


@contextmanager
def kept() -> Iterator[None]:
    """Leaves the terminal's settings as they were."""
    try:
        before = termios.tcgetattr(IN)
    except termios.error:
        yield
        return
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(IN, termios.TCSADRAIN, before)


def wait_for_key(prompt: str, end: int) -> bool:
    """Shows a prompt, and waits until somebody types; answers False if the descriptor `end` can be read before.

    What is typed is left to be read, at the beginning of the prompt's line. Nothing shows it meanwhile, and no line has
    to be complete.
    """
    with kept():
        modes = termios.tcgetattr(IN)
        modes[LOCAL_MODES] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(IN, termios.TCSADRAIN, modes)
        print(prompt, end="", flush=True, file=sys.__stdout__)
        ready, _, _ = select.select([IN, end], [], [])
        print("\r", end="", flush=True, file=sys.__stdout__)
    return end not in ready
