"""The IPv6 side of the gateway: neighbour discovery, router advertisements, DHCPv6 and pings (RFC 4861, 8106, 8415).

Sans-IO: a frame in, frames out; time is an argument.
"""

from collections.abc import Callable
from ipaddress import IPv6Address

from vswitch.protocols import dhcp6, inet6
from vswitch.protocols.inet import Datagram
from vswitch.protocols.inet6 import NeighborSolicitation, Router, RouterSolicitation
from vswitch.services.user_network.counters import Service
from vswitch.services.user_network.dhcp6_server import Dhcp6Server
from vswitch.services.user_network.settings import Address, Settings

ADVERTISE_S = 200.0  # between two advertisements to all, of the 600 s that there may be (RFC 4861, 6.2.1)
_ECHO_REQUEST = 128
_NEIGHBOR_DISCOVERY = range(133, 137)


class Router6:
    """`send` takes frames for the switch, `learn` which address a station has, and whether it uses it, `count` what
    was served."""

    def __init__(
        self,
        settings: Settings,
        *,
        send: Callable[[bytes], None],
        learn: Callable[[bytes, IPv6Address, bool, float], None],
        count: Callable[[Service], None],
    ) -> None:
        self._mac, self._host = settings.mac, settings.host6
        self._send, self._learn, self._count = send, learn, count
        self._link_local = inet6.link_local(settings.mac)
        servers = (server.address for server in settings.servers)
        self._own: set[Address] = {settings.host6, settings.dns6, self._link_local, *servers}
        search = (settings.domainname, *settings.dnssearch)
        self._router = Router(
            mac=settings.mac,
            prefix=settings.network6,
            mtu=settings.mtu,
            dns=(settings.dns6,),
            search=search,
            lifetime_s=0 if settings.restrict else inet6.ROUTER_LIFETIME_S,
        )
        url = f"tftp://[{settings.host6}]/{settings.bootfile}" if settings.bootfile and settings.tftp else ""
        self._dhcp = Dhcp6Server(settings.mac, settings.dns6, search, url)
        self.due_s = 0.0

    def tick(self, now_s: float) -> None:
        """Advertises itself to all, when it is time. At the beginning it asks all for a sign, too: forwards have to
        know again where guests are that it knew before it was started again. Who has just made an address of the
        advertisement answers by that."""
        if now_s >= self.due_s:
            self._send(inet6.router_advertisement(self._router))
            if not self.due_s:
                self._send(inet6.echo_request(self._host, inet6.ALL_NODES, self._mac))
            self.due_s = now_s + ADVERTISE_S

    def hear(self, frame: bytes, now_s: float) -> bool | None:
        """An ICMPv6 message in a frame with a whole header. Answers whether it was well formed; None if it is not for
        us."""
        kind = frame[inet6.HEADER_END] if len(frame) > inet6.HEADER_END else 0
        if kind in _NEIGHBOR_DISCOVERY:
            return self._discover(frame, now_s)
        if kind == _ECHO_REQUEST and frame[38:54] == self._link_local.packed:
            reply = inet6.echo_reply(frame)
            if reply is None:
                return False
            self._send(reply)
            return True
        return None

    def dhcp(self, datagram: Datagram, mac: bytes) -> bool:
        """Answers whether a datagram is DHCPv6."""
        if (datagram.target, datagram.target_port) != (dhcp6.ALL_SERVERS, dhcp6.SERVER_PORT):
            return False
        payload = self._dhcp.answer(datagram.payload)
        if payload is not None:
            back = Datagram(self._link_local, dhcp6.SERVER_PORT, datagram.source, datagram.source_port, payload)
            self._send(inet6.udp6(back, mac, self._mac))
            self._count("dhcp")
        return True

    def _discover(self, frame: bytes, now_s: float) -> bool:
        said = inet6.read_nd(frame)
        if said is None:
            return False
        self._learn(said.mac, said.source, True, now_s)
        if said.source == inet6.link_local(said.mac):  # then it makes the other one so, too, and may not say that
            self._learn(said.mac, inet6.slaac(self._router.prefix, said.mac), False, now_s)
        if isinstance(said, RouterSolicitation):
            advertisement = inet6.router_advertisement(self._router, said)
            self._send(said.mac + advertisement[6:])  # only to who asks, also if it has no address yet (RFC 6085)
        elif isinstance(said, NeighborSolicitation):
            if said.target in self._own:
                self._send(inet6.neighbor_advertisement(said.target, self._mac, said, router=True))
            elif said.source == inet6.UNSPECIFIED:  # it asks whether it may have an address (RFC 4862, 5.4)
                self._learn(said.mac, said.target, False, now_s)
        return True
