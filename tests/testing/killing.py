"""A run of pytest that is to be killed, and all that it has started."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cli.program import Home
from tests.signals import default_signals
from tests.testing.nested import PYTEST
from tests.waiting import until
from vswitch.testing.guest_image import default_cache

MARK = "VSWITCH_TEST_RUN"
CACHE = default_cache()


class Run:
    """A pytest of its own, which all processes that descend from it have in their environment."""

    def __init__(self, process: "subprocess.Popen[str]", mark: str) -> None:
        self._process = process
        self._mark = f"{MARK}={mark}\0".encode()

    def wait_for(self, moment: str) -> None:
        assert self._process.stdout is not None
        shown = []
        for line in self._process.stdout:
            if line.strip() == moment:
                return
            shown.append(line)
        raise AssertionError(f"ended before {moment}: {''.join(shown)}")

    def commands(self) -> dict[int, bytes]:
        """What runs of it, by process id."""
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile
                if self._mark in (directory / "environ").read_bytes():
                    found[int(directory.name)] = (directory / "cmdline").read_bytes().replace(b"\0", b" ")
        return found

    def runs(self, words: bytes) -> bool:
        return any(words in command for command in self.commands().values())

    def kill(self, number: signal.Signals) -> None:
        """Ends pytest's own process; fails if anything that it has started is there still."""
        networks = self._networks()
        self._process.send_signal(number)
        self._process.communicate(timeout=60)
        until(lambda: not self.commands(), "all has ended")
        assert not networks & {name for name in map(network_of, os.listdir("/proc")) if name}

    def _networks(self) -> set[str]:
        """Those that are only its own."""
        return {network_of(str(pid)) for pid in self.commands()} - {network_of("self"), ""}


def network_of(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


@contextmanager
def running(home: Home, tests: str, test: str, **env: str) -> Iterator[Run]:
    """Of some tests, one runs, in a home of its own; nothing of it is left after the block."""
    (home.root / "test_it.py").write_text(tests)
    command = [*PYTEST, "-sq", f"test_it.py::{test}"]
    own = {"PATH": os.environ["PATH"], "VSWITCH_CACHE": str(CACHE), MARK: home.root.name}
    with default_signals():
        process = subprocess.Popen(
            command,
            env=home.env | own | env,
            cwd=home.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
    run = Run(process, home.root.name)
    with process:
        try:
            yield run
        finally:
            process.kill()
            for pid in run.commands():  # if the test fails
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
