"""The real vde_switch and its clients, to compare with."""

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.needs import require
from tests.waiting import TIMEOUT_S, until

MAGIC = 0xFEEDFACE


def program(name: str) -> str:
    """Where one of vde2's programs is; skips the test without it."""
    found = shutil.which(name)
    require(found, f"needs {name} (Debian: vde2)")
    assert found is not None
    return found


class RealSwitch:
    """A running vde_switch, its control directory and its management socket."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "real"
        self.management = root / "real.mgmt"

    def ask(self, *commands: bytes) -> list[bytes]:
        """The replies to commands, with the prompt taken off."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(self.management))
            _reply(sock)
            return [_ask(sock, command) for command in commands]

    @contextmanager
    def plugged(self, description: bytes) -> Iterator[socket.socket]:
        """A client: the socket that it sends frames with."""
        with ExitStack() as stack:
            control = stack.enter_context(socket.socket(socket.AF_UNIX))
            frames = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            for sock in (control, frames):
                sock.settimeout(TIMEOUT_S)
            control.connect(str(self.directory / "ctl"))
            frames.bind(str(self.directory.parent / f"client-{control.fileno()}"))
            address = struct.pack("=H108s", socket.AF_UNIX, frames.getsockname().encode())
            control.sendall(struct.pack("=III", MAGIC, 3, 0) + address + description)
            frames.connect(control.recv(110)[2:].rstrip(b"\0"))
            yield frames


def _ask(sock: socket.socket, command: bytes) -> bytes:
    sock.sendall(command + b"\n")
    return _reply(sock)


def _reply(sock: socket.socket) -> bytes:
    reply = b""
    while not reply.endswith(b"\nvde$ "):
        data = sock.recv(65536)
        assert data, "vde_switch has hung up"
        reply += data
    return reply.removesuffix(b"\nvde$ ")


@contextmanager
def real_switch(root: Path, *arguments: str) -> Iterator[RealSwitch]:
    """A vde_switch in a directory of its own under `root`."""
    switch = RealSwitch(root)
    command = [program("vde_switch"), "-s", str(switch.directory), "-M", str(switch.management), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as real:
        try:
            until(lambda: _is_up(switch.management), "vde_switch listens")
            yield switch
        finally:
            real.kill()


def _is_up(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0
