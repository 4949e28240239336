"""Programs in Python, each in a process of its own, that need not load again what all of them load.

Most of the time a short program takes goes into imports. A server does them once, and then forks for each program.
"""

import atexit
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Self

SERVER = Path(__file__).with_name("fork_server.py")
NUMBER_BYTES = 32
READ_BYTES = 1 << 16
STARTUP = ("PYTHON", "LC_", "LANG")  # variables that an interpreter looks at as it starts


class Forks:
    """A server that has loaded some modules. It ends with this process."""

    def __init__(self, modules: Sequence[str], env: Mapping[str, str]) -> None:
        self._startup = _startup(env)
        self._asking, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", str(SERVER), str(theirs.fileno()), *modules],
                env=dict(env),
                cwd="/",
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for this process
            )
        atexit.register(self._end)

    def can_start(self, env: Mapping[str, str]) -> bool:
        """Whether it runs, and an interpreter would start in this environment as the server's has."""
        return self._server.poll() is None and _startup(env) == self._startup

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: IO[bytes] | int = subprocess.PIPE,
        stderr: IO[bytes] | int = subprocess.PIPE,
        pass_fds: Sequence[int] = (),
        umask: int = -1,
        mortal: bool = False,
    ) -> "Forked":
        """What `python -m module` would be, with standard streams as `subprocess.Popen` takes them.

        The program has what is in `pass_fds` as descriptors 3 and following. If it is `mortal`, the kernel kills it
        when the server ends. Raises RuntimeError if the server cannot start it.
        """
        job: dict[str, object] = {"module": module, "arguments": arguments, "env": dict(env), "cwd": str(cwd)}
        job |= {"umask": umask, "mortal": mortal}
        told, telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as theirs:
            fds = [theirs.enter_context(telling).fileno()]
            ours = [_stream(theirs, fds, *each) for each in ((stdin, "wb"), (stdout, "rb"), (stderr, "rb"))]
            with suppress(BrokenPipeError):  # then nobody answers
                socket.send_fds(self._asking, [json.dumps(job).encode()], [*fds, *pass_fds])
        return Forked(told, *ours)

    def _end(self) -> None:
        self._asking.close()
        self._server.wait()


class Forked:
    """A process that was started, as far as it is like `subprocess.Popen[bytes]`."""

    def __init__(self, told: socket.socket, *streams: IO[bytes] | None) -> None:
        self.stdin, self.stdout, self.stderr = streams
        self.returncode: int | None = None
        self._told = told
        answer = told.recv(NUMBER_BYTES)
        if not answer:
            raise RuntimeError("the process that was to start it has ended; standard error says why")
        self.pid = int(answer)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(self._told.recv(NUMBER_BYTES) or -signal.SIGKILL)  # it ended with the server
            self._told.close()
        return self.returncode

    def communicate(self, input: bytes = b"", timeout: float | None = None) -> tuple[bytes, bytes]:
        """Both outputs to their ends. The input has to fit in a pipe."""
        if self.stdin is not None:
            with suppress(BrokenPipeError), self.stdin:
                self.stdin.write(input)
        found = {stream: b"" for stream in (self.stdout, self.stderr) if stream is not None}
        deadline = time.monotonic() + (timeout or sys.maxsize)
        with selectors.DefaultSelector() as selector:
            for stream in found:
                selector.register(stream, selectors.EVENT_READ, stream)
            while selector.get_map():
                ready = selector.select(deadline - time.monotonic())
                if not ready:
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
                for key, _ in ready:
                    data = os.read(key.fd, READ_BYTES)
                    found[key.data] += data
                    if not data:
                        selector.unregister(key.data)
        self.wait(max(deadline - time.monotonic(), 0))
        output, error = (b"" if stream is None else found[stream] for stream in (self.stdout, self.stderr))
        return output, error

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):  # of what was still to be written
                    stream.close()
        self.wait()


def _startup(env: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in env.items() if name.startswith(STARTUP)}


def _stream(theirs: ExitStack, fds: list[int], stream: IO[bytes] | int, mode: str) -> IO[bytes] | None:
    """Adds what the process is given as a standard stream; answers our end of it, if there is one."""
    if stream == subprocess.PIPE:
        reader, writer = os.pipe()
        ours, given = (writer, reader) if mode == "wb" else (reader, writer)
        theirs.callback(os.close, given)
        fds.append(given)
        return open(ours, mode, buffering=0)
    if stream == subprocess.DEVNULL:
        null = os.open(os.devnull, os.O_RDWR)
        theirs.callback(os.close, null)
        fds.append(null)
    else:
        fds.append(stream if isinstance(stream, int) else stream.fileno())
    return None
