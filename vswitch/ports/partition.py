"""Partitions of a LAN: islands of ports between which nothing passes, whatever their VLANs and policies."""

from collections.abc import Iterable
from typing import Protocol


class Named(Protocol):
    def is_one_of(self, names: tuple[str, ...]) -> bool: ...


class Partition:
    """Islands, by the names of ports or of endpoints with all their ports, also of those that come later.

    Ports that are in none reach all islands; with `rest` they are one more island.
    """

    def __init__(self, islands: Iterable[Iterable[str]], rest: bool = False) -> None:
        self.islands = [tuple(names) for names in islands]
        self.rest = rest

    def parts(self, port: Named, other: Named) -> bool:
        """Whether nothing passes between two ports."""
        here, there = self._island(port), self._island(other)
        return here != there and None not in (here, there)

    def _island(self, port: Named) -> int | None:
        for number, names in enumerate(self.islands):
            if port.is_one_of(names):
                return number
        return len(self.islands) if self.rest else None
