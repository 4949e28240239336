"""What a test did, and when: its steps, and the faults it made."""

import time
from collections import deque
from types import TracebackType
from typing import Self

import trio

from vswitch.errors import printable

SPANS_MAX = 1000  # the last of them
WHAT_MAX = 500  # characters


class Span:
    """Something that began, and may have ended. `begun_s` is trio's clock, `time_ns` the wall clock."""

    def __init__(self, what: str) -> None:
        self.what = printable(what[:WHAT_MAX])
        self.begun_s = trio.current_time()
        self.time_ns = time.time_ns()
        self.took_s: float | None = None
        self.failed = False

    def end(self, *, failed: bool) -> None:
        self.took_s = trio.current_time() - self.begun_s
        self.failed = failed


class Timeline:
    """`spans` are in the order they began."""

    def __init__(self) -> None:
        self.spans: deque[Span] = deque(maxlen=SPANS_MAX)
        self._begun_s = 0.0

    def start(self) -> None:
        """From now on time counts. In a trio run, as is `begin`."""
        self._begun_s = trio.current_time()

    def forget(self) -> None:
        """All that is over, and how late it is."""
        self.spans = deque((span for span in self.spans if span.took_s is None), maxlen=SPANS_MAX)
        self.start()

    def begin(self, what: str) -> Span:
        self.spans.append(Span(what))
        return self.spans[-1]

    def lines(self) -> list[str]:
        """A line for each span, with the seconds since the timeline began."""
        return [f"{span.begun_s - self._begun_s:9.3f} s  {span.what}: {_became(span)}" for span in self.spans]


def _became(span: Span) -> str:
    if span.took_s is None:
        return "not over"
    return f"{'an error ended it after' if span.failed else 'took'} {span.took_s:.3f} s"


class Step:
    """A part of a test, entered with `with` or `async with`."""

    def __init__(self, timeline: Timeline, what: str) -> None:
        self._timeline = timeline
        self._what = what

    def __repr__(self) -> str:
        return f"<Step {self._what}>"

    def __enter__(self) -> Self:
        self._span = self._timeline.begin(self._what)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._span.end(failed=error is not None)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)
