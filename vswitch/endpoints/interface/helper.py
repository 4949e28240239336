"""QEMU's helper, qemu-bridge-helper: a program with root's rights that makes a TAP device, in a bridge that its
configuration allows, and hands it over open (QEMU: qemu-bridge-helper.c, and net/tap.c, net_bridge_run_helper).

With `--use-vnet`, the device may leave checksums and segmentation to us.
"""

import errno
import os
import socket
from contextlib import ExitStack, suppress

from vswitch.endpoints.interface import program
from vswitch.endpoints.interface.options import HELPER_EXAMPLE
from vswitch.errors import RefusedError, printable

LIMIT_S = 10.0
SAID_BYTES = 4096
# Where distributions have it: Debian, Alpine and Arch; Fedora; openSUSE; one's own build; NixOS.
PLACES = (
    HELPER_EXAMPLE,
    "/usr/libexec/qemu-bridge-helper",
    "/usr/lib/qemu-bridge-helper",
    "/usr/local/libexec/qemu-bridge-helper",
    "/run/wrappers/bin/qemu-bridge-helper",
)
CONFIGURATION = "/etc/qemu/bridge.conf"


async def run(path: str, bridge: str) -> int:
    """The descriptor of a new TAP device in a bridge. An empty path: where it usually is. Raises RefusedError."""
    path = path or _find()
    with ExitStack() as open_ends:
        here, there = socket.socketpair()
        open_ends.enter_context(here)
        open_ends.enter_context(there)
        said, say = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        open_ends.callback(os.close, said)
        open_ends.callback(os.close, say)
        words = [path, "--use-vnet", f"--fd={there.fileno()}", f"--br={bridge}"]
        try:
            status = await program.run(words, LIMIT_S, stderr=say, pass_fds=[there.fileno()])
        except RefusedError as error:
            raise RefusedError(f"helper: {error}") from None
        here.setblocking(False)
        descriptors: list[int] = []
        with suppress(BlockingIOError):
            descriptors = socket.recv_fds(here, 1, 1)[1]
        if descriptors and status == 0:
            return descriptors[0]
        for descriptor in descriptors:
            os.close(descriptor)
        raise RefusedError(f"helper: {_why(path, bridge, _last_line(said))}")


def _find() -> str:
    for path in PLACES:
        if os.path.exists(path):
            return path
    raise RefusedError(
        "helper: there is no qemu-bridge-helper; install it (on Debian: apt install qemu-system-common), or say where "
        f"it is: helper={HELPER_EXAMPLE}"
    )


def _last_line(said: int) -> str:
    with suppress(BlockingIOError):
        lines = os.read(said, SAID_BYTES).decode(errors="replace").strip().splitlines()
        return printable(lines[-1]) if lines else ""
    return ""


def _why(path: str, bridge: str, said: str) -> str:
    """What the helper's words mean, and what to do."""
    if "acl file" in said:
        return f"{bridge} is not allowed; have root add the line: allow {bridge} to {CONFIGURATION} ({said})"
    if os.strerror(errno.ENODEV) in said:
        return f"there is no bridge {bridge}; have root run: ip link add {bridge} type bridge ({said})"
    if os.strerror(errno.EPERM) in said or os.strerror(errno.EACCES) in said:
        return f"it has no rights; have root run: chmod u+s {path} ({said})"
    return f"{path}: {said or 'it gives no device, and does not say why'}"
