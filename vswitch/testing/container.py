"""Stations that are containers, which podman runs: an image's programs and files, with a card on the LAN.

A container joins a namespace's network and processes (podman-run(1), `--network ns:`, `--pid ns:`), so that it ends
with the first of them, however that ends. Without root, the namespace is in podman's own user namespace.
"""

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress

from vswitch.errors import RefusedError
from vswitch.testing.link import Link
from vswitch.testing.namespace import COMMAND_TIMEOUT_S, Namespace
from vswitch.testing.program import needed
from vswitch.testing.qemu import QemuError
from vswitch.testing.shell import Result

PULL_TIMEOUT_S, END_TIMEOUT_S = 600.0, 20.0


class Container(Namespace):
    """A container, which `lan.container` makes. Its card is eth0; it knows the other machines by name."""

    kind = "container"

    def __init__(
        self, link: Link, descriptor: int, image: str, command: Sequence[str], arguments: Sequence[str]
    ) -> None:
        self._podman = needed("podman", "podman")
        super().__init__(link, descriptor)
        self._image = [image, *command]
        self._arguments = arguments
        self._hosts = tempfile.NamedTemporaryFile("w", prefix="vs-hosts-")  # noqa: SIM115
        self._id = ""

    def _unshare(self) -> list[str]:
        if self._is_root:
            return super()._unshare()
        return [self._podman, "unshare", needed("unshare", "util-linux")]

    async def start(self) -> None:
        """Waits until it runs; the image is pulled if need be. Raises RefusedError, with what podman has said."""
        await super().start()
        joined = [f"--{what}=ns:/proc/{self.pid}/ns/{file}" for what, file in (("network", "net"), ("pid", "pid"))]
        files = ["--no-hosts", f"--volume={self._hosts.name}:/etc/hosts:ro"]
        run = [self._podman, "run", "--detach", "--rm", f"--hostname={self.name}", *joined, *files]
        result = await self._answer_of([*run, *self._arguments, *self._image], "podman run", b"", PULL_TIMEOUT_S)
        if not result.ok:
            raise RefusedError(f"container {self.name} cannot be made: {_error_in(result.stderr)}")
        self._id = result.stdout.split()[-1]

    async def run(self, command: str, *, input: bytes = b"", timeout: float = COMMAND_TIMEOUT_S) -> Result:  # noqa: ASYNC109
        """Runs a command of the image's shell in it; as a `Guest`'s. Raises QemuError as a namespace's does."""
        inside = [self._podman, "exec", "--interactive", self._id, "sh", "-c", command]
        return await self._answer_of(inside, command, input, timeout)

    async def tell_names(self, addresses: Iterable[tuple[str, str]]) -> None:
        """Writes names and their addresses into its /etc/hosts."""
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses)]
        self._hosts.truncate(0)
        self._hosts.seek(0)
        self._hosts.write("".join(f"{line}\n" for line in lines))
        self._hosts.flush()

    async def end(self) -> None:
        await super().end()
        if self._id:  # podman notices by itself, but when it has time
            words = [self._podman, "rm", "--force", "--ignore", "--time=0", self._id]
            with suppress(QemuError):
                await self._answer_of(words, "podman rm", b"", END_TIMEOUT_S)
        self._hosts.close()


def _error_in(said: str) -> str:
    """The line of podman's that tells what is wrong."""
    lines = said.strip().splitlines() or ["podman does not say why"]
    return next((line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")), lines[-1])
