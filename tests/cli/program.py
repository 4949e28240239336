"""The program as its users meet it: `python -m vswitch` in a process of its own, in a corner of its own.

The process sees no QEMU unless a test puts one there, and nobody else's runtime directory. It is the build
that the tests import, whatever the working directory. It has its imports from a fork server, unless a test says how
its interpreter is to start.
"""

import json
import os
import platform
import pty
import re
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import vswitch
from tests.signals import default_signals
from tests.waiting import until
from vswitch.cli import COMMANDS
from vswitch.control import client
from vswitch.control.operations import OPERATIONS
from vswitch.testing.forks import Forked, Forks

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0  # it takes a tenth of a second; on a machine that is busy, more
COMMAND_TIMEOUT_S = 20.0

PROGRAM = (sys.executable, "-m", "vswitch")
# The kernel kills what we start when we are killed ourselves.
SETPRIV = shutil.which("setpriv")
MORTAL = [SETPRIV, "--pdeathsig", "KILL"] if SETPRIV else []
# What would change what a program does; PYTHONUNBUFFERED for one hides that something is not flushed.
FOREIGN_PREFIXES = (
    "PYTHON",
    "XDG_",
    "VSWITCH",
    "_VSWITCH",
    "LC_",
    "NO_COLOR",
    "FORCE_COLOR",
    "NOTIFY_",
    "COMP_",
    "COLUMNS",
    "LINES",
)

FRESH = ("/usr/bin/env",)  # what is started under this does its imports itself

Process = Forked | subprocess.Popen[bytes]


@cache
def _forks(path: str) -> Forks:
    """For this Python path; loads everything but what tests networks, which few commands do."""
    modules = [
        "vswitch.switch",
        "rich.console",
        "rich.table",
        "encodings.idna",
        *sorted({f"vswitch.cli.{file}" for file in COMMANDS.values()}),
    ]
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(FOREIGN_PREFIXES)}
    with default_signals():
        return Forks(modules, inherited | {"PYTHONPATH": path})


