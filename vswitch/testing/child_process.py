"""Child processes: they end with who has started them; when they end, and what they have printed last."""

import os
import subprocess
from collections.abc import Sequence
from typing import IO

import trio

OUTPUT_SHOWN_MAX = 32768  # bytes
# The kernel tells only of an end that is to come: a process whose parent is another one by now has missed it.
IF_PARENT_IS = '[ $PPID = "$0" ] && exec "$@"'


def mortal(command: Sequence[str]) -> list[str]:
    """A command, to be started by this thread, that the kernel kills when this thread ends (PR_SET_PDEATHSIG)."""
    return ["setpriv", "--pdeathsig", "KILL", "sh", "-c", IF_PARENT_IS, str(os.getpid()), *command]


async def ended(process: "subprocess.Popen[bytes]") -> int:
    """Waits for its end; answers its exit status."""
    if process.returncode is None:  # else nobody, or somebody else, has that process id
        descriptor = os.pidfd_open(process.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
    return process.wait()


def last_of(output: IO[bytes]) -> str:
    """The last of what is in a file that it prints into."""
    descriptor = output.fileno()
    start = max(0, os.fstat(descriptor).st_size - OUTPUT_SHOWN_MAX)
    return os.pread(descriptor, OUTPUT_SHOWN_MAX, start).decode(errors="backslashreplace")
