"""What only the owner of a process may do to it: set it up to run a switch, and end it by a signal."""

import gc
import logging
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVarTuple

import trio

from vswitch import heap
from vswitch.cli import signals

log = logging.getLogger("vswitch")
Ts = TypeVarTuple("Ts")

HEAP_KEPT_BYTES = 64 * 2**20


def prepare() -> None:
    """As many open files as the system allows, a heap that keeps its end, and little for the collector to look at."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    heap.keep(HEAP_KEPT_BYTES)
    gc.collect()
    gc.freeze()


def run(main: Callable[[*Ts], Awaitable[object]], *args: *Ts, told: Callable[[], None] = lambda: None) -> int | None:
    """Run `main` in trio; a signal cancels it. `told` is called then. Answers the signal's number, if there was one.

    More signals change nothing, from then on and when `main` has ended.
    """
    numbers = signals.ending()
    early: list[int] = []  # before and after trio looks at signals
    for number in numbers:
        signal.signal(number, lambda number, _: early.append(number))
    received: list[int] = []

    def stop(number: int, scope: trio.CancelScope) -> None:
        if not received:
            log.info("%s: stopping", signals.name(number))
            told()
        received.append(number)
        scope.cancel()

    async def listen(coming: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in coming:
            stop(number, scope)

    async def run_until_told() -> None:
        with trio.open_signal_receiver(*numbers) as coming:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, coming, nursery.cancel_scope)
                if early:
                    stop(early[0], nursery.cancel_scope)
                await main(*args)
                nursery.cancel_scope.cancel()

    try:
        trio.run(run_until_told)
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
    return received[0] if received else None
