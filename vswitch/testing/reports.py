"""What is shown of an error: the test's own line, and a sentence. Our frames and trio's tell a test's author nothing.

Only the standard library is used: the plugin is loaded wherever vswitch is installed.
"""

import sysconfig
from pathlib import Path
from types import TracebackType

REPORT = "lan.txt"  # the file of it, among those that a LAN keeps
PACKAGE = str(Path(__file__).parents[1])
# Whatever is in none of these is the test's own code.
INSTALLED = tuple({PACKAGE, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))})


def readable(error: BaseException, where: TracebackType | None, *, full: bool = False) -> BaseException:
    """The error to be shown instead: what is alone in a group by itself, and ours cut down to the test's own line.

    `where` is the line that the test was at, for an error that came up elsewhere, as when a guest dies. This breaks
    also what the test waits for, which is no second error. One that has no line of the test's at all, as when it is
    being set up, has no traceback. `full` cuts nothing off.
    """
    leaves = _leaves(error)
    if any(_is(leaf, "QemuError") for leaf in leaves):  # which has the test's line, and the console as well
        leaves = [leaf for leaf in leaves if not _is(leaf, "GuestDied")] or leaves
    if not full:
        for leaf in leaves:
            if type(leaf).__module__.startswith("vswitch."):
                leaf.__cause__, leaf.__suppress_context__ = None, True  # its text says it all
                leaf.__traceback__ = own_part(leaf.__traceback__) or own_part(where)
    return leaves[0] if len(leaves) == 1 else error


def first_of(error: BaseException) -> BaseException:
    """The first error of a group, and one of ours if there is one."""
    leaves = _leaves(error)
    return next((leaf for leaf in leaves if type(leaf).__module__.startswith("vswitch.")), leaves[0])


def own_part(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without what comes after the last line of the test's own; None if it has none."""
    frames = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    while frames and not is_own(frames[-1].tb_frame.f_code.co_filename):
        frames.pop()
    part = None
    for at in reversed(frames):
        part = TracebackType(part, at.tb_frame, at.tb_lasti, at.tb_lineno)
    return part


def is_own(filename: str) -> bool:
    """Whether code is the test's, or its project's."""
    return not filename.startswith((*INSTALLED, "<"))


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for member in error.exceptions for leaf in _leaves(member)]


def _is(error: BaseException, name: str) -> bool:
    return (type(error).__name__, type(error).__module__.partition(".")[0]) == (name, "vswitch")
