"""Which ports there are, by name and by the data plane's index."""

import heapq
from collections.abc import Iterator
from itertools import count

from vswitch.errors import InputError
from vswitch.ports.port import SwitchPort


class Registry:
    """The ports of a switch, in the order they came."""

    def __init__(self) -> None:
        self._by_name: dict[str, SwitchPort] = {}
        self._by_index: dict[int, SwitchPort] = {}
        self._numbers: dict[str, tuple[list[int], count[int]]] = {}  # by listener: freed ones, and those above all used

    def __iter__(self) -> Iterator[SwitchPort]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def by_index(self, index: int) -> SwitchPort | None:
        """The port with a data plane index, if there is one."""
        return self._by_index.get(index)

    def named(self, name: str) -> SwitchPort | None:
        """The port with a name, if there is one."""
        return self._by_name.get(name)

    def check_free(self, name: str) -> None:
        """Raises InputError for a name that is taken."""
        if name in self._by_name:
            raise InputError(f"there is a port {name!r} already; give this one another name=")

    def next_name(self, endpoint: str) -> str:
        """A name for one more port of a listener: `lab.1`, `lab.2`, … with the lowest number that is free."""
        free, above = self._numbers.setdefault(endpoint, ([], count(1)))
        while True:
            number = heapq.heappop(free) if free else next(above)
            if f"{endpoint}.{number}" not in self._by_name:
                return f"{endpoint}.{number}"

    def enter(self, port: SwitchPort) -> None:
        self._by_name[port.name] = self._by_index[port.port.index] = port

    def leave(self, port: SwitchPort) -> None:
        del self._by_name[port.name]
        listener, _, number = port.name.rpartition(".")
        if listener in self._numbers and number.isdecimal():
            heapq.heappush(self._numbers[listener][0], int(number))
        del self._by_index[port.port.index]
