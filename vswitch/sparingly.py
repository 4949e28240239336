"""Log lines that somebody outside can cause: at most one in a period, and how many were left out."""

import logging

import trio

PERIOD_S = 1.0


class Sparingly:
    """Says one thing a second at most, or in another period."""

    def __init__(self, log: logging.Logger, period_s: float = PERIOD_S) -> None:
        self._log = log
        self._period_s = period_s
        self._next_s = 0.0
        self._left_out = 0

    def say(self, message: str, *args: object) -> None:
        """Log a warning, or count it."""
        now_s = trio.current_time()
        if now_s < self._next_s:
            self._left_out += 1
            return
        self._next_s = now_s + self._period_s
        more = f" (and {self._left_out} more before)" if self._left_out else ""
        self._left_out = 0
        self._log.warning(message + more, *args)
