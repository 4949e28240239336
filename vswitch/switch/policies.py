"""What ports may do, changed while the switch runs."""

from collections.abc import Iterable, Mapping
from itertools import count

import msgspec

from vswitch.endpoints import together
from vswitch.errors import InputError, MissingError, RefusedError
from vswitch.ports.partition import Partition
from vswitch.ports.policy import Policy, amended
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports
from vswitch.switch.attachments import Attachments

PARTITIONS_MAX = 64  # each is looked at for frames between ports that are on an island


class Policies:
    """The policies of a switch's ports, and the partitions between them."""

    def __init__(self, ports: Ports, attachments: Attachments) -> None:
        self._ports = ports
        self._attachments = attachments
        self._numbers = count(1)
        self.partitions: dict[int, Partition] = {}

    def set(self, name: str, policy: Policy) -> None:
        """Have an endpoint, with all its ports, or one port of a listener go by another policy from now on.

        What is set on one port of a listener goes with its peer. What was learned on a port stays if its VLANs, and
        sticky, do. Raises InputError if there is none of that name, or the policy does not go with those of others.
        """
        if name in self._attachments:
            self._attachments.set_policy(name, policy)
        else:
            self._ports.wiring.set_policy(self._port(name), policy)

    def of(self, name: str) -> Policy:
        """What an endpoint, or one port of a listener, goes by. Raises InputError if there is none of that name."""
        if name in self._attachments:
            return self._attachments[name].config.policy
        return self._port(name).policy

    def amend(self, name: str, parameters: Mapping[str, object]) -> Policy:
        """Set some parameters of what an endpoint or a port goes by, as a URL or TOML has them; None: what is usual.

        Answers the policy. Raises as `set` does, and where a mirror is to watch what there is not.
        """
        before = self.of(name)
        policy = amended(before, parameters)
        if policy.mirror_of != before.mirror_of:  # else what it watched may have gone, as what was passed on does
            together.check_watched(name, policy, tuple(self._attachments))
        self.set(name, policy)
        return policy

    def set_up(self, name: str, up: bool) -> None:
        """Have a port, or an endpoint with all its ports, take part or not; the rest of its policy stays.

        Raises InputError if there is none of that name.
        """
        self.set(name, msgspec.structs.replace(self.of(name), up=up))

    def part(self, *islands: Iterable[str], rest: bool = False) -> int:
        """Have nothing pass between islands, whatever their VLANs, until it is healed. Answers its number.

        An island is names of ports, or of endpoints with all their ports, also of those that come later. Ports in none
        reach all islands; with `rest` they are one more. Partitions add up. Raises InputError on a hub, and
        RefusedError if there are PARTITIONS_MAX already.
        """
        if self._ports.bridge.hub:
            raise InputError("a hub repeats every frame to all ports; make a VSwitch without hub=True to part it")
        if len(self.partitions) >= PARTITIONS_MAX:
            raise RefusedError(f"there are {PARTITIONS_MAX} partitions already; heal some")
        number = next(self._numbers)
        self.partitions[number] = Partition(islands, rest)
        self._ports.wiring.part(self.partitions[number])
        return number

    def heal(self, number: int) -> None:
        """Undo a partition. Raises InputError if there is none of that number."""
        if number not in self.partitions:
            numbers = ", ".join(map(str, self.partitions)) or "none"
            raise MissingError(f"there is no partition {number}; there are {numbers}")
        self._ports.wiring.heal(self.partitions.pop(number))

    def check_known(self, names: Iterable[str]) -> None:
        """Raises InputError for a name that neither an endpoint has nor a port."""
        ports = {port.name for port in self._ports}
        for name in names:
            if name not in self._attachments and name not in ports:
                raise self._missing(name)

    def _port(self, name: str) -> SwitchPort:
        port = self._ports.named(name)
        if port is None:
            raise self._missing(name)
        return port

    def _missing(self, name: str) -> MissingError:
        known = ", ".join(dict.fromkeys([*self._attachments, *(port.name for port in self._ports)])) or "none"
        return MissingError(f"there is no port {name!r}; there are {known}")
