"""The VLANs of a VDE switch, as its console makes them and gives them to ports.

As in vde_switch (its port.c) they belong to a port's number. A port comes into being with its first client, or by
`port/create` for clients that ask for its number, and keeps its VLANs when clients come and go. It has one VLAN for
untagged frames, 0 at first, and any number of others that it carries tagged. Where the two differ:

- Until a VLAN is created, and after the last one is removed, a port has the VLANs of the endpoint's URL, which are all
  if it says nothing. In vde_switch it is in VLAN 0 from the start, and drops tagged frames.
- VLAN 0 is what the rest of this switch calls VLAN 1, so there is no VLAN 1 beside it. No port carries it tagged: a tag
  with VID 0 says a frame's priority and no VLAN (IEEE 802.1Q 9.6), and the frame counts as untagged.
- A port without tagged VLANs drops what has a VLAN's tag. vde_switch takes the tag of the port's untagged VLAN there.
- VLAN 4094 can be created, and VLAN 0 cannot be removed, which vde_switch does not survive.

These are values: a change makes another one, and the one before is still there if the ports cannot have it.
"""

from collections.abc import Collection, Mapping
from itertools import count
from typing import NamedTuple

import msgspec

from vswitch.dataplane.frame import VLAN_DEFAULT
from vswitch.endpoints.policy import Policy

NO_VLAN = 4095  # as a port's VLAN for untagged frames: it neither takes nor sends any


class VdePort(NamedTuple):
    """What a port has, whoever is plugged in."""

    untagged: int = 0
    vlans: frozenset[int] = frozenset({0})  # all that it carries: `untagged`, and the tagged ones
    reserved: bool = False  # for clients that ask for it by its number

    def with_untagged(self, vlan: int) -> "VdePort":
        return self._replace(untagged=vlan, vlans=self.vlans - {self.untagged} | {vlan} - {NO_VLAN})


class VdeVlans(NamedTuple):
    """The VLANs that there are, and the ports by number."""

    created: frozenset[int] = frozenset({0})
    ports: Mapping[int, VdePort] = {}

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
        untagged = None if port.untagged == NO_VLAN else port.untagged or VLAN_DEFAULT
        tagged = tuple(sorted(port.vlans - {port.untagged}))
        if tagged or untagged is None:
            return msgspec.structs.replace(current, vlan=None, trunk=tagged, native=untagged, qinq=None)
        return msgspec.structs.replace(current, vlan=untagged, trunk=None, native=None, qinq=None)

    def _port(self, number: int) -> VdePort:
        return self.ports.get(number, VdePort())
