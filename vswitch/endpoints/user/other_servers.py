"""What is said of DHCP servers beside a user network's own. Its process hears of them, and is not to be trusted."""

from typing import Annotated

import msgspec
import trio

from vswitch.ports.events import Events
from vswitch.seldom import Seldom

MOST, AGAIN_S = 16, 600.0

Ip = Annotated[str, msgspec.Meta(max_length=15, pattern=r"^[0-9.]*$")]
MacOrNone = Annotated[str, msgspec.Meta(pattern="^(([0-9a-f]{2}:){5}[0-9a-f]{2})?$")]


class OtherServer(msgspec.Struct):
    """As the process tells it."""

    ip: Ip
    mac: MacOrNone


class OtherServers:
    """Of the network of a name."""

    def __init__(self, name: str, events: Events) -> None:
        self._name, self._events = name, events
        self._seldom = Seldom(MOST, AGAIN_S)

    def heard(self, server: OtherServer, port: str) -> None:
        """One answers behind a port, if it is known which."""
        if not self._seldom.may(f"{server.ip} {server.mac}", trio.current_time()):
            return
        where = f" behind {port}" if port else ""
        who = f"{server.ip} ({server.mac}{where})" if server.mac else server.ip
        text = (
            f"{self._name}: another DHCP server, {who}, answers in this LAN, and guests may get addresses from it:"
            " end it, set dhcp_server=no on its port, or dhcp=no on this network"
        )
        ports = [self._name, port] if port else [self._name]
        self._events.say("dhcp_server", self._name, text, ports=ports, mac=server.mac or None)
