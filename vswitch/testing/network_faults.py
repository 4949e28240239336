"""Faults of a LAN: partitions, and ports that are down."""

from collections.abc import Iterable
from itertools import chain

import trio

from vswitch import VSwitch
from vswitch.testing.faults import Fault, Restore
from vswitch.testing.stations import Station, name_of
from vswitch.testing.timeline import Timeline


class NetworkFaults:
    """What a `Lan` does to its machines' ports."""

    switch: VSwitch
    timeline: Timeline
    _nursery: trio.Nursery

    def partition(self, *islands: Iterable[Station]) -> Fault:
        """Islands between which nothing passes, whatever their VLANs. Machines in none reach all of them."""
        names = [[name for station in island for name in self._ports_of(station)] for island in islands]
        return self._parted(names, rest=False, what=f"partition of {' from '.join(map(' and '.join, names))}")

    def isolate(self, *stations: Station) -> Fault:
        """Machines that reach nobody else, each other neither; also nobody who comes later."""
        names = [self._ports_of(station) for station in stations]
        return self._parted(names, rest=True, what=f"isolation of {', '.join(chain(*names))}")

    def down(self, station: Station) -> Fault:
        """A machine's ports are down: they take nothing in, and send nothing."""

        async def inject() -> Restore:
            names = self._ports_of(station)
            self._set_up(names, False)

            async def restore() -> None:
                self._set_up(names, True)

            return restore

        return Fault(inject, f"link down of {name_of(station)}", self.timeline)

    def flap(self, station: Station, *, down: float = 0.1, up: float = 0.1) -> Fault:
        """A machine's ports go down and up again and again, so many seconds each, until restored."""

        async def inject() -> Restore:
            scope, over = trio.CancelScope(), trio.Event()
            names = self._ports_of(station)
            self._set_up(names, False)

            async def go() -> None:
                try:
                    with scope:
                        while True:
                            await trio.sleep(down)
                            self._set_up(names, True)
                            await trio.sleep(up)
                            self._set_up(names, False)
                finally:
                    self._set_up(names, True)
                    over.set()

            self._nursery.start_soon(go)

            async def restore() -> None:
                scope.cancel()
                await over.wait()

            return restore

        return Fault(inject, f"flapping of {name_of(station)}", self.timeline)

    def _parted(self, islands: list[list[str]], rest: bool, what: str) -> Fault:
        async def inject() -> Restore:
            number = self.switch.policies.part(*islands, rest=rest)

            async def restore() -> None:
                self.switch.policies.heal(number)

            return restore

        return Fault(inject, what, self.timeline)

    def _set_up(self, names: list[str], up: bool) -> None:
        for name in names:
            self.switch.policies.set_up(name, up)

    def _ports_of(self, station: Station) -> list[str]:
        raise NotImplementedError
