"""A user network behind one stream of frames: who gets which frame, and the answers to all that is not for the NAT."""

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from vswitch.protocols import dhcp, dns, inet, inet6
from vswitch.protocols.inet import Arp, Datagram
from vswitch.services.user_network import counters
from vswitch.services.user_network import packet as packets
from vswitch.services.user_network.counters import Reason, Service
from vswitch.services.user_network.denials import Denial
from vswitch.services.user_network.dhcp_server import ALL, DhcpServer
from vswitch.services.user_network.egress import Egress
from vswitch.services.user_network.egress_rules import Rules
from vswitch.services.user_network.folder import Folder
from vswitch.services.user_network.forwards import Forwards, Served
from vswitch.services.user_network.fragments import Fragments
from vswitch.services.user_network.gateway import Gateway
from vswitch.services.user_network.guest_forwards import GuestForwards
from vswitch.services.user_network.leases import Lease, Leases
from vswitch.services.user_network.name_server import NameServer
from vswitch.services.user_network.names import Names, label
from vswitch.services.user_network.nat import Nat
from vswitch.services.user_network.neighbors import Neighbors
from vswitch.services.user_network.other_servers import OtherServer, OtherServers
from vswitch.services.user_network.packet import Packet
from vswitch.services.user_network.router6 import Router6
from vswitch.services.user_network.settings import Address, Found, Server, Settings
from vswitch.services.user_network.slirp import Library

COMPLAINT_MAX = 500
_IPV4, _UDP = inet.IPV4.to_bytes(2), bytes([inet.UDP])  # where a frame has them
NOBODY = b""  # in place of a MAC address
ASKED_S = 10.0  # an answer that takes longer does not come any more
ASKED_MAX = 256  # DHCP messages that wait for the switch to say which port they came in at


class _Asked(NamedTuple):
    """A DHCP message, the name in it, and when the switch was asked about them."""

    message: dhcp.Message
    name: str
    at_s: float


