"""Signals: every one that ends a program ends this one in order, unless it was ignored when we started (nohup).

Those that say that the program itself is at fault (SIGSEGV, SIGABRT, …) end it at once, as ever.
"""

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVarTuple

import trio

log = logging.getLogger("vswitch")
Ts = TypeVarTuple("Ts")

_NAMES = (  # signal(7): whose default is to end the process, and that no fault sends
    *("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF"),
    *("SIGPOLL", "SIGPWR", "SIGSTKFLT", "SIGXCPU"),
)


def ending() -> list[int]:
    """The signals that are to end this program."""
    numbers = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
    numbers += range(signal.SIGRTMIN, signal.SIGRTMAX + 1)
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


def name(number: int) -> str:
    """A signal's name, for people."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def run(main: Callable[[*Ts], Awaitable[object]], *args: *Ts, told: Callable[[], None] = lambda: None) -> int | None:
    """Run `main` in trio; a signal cancels it. `told` is called then. Answers the signal's number, if there was one.

    More signals change nothing, from then on and when `main` has ended.
    """
    numbers = ending()
    early: list[int] = []  # before and after trio looks at signals
    for number in numbers:
        signal.signal(number, lambda number, _: early.append(number))
    received: list[int] = []

    def stop(number: int, scope: trio.CancelScope) -> None:
        if not received:
            log.info("%s: stopping", name(number))
            told()
        received.append(number)
        scope.cancel()

    async def listen(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            stop(number, scope)

    async def run_until_told() -> None:
        with trio.open_signal_receiver(*numbers) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, signals, nursery.cancel_scope)
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
