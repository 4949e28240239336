"""The smallest use of QEMU: two network backends wired together, without a guest.

What goes into one netdev of a rig comes out of the other, which makes any `-netdev` line a live peer that
starts in less than a tenth of a second.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing

from tests.needs import require
from vswitch.testing.qemu import Qemu, what_is_missing


def require_qemu() -> None:
    missing = what_is_missing()
    require(not missing, missing or "")


@asynccontextmanager
async def rig(netdev_a: str, netdev_b: str, *, pass_fds: Sequence[int] = ()) -> AsyncIterator[Qemu]:
    """A QEMU that carries frames between two netdevs, each as after `-netdev` but without its `id=`.

    Both are there when the body begins. Skips the test if there is no QEMU; raises QemuError with QEMU's own
    words if it refuses a netdev.
    """
    require_qemu()
    arguments = ["-machine", "none"]
    for hub_port, netdev in (("a", netdev_a), ("b", netdev_b)):
        arguments += ["-netdev", f"{netdev},id={hub_port}"]
        arguments += ["-netdev", f"hubport,id=hub-{hub_port},hubid=0,netdev={hub_port}"]
    with closing(Qemu(*arguments, pass_fds=pass_fds)) as qemu:
        await qemu.started()
        yield qemu