class Network:
    """`send` takes frames for the switch. `ask` asks the switch behind which port a station is, and
    whether it may have a name: it answers by `found`.
    `tell` takes leases as they are given, where forwards lead, other DHCP servers, and what guests may not reach;
    `complain` what a person is to know. `folder` is what guests get by TFTP. `hand_over` takes connections to servers
    that are not there."""

    def __init__(
        self,
        settings: Settings,
        library: Library,
        *,
        send: Callable[[bytes], None],
        ask: Callable[[str, str], None],
        tell: Callable[[Lease | Served | OtherServer | Denial], None],
        complain: Callable[[str], None],
        folder: Folder | None = None,
        hand_over: Callable[[int, socket.socket], None] = lambda number, connection: None,
    ) -> None:
        self.settings = settings
        self.served: Counter[Service] = Counter()
        pool = _pool(settings)
        self.leases = Leases(pool, settings.lease_s, settings.reserve, settings.leases)
        self._fragments = Fragments(self._drop)
        self.neighbors = Neighbors(settings.network6, self._has_lease)
        self.names = Names(settings, self.leases, self.neighbors)
        self._dhcp = DhcpServer(settings, self.leases, self.names)
        self._other_servers = OtherServers(settings.host, settings.mac, tell)
        self.name_server = NameServer(settings, self.names, drop=self._drop, count=self._count)
        self.guest_forwards = GuestForwards()
        for number, server in enumerate(settings.servers):
            self.guest_forwards.add(server, partial(_hand_over, hand_over, number))
        for server in _name_servers(settings):
            with suppress(OSError):  # there is no IPv6: by UDP, then
                self.guest_forwards.add(server, self.name_server.connected)
        self.nat = Nat(settings, library, self.leases, self.guest_forwards, send=send, came=self._came)
        self.forwards = Forwards(self.nat, self.leases, self.neighbors, tell)
        self.gateway = Gateway(settings, self.name_server, send=send, drop=self._drop, count=self._count, folder=folder)
        self._router6 = Router6(settings, send=send, learn=self._learn, count=self._count)
        self._send, self._ask, self._tell, self._complain = send, ask, tell, complain
        self._hand_over = hand_over
        self.set_rules(Rules(settings.allow, settings.deny))
        self._asked: dict[str, _Asked] = {}  # by MAC address, the oldest first
        self._own = {ip.packed for ip in (settings.host, settings.dns, settings.host6, settings.dns6)}
        self._found = self._own | {ip.packed for ip in self.guest_forwards.addresses}  # by whoever looks for them

    def receive(self, frame: bytes, now_s: float) -> None:
        """A frame from the switch. Whatever it is, it is served, or dropped and counted."""
        try:
            if not self.nat.pass_on(frame):
                self._receive(frame, now_s)
        except Exception as error:
            self._failed("a frame was", frame[6:12], error)

    def _receive(self, frame: bytes, now_s: float) -> None:
        if len(frame) < 14:
            return self._drop("short", frame[6:12])
        if frame[:6] != self.settings.mac and not frame[0] & 1:
            return self._overhear(frame, now_s)
        kind = inet.ethertype(frame)
        settings = self.settings
        if kind == inet.IPV4 and settings.ipv4:
            return self._ipv4(frame, now_s)
        if kind == inet.ARP and settings.ipv4:
            return self._arp(frame)
        if kind == inet.IPV6 and settings.ipv6:
            return self._ipv6(frame, now_s)
        return self._drop("protocol", frame[6:12])

    def lose(self, frame: bytes) -> None:
        """One for a guest has not gone."""
        self._drop("queue_full", frame[:6])

    def _has_lease(self, mac: bytes) -> bool:
        return self.leases.of(mac.hex(":")) is not None

    def set_rules(self, rules: Rules) -> None:
        """Have guests reach what these say from now on."""
        egress = self.nat.egress
        if not rules.are_there:
            egress = None
        elif egress is None:
            egress = Egress(self.settings, rules, self._tell, self._has_lease)
        else:
            egress.change(rules)
        self.nat.egress = self.name_server.egress = egress

    def invent(self, number: int, server: Server) -> None:
        """From now on there is one more server that is not there, anywhere."""
        try:
            self.guest_forwards.add(server, partial(_hand_over, self._hand_over, number))
        except OSError as error:
            self._complain(f"nobody serves at {server.ip}, port {server.port}: {error.strerror}")

    def found(self, found: Found, now_s: float) -> None:
        """The switch says behind which port a station is."""
        asked = self._asked.get(found.mac)
        if asked is None or asked.name != found.name:  # it has said something else since
            return
        del self._asked[found.mac]
        message, name = asked.message, asked.name
        answer = self._dhcp.answer(message, found.port, "" if found.is_taken else name, now_s) if found.port else None
        if answer is None:
            return
        self._count("dhcp")
        self._say_dhcp(message, answer.payload, answer.to)
        if answer.lease is not None:
            self._tell(answer.lease)
            self.forwards.leased(message.mac, answer.lease, now_s)

    @property
    def due_s(self) -> float | None:
        """When `tick` is needed; None if it is not."""
        due = [self.gateway.due_s, self._router6.due_s if self.settings.ipv6 else None]
        return min((due_s for due_s in due if due_s is not None), default=None)

    @property
    def wanted(self) -> dict[int, int]:
        """What to wait for beside the stacks, by descriptor."""
        return self.name_server.wanted | self.guest_forwards.wanted

    def serve(self, ready: dict[int, int], now_s: float) -> None:
        """What has happened to these. Connections come last, as they take numbers that may just have become free."""
        try:
            self.name_server.serve(ready, now_s)
            self.guest_forwards.serve(ready, self.nat.owner_of, now_s)
        except Exception as error:
            self._failed("what has come was", NOBODY, error)

    def tick(self, now_s: float) -> None:
        self.nat.tick(now_s)
        self._fragments.expire(now_s)
        self.name_server.tick(now_s)
        self.gateway.tick(now_s)
        if self.settings.ipv6:
            self._router6.tick(now_s)
            self.neighbors.tick(now_s)

    @property
    def drops(self) -> Counter[Reason]:
        """Of all stations together."""
        return sum((known.traffic.drops for known in self.nat.known), self.nat.others.drops)

    def counted(self, number: int) -> Iterator[list[object]]:
        """The words that answer what is counted."""
        return counters.words(number, self.nat.known, self.nat.others, self.served)

    def close(self) -> None:
        self.forwards.close()
        self.nat.close()
        self.guest_forwards.close()
        self.gateway.close()
        self.name_server.close()

    def _came(self, mac: bytes, ip: Address, now_s: float) -> None:
        if isinstance(ip, IPv6Address):
            self._learn(mac, ip, True, now_s)
        else:
            self.forwards.came(mac, ip, now_s)

    def _ipv4(self, frame: bytes, now_s: float) -> None:
        packet, mac = packets.read4(frame), frame[6:12]
        if packet is None:
            return self._drop("malformed", mac)
        is_group = frame[0] & 1
        if packet.is_fragment:
            if is_group:  # none that is served is so long
                return None
            whole = self._fragments.put(frame, packet.at, now_s)
            return self._ipv4(whole, now_s) if whole else None
        if packet.protocol == inet.UDP and (is_group or packet.target in self._own):
            datagram = inet.read_udp(frame)
            if datagram is None:
                return self._drop("malformed", mac)
            if datagram.target_port == dhcp.SERVER_PORT:
                return self._dhcp_message(datagram, mac, now_s)
            if self.settings.dhcp:
                self._other_servers.answered(datagram, mac, now_s)
            if self.gateway.serve(datagram, mac, now_s):
                return None
        return None if is_group else self._translate(frame, packet, now_s)

    def _ipv6(self, frame: bytes, now_s: float) -> None:
        packet, mac = packets.read6(frame), frame[6:12]
        if packet is None:
            return self._drop("malformed", mac)
        is_group = frame[0] & 1
        if packet.protocol == inet6.ICMPV6:
            is_well_formed = self._router6.hear(frame, now_s)
            if is_well_formed is not None:
                return None if is_well_formed else self._drop("malformed", mac)
        elif packet.protocol == inet.UDP and (is_group or packet.target in self._own):
            datagram = inet6.read_udp6(frame)
            if datagram is None:
                return self._drop("malformed", mac)
            if self._router6.dhcp(datagram, mac) or self.gateway.serve(datagram, mac, now_s):
                return None
        elif packet.protocol not in (packets.TCP, inet.UDP) and not is_group:
            return self._drop("protocol", mac)
        return None if is_group else self._translate(frame, packet, now_s)

    def _translate(self, frame: bytes, packet: Packet, now_s: float) -> None:
        if reason := self.nat.put(frame, packet, now_s):
            self._drop(reason, frame[6:12])

    def _learn(self, mac: bytes, ip: IPv6Address, is_used: bool, now_s: float) -> None:
        if ip.packed not in self._found and self.neighbors.learn(mac, ip, now_s, is_used=is_used):
            self.forwards.came(mac, ip, now_s)

    def _arp(self, frame: bytes) -> None:
        asked = inet.read_arp(frame)
        if asked is None:
            return self._drop("malformed", frame[6:12])
        if (
            asked.operation != inet.ARP_REQUEST
            or asked.target.packed not in self._found
            or asked.sender.packed in self._found
        ):
            return None
        mac = self.settings.mac
        answer = Arp(inet.ARP_REPLY, mac, asked.target, asked.sender_mac, asked.sender)
        return self._send(inet.arp(answer, frame[6:12]))

    def _overhear(self, frame: bytes, now_s: float) -> None:
        """What is for another station, and has been flooded."""
        if self.settings.dhcp and frame[12:14] == _IPV4 and frame[23:24] == _UDP:
            datagram = inet.read_udp(frame)
            if datagram is not None:
                self._other_servers.answered(datagram, frame[6:12], now_s)

    def _dhcp_message(self, datagram: Datagram, mac: bytes, now_s: float) -> None:
        message = dhcp.read(datagram.payload) if self.settings.dhcp else None
        if message is None or message.mac != mac:
            return self._drop("malformed", mac)
        self._other_servers.chosen(message, now_s)
        station, name = mac.hex(":"), next(filter(None, map(label, message.names)), self.settings.hostname)
        before = self._asked.get(station)
        if before is not None and before.name == name and now_s - before.at_s < ASKED_S:
            self._asked[station] = _Asked(message, name, before.at_s)  # the last message counts
            return None
        oldest = next(iter(self._asked.items()), None)
        if oldest is not None and now_s - oldest[1].at_s >= ASKED_S:
            del self._asked[oldest[0]]
        if station not in self._asked and len(self._asked) >= ASKED_MAX:
            return self._drop("crowded", mac)
        self._asked.pop(station, None)
        self._asked[station] = _Asked(message, name, now_s)
        return self._ask(station, name)

    def _say_dhcp(self, message: dhcp.Message, payload: bytes, to: IPv4Address) -> None:
        datagram = Datagram(self.settings.host, dhcp.SERVER_PORT, to, dhcp.CLIENT_PORT, payload)
        self._send(inet.udp(datagram, inet.BROADCAST if to == ALL else message.mac, self.settings.mac))

    def _failed(self, what: str, mac: bytes, error: Exception) -> None:
        """A fault of ours, which is to hit nobody else."""
        self._drop("failed", mac)
        self._complain(f"{what} dropped: {type(error).__name__}: {error}"[:COMPLAINT_MAX])

    def _count(self, service: Service) -> None:
        self.served[service] += 1

    def _drop(self, reason: Reason, mac: bytes) -> None:
        self.nat.traffic_of(mac).drops[reason] += 1


def _name_servers(settings: Settings) -> Iterator[Server]:
    """Where guests find it by TCP."""
    for is_there, ip in ((settings.ipv4, settings.dns), (settings.ipv6, settings.dns6)):
        if is_there:
            yield Server(str(ip), dns.PORT)


def _hand_over(
    hand_over: Callable[[int, socket.socket], None], number: int, mac: bytes, connection: socket.socket, now_s: float
) -> None:
    hand_over(number, connection)


def _pool(settings: Settings) -> list[IPv4Address]:
    """The addresses that are given out: from `dhcpstart` to the end of the network."""
    last = int(settings.network.broadcast_address)
    own = {settings.host, settings.dns, *(server.address for server in settings.servers)}
    return [ip for number in range(int(settings.dhcpstart), last) if (ip := IPv4Address(number)) not in own]
