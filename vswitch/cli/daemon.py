"""Going on in the background, and a log that nobody has to read."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from vswitch.errors import RefusedError, VSwitchError, only

STDERR = 2
LINE_BYTES_MAX = 4096
READY = b"ready"
SYSLOG_ADDRESS = "/dev/log"
SYSLOG_PRIORITY = 3 << 3 | 6  # RFC 5424 6.2.1: a daemon's, informational

log = logging.getLogger("vswitch")


class SystemLog(logging.Handler):
    """Lines for the system log, if there is one and it keeps up."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        line = f"<{SYSLOG_PRIORITY}>vde_switch[{os.getpid()}]: {self.format(record)}"
        with suppress(OSError):
            data = line.encode(errors="backslashreplace")[:LINE_BYTES_MAX]
            self._socket.sendto(data, socket.MSG_DONTWAIT, SYSLOG_ADDRESS)


def detach(run: Callable[[Callable[[], None]], object], directory: str = "/") -> None:
    """Run `run(ready)` in a process of its own, in another directory, without terminal and files of this one.

    Returns when it has called `ready()`. Raises what it raises before that, as a RefusedError or InputError. To be
    called before there are threads or a trio loop.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _exit_after(run, writer, directory)
    os.close(writer)
    try:
        with open(reader, "rb") as answers:
            answer = answers.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise
    if answer != READY:
        code, _, message = answer.decode(errors="backslashreplace").partition(" ")
        error = VSwitchError(message) if message else RefusedError("the daemon has ended before it was ready")
        error.exit_code = int(code) if message else error.exit_code
        raise error


def _exit_after(run: Callable[[Callable[[], None]], object], writer: int, directory: str) -> None:
    """The child's life."""
    code = 1
    answers = open(writer, "wb", buffering=0)  # noqa: SIM115 (closed when the answer is given)

    def answer(text: bytes) -> None:
        if not answers.closed:
            with answers, suppress(OSError):  # the parent was killed
                answers.write(text)

    try:
        os.setsid()
        os.chdir(directory)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, STDERR):
            os.dup2(null, fd)
        os.close(null)
        run(lambda: answer(READY))
        code = 0
    except BaseException as error:
        told = only(error)
        if isinstance(told, VSwitchError):
            code = told.exit_code
            log.error("%s", told)
            answer(f"{code} {told}".encode(errors="backslashreplace"))
        else:
            log.exception("this is a bug")
    finally:
        os._exit(code)
