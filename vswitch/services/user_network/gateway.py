"""What the gateway and the name server of a user network serve over UDP, whatever the version of IP: DNS and TFTP."""

from collections.abc import Callable
from ipaddress import IPv4Address

from vswitch.protocols import dns, inet, inet6, tftp
from vswitch.protocols.inet import Datagram
from vswitch.services.user_network.counters import Reason, Service
from vswitch.services.user_network.folder import Folder
from vswitch.services.user_network.name_server import NameServer
from vswitch.services.user_network.settings import Settings
from vswitch.services.user_network.tftp_server import Peer, TftpServer


class Gateway:
    """`send` takes frames for the switch, `drop` why something of a station is dropped, `count` what was served."""

    def __init__(
        self,
        settings: Settings,
        name_server: NameServer,
        *,
        send: Callable[[bytes], None],
        drop: Callable[[Reason, bytes], None],
        count: Callable[[Service], None],
        folder: Folder | None,
    ) -> None:
        self._settings = settings
        self._name_server = name_server
        self._send, self._drop, self._count = send, drop, count
        overhead = inet6.UDP_OVERHEAD if settings.ipv6 else inet.UDP_OVERHEAD
        self._payload_max = settings.mtu - overhead
        self._tftp = None
        if folder is not None:
            self._tftp = TftpServer(folder, payload_max=self._payload_max, send=self._say_tftp)

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

    def serve(self, datagram: Datagram, mac: bytes, now_s: float) -> bool:
        """Answers whether a datagram is for what is served here."""
        if datagram.target_port == dns.PORT and datagram.target in (self._settings.dns, self._settings.dns6):
            self._query(datagram, mac, now_s)
            return True
        if self._tftp is None or datagram.target not in (self._settings.host, self._settings.host6):
            return False
        peer = Peer(mac, datagram.source, datagram.source_port, datagram.target_port)
        if datagram.target_port != tftp.PORT and peer not in self._tftp:
            return False
        if not self._tftp.receive(peer, datagram.payload, now_s):
            self._drop("malformed", mac)
        elif datagram.target_port == tftp.PORT:
            self._count("tftp")
        return True

    def _query(self, datagram: Datagram, mac: bytes, now_s: float) -> None:
        def say(response: bytes) -> None:
            if len(response) > self._payload_max:
                response = dns.truncated(response)
            back = Datagram(datagram.target, dns.PORT, datagram.source, datagram.source_port, response)
            self._say(back, mac)

        if reason := self._name_server.ask(datagram.payload, mac, say, now_s):
            self._drop(reason, mac)

    def _say_tftp(self, peer: Peer, payload: bytes) -> None:
        host = self._settings.host if isinstance(peer.ip, IPv4Address) else self._settings.host6
        self._say(Datagram(host, peer.server_port, peer.ip, peer.port, payload), peer.mac)

    def _say(self, datagram: Datagram, mac: bytes) -> None:
        write = inet.udp if isinstance(datagram.target, IPv4Address) else inet6.udp6
        self._send(write(datagram, mac, self._settings.mac))
