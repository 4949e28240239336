"""Stations that are programs: processes that speak QEMU's stream on a descriptor they inherit."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence

from vswitch.errors import InputError, RefusedError
from vswitch.testing import build_process, child_process
from vswitch.testing.link import Link, WithOneCable

PLACE = "{fd}"


class Program(WithOneCable):
    """A program that runs, which `lan.program` has started. It is killed when its LAN ends.

    `{fd}` in its arguments is the number of the descriptor; so is the environment's VSWITCH_FD.
    """

    def __init__(self, link: Link, command: Sequence[str], descriptor: int) -> None:
        super().__init__(link)
        words = [word.replace(PLACE, str(descriptor)) for word in command]
        if shutil.which(words[0]) is None:
            raise InputError(f"{self.name}: {words[0]!r} is no program that can be run")
        needed("setpriv", "util-linux")
        self._output = tempfile.TemporaryFile("a+b")  # noqa: SIM115
        self._watchdog = build_process.start_watchdog()  # what the program starts itself is to end, too
        self.process = subprocess.Popen(
            child_process.mortal(words),
            env=os.environ | {"VSWITCH_FD": str(descriptor)},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=[descriptor],
            process_group=self._watchdog.pid,
        )

    def __repr__(self) -> str:
        return f"<Program {self.name}{'' if self.running else ', not running'}>"

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """The last of what it has printed."""
        return "" if self._output.closed else child_process.last_of(self._output)

    async def ended(self) -> int:
        """Waits for its end; answers its exit status."""
        return await child_process.ended(self.process)

    async def end(self) -> None:
        """Kills it, with what it has started in its process group."""
        if self._watchdog.returncode is None:
            with self._watchdog:
                os.killpg(self._watchdog.pid, signal.SIGKILL)
        self.process.kill()  # it may have left the group
        self.process.wait()
        self._output.close()


def needed(program: str, package: str) -> str:
    """Where a program is. Raises RefusedError, which names its package."""
    found = shutil.which(program)
    if found is None:
        raise RefusedError(f"{program} not found: install the package {package}")
    return found
