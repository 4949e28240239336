"""The ports of one switch, with its data plane: what endpoints work with."""

import logging
import secrets

import trio

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.loop import Loop
from vswitch.dataplane.mac_table import MacTable
from vswitch.dataplane.port import QueuePool
from vswitch.errors import InputError
from vswitch.ports.diagnosis.silence import Newcomers
from vswitch.ports.events import Events
from vswitch.ports.links import Links
from vswitch.ports.loop_guard import LoopGuard
from vswitch.ports.port import PortConfig, SwitchPort
from vswitch.ports.registry import Registry
from vswitch.ports.shared import SharedSockets
from vswitch.ports.watchers import Watchers
from vswitch.ports.wiring import Wiring
from vswitch.supervision import Failures

log = logging.getLogger("vswitch")


class Ports(Registry):
    """All ports of one switch, and its data plane: MAC table, bridge and loop.

    `switch` is its name. `links` have peers come and go, `wiring` has policies and partitions, `shared` the sockets
    with several peers. `events` says what happens, `newcomers` are peers that have to say something soon, `loops`
    are looked for.
    `swollen` is to be set when a lot of memory was in use that may now be given back, `worked` when frames came in.
    """

    def __init__(self, *, table_size: int, ageing_s: float, hub: bool = False, switch: str = "") -> None:
        super().__init__()
        self.switch = switch
        self.table = MacTable(table_size, int(ageing_s * 1000), secrets.randbits(62))
        self.bridge = Bridge(self.table, QueuePool())
        self.bridge.hub = hub
        self.loop = Loop(self.bridge)
        self.failures = Failures()
        self.watchers = Watchers(self.bridge.journal, self.failures)
        self.wiring = Wiring(self, self.bridge, self.table, self.loop)
        self.events = Events()
        self.newcomers = Newcomers()
        self.loops = LoopGuard(self, self.bridge, self.table, self.loop, self.wiring, self.events)
        self.links = Links(self, self.loop, self.watchers, self.failures, self.events, self.newcomers, self.loops)
        self.shared = SharedSockets(self.bridge, self.loop, self.failures)
        self.swollen = trio.Event()
        self.worked = trio.Event()
        self.said: set[str] = set()  # in the log, once and for all
        self.shutdown = trio.Event()  # set by a peer that may tell the whole switch to end

    def say_once(self, message: str) -> None:
        """Log something, unless it was said before."""
        if message not in self.said:
            self.said.add(message)
            log.warning("%s", message)

    def set_ageing(self, ageing_s: float) -> None:
        """Have the MAC table forget stations that have been silent for so long."""
        self.table.ageing = int(ageing_s * 1000)

    def has_descriptor(self, fd: int) -> bool:
        """Whether a descriptor is a link's already."""
        return self.links.has_descriptor(fd) or self.shared.has_descriptor(fd)

    def add(self, name: str, endpoint: str, config: PortConfig) -> SwitchPort:
        """A new port, down until something is plugged in. Raises InputError if its name or policy cannot be had."""
        self.check_free(name)
        port = SwitchPort(name, endpoint, config, self.bridge.add_port(config.queue))
        self.enter(port)
        try:
            self.wiring.connect(port)
        except InputError as error:
            self.remove(port)
            raise InputError(f"{config.url}: {error}") from None
        self.watchers.port_added(port)
        return port

    def add_numbered(self, endpoint: str, config: PortConfig) -> SwitchPort:
        """A new port of a listener."""
        return self.add(self.next_name(endpoint), endpoint, config)

    def remove(self, port: SwitchPort) -> None:
        """Take a port out, with its link."""
        self.links.cut(port, "removed")
        self.wiring.disconnect(port)
        self.leave(port)
        self.bridge.remove_port(port.port)
        self.watchers.port_removed(port)

    def reap(self) -> None:
        """See to what a turn of the loop leaves to others."""
        self.links.reap()
        self.shared.reap()

    def close(self) -> None:
        """The end, when all ports are removed and nothing drives any more."""
        assert not len(self)
        self.loop.close()
