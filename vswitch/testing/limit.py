"""A test's time limit: it ends the test where it is, and leaves what it has made in a state to be looked at.

An exception of a signal handler that strikes in the middle of trio breaks trio, not the test. So inside a `trio.run`
the signal only wakes a task, `watch`, which ends the test as any error of its LAN does. Only code that holds trio up is
struck itself, and that when the task has not come up in time.

Only the standard library is used until a LAN is there.
"""

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

from vswitch.testing.reports import is_own

if TYPE_CHECKING:
    import trio

EVERY_S = 1.0  # the signal comes again


class TestTimeout(BaseException):
    """The test took too long. No `except Exception` of the test's own keeps it."""

    __test__ = False  # no matter its name


class Limit:
    """Of one test. Signals are the main thread's: where pytest runs in another one, there is no limit."""

    def __init__(self) -> None:
        self._timeout_s = 0.0
        self._why = ""
        self._has_struck = self._is_over = False
        self._before: object = None
        self._wake: tuple[trio.lowlevel.TrioToken, trio.Event] | None = None

    def begin(self, timeout_s: float, why: str) -> None:
        """`why` tells who has set it. The shorter one of two counts."""
        if threading.current_thread() is not threading.main_thread() or not timeout_s > 0:
            return
        if self._timeout_s and self._timeout_s <= timeout_s:
            return
        before = signal.signal(signal.SIGALRM, self._strike)
        self._before = before if not self._timeout_s else self._before
        self._timeout_s, self._why = timeout_s, why
        signal.setitimer(signal.ITIMER_REAL, timeout_s, EVERY_S)

    def end(self) -> None:
        if self._timeout_s:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before or signal.SIG_DFL)  # type: ignore[arg-type]
            self._timeout_s = 0.0

    @property
    def struck(self) -> str:
        """What to say when it has; "" before."""
        return str(self._error()) if self._has_struck else ""

    async def watch(self) -> None:
        """Raises TestTimeout when it is time; trio's clock, which may be virtual, does not count."""
        import trio

        struck = trio.Event()
        self._wake = trio.lowlevel.current_trio_token(), struck
        try:
            await struck.wait()
            if not self._is_over:
                raise self._error()
        finally:
            self._wake = None

    def _strike(self, number: int, frame: FrameType | None) -> None:
        if self._wake is not None:
            token, struck = self._wake
            if not struck.is_set():
                token.run_sync_soon(struck.set, idempotent=True)
            if not self._has_struck:  # else something holds trio up
                self._has_struck = True
                return
        if is_safe(frame):
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._is_over = True
            raise self._error()

    def _error(self) -> TestTimeout:
        return TestTimeout(f"the test took longer than {self._timeout_s:g} s ({self._why})")


def is_safe(frame: FrameType | None) -> bool:
    """Whether an exception may come up in a frame: it is the test's code, or what that has called, but not trio's."""
    while frame is not None and not is_own(frame.f_code.co_filename):
        if frame.f_globals.get("__name__", "").partition(".")[0] == "trio":
            return False
        frame = frame.f_back
    return True
