"""What ports may do, changed while the switch runs."""

from collections.abc import Callable, Iterable

import msgspec

from vswitch.errors import InputError
from vswitch.ports.partition import Partition
from vswitch.ports.policy import Policy
from vswitch.ports.ports import Ports


class Policies:
    """The policies of a switch's ports, and the partitions between them."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    def set(self, port: str, policy: Policy) -> None:
        """Have a port go by another policy from now on. What was learned on it stays if its VLANs, and sticky, do.

        Raises InputError if there is no such port, or the policy does not go with those of other ports.
        """
        found = next((known for known in self._ports if known.name == port), None)
        if found is None:
            raise self._unknown(port)
        self._ports.wiring.set_policy(found, policy)

    def set_up(self, name: str, up: bool) -> None:
        """Have a port, or all ports of an endpoint, take part or not; the rest of its policy stays.

        Raises InputError if there is none of that name.
        """
        ports = [port for port in self._ports if port.is_one_of((name,))]
        for port in ports:
            self._ports.wiring.set_policy(port, msgspec.structs.replace(port.policy, up=up))
        if not ports:
            raise self._unknown(name)

    def part(self, *islands: Iterable[str], rest: bool = False) -> Callable[[], None]:
        """Have nothing pass between islands, whatever their VLANs, until what this answers is called.

        An island is names of ports, or of endpoints with all their ports, also of those that come later. Ports in none
        reach all islands; with `rest` they are one more. Partitions add up. Raises InputError on a hub.
        """
        if self._ports.bridge.hub:
            raise InputError("a hub repeats every frame to all ports; make a VSwitch without hub=True to part it")
        partition = Partition(islands, rest)
        self._ports.wiring.part(partition)
        return lambda: self._ports.wiring.heal(partition)

    def _unknown(self, name: str) -> InputError:
        known = ", ".join(port.name for port in self._ports) or "none"
        return InputError(f"there is no port {name!r}; there are {known}")