class Home:
    """A private place for one test: `runtime` is the XDG runtime directory, `env` what programs are given."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runtime = root / "run"
        self.temp = root / "tmp"
        self.programs = root / "bin"
        for directory in (self.runtime, self.temp, self.programs):
            directory.mkdir(mode=0o700)
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(FOREIGN_PREFIXES)}
        self.env = inherited | {
            "XDG_RUNTIME_DIR": str(self.runtime),
            "TMPDIR": str(self.temp),
            "VSWITCH_PATH": "",  # the developer's own switches are none of a test's
            "PATH": str(self.programs),
            "PYTHONPATH": os.pathsep.join(filter(None, [package_root(), os.environ.get("PYTHONPATH")])),
        }

    @property
    def directory(self) -> Path:
        """Where the sockets of switches are."""
        return self.runtime / "vswitch"

    @property
    def temp_directory(self) -> Path:
        """Where they are without a runtime directory."""
        return self.temp / f"vswitch-{os.geteuid()}"

    def control(self, name: str = "default") -> Path:
        return self.directory / f"{name}.ctl"

    def install_qemu(self, version: str) -> None:
        """A QEMU for `serve` to find, which can say its version and nothing else."""
        program = self.programs / f"qemu-system-{platform.machine()}"
        program.write_text(f'#!/bin/sh\necho "QEMU emulator version {version} (Debian 1:{version})"\n')
        program.chmod(0o755)

    def run(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        stdout: IO[bytes] | int = subprocess.PIPE,
        under: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        with self.process(*arguments, env=env, stdout=stdout, stderr=subprocess.PIPE, under=under) as process:
            try:
                output, error = process.communicate(timeout=COMMAND_TIMEOUT_S)
            finally:
                process.kill()
        printed = output.decode() if stdout == subprocess.PIPE else None
        return subprocess.CompletedProcess(arguments, process.returncode or 0, printed, error.decode())

    def show(self, columns: int, *arguments: str, env: dict[str, str] | None = None) -> str:
        """What a command that succeeds shows on a terminal of so many columns, with its escape codes."""
        primary, secondary = pty.openpty()
        termios.tcsetwinsize(secondary, (24, columns))
        with open(primary, "rb", buffering=0) as terminal:
            with open(secondary, "wb", buffering=0) as end:
                colors = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
                process = self.process(*arguments, env=colors | (env or {}), stdout=end)
            shown = b""
            with process, suppress(OSError):  # EIO: nobody has the other end any more
                while data := terminal.read(65536):
                    shown += data
        assert process.returncode == 0
        return shown.decode().replace("\r\n", "\n")

    def ask(self, command: str, *arguments: str) -> Any:
        """What a command prints with --json."""
        done = self.run(command, "--json", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    def get(self, resource: str, name: str = "default") -> Any:
        """What the control API answers, without a process of its own."""
        (asked,) = (known for known in OPERATIONS if (known.method, known.path) == ("GET", f"/{resource}"))
        return json.loads(client.ask(self.control(name), asked))

    def process(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: IO[bytes] | int = subprocess.PIPE,
        stderr: IO[bytes] | int = 2,
        module: str = "vswitch",
        umask: int = -1,
        pass_fds: Sequence[int] = (),
        start_new_session: bool = False,
        under: Sequence[str] = (),
    ) -> Process:
        """The program, started; `under` is another one, with arguments, that starts it."""
        options: dict[str, Any] = {"env": self.env | (env or {}), "cwd": self.root, "umask": umask}
        options |= {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        forks = _forks(self.env["PYTHONPATH"])
        if not (under or pass_fds or start_new_session) and forks.can_start(options["env"]):
            return forks.start(module, arguments, mortal=True, **options)
        with default_signals():
            return subprocess.Popen(
                [*MORTAL, *under, sys.executable, "-m", module, *arguments],
                pass_fds=pass_fds,
                start_new_session=start_new_session,
                **options,
            )

    @contextmanager
    def start(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        umask: int = -1,
        stdout: int = subprocess.PIPE,
        under: Sequence[str] = (),
    ) -> Iterator["Serving"]:
        """A `vswitch serve` that may or may not get ready; killed in the end if it still runs.

        `under` is a program, with arguments, that starts it.
        """
        log = self.root / f"log-{len(list(self.root.glob('log-*')))}"
        options: dict[str, Any] = {"env": env, "stdout": stdout, "pass_fds": pass_fds, "umask": umask, "under": under}
        with log.open("wb") as stderr:
            process = self.process("serve", *arguments, stderr=stderr, **options)
        with process:
            try:
                yield Serving(process, log)
            finally:
                process.kill()

    @contextmanager
    def serve(self, *arguments: str, **options: Any) -> Iterator["Serving"]:
        """A `vswitch serve` that is ready."""
        with self.start(*arguments, **options) as serving:
            serving.wait_ready()
            yield serving


class Serving:
    """A started `vswitch serve`. `lines` is what it has printed on standard output, `log` all of standard error."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self._log = log
        self._output = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="backslashreplace")

    @property
    def error(self) -> str:
        """What is on standard error beside the log."""
        return "".join(line for line in self.log.splitlines(True) if not re.match(r"\d\d:\d\d:\d\d ", line))

    @property
    def lines(self) -> list[str]:
        return self._output.decode().splitlines()

    @property
    def urls(self) -> dict[str, str]:
        """Endpoints by name, as printed."""
        words = [line.split() for line in self.lines if line and not line.startswith(" ") and line != "ready"]
        return {name: url for name, url, *_ in words}

    def wait_said(self, *texts: str) -> None:
        """Waits until the log says all of it: a thread writes the log, a moment after what it tells of."""
        until(lambda: all(text in self.log for text in texts), f"the log says {', '.join(texts)}")

    def wait_ready(self) -> None:
        """Reads standard output as far as the line `ready`."""
        assert self.wait_ready_or_end(), f"ended before it was ready: {self.log}"

    def wait_ready_or_end(self) -> bool:
        """Reads standard output as far as the line `ready`, or to its end; answers whether it got ready."""
        while not f"\n{self._output.decode()}".endswith("\nready\n"):
            if not self.read_more():
                return False
        return True

    def read_more(self) -> bool:
        """Reads what comes next on standard output; answers whether that was not its end."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(START_TIMEOUT_S), f"nothing more in time: {self.log}"
        data = os.read(self.process.stdout.fileno(), 65536)
        self._output += data
        return bool(data)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code after a signal; fails if it takes longer than promised."""
        self.process.send_signal(number)
        return self.ended(STOP_TIMEOUT_S)

    def ended(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """The exit code; what came on standard output until then is added to `lines`."""
        assert self.process.stdout is not None
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s:g} s: {self.log}") from None
        self._output += self.process.stdout.read()
        return code


def package_root() -> str:
    """The directory to import `vswitch` from."""
    assert vswitch.__file__ is not None
    return str(Path(vswitch.__file__).parents[1])


def connect(url: str, timeout_s: float = COMMAND_TIMEOUT_S) -> socket.socket:
    """A socket that is connected to a listener's URL; loads no modules, which another user might not be able to."""
    scheme, _, target = url.partition("://")
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        address: str | tuple[str, int] = target
    else:
        host, _, port = target.rpartition(":")
        sock = socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET)
        address = (host.strip("[]"), int(port))
    sock.settimeout(timeout_s)
    sock.connect(address)
    return sock


def read_to_end(descriptor: int, timeout_s: float = START_TIMEOUT_S) -> bytes:
    """What comes from a pipe until nobody has its other end any more; closes the descriptor."""
    found = b""
    with open(descriptor, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], timeout_s)[0]:
            data = pipe.read(65536)
            if not data:
                return found
            found += data
    raise AssertionError(f"still open after {timeout_s:g} s without a byte; before came {found!r}")


def check_refused(home: Home, *arguments: str, code: int, said: str) -> None:
    """`serve` ends with an exit code and one line that says why; nothing is printed, and nobody sees a traceback."""
    with home.start(*arguments) as serving:
        assert not serving.wait_ready_or_end()
        assert serving.ended() == code
        assert is_one_line(serving.error)
        assert serving.error.startswith("vswitch: ")
        assert said in serving.error
        assert "Traceback" not in serving.log
        assert serving.lines == []


def rss(pid: int) -> int:
    """A process's resident memory, in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def is_one_line(text: str) -> bool:
    """What an error message has to be: one line that a terminal can show."""
    return text.endswith("\n") and text[:-1].isprintable() and text.strip() != ""
