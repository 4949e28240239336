"""A user network behind one stream of frames: who gets which frame, and the answers to all that is not for the NAT."""

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address

from vswitch.protocols import dhcp, inet, tftp
from vswitch.protocols.inet import Arp, Datagram
from vswitch.services.user_network.dhcp_server import ALL, DhcpServer
from vswitch.services.user_network.folder import Folder
from vswitch.services.user_network.forwards import Forwards, Served
from vswitch.services.user_network.leases import Lease, Leases
from vswitch.services.user_network.names import Names
from vswitch.services.user_network.nat import Nat
from vswitch.services.user_network.settings import Settings
from vswitch.services.user_network.slirp import Library
from vswitch.services.user_network.tftp_server import Peer, TftpServer
from vswitch.services.user_network.upstream import Upstream

DNS_PORT = 53
DNS_HEADER = 12
COMPLAINT_MAX = 500
ASKED_MAX = 256  # DHCP messages that wait for the switch to say which port they came in at


class Network:
    """`send` takes frames for the switch. `ask` asks the switch behind which port a station is: it answers by `found`.
    `tell` takes leases as they are given, and where forwards lead; `complain` what a person is to know. `folder` is
    what guests get by TFTP."""

    def __init__(
        self,
        settings: Settings,
        library: Library,
        *,
        send: Callable[[bytes], None],
        ask: Callable[[str], None],
        tell: Callable[[Lease | Served], None],
        complain: Callable[[str], None],
        folder: Folder | None = None,
    ) -> None:
        self.settings = settings
        self.drops: Counter[str] = Counter()
        self.upstream = Upstream(settings.resolv_conf)
        pool = _pool(settings)
        self.leases = Leases(pool, settings.lease_s, settings.reserve, settings.leases)
        self.names = Names(settings.domainname, settings.host, self.leases)
        self._dhcp = DhcpServer(settings, self.leases, self.names)
        self.nat = Nat(settings, library, self.leases, send=send, came=self._came)
        self.forwards = Forwards(self.nat, self.leases, tell)
        payload_max = settings.mtu - inet.UDP_OVERHEAD
        self._tftp = None if folder is None else TftpServer(folder, payload_max=payload_max, send=self._say_tftp)
        self._send, self._ask, self._tell, self._complain = send, ask, tell, complain
        self._asked: dict[str, list[dhcp.Message]] = {}  # by MAC address
        self._own = {settings.host.packed, settings.dns.packed}

    def receive(self, frame: bytes, now_s: float) -> None:
        """A frame from the switch. Whatever it is, it is served, or dropped and counted."""
        try:
            self._receive(frame, now_s)
        except Exception as error:  # a fault of ours, which is to hit nobody else
            self._drop("failed")
            self._complain(f"a frame was dropped: {type(error).__name__}: {error}"[:COMPLAINT_MAX])

    def _receive(self, frame: bytes, now_s: float) -> None:
        if len(frame) < 14:
            return self._drop("short")
        if frame[:6] != self.settings.mac and not frame[0] & 1:
            return None  # flooded: another's
        kind = inet.ethertype(frame)
        if kind == inet.IPV4:
            return self._ipv4(frame, now_s)
        if kind == inet.ARP:
            return self._arp(frame)
        return self._drop("protocol")

    def found(self, mac: str, port: str, now_s: float) -> None:
        """The switch says behind which port a station is; empty if it is behind none, or may have no lease there."""
        for message in self._asked.pop(mac, []):
            answer = self._dhcp.answer(message, port, now_s) if port else None
            if answer is None:
                continue
            self._say_dhcp(message, answer.payload, answer.to)
            if answer.lease is not None:
                self._tell(answer.lease)
                self.forwards.leased(message.mac, answer.lease, now_s)

    @property
    def due_s(self) -> float | None:
        """When `tick` is needed; None if it is not."""
        return None if self._tftp is None else self._tftp.due_s

    def tick(self, now_s: float) -> None:
        if self._tftp is not None:
            self._tftp.tick(now_s)

    def close(self) -> None:
        if self._tftp is not None:
            self._tftp.close()
        self.forwards.close()
        self.nat.close()
        self.upstream.close()

    def _came(self, mac: bytes, ip: IPv4Address, now_s: float) -> None:
        self.forwards.came(mac, ip, now_s)

    def _ipv4(self, frame: bytes, now_s: float) -> None:
        if len(frame) < inet.IPV4_HEADER_END or frame[14] >> 4 != 4:
            return self._drop("malformed")
        if frame[23] == inet.UDP and (frame[0] & 1 or frame[30:34] in self._own):
            datagram = inet.read_udp(frame)
            if datagram is None:
                return self._drop("malformed")
            if datagram.target_port == dhcp.SERVER_PORT:
                return self._dhcp_message(datagram, frame[6:12])
            if datagram.target_port == DNS_PORT and datagram.target == self.settings.dns:
                return self._query(datagram, frame[6:12], now_s)
            if self._tftp is not None and datagram.target == self.settings.host:
                peer = Peer(frame[6:12], datagram.source, datagram.source_port, datagram.target_port)
                if datagram.target_port == tftp.PORT or peer in self._tftp:
                    return None if self._tftp.receive(peer, datagram.payload, now_s) else self._drop("malformed")
        if frame[0] & 1:
            return None
        if reason := self.nat.put(frame, now_s):
            self._drop(reason)
        return None

    def _arp(self, frame: bytes) -> None:
        asked = inet.read_arp(frame)
        if asked is None:
            return self._drop("malformed")
        if (
            asked.operation != inet.ARP_REQUEST
            or asked.target.packed not in self._own
            or asked.sender.packed in self._own
        ):
            return None
        mac = self.settings.mac
        answer = Arp(inet.ARP_REPLY, mac, asked.target, asked.sender_mac, asked.sender)
        return self._send(inet.arp(answer, frame[6:12]))

    def _dhcp_message(self, datagram: Datagram, mac: bytes) -> None:
        message = dhcp.read(datagram.payload) if self.settings.dhcp else None
        if message is None or message.mac != mac:
            return self._drop("malformed")
        station = mac.hex(":")
        waiting = self._asked.setdefault(station, [])
        if not waiting:
            if len(self._asked) > ASKED_MAX:
                del self._asked[station]
                return self._drop("crowded")
            self._ask(station)
        waiting[:] = [message]  # the last one counts
        return None

    def _say_dhcp(self, message: dhcp.Message, payload: bytes, to: IPv4Address) -> None:
        datagram = Datagram(self.settings.host, dhcp.SERVER_PORT, to, dhcp.CLIENT_PORT, payload)
        self._send(inet.udp(datagram, inet.BROADCAST if to == ALL else message.mac, self.settings.mac))

    def _say_tftp(self, peer: Peer, payload: bytes) -> None:
        datagram = Datagram(self.settings.host, peer.server_port, peer.ip, peer.port, payload)
        self._send(inet.udp(datagram, peer.mac, self.settings.mac))

    def _query(self, datagram: Datagram, mac: bytes, now_s: float) -> None:
        def say(response: bytes) -> None:
            if len(response) > self.settings.mtu - inet.UDP_OVERHEAD:
                response = truncated(response)
            back = Datagram(self.settings.dns, DNS_PORT, datagram.source, datagram.source_port, response)
            self._send(inet.udp(back, mac, self.settings.mac))

        try:
            response = self.names.answer(datagram.payload, now_s)
        except ValueError:
            return self._drop("malformed")
        if response is not None:
            return say(response)
        if self.settings.restrict:
            return self._drop("restricted")
        return None if self.upstream.ask(datagram.payload, mac, say, now_s) else self._drop("crowded")

    def _drop(self, reason: str) -> None:
        self.drops[reason] += 1


def truncated(response: bytes) -> bytes:
    """The header and the question of a DNS response, saying that there is more (RFC 1035, 4.1.1): ask by TCP."""
    end = DNS_HEADER
    while end < len(response) and response[end]:
        end += 1 + response[end]
    header = response[:2] + bytes([response[2] | 2, response[3], 0, 1]) + bytes(6)
    return header + response[DNS_HEADER : end + 5]


def _pool(settings: Settings) -> list[IPv4Address]:
    """The addresses that are given out: from `dhcpstart` to the end of the network."""
    last = int(settings.network.broadcast_address)
    own = {settings.host, settings.dns}
    return [ip for number in range(int(settings.dhcpstart), last) if (ip := IPv4Address(number)) not in own]
