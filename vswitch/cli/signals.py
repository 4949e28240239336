"""Signals: every one that ends a program ends this one in order, unless it was ignored when we started (nohup).

Those that say that the program itself is at fault (SIGSEGV, SIGABRT, …) end it at once, as ever.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = (  # signal(7): whose default is to end the process, and that no fault sends
    *("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF"),
    *("SIGPOLL", "SIGPWR", "SIGSTKFLT", "SIGXCPU"),
)


def ending() -> list[int]:
    """The signals that are to end this program."""
    numbers = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
    numbers += range(signal.SIGRTMIN, signal.SIGRTMAX + 1)
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


def as_usual() -> None:
    """For a program that takes this one's place: what Python ignores is the default again."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def raised() -> None:
    """Has the usual signals raise SystemExit, so that what is begun is undone."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, leave)


@contextmanager
def held() -> Iterator[None]:
    """Has the signals that end a program wait, so that what is done is known."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def name(number: int) -> str:
    """A signal's name, for people."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
