"""Conditions: functions of a test's own, plain or async, whose answer is to be true all the time, or at some time.

An AssertionError in one is an answer, too: no, and why.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

Condition = Callable[[], Any]

SHOWN_MAX = 500  # characters of an answer


class ConditionFailed(AssertionError):
    """A condition did not hold when it was to."""


async def ask(condition: Condition) -> tuple[Any, str]:
    """A condition's answer; where that is no, also why."""
    try:
        answer = condition()
        answer = await answer if inspect.isawaitable(answer) else answer
    except AssertionError as error:
        return None, str(error) or "an assertion failed"
    return answer, "" if answer else f"it answered {answer!r}"


def shown(condition: Condition) -> str:
    """What to call a condition: its name, or where it is written if it has none."""
    function = inspect.unwrap(condition)
    name = getattr(function, "__name__", type(condition).__name__)
    code = getattr(function, "__code__", None)
    if name == "<lambda>" and code is not None:
        return f"the condition at {Path(code.co_filename).name}:{code.co_firstlineno}"
    return name


async def eventually(condition: Condition, within: float, every: float) -> Any:
    """The first answer of a condition that is true. Raises ConditionFailed if there is none within so many seconds."""
    __tracebackhide__ = True
    why = "there was no answer"
    with trio.move_on_after(within):
        while True:
            answer, why = await ask(condition)
            if not why:
                return answer
            await trio.sleep(every)
    raise ConditionFailed(failed_within(condition, within, why))


def failed_within(condition: Condition, within: float, why: str) -> str:
    """Says that a condition did not come true."""
    return f"{shown(condition)} did not come true within {within:g} s; last: {why[:SHOWN_MAX]}"


class Always:
    """Asks a condition when its block begins, every `every` seconds, and when the block ends.

    The block is cancelled at the moment the condition does not hold, and ConditionFailed is raised. What the condition
    raises itself ends the block likewise. It is asked by a task in `nursery`.
    """

    def __init__(self, condition: Condition, every: float, nursery: trio.Nursery) -> None:
        self._condition = condition
        self._every = every
        self._nursery = nursery
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"<Always {shown(self._condition)}>"

    async def __aenter__(self) -> Self:
        __tracebackhide__ = True
        self._begun_s = trio.current_time()
        await self._ask()
        self._asking, self._over = trio.CancelScope(), trio.Event()
        self._nursery.start_soon(self._keep_asking)
        self._block = trio.CancelScope()
        self._block.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        __tracebackhide__ = True
        self._asking.cancel()
        with trio.CancelScope(shield=True):
            await self._over.wait()
        absorbed = self._block.__exit__(kind, error, traceback)
        if self._error is not None and (error is None or self._block.cancelled_caught):
            raise self._error
        if error is None:
            await self._ask()
        return absorbed

    async def _keep_asking(self) -> None:
        try:
            with self._asking:
                while True:
                    await trio.sleep(self._every)
                    await self._ask()
        except Exception as error:
            self._error = error
            self._block.cancel()
        finally:
            self._over.set()

    async def _ask(self) -> None:
        __tracebackhide__ = True
        _, why = await ask(self._condition)
        if why:
            after = trio.current_time() - self._begun_s
            raise ConditionFailed(
                f"{shown(self._condition)} was to hold all the time; after {after:.3g} s: {why[:SHOWN_MAX]}"
            )
