"""Faults: something is broken, and mended again.

await lan.isolate(a)                  # until the test ends, or `restore`
async with lan.partition([a], [b]):   # until the block does
    ...
"""

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Self

from vswitch.testing.timeline import Span, Timeline

Restore = Callable[[], Awaitable[None]]


class Fault:
    """Injected when it is awaited or entered; `inject` answers what mends it. `what` is said in the timeline."""

    def __init__(self, inject: Callable[[], Awaitable[Restore]], what: str, timeline: Timeline) -> None:
        self._inject = inject
        self._what = what
        self._timeline = timeline
        self._span: Span | None = None
        self._restore: Restore | None = None

    def __repr__(self) -> str:
        return f"<Fault {self._what}{'' if self._restore is not None else ', not there'}>"

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        if self._restore is None:
            self._restore = await self._inject()
            self._span = self._timeline.begin(self._what)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end(failed=error is not None)

    async def restore(self) -> None:
        """Mend it; nothing, if that was done before."""
        await self._end(failed=False)

    async def _end(self, *, failed: bool) -> None:
        if self._restore is not None:
            restore, self._restore = self._restore, None
            if self._span is not None:
                self._span.end(failed=failed)
            await restore()
