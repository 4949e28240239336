"""Log lines that somebody outside can cause: at most one in a period, and how many were left out."""

import logging

import trio

from vswitch.budget import Budget

PERIOD_S = 1.0


class Sparingly:
    """Says one thing a second at most, or in another period."""

    def __init__(self, log: logging.Logger, period_s: float = PERIOD_S) -> None:
        self._log = log
        self._budget = Budget(1, period_s)

    def say(self, message: str, *args: object) -> None:
        """Log a warning, or count it."""
        left_out = self._budget.take(trio.current_time())
        if left_out is not None:
            more = f" (and {left_out} more before)" if left_out else ""
            self._log.warning(message + more, *args)
