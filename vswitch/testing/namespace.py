"""Stations that are Linux network namespaces: this machine's own kernel and programs, with a card on the LAN.

Without root, a user namespace makes it possible, where the system allows that and lets this user open /dev/net/tun. The
processes in it are in a process namespace, too, and end with its first one, which ends when the LAN does.
"""

import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from vswitch.errors import RefusedError
from vswitch.testing.link import Link, WithOneCable
from vswitch.testing.namespace_child import READY
from vswitch.testing.program import Program, needed
from vswitch.testing.qemu import QemuError
from vswitch.testing.shell import Result

START_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 30.0
POLL_S = 0.01


class Namespace(WithOneCable):
    """A namespace, which `lan.namespace` makes. Its card is eth0; its files are this machine's."""

    kind = "namespace"

    def __init__(self, link: Link, descriptor: int) -> None:
        super().__init__(link)
        self._nsenter = needed("nsenter", "util-linux")
        self._is_root = os.geteuid() == 0
        apart = ["--net", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child"]
        interface = link.interface
        addresses = [str(interface.ip), str(interface.netmask)] if interface is not None else ["", ""]
        child = [sys.executable, "-m", "vswitch.testing.namespace_child", "{fd}", self.name, link.mac, *addresses]
        self._program = Program(link, [*self._unshare(), *apart, *child], descriptor)

    def _unshare(self) -> list[str]:
        """What makes namespaces, as one who may."""
        own_user = [] if self._is_root else ["--user", "--map-root-user"]
        return [needed("unshare", "util-linux"), *own_user]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {' '.join(filter(None, [self.name, self.ip, self.mac]))}>"

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it: for nsenter. Raises RefusedError if there is none."""
        pid = self._program.process.pid
        try:
            while not _is_in_a_namespace(pid):
                pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        except (OSError, IndexError):
            raise RefusedError(f"{self.kind} {self.name} has ended: {self._program.output.strip()}") from None
        return pid

    @property
    def entering(self) -> list[str]:
        """What, before a command, has it run on the LAN, with this machine's files and processes."""
        own_user = [] if self._is_root else ["--user", "--preserve-credentials"]
        return [self._nsenter, "--target", str(self.pid), "--net", *own_user]

    async def start(self) -> None:
        """Waits until its card is there. Raises RefusedError, with what the system has said, if it does not come."""
        with trio.move_on_after(START_TIMEOUT_S):
            while not self._program.output.endswith(READY.decode()):
                if not self._program.running:
                    break
                await trio.sleep(POLL_S)
            else:
                return
        said = self._program.output.strip().rpartition("\n")[2] or "the system does not say why"
        rights = "" if self._is_root else "; run as root, or allow user namespaces and /dev/net/tun"
        raise RefusedError(f"{self.kind} {self.name} cannot be made: {said}{rights}")

    async def route(self, gateway: str) -> None:
        """Sends what is for elsewhere there. Raises CommandFailed."""
        words = [*self.entering, needed("ip", "iproute2"), "route", "add", "default", "via", gateway]
        (await self._answer_of(words, "ip route add", b"", COMMAND_TIMEOUT_S)).check()

    async def run(self, command: str, *, input: bytes = b"", timeout: float = COMMAND_TIMEOUT_S) -> Result:  # noqa: ASYNC109
        """Runs a shell command in it; as a `Guest`'s.

        Returns when the command itself ends; what it has left in the background runs on. Raises QemuError if `timeout`
        seconds pass: then, too, the command runs on.
        """
        inside = [*self.entering, "--uts", "--pid", "--mount"]
        return await self._answer_of([*inside, "sh", "-c", command], command, input, timeout)

    async def _answer_of(self, words: Sequence[str], command: str, input: bytes, timeout_s: float) -> Result:
        """What a program of this machine's answers. Raises QemuError if it does not in time."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            with trio.move_on_after(timeout_s) as limit:
                done = await trio.run_process([*words], stdin=input, stdout=output, stderr=errors, check=False)
            if limit.cancelled_caught:
                raise QemuError(f"{self.kind} {self.name}: {command}: no answer in {timeout_s:g} s")
            return Result(command, done.returncode, _all_of(output.fileno()), _all_of(errors.fileno()))

    async def tell_names(self, addresses: Iterable[tuple[str, str]]) -> None:
        """It knows no names of the LAN's, as /etc/hosts is this machine's."""

    async def end(self) -> None:
        """Ends it, with all that runs in it."""
        await self._program.end()


def _is_in_a_namespace(pid: int) -> bool:
    """Whether a process has one number here and another one in a namespace (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    return any(line.startswith("NSpid:") and len(line.split()) > 2 for line in status.splitlines())


def _all_of(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
