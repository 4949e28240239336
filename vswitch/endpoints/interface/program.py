"""Programs that set an interface up: they are run to their end, which may not be long in coming.

An ifup or ifdown script is called as QEMU calls its own (net/tap.c, launch_script): with the interface's name alone.
What it prints comes out where the log does.
"""

import errno
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

import trio

from vswitch.errors import RefusedError

STDERR = 2

_ADVICE = {
    errno.ENOENT: "there is no such program",
    errno.EACCES: "it may not be run; make it executable: chmod +x",
    errno.ENOEXEC: "it is no program; a script begins with a line like #!/bin/sh",
}


async def run(words: Sequence[str], limit_s: float, *, stderr: int = STDERR, pass_fds: Sequence[int] = ()) -> int:
    """Its exit status, negative for a signal. Raises RefusedError if it cannot be run, or has not ended in time: then
    it is killed, with all that it has started in its session."""
    try:
        process = await trio.lowlevel.open_process(
            words,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise RefusedError(f"{words[0]}: {_ADVICE.get(error.errno or 0, error.strerror)}") from None
    try:
        with trio.fail_after(limit_s):
            return await process.wait()
    except trio.TooSlowError:
        raise RefusedError(f"{words[0]}: has not ended within {limit_s:g} s, and was killed") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()


async def run_script(parameter: str, path: str, interface: str, limit_s: float) -> None:
    """Raises RefusedError, as `run` does, and if it fails."""
    try:
        status = await run([path, interface], limit_s)
    except RefusedError as error:
        raise RefusedError(f"{parameter}: {error}") from None
    if status:
        how = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        raise RefusedError(f"{parameter}: {path} {interface}: {how}; its own words are in the log")
