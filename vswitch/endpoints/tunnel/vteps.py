"""The other ends of a VXLAN segment (VTEPs). Each is a port: the switch's own MAC table says what is behind which.

Those of `remote=` stay. One that is learned goes when it has been silent for too long.
"""

import os
import socket
from collections.abc import Callable
from typing import Any

import trio

from vswitch.dataplane.frame import HEADER
from vswitch.dataplane.tunnel import Encapsulation, TunnelLink, TunnelSocket
from vswitch.endpoints import inet
from vswitch.endpoints.tunnel import sockets
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError
from vswitch.ports.partition import SplitHorizon
from vswitch.ports.port import SwitchPort, now_ms
from vswitch.ports.ports import Ports

MET_MAX = 8  # strangers of one batch that are looked at: that takes as long as many frames


class Vteps:
    """Those of one endpoint, which are sent to by the sockets `outs`."""

    def __init__(
        self,
        ports: Ports,
        name: str,
        config: Callable[[], EndpointConfig],
        encapsulation: Encapsulation,
        outs: list[socket.socket],
        turn_away: Callable[[str, str], None],
    ) -> None:
        self._links: dict[bytes, TunnelLink] = {}  # by key, as the data plane has them
        self._shared: list[TunnelSocket] = []
        self._ports = ports
        self._name = name
        self._config = config
        self._encapsulation = encapsulation
        self._outs = outs
        self._turn_away = turn_away
        self._port_of: dict[bytes, SwitchPort] = {}  # by key
        self._heard: dict[bytes, tuple[int, float]] = {}  # of those that were learned: frames, and since when
        self._horizon = SplitHorizon(name)
        self._segments = sockets.can_segment(outs[0])
        ports.wiring.part(self._horizon)

    @property
    def _any_port(self) -> bool:
        """Whether an address is known by its host alone; who sends from any port is answered at the usual one."""
        return not self._config().tunnel.vxvde

    def listen(self, sock: socket.socket) -> None:
        """Take in what comes by a socket. Raises OSError."""
        self._shared.append(
            self._ports.shared.share_tunnel(sock, self._meet, self._encapsulation, self._links, any_port=self._any_port)
        )

    def close(self) -> None:
        """Take all ports out, and stop listening."""
        for port in [port for port in self._ports if port.endpoint == self._name]:
            self._ports.remove(port)
        self._ports.wiring.heal(self._horizon)
        for shared in self._shared:
            self._ports.shared.unshare(shared)

    def add(self, family: int, address: Any, text: str) -> None:
        """A port for an address that is known; itself called as the endpoint is if it is the only one, or a group's.

        Raises InputError, OSError.
        """
        name = sockets.sockaddr(family, address)
        if self._config().listens and not self._config().tunnel.mcast:
            port = self._ports.add_numbered(self._name, self._config())
        else:
            port = self._ports.add(self._name, self._name, self._config())
        self._plug(port, sockets.key(name, any_port=self._any_port), name, text)

    async def age(self) -> None:
        """Take ports from those that were learned and are silent, until cancelled."""
        while True:
            config = self._config()
            for key, (frames, since_s) in list(self._heard.items()):
                now_s = trio.current_time()
                port = self._port_of[key]
                if port.port.rx_frames != frames:
                    self._heard[key] = (port.port.rx_frames, now_s)
                elif now_s - since_s >= config.idle:
                    self._ports.links.unplug(port, f"silent for {config.idle:g} s")
                    self._forget(key)
            await trio.sleep(config.idle / 4)

    def _meet(self, strangers: list[tuple[bytes, bytes]]) -> None:
        """Frames from addresses that have no port: give them one, or count them."""
        asked: dict[bytes, SwitchPort | None] = {}
        for name, frame in strangers:
            key = sockets.key(name, any_port=self._any_port)
            if key not in asked and len(asked) < MET_MAX and len(frame) >= HEADER:
                asked[key] = self._port_of.get(key) or self._learn(key, name)
            port = asked.get(key)
            if port is None:
                self._ports.bridge.stranger(len(frame))
            else:
                self._shared[0].inject(port.port, frame, now_ms())

    def _learn(self, key: bytes, name: bytes) -> SwitchPort | None:
        config = self._config()
        family, address = sockets.address_of(name)
        why_not = ""
        if not config.tunnel.learn and not config.tunnel.mcast:
            why_not = "not a remote end (learn lets others in)"
        elif len(self._heard) >= config.limit:
            why_not = f"there are {config.limit} peers already (limit=)"
        else:
            if self._any_port:
                address = (address[0], config.port, *address[2:])
            try:
                port = self._ports.add_numbered(self._name, config)
                port.port.takes_floods = not config.tunnel.mcast  # the group has what is for all
                self._plug(port, key, sockets.sockaddr(family, address), inet.text(address))
                self._heard[key] = (0, trio.current_time())
                return port
            except OSError as error:
                why_not = os.strerror(error.errno or 0)
            except InputError as error:
                why_not = str(error)
        self._turn_away(inet.text(address), why_not)
        return None

    def _plug(self, port: SwitchPort, key: bytes, name: bytes, text: str) -> None:
        link = TunnelLink(self._links, key, name, self._outs, self._encapsulation, port.port, self._ports.bridge)
        if not self._segments:
            link.segment_max = 0
        try:
            self._ports.links.plug(port, link, text, lambda: self._forget(key), is_guest=False, is_uplink=True)
        except OSError:
            link.close()
            self._ports.remove(port)
            raise
        self._port_of[key] = port

    def _forget(self, key: bytes) -> None:
        self._heard.pop(key, None)
        self._ports.remove(self._port_of.pop(key))
