"""Real Linux guests for tests, by QEMU without KVM: clones of one that has booted, where they can be.

    a = Guest("a", Nic(f"socket,fd={left.fileno()}", ip="10.0.0.1/24"), pass_fds=[left.fileno()])
    b = Guest("b", Nic("stream,server=off,addr.type=unix,addr.path=b.sock", ip="10.0.0.2/24"))
    async with boot(a, b):
        assert (await a.run("ping -c 1 10.0.0.2")).ok

Guests come up side by side, and the body begins when all of them are up. They have busybox and iperf3, and
`eth0`, `eth1` and so on, with the addresses given. They send nothing of their own accord, which is why IPv6
is off: `sysctl -w net.ipv6.conf.eth0.disable_ipv6=0` turns it on.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from typing import Any

import trio

from tests.e2e.rig import require_qemu
from tests.needs import require
from vswitch.endpoints.guests.qemu import guest_mac
from vswitch.testing.guest_image import GuestImage, GuestImageError, build
from vswitch.testing.machine import Card, Machine, own_words
from vswitch.testing.qemu import Qemu
from vswitch.testing.running import Running
from vswitch.testing.shell import Result
from vswitch.testing.template import find

MEMORY = "192M"


@dataclass(frozen=True)
class Nic:
    """One network card. `netdev` is what QEMU takes after `-netdev`, without `id=`; `ip` is an IPv4 address
    with its prefix length.

    QEMU gives every card the same MAC address; a guest's are made from its name instead, unless `mac` says.
    QMP's `set_link` knows the cards as `nic0`, `nic1` and so on.
    """

    netdev: str
    ip: str = ""
    mac: str = ""
    device: str = "virtio-net-pci"


class Guest:
    """A guest for `boot` to start. `pass_fds` are the descriptors that its netdevs name by `fd=`. The test
    owns them, and closes them once the guest is up if its peer is to see the stream end with the guest.
    `arguments` are more words for QEMU's command line, such as a NIC as it is pasted there."""

    def __init__(self, name: str, *nics: Nic, pass_fds: Sequence[int] = (), arguments: Sequence[str] = ()) -> None:
        self.name = name
        macs = (nic.mac or guest_mac(f"{name}/{index}") for index, nic in enumerate(nics))
        self.nics = tuple(replace(nic, mac=mac) for nic, mac in zip(nics, macs, strict=True))
        self._machine = Machine(None, memory=MEMORY, arguments=arguments)
        self._pass_fds = pass_fds
        self._running: Running

    @property
    def qemu(self) -> Qemu:
        return self._running.qemu

    async def run(self, command: str, *, timeout: float = 30.0) -> Result:  # noqa: ASYNC109
        """Runs a command as root, in a shell of its own, without input. Several may run at once.

        Returns when the command itself ends; what it has left in the background runs on. Raises QemuError,
        with the console, if the guest dies, or if `timeout` seconds pass: then, too, the command runs on.
        """
        assert self._running.shell is not None
        with self.qemu.bounded(f"guest {self.name}: {command}", timeout):
            return await self._running.shell.run(command, b"")

    async def qmp(self, command: str, /, **arguments: object) -> Any:
        """Executes a QMP command: `qmp("stop")`, `qmp("cont")`, `qmp("set_link", name="nic0", up=False)`."""
        return await self.qemu.qmp(command, **arguments)

    @property
    def console(self) -> str:
        """The last of what the kernel and QEMU printed."""
        return self.qemu.output

    async def start(self, image: GuestImage, *, cold: bool) -> Running:
        machine = replace(self._machine, image=image)
        cards = [Card(nic.netdev, nic.mac, nic.device) for nic in self.nics]
        found = None if cold else await find(machine, [card.device for card in cards])
        own = own_words(self.name, [nic.ip for nic in self.nics])
        self._running = Running(self.name, machine, cards, own, descriptors=self._pass_fds, origin=found)
        return self._running


@asynccontextmanager
async def boot(*guests: Guest, image: GuestImage | None = None, cold: bool = False) -> AsyncIterator[tuple[Guest, ...]]:
    """Starts guests side by side, and kills them in the end. They are clones where they can be, unless `cold`.

    Raises QemuError, with the console, if one does not come up. Skips the test where guests cannot be had;
    as pytest-trio loses a skip's reason, test modules had better call `guest_image()` in a fixture first.
    """
    if image is None:
        image = await trio.to_thread.run_sync(guest_image)
    with ExitStack() as stack:
        running = [stack.enter_context(closing(await guest.start(image, cold=cold))) for guest in guests]
        for one in running:
            await one.come_up()
        yield guests


def guest_image() -> GuestImage:
    """The image to boot, built at first use. Skips the test if it cannot be had, or if there is no QEMU."""
    require_qemu()
    image = built_image()
    require(isinstance(image, GuestImage), str(image))
    assert isinstance(image, GuestImage)
    return image


@functools.cache
def built_image() -> GuestImage | GuestImageError:
    """Also remembers a failure, lest every test wait for the network again."""
    try:
        return build()
    except GuestImageError as error:
        return error
