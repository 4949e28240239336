"""Signals: every one that ends a program ends this one in order, unless it was ignored when we started (nohup).

Those that say that the program itself is at fault (SIGSEGV, SIGABRT, …) end it at once, as ever.
"""

import signal

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
