"""The DHCP server (RFC 2131). Sans-IO: a message and where it came from in, an answer out; time is an argument."""

import struct
from ipaddress import IPv4Address

import msgspec

from vswitch.protocols import dhcp, inet6
from vswitch.services.user_network.leases import Lease, Leases
from vswitch.services.user_network.names import Names, port_label
from vswitch.services.user_network.settings import Settings

ALL = IPv4Address("255.255.255.255")
_ANY = IPv4Address(0)


class Answer(msgspec.Struct, frozen=True):
    """What is sent to a client, and the lease it has taken by this, if any."""

    payload: bytes
    to: IPv4Address  # ALL, or one
    lease: Lease | None = None


class DhcpServer:
    def __init__(self, settings: Settings, leases: Leases, names: Names) -> None:
        self._settings = settings
        self._leases = leases
        self._names = names

    def answer(self, message: dhcp.Message, port: str, name: str, now_s: float) -> Answer | None:
        """The answer to a client behind a port, if it gets one; `name` is what it may be called, if anything."""
        kind, mac = message.kind, message.mac.hex(":")
        if message.server not in (None, self._settings.host):  # it has chosen another
            return None
        if kind == dhcp.DISCOVER:
            lease = self._leases.offer(mac, port, now_s, message.wanted)
            return None if lease is None else self._say(message, dhcp.OFFER, lease)
        if kind == dhcp.REQUEST:
            return self._request(message, mac, port, name, now_s)
        # What is released is nobody else's before the lease is over: others can say so in a station's name.
        if kind == dhcp.DECLINE and message.wanted is not None:
            self._leases.decline(mac, message.wanted, now_s)
        elif kind == dhcp.INFORM and message.ciaddr in self._settings.network:
            payload = dhcp.reply(message, dhcp.ACK, _ANY, self._settings.host, self._options(message, None))
            return Answer(payload, message.ciaddr)
        return None

    def _request(self, message: dhcp.Message, mac: str, port: str, name: str, now_s: float) -> Answer | None:
        """Selecting, init-reboot, renewing and rebinding (RFC 2131, 4.3.2) differ in where the address stands."""
        wanted = message.wanted or message.ciaddr
        is_here = wanted in self._settings.network
        is_ours = message.server is not None or self._leases.of(mac) is not None
        if is_here and not is_ours and not self._leases.is_free(wanted, now_s):
            return None  # another server's client, perhaps
        lease = self._leases.offer(mac, port, now_s, wanted) if is_here else None
        if lease is None or lease.ip != wanted:
            server = self._settings.host
            payload = dhcp.reply(message, dhcp.NAK, _ANY, server, {dhcp.SERVER_ID: server.packed})
            return Answer(payload, ALL)
        self._leases.take(lease, now_s)
        lease.name = self._names.take(name or port_label(port), lease, now_s)
        return self._say(message, dhcp.ACK, lease)

    def _say(self, message: dhcp.Message, kind: int, lease: Lease) -> Answer:
        file = self._settings.bootfile.encode()
        options = self._options(message, lease)
        if len(file) > dhcp.FILE_MAX:
            options[dhcp.BOOT_FILE], file = file, b""
        payload = dhcp.reply(message, kind, lease.ip, self._settings.host, options, file)
        to = ALL if message.broadcast else lease.ip
        return Answer(payload, to, lease if kind == dhcp.ACK else None)

    def _options(self, message: dhcp.Message, lease: Lease | None) -> dict[int, bytes]:
        settings = self._settings
        options = {
            dhcp.SERVER_ID: settings.host.packed,
            dhcp.SUBNET_MASK: settings.network.netmask.packed,
            dhcp.ROUTER: settings.host.packed,
            dhcp.DNS: settings.dns.packed,
            dhcp.DOMAIN_NAME: settings.domainname.encode(),
            dhcp.MTU: struct.pack("!H", settings.mtu),
        }
        if settings.dnssearch:
            options[dhcp.SEARCH] = inet6.domain_names(settings.dnssearch)
        if settings.tftp_server_name:
            options[dhcp.TFTP_SERVER] = settings.tftp_server_name.encode()
        if settings.restrict:
            del options[dhcp.ROUTER]
        if lease is not None:
            for code, share in ((dhcp.LEASE_TIME, 1.0), (dhcp.RENEWAL_TIME, 0.5), (dhcp.REBINDING_TIME, 0.875)):
                options[code] = struct.pack("!I", int(self._leases.duration_s * share))
            if lease.name:
                options[dhcp.HOST_NAME] = lease.name.encode()
                if message.fqdn is not None:
                    full = f"{lease.name}.{settings.domainname}"
                    options[dhcp.CLIENT_FQDN] = dhcp.answered_fqdn(message.fqdn, full)
        return options
