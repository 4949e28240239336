"""A program at a terminal, and who sits there."""

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cli.program import MORTAL
from tests.signals import default_signals

TIMEOUT_S = 60.0


class Terminal:
    """`shown` is what it showed and `expect` has not passed yet."""

    def __init__(self, process: subprocess.Popen[bytes], primary: int) -> None:
        self.process = process
        self.shown = ""
        self._primary = primary

    def type(self, keys: str) -> None:
        os.write(self._primary, keys.encode())

    def expect(self, text: str) -> str:
        """Waits until it shows a text; answers what came before that."""
        over_s = time.monotonic() + TIMEOUT_S
        while text not in self.shown:
            assert time.monotonic() < over_s, f"no {text!r} in {self.shown!r}"
            assert self._read(1.0), f"the program has ended without {text!r} in {self.shown!r}"
        before, _, self.shown = self.shown.partition(text)
        return before

    def wait(self) -> int:
        """The program's exit code."""
        while self._read(1.0):
            pass
        return self.process.wait(TIMEOUT_S)

    def _read(self, within_s: float) -> bool:
        """Whether more may come."""
        if not select.select([self._primary], [], [], within_s)[0]:
            return self.process.poll() is None
        data = b""
        with suppress(OSError):  # EIO: nobody has the other end any more
            data = os.read(self._primary, 65536)
        self.shown = (self.shown + data.decode(errors="replace")).replace("\r\n", "\n")
        self.shown = re.sub(r"\r(lan|\.\.\.)> ", "", self.shown)  # a prompt once more, in its own place
        return data != b""


@contextmanager
def terminal(command: Sequence[str], *, env: dict[str, str], cwd: Path) -> Iterator[Terminal]:
    """Killed in the end if it still runs."""
    primary, secondary = pty.openpty()
    termios.tcsetwinsize(secondary, (50, 200))
    with default_signals():
        process = subprocess.Popen(
            [*MORTAL, "setsid", "--ctty", "--wait", *command],
            env=env | {"TERM": "dumb"},
            cwd=cwd,
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
        )
    os.close(secondary)
    try:
        with process:
            try:
                yield Terminal(process, primary)
            finally:
                process.kill()
    finally:
        os.close(primary)
