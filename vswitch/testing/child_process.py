"""What is to be known of a child process: when it ends, and what it has printed last."""

import os
import subprocess
from typing import IO

import trio

OUTPUT_SHOWN_MAX = 32768  # bytes


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
