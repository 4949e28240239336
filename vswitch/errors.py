"""What can go wrong for a person: one line that says what happened, where, and what to do.

`InputError` is about something that was written (exit code 2), `RefusedError` about what the system or the
moment refuses (exit code 1). Guest input is in neither: it is dropped and counted.
"""

import errno

_PATH_ADVICE = {
    errno.ENOENT: "make its directory first",
    errno.ENOTDIR: "a directory of it is a file; use another path",
    errno.EISDIR: "it is a directory; use another path",
    errno.EACCES: "use a path where you may write",
    errno.EPERM: "use a path where you may write",
    errno.EROFS: "use a path where you may write",
}


class VSwitchError(Exception):
    """Base of every error this package raises on purpose; its text is one printable line for a person."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InputError(VSwitchError):
    """An option, URL, parameter or file says something that cannot be right. `parameter` is which one, if it is one."""

    exit_code = 2

    def __init__(self, message: str, parameter: str = "") -> None:
        super().__init__(message)
        self.parameter = parameter


class MissingError(InputError):
    """There is nothing of a name that was written."""


class RefusedError(VSwitchError):
    """Address or name in use, no permission, somebody else's file, no such switch."""


def printable(text: str) -> str:
    """Text from outside, safe for a terminal or a log line: one line, whatever is in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def path_advice(error: OSError) -> str:
    """What to do about a path at which nothing can be made, to be said behind the system's words; may be empty."""
    advice = _PATH_ADVICE.get(error.errno or 0)
    return f"; {advice}" if advice else ""


def only(error: BaseException) -> BaseException:
    """The one error in a group of one, which is what a task's error arrives in."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def innermost(error: BaseException) -> BaseException:
    """The first error in a group, whatever else is in it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
