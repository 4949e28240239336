"""A VDE endpoint, as its console knows it: ports, VLANs, and who is plugged in."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from vswitch.endpoints.url import EndpointConfig
from vswitch.endpoints.vde.vlans import VdeVlans
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports


class VdePeer(NamedTuple):
    """One client that is plugged in, or a TAP device. Without `unplug` only its own end can unplug it."""

    number: int  # of its port, from 1
    user: str  # whose it is: a name, or a number in digits
    description: str  # the client's own words, any text
    port: SwitchPort
    module: str = "unix prog"
    unplug: Callable[[], None] | None = None


class Managed(Protocol):
    """`started_s` is when it began to serve, by trio's clock."""

    config: EndpointConfig
    ports: Ports
    vlans: VdeVlans
    started_s: float

    def peers(self) -> Sequence[VdePeer]:
        """Who is plugged in, by port number."""
        ...
