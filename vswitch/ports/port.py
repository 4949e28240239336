"""A port as the control side sees it: a name, an endpoint and a policy, joined to the data plane's port."""

from collections.abc import Callable
from typing import Protocol

import trio

from vswitch.dataplane.link import Link
from vswitch.dataplane.policy import EgressPolicy, IngressPolicy
from vswitch.dataplane.port import Port
from vswitch.ports.policy import Policy


class PortConfig(Protocol):
    """What is asked for with a port: by its endpoint's URL, its policy, and bytes of room in its queue."""

    @property
    def url(self) -> str: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def queue(self) -> int: ...


class SwitchPort:
    """One port: `name` is unique in the switch, `endpoint` and `url` say where it belongs.

    It has a link while a peer is plugged in, and none otherwise.
    """

    def __init__(self, name: str, endpoint: str, config: PortConfig, port: Port) -> None:
        self.name = name
        self.endpoint = endpoint
        self.url = config.url
        self.port = port
        self.policy = config.policy
        self.ingress_policy: IngressPolicy | None = None  # without what mirrors need
        self.egress_policy: EgressPolicy | None = None
        self.peer: str | None = None
        self.process: str | None = None  # of the peer, where `peer` does not say it; None while nobody has asked
        self.link: Link | None = None
        self.virtio: list[str] | None = None  # what its guest's card has agreed on, if we are its back end
        self.is_uplink = False  # a LAN of its own is likely to be behind it
        self.counted_from = (0, 0, 0, 0)  # what a VDE console that has reset the counters takes off from them
        self.on_lost: Callable[[], None] = lambda: None

    def is_one_of(self, names: tuple[str, ...]) -> bool:
        """Whether a list of ports and endpoints means this port."""
        return self.name in names or self.endpoint in names

    @property
    def up(self) -> bool:
        return self.link is not None and self.policy.up


def now_ms() -> int:
    """The time the data plane goes by: trio's clock, in milliseconds."""
    return int(trio.current_time() * 1000)
