"""What only the owner of a process may do to it: set it up to run a switch, and end it by a signal."""

import gc
import logging
import os
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


def run(
    main: Callable[[*Ts], Awaitable[object]],
    *args: *Ts,
    told: Callable[[], None] = lambda: None,
    reload: Callable[[], Awaitable[None]] | None = None,
) -> int | None:
    """Run `main` in trio; a signal cancels it. `told` is called then. Answers the signal's number, if there was one.

    More signals change nothing, from then on and when `main` has ended. With `reload`, SIGHUP calls that, unless it
    says that the terminal is gone.
    """
    numbers = signals.ending()
    early: list[int] = []  # before and after main, while trio is not looking at signals
    for number in numbers:
        signal.signal(number, lambda number, _: early.append(number))
    received: list[int] = []
    had_terminal = _has_terminal()

    def stop(number: int, scope: trio.CancelScope) -> None:
        if not received:
            log.info("%s: stopping", signals.name(number))
            told()
        received.append(number)
        scope.cancel()

    def act(number: int, nursery: trio.Nursery) -> None:
        terminal_is_gone = had_terminal and not _has_terminal()
        if number == signal.SIGHUP and reload is not None and not terminal_is_gone:
            nursery.start_soon(reload)
        else:
            stop(number, nursery.cancel_scope)

    async def listen(coming: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for number in coming:
            act(number, nursery)

    async def run_until_told() -> None:
        try:
            with trio.open_signal_receiver(*numbers) as coming:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(listen, coming, nursery)
                    for number in early:
                        act(number, nursery)
                    await main(*args)
                    nursery.cancel_scope.cancel()
        finally:  # before trio closes the socket that Python writes signals to: one in between would be a traceback
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)

    trio.run(run_until_told)
    return received[0] if received else None


def _has_terminal() -> bool:
    """Whether a terminal controls this process still."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
