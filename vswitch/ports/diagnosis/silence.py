"""Guests that are connected, and send nothing."""

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from vswitch.dataplane.link import Link
from vswitch.ports.port import SwitchPort

if TYPE_CHECKING:
    from vswitch.ports.ports import Ports

SILENT_S = 30.0
NEW_MAX = 1024  # peers that are waited for; of more that come at a time, only the last


class Newcomers:
    """Peers that were plugged in, until they have had time to say something."""

    def __init__(self) -> None:
        self._new: deque[_Newcomer] = deque(maxlen=NEW_MAX)
        self._come = trio.Event()

    def add(self, port: SwitchPort, link: Link) -> None:
        self._new.append(_Newcomer(port, link, port.port.rx_frames, trio.current_time() + SILENT_S))
        self._come.set()

    async def next(self) -> "_Newcomer":
        """The next whose time is over."""
        while not self._new:
            self._come = trio.Event()
            await self._come.wait()
        first = self._new[0]
        await trio.sleep_until(first.until_s)
        if self._new and self._new[0] is first:
            self._new.popleft()
        return first


class _Newcomer(NamedTuple):
    port: SwitchPort
    link: Link
    frames: int
    until_s: float

    @property
    def is_silent(self) -> bool:
        """Whether it is still there and has sent nothing, though it might have."""
        port = self.port
        heard = port.port.rx_frames != self.frames
        return port.link is self.link and port.up and not port.policy.mirror_of and not heard


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
