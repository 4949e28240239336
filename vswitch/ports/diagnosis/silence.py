"""Guests that are connected, and send nothing."""

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import trio

from vswitch.ports.port import SwitchPort

if TYPE_CHECKING:
    from vswitch.ports.ports import Ports

SILENT_S = 30.0


class Newcomers:
    """Peers that were plugged in, until they have had time to say something; of each port the last."""

    def __init__(self) -> None:
        self._new: OrderedDict[int, _Newcomer] = OrderedDict()  # by the port's serial, the first to come first
        self._come = trio.Event()

    def add(self, port: SwitchPort) -> None:
        self.remove(port)
        self._new[port.port.serial] = _Newcomer(port, port.port.rx_frames, trio.current_time() + SILENT_S)
        self._come.set()

    def remove(self, port: SwitchPort) -> None:
        """Its peer is gone."""
        self._new.pop(port.port.serial, None)

    async def next(self) -> "_Newcomer":
        """The next whose time is over."""
        while True:
            while not self._new:
                self._come = trio.Event()
                await self._come.wait()
            serial, first = next(iter(self._new.items()))
            await trio.sleep_until(first.until_s)
            if self._new.get(serial) is first:
                del self._new[serial]
                return first


class _Newcomer(NamedTuple):
    port: SwitchPort
    frames: int
    until_s: float

    @property
    def is_silent(self) -> bool:
        """Whether it has sent nothing, though it might have."""
        return self.port.up and not self.port.policy.mirror_of and self.port.port.rx_frames == self.frames


async def look_for_silent_guests(ports: "Ports") -> None:
    """Say it of each, once, until cancelled."""
    while True:
        newcomer = await ports.newcomers.next()
        if newcomer.is_silent:
            name = newcomer.port.name
            what = (
                f"is connected, and has sent nothing for {SILENT_S:.0f} s; unless it still boots, see that its -device "
            )
            what += "names this -netdev, that its driver is loaded and that its link is up"
            ports.events.say("silent", name, f"{name}: {what}", ports=[name])
