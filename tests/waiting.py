"""Waiting, in tests without trio, for what has no event of its own: always bounded, and it says for what."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_S = 20.0
PAUSE_S = 0.005


def until(condition: Callable[[], T], what: str, timeout_s: float = TIMEOUT_S) -> T:
    """The first true answer of `condition`; fails the test with `what` if there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not in {timeout_s:g} s: {what}"
        time.sleep(PAUSE_S)
    return answer


def is_over(pid: int) -> bool:
    """Whether a process has ended; nobody may have asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
