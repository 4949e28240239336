"""Islands of ports between which nothing passes, whatever their VLANs and policies: partitions, and split horizons."""

from collections.abc import Iterable
from typing import Protocol


class Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def endpoint(self) -> str: ...


class Islands(Protocol):
    def island(self, port: Named) -> int | None: ...


class SplitHorizon:
    """The ports of one endpoint, which reach all others and not each other: each is an island.

    The hosts of a mesh of tunnels send to each other what is for all; one that passed it on would send it in circles.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._numbers: dict[str, int] = {}

    def island(self, port: Named) -> int | None:
        """The number of a port's island; None for ports of other endpoints."""
        return self._numbers.setdefault(port.name, len(self._numbers)) if port.endpoint == self._endpoint else None


class Partition:
    """Islands, by the names of ports or of endpoints with all their ports, also of those that come later.

    Ports that are in none reach all islands; with `rest` they are one more island.
    """

    def __init__(self, islands: Iterable[Iterable[str]], rest: bool = False) -> None:
        self.islands = [tuple(names) for names in islands]
        self.rest = rest
        self._by_name: dict[str, int] = {}
        for number, names in enumerate(self.islands):
            for name in names:
                self._by_name.setdefault(name, number)

    def island(self, port: Named) -> int | None:
        """The number of a port's island, the first that names it or its endpoint; None if it reaches all."""
        found = [self._by_name[name] for name in (port.name, port.endpoint) if name in self._by_name]
        return min(found) if found else len(self.islands) if self.rest else None
