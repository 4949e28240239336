"""Run by `forks.py` as a program of its own: loads modules, then forks for each program that it is told to start.

A child goes on as `python -m MODULE` would, and ends as that does; all that it is spared is the loading.
"""

import atexit
import ctypes
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import Any

MESSAGE_BYTES_MAX = 1 << 20
FDS_MAX = 16
PR_SET_PDEATHSIG = 1  # sys/prctl.h


def main() -> None:
    for module in sys.argv[2:]:
        import_module(module)
    gc.collect()
    gc.freeze()  # what the collector looks at would be copied in each child
    program = _next_program(socket.socket(fileno=int(sys.argv[1])))
    _run(program)


def _run(program: str) -> None:
    """The program up to its end. What it has loaded is not taken down first: that takes longer than short programs."""
    code: object = None
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    if code is None or isinstance(code, int):
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):  # the interpreter says what it cannot write
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit((code or 0) & 0xFF)
    raise SystemExit(code)


def _next_program(asking: socket.socket) -> str:
    """Returns in the children only. The server ends when nobody can ask any more."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd: a process, and who waits for it
    selector = selectors.DefaultSelector()
    selector.register(asking, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd in running:
                selector.unregister(key.fd)
                _tell_end(key.fd, *running.pop(key.fd))
                continue
            message, fds, _, _ = socket.recv_fds(asking, MESSAGE_BYTES_MAX, FDS_MAX)
            if not message:
                os._exit(0)
            if not (pid := os.fork()):
                selector.close()  # now, as the program may have other descriptors of these numbers
                for ours in (asking, *(waiting for _, waiting in running.values())):
                    ours.close()
                return _become(fds[1:], **json.loads(message))
            waiting = socket.socket(fileno=fds[0])
            for fd in fds[1:]:
                os.close(fd)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, waiting
            selector.register(pidfd, selectors.EVENT_READ)
            _tell(waiting, pid)


def _tell_end(pidfd: int, pid: int, waiting: socket.socket) -> None:
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    with waiting:
        _tell(waiting, os.waitstatus_to_exitcode(status))


def _tell(waiting: socket.socket, number: int) -> None:
    with suppress(OSError):  # nobody waits any more
        waiting.send(b"%d" % number)


def _become(
    fds: list[int], *, module: str, arguments: list[str], env: dict[str, str], cwd: str, umask: int, mortal: bool
) -> str:
    """Everything as a new process would find it. Answers the module."""
    if mortal:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, fd in enumerate([os.dup(fd) for fd in fds]):  # above all that are overwritten
        os.dup2(fd, number)
    os.closerange(len(fds), max(map(int, os.listdir("/proc/self/fd"))) + 1)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if umask >= 0:
        os.umask(umask)
    sys.argv = ["-m", *arguments]
    sys.path.insert(0, cwd)
    sys.stdin = _opened(0, sys.stdin, "r")
    sys.stdout = _opened(1, sys.stdout, "w")
    sys.stderr = _opened(2, sys.stderr, "w", buffering=1)
    return module


def _opened(number: int, before: Any, mode: str, buffering: int = -1) -> Any:
    return open(number, mode, buffering, before.encoding, before.errors, closefd=False)


if __name__ == "__main__":
    main()
