"""The VLANs of a VDE switch, as its console makes them and gives them to ports.

As in vde_switch (its port.c) they belong to a port's number. A port comes into being with its first client, or by
`port/create` for clients that ask for its number, and keeps its VLANs when clients come and go. It has one VLAN for
untagged frames, 0 at first, and any number of others that it carries tagged. VLAN 0 is one like others, whose tag has
VID 0. Where the two differ:

- Until a VLAN is created, and after the last one is removed, a port has the VLANs of the endpoint's URL, which are all
  if it says nothing. In vde_switch it is in VLAN 0 from the start, and drops tagged frames.
- Where there may be ports of other endpoints, VLAN 0 is VLAN 1 of the rest of the switch, so that their stations stay
  in reach, until the console has a VLAN 1 of its own. There a port without tagged VLANs drops what has a VLAN's tag;
  vde_switch, and ours when it is `alone`, take the tag of the port's untagged VLAN.
- On a port that does not carry VLAN 0, a tag with VID 0 says a frame's priority and no VLAN (IEEE 802.1Q 9.6), and the
  frame counts as untagged. vde_switch drops it.
- VLAN 4094 can be created, and VLAN 0 cannot be removed, which vde_switch does not survive.

These are values: a change makes another one, and the one before is still there if the ports cannot have it.
"""

from collections.abc import Collection, Mapping
from itertools import count
from typing import NamedTuple

import msgspec

from vswitch.dataplane.frame import VLAN_DEFAULT
from vswitch.ports.policy import Policy, shown_vlan, table_vlan

NO_VLAN = 4095  # as a port's VLAN for untagged frames: it neither takes nor sends any


class Holder(NamedTuple):
    """Whose a port is: a user or a group, by number and name."""

    number: int
    name: str


ANYBODY = Holder(-1, "NONE")


class VdePort(NamedTuple):
    """What a port has, whoever is plugged in."""

    untagged: int = 0
    vlans: frozenset[int] = frozenset({0})  # all that it carries: `untagged`, and the tagged ones
    reserved: bool = False  # for clients that ask for it by its number
    user: Holder = ANYBODY  # who, beside root, may plug in; or who is in this group
    group: Holder = ANYBODY

    def with_untagged(self, vlan: int) -> "VdePort":
        return self._replace(untagged=vlan, vlans=self.vlans - {self.untagged} | {vlan} - {NO_VLAN})

    def admits(self, uid: int, groups: Collection[int]) -> bool:
        """Whether a user who is in some groups may plug in."""
        open_to_all = self.user == self.group == ANYBODY
        return open_to_all or uid in (0, self.user.number) or self.group.number in groups


class VdeVlans(NamedTuple):
    """The VLANs that there are, and the ports by number. `alone`: all ports of the switch are the console's."""

    created: frozenset[int] = frozenset({0})
    ports: Mapping[int, VdePort] = {}
    alone: bool = False

    def with_port(self, number: int, port: VdePort) -> "VdeVlans":
        return self._replace(ports={**self.ports, number: port})

    def without_port(self, number: int) -> "VdeVlans":
        return self._replace(ports={known: port for known, port in self.ports.items() if known != number})

    def lowest_free(self, taken: Collection[int]) -> int:
        """The number for a client that asks for none, when some are taken."""
        return next(number for number in count(1) if number not in taken and not self._port(number).reserved)

    def policy(self, number: int, current: Policy, given: Policy) -> Policy:
        """The `current` policy of a port with the VLANs that it has here, or else with the URL's, those of `given`."""
        port = self._port(number)
        if port.untagged == 0 and self.created == {0}:
            vlan, trunk, native, qinq = given.vlan, given.trunk, given.native, given.qinq
            return msgspec.structs.replace(current, vlan=vlan, trunk=trunk, native=native, qinq=qinq)
        untagged = None if port.untagged == NO_VLAN else port.untagged or self._zero
        tagged = tuple(sorted(vlan or self._zero for vlan in port.vlans - {port.untagged}))
        if untagged and not tagged and not self.alone:
            return msgspec.structs.replace(current, vlan=untagged, trunk=None, native=None, qinq=None)
        return msgspec.structs.replace(current, vlan=None, trunk=tagged, native=untagged, qinq=None)

    def in_table(self, vlan: int) -> int:
        """A VLAN as the MAC table has it."""
        return table_vlan(vlan or self._zero)

    def shown(self, vlan: int) -> int:
        """The VLAN that the MAC table has under a number."""
        return 0 if vlan == table_vlan(self._zero) else shown_vlan(vlan)

    @property
    def _zero(self) -> int:
        """The VLAN of a port's policy that VLAN 0 is."""
        own = VLAN_DEFAULT in self.created or (self.alone and self.created != {0})
        return 0 if own else VLAN_DEFAULT

    def _port(self, number: int) -> VdePort:
        return self.ports.get(number, VdePort())
