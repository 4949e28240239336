"""Signals as a program finds them that somebody starts from a terminal, whatever the tests have inherited."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


@contextmanager
def default_signals() -> Iterator[None]:
    """What is started in this block neither ignores nor blocks these signals.

    nohup ignores SIGHUP, and a shell script SIGINT and SIGQUIT for what it runs in the background; programs inherit
    that. They do not inherit handlers: one that does nothing protects the tests as well, and their programs start
    with the default.
    """
    ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, _do_nothing)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def _do_nothing(*_: object) -> None:
    pass
