"""What ends one task must not end the others: failures are contained, logged in a line, and counted.

An error that gets here is a fault of this program, or of a function that a user gave it; what guests and the system
do wrong never does. The task that raised it ends. If it must always run, it starts again.
"""

import hashlib
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import PurePath
from typing import TypeVarTuple

import trio

from vswitch.errors import innermost, only, printable

RESTART_MIN_S = 0.01
RESTART_MAX_S = 5.0
STABLE_S = 10.0  # a task that held this long starts again with the shortest pause
KEPT = 32  # failures whose traceback is kept
LOG_PERIOD_S = 1.0  # for each of them
ERROR_MAX = 200

log = logging.getLogger("vswitch")
Ts = TypeVarTuple("Ts")


class Failure:
    """The same error of the same thing, from the same line, however often; the log and the API name it `reference`."""

    def __init__(self, reference: str, what: str, error: str, details: str) -> None:
        self.reference = reference
        self.what = what
        self.error = error
        self.details = details
        self.count = 0
        self._say_at_s = 0.0

    def say(self) -> None:
        """Log it, at most once in a while."""
        now_s = time.monotonic()
        if now_s >= self._say_at_s:
            self._say_at_s = now_s + LOG_PERIOD_S
            times = f", {self.count} times by now" if self.count > 1 else ""
            log.error("%s has failed: %s (reference %s%s)", self.what, self.error, self.reference, times)


class Failures:
    """A switch's. `total` counts all, also those whose details are not kept."""

    def __init__(self) -> None:
        self.total = 0
        self._kept: dict[str, Failure] = {}

    def kept(self) -> list[Failure]:
        """The failures that are remembered, the oldest first."""
        return list(self._kept.values())

    def note(self, what: str, error: BaseException) -> str:
        """Log and count the failure of something; answers its reference."""
        error = innermost(error)
        found = Failure(_reference(what, error), what, _text(error), "".join(traceback.format_exception(error)))
        failure = self._kept.setdefault(found.reference, found)
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        self.total += 1
        failure.count += 1
        failure.say()
        return failure.reference

    def call(self, what: str, function: Callable[[], None]) -> None:
        """Call something. If it fails that is noted, and nothing is raised."""
        try:
            function()
        except Exception as error:
            self.note(what, error)


async def contain(failures: Failures, what: str, run: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> bool:
    """Run something. If it fails that is noted, and nothing is raised; answers whether it did not."""
    failed = False
    try:
        await run(*args)
    except* Exception as group:
        failures.note(what, group)
        failed = True
    return not failed


async def keep_running(failures: Failures, what: str, run: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
    """Run something until it returns: start it again when it fails, with growing pauses if it does so at once."""
    pause_s = 0.0
    while True:
        since_s = trio.current_time()
        if await contain(failures, what, run, *args):
            return
        if trio.current_time() - since_s > STABLE_S:
            pause_s = 0.0
        await trio.sleep(pause_s)
        pause_s = min(max(2 * pause_s, RESTART_MIN_S), RESTART_MAX_S)


async def contain_once_started(
    failures: Failures,
    what: str,
    run: Callable[[Callable[[], None]], Awaitable[object]],
    started: Callable[[], None],
    *,
    again: bool = False,
) -> None:
    """Run something that calls what it is given when it has started, then `started` is called.

    An error is raised as it is until then, and contained from then on; `again` starts it again then.
    """
    refused: list[BaseException] = []
    has_started = False

    def started_once() -> None:
        nonlocal has_started
        if not has_started:
            has_started = True
            started()

    async def attempt() -> None:
        try:
            await run(started_once)
        except Exception as error:
            if has_started:
                raise
            refused.append(error)

    await (keep_running if again else contain)(failures, what, attempt)
    if refused:
        raise only(refused[0])


def is_cancelled(error: BaseException) -> bool:
    """Whether an error, alone or in a group, is trio's way of ending a block."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled) is not None
    return isinstance(error, trio.Cancelled)


def _reference(what: str, error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = [f"{PurePath(frame.filename).name}:{frame.name}:{frame.lineno}" for frame in where]
    return hashlib.sha256(" ".join([what, type(error).__qualname__, *place]).encode()).hexdigest()[:8]


def _text(error: BaseException) -> str:
    what = printable(" ".join(str(error).split())[:ERROR_MAX])
    return f"{type(error).__name__}: {what}" if what else type(error).__name__
