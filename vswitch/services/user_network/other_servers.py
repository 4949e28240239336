"""Other DHCP servers in the LAN, by what is heard of them: answers that are broadcast or flooded, and clients that have
chosen one (RFC 2131, 4.3.2). Any station can forge either, so they are told seldom. Sans-IO; time is an argument.
"""

from collections.abc import Callable
from ipaddress import IPv4Address

import msgspec

from vswitch.protocols import dhcp
from vswitch.protocols.inet import Datagram
from vswitch.seldom import Seldom

MOST, AGAIN_S = 32, 600.0


class OtherServer(msgspec.Struct, frozen=True):
    """What the switch is told. Without a MAC address it is known only from who has chosen it."""

    ip: IPv4Address
    mac: str = ""


class OtherServers:
    """All but the one at `host`, which is `mac`."""

    def __init__(self, host: IPv4Address, mac: bytes, tell: Callable[[OtherServer], None]) -> None:
        self._host, self._mac = host, mac
        self._tell = tell
        self._seldom = Seldom(MOST, AGAIN_S)

    def answered(self, datagram: Datagram, mac: bytes, now_s: float) -> None:
        """A datagram from a station, which may be a server's answer to a client."""
        if mac == self._mac or datagram.source_port != dhcp.SERVER_PORT or mac[0] & 1:
            return
        ip = dhcp.answering_server(datagram.payload)
        if ip is None or not _is_a_stations(ip):
            return
        server = OtherServer(ip, mac.hex(":"))
        is_new = self._seldom.may(f"{ip} {server.mac}", now_s)
        self._seldom.may(str(ip), now_s)  # that somebody has chosen it is no news then
        if is_new:
            self._tell(server)

    def chosen(self, message: dhcp.Message, now_s: float) -> None:
        """A client's message, which may be a request to another server."""
        ip = message.server
        if message.kind != dhcp.REQUEST or ip is None or ip == self._host or not _is_a_stations(ip):
            return
        if self._seldom.may(str(ip), now_s):
            self._tell(OtherServer(ip))


def _is_a_stations(ip: IPv4Address) -> bool:
    return not (ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip.is_reserved)
