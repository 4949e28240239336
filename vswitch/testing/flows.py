"""Flows that a test expects."""

from dataclasses import dataclass

from vswitch.control.model import FlowInfo
from vswitch.testing.guest import Guest
from vswitch.testing.host import ScapyHost
from vswitch.testing.stations import Station, name_of


@dataclass(frozen=True)
class Wanted:
    """A flow by the ports of its ends. `destination` None is anybody; so is None of all else."""

    source: frozenset[str]
    destination: frozenset[str] | None
    addresses: frozenset[str]  # of the destination, MAC and IP
    protocol: str | None
    service: int | None
    dropped: str | None

    def fits(self, flow: FlowInfo) -> bool:
        """A flow that was dropped reached nobody: who it was for is told by its addresses."""
        if flow.port not in self.source:
            return False
        if self.protocol is not None and flow.protocol.casefold() != self.protocol.casefold():
            return False
        if self.service not in (None, flow.service):
            return False
        if self.destination is None:
            return bool(flow.forwarded) if self.dropped is None else self.dropped in flow.drops
        reached = not self.destination.isdisjoint(flow.forwarded)
        if self.dropped is None:
            return reached
        meant = not self.addresses.isdisjoint({flow.destination, flow.destination_ip})
        return self.dropped in flow.drops and (reached or meant)


def addresses_of(station: Station) -> frozenset[str]:
    """Its MAC and IP addresses; none of what is given by name."""
    if isinstance(station, str):
        return frozenset()
    if isinstance(station, Guest):
        return frozenset(address for link in station.links for address in (link.mac, link.ip) if address)
    found = {station.mac, station.ip, *([station.ip6] if isinstance(station, ScapyHost) else [])}
    return frozenset(filter(None, found))


def described(source: Station, destination: Station | None, wanted: Wanted) -> str:
    """As a test's author would say it."""
    words = ["a flow from", name_of(source)]
    words += ["to", name_of(destination)] if destination is not None else []
    words += ["of", wanted.protocol] if wanted.protocol is not None else []
    words += ["at port", str(wanted.service)] if wanted.service is not None else []
    words += ["with drops for", wanted.dropped] if wanted.dropped is not None else []
    return " ".join(words)
