"""What makes a host of tests a DHCP server or a router, honest or rogue: which frames it has for a frame that came.

No sockets, no clock: `take` is given a frame and the time. What is done with the frames is the host's part. Read
RFC 2131 section 4.3 and RFC 4861 section 6.2 first; these servers do what they say, short of remembering anything.
"""

from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv6Address, IPv6Network
from typing import Any, Protocol

from vswitch.errors import InputError
from vswitch.testing.layers import (
    BOOTP,
    DHCP,
    IP,
    UDP,
    Ether,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    Packet,
)

POOL_MAX = 1 << 16
OFFER_S = 60.0  # how long an address is kept for who was offered it
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
BOOT_REQUEST, BOOT_REPLY = 1, 2
SERVER_PORT, CLIENT_PORT = 67, 68
BROADCAST_FLAG = 0x8000
NOWHERE = "0.0.0.0"
BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
PREFERENCES = {"low": 3, "medium": 0, "high": 1}  # RFC 4191 section 2.1
HOP_LIMIT = 255
SECONDS_MAX = 0xFFFF_FFFF


class Service(Protocol):
    """Something a host does beyond what every host does."""

    def take(self, packet: Packet, now: float) -> list[Packet]:
        """The frames that answer a frame that was for this host; `now` is in seconds."""
        ...


class DhcpServer:
    """A DHCP server for IPv4 (RFC 2131), with addresses from a pool.

    `leases`: who has which address, by MAC address, `02:00:00:00:00:01`; kept after it has run out, until somebody else
    needs the address. The counters tell what was sent (`offers`, `acks`, `naks`), and for how many requests there was
    no address left (`exhausted`).

    Raises InputError for a pool, router or name server that cannot be right.
    """

    def __init__(
        self,
        mac: str,
        interface: IPv4Interface,
        pool: str | Iterable[str],
        *,
        router: str | None = None,
        dns: str | Sequence[str] | None = None,
        lease_s: int = 3600,
        options: Sequence[tuple[Any, ...]] = (),
    ) -> None:
        if not 0 < lease_s <= SECONDS_MAX:
            raise InputError(f"a lease of {lease_s} s is out of range; 1 to {SECONDS_MAX} s")
        names = [dns] if isinstance(dns, str) else list(dns or ())
        self.leases: dict[str, str] = {}
        self.offers = self.acks = self.naks = self.exhausted = 0
        self._mac = mac
        self._ip = str(interface.ip)
        self._pool = [address for address in _pool(pool) if address not in (self._ip, router)]
        self._lease_s = lease_s
        self._runs_out_s: dict[str, float] = {}  # by MAC address, of leases
        self._offered: dict[str, tuple[str, float]] = {}  # by MAC address, what and until when
        self._declined: set[str] = set()
        self._told: list[tuple[Any, ...]] = [("subnet_mask", str(interface.netmask))]
        if router is not None:
            self._told.append(("router", str(_ipv4(router))))
        if names:
            self._told.append(("name_server", *(str(_ipv4(name)) for name in names)))
        self._told += options

    @property
    def sent(self) -> int:
        """How many frames it had, of any kind."""
        return self.offers + self.acks + self.naks

    def take(self, packet: Packet, now: float) -> list[Packet]:
        if DHCP not in packet or UDP not in packet or packet[UDP].dport != SERVER_PORT:
            return []
        asked = packet[BOOTP]
        if (asked.op, asked.htype, asked.hlen) != (BOOT_REQUEST, 1, 6):
            return []
        options = {option[0]: option[1] for option in packet[DHCP].options if isinstance(option, tuple)}
        client = bytes(asked.chaddr)[:6].hex(":")
        kind, wanted = options.get("message-type"), options.get("requested_addr")
        if kind == DISCOVER:
            return self._offer(packet, client, wanted, now)
        if kind == REQUEST:
            if options.get("server_id", self._ip) != self._ip:  # it has chosen another server
                self._offered.pop(client, None)
                return []
            return self._grant(packet, client, wanted or asked.ciaddr, now)
        if kind == INFORM:
            self.acks += 1
            return [self._reply(packet, ACK, NOWHERE, self._told)]
        if kind in (RELEASE, DECLINE) and client in self.leases:
            address = self.leases.pop(client)
            if kind == DECLINE:
                self._declined.add(address)
        return []

    def _offer(self, packet: Packet, client: str, wanted: str | None, now: float) -> list[Packet]:
        own = [self.leases.get(client), self._offered.get(client, (None, 0.0))[0], wanted]
        taken = self._taken_by_others(client, now)
        for address in (*own, *self._pool):
            if address in self._pool and address not in taken:
                self._offered[client] = address, now + OFFER_S
                self.offers += 1
                return [self._reply(packet, OFFER, address, self._lease())]
        self.exhausted += 1
        return []

    def _grant(self, packet: Packet, client: str, wanted: str, now: float) -> list[Packet]:
        self._offered.pop(client, None)
        if wanted not in self._pool or wanted in self._taken_by_others(client, now):
            self.naks += 1
            return [self._reply(packet, NAK, NOWHERE, [])]
        for other, address in list(self.leases.items()):
            if address == wanted:  # which has run out, else it would be taken
                del self.leases[other]
        self.leases[client] = wanted
        self._runs_out_s[client] = now + self._lease_s
        self.acks += 1
        return [self._reply(packet, ACK, wanted, self._lease())]

    def _taken_by_others(self, client: str, now: float) -> set[str]:
        leased = {ip for mac, ip in self.leases.items() if mac != client and now < self._runs_out_s[mac]}
        offered = {ip for mac, (ip, until_s) in self._offered.items() if mac != client and now < until_s}
        return leased | offered | self._declined

    def _lease(self) -> list[tuple[Any, ...]]:
        return [("lease_time", self._lease_s), *self._told]

    def _reply(self, packet: Packet, kind: int, address: str, options: list[tuple[Any, ...]]) -> Packet:
        """Addressed as RFC 2131 section 4.1 has it."""
        asked = packet[BOOTP]
        there, mac, port = address, packet.src, CLIENT_PORT
        if asked.giaddr != NOWHERE:
            there, port = asked.giaddr, SERVER_PORT
        elif kind == NAK:
            there, mac = "255.255.255.255", BROADCAST
        elif asked.ciaddr != NOWHERE:
            there = asked.ciaddr
        elif int(asked.flags) & BROADCAST_FLAG or address == NOWHERE:
            there, mac = "255.255.255.255", BROADCAST
        message = BOOTP(
            op=BOOT_REPLY,
            xid=asked.xid,
            flags=int(asked.flags),
            ciaddr=asked.ciaddr if kind == ACK else NOWHERE,
            yiaddr=address,
            siaddr=NOWHERE if kind == NAK else self._ip,
            giaddr=asked.giaddr,
            chaddr=bytes(asked.chaddr),
        )
        told = DHCP(options=[("message-type", kind), ("server_id", self._ip), *options, "end"])
        udp = UDP(sport=SERVER_PORT, dport=port)
        return Ether(src=self._mac, dst=mac) / IP(src=self._ip, dst=there) / udp / message / told


class RouterAdvertiser:
    """A router's advertisements (RFC 4861 section 4.2), of one prefix to make addresses from.

    `sent` counts them all, `solicited` those that answered a router solicitation; all go to all nodes.

    Raises InputError for what cannot be right.
    """

    def __init__(
        self,
        mac: str,
        ip6: str,
        prefix: str,
        *,
        lifetime_s: int = 1800,
        preference: str = "medium",
        prefix_lifetime_s: int = 86400,
        mtu: int | None = None,
        dns: str | Sequence[str] = (),
    ) -> None:
        if not 0 <= lifetime_s <= 0xFFFF:
            raise InputError(f"a router lifetime of {lifetime_s} s is out of range; 0 to 65535 s")
        if not 0 <= prefix_lifetime_s <= SECONDS_MAX:
            raise InputError(f"a prefix lifetime of {prefix_lifetime_s} s is out of range; 0 to {SECONDS_MAX} s")
        if preference not in PREFERENCES:
            raise InputError(f"a router's preference is not {preference!r}; one of {', '.join(PREFERENCES)}")
        try:
            network = IPv6Network(prefix)
            servers = [str(IPv6Address(server)) for server in ([dns] if isinstance(dns, str) else dns)]
        except ValueError as error:
            raise InputError(f"no router advertisement: {error}; write a prefix as 2001:db8::/64") from None
        message = ICMPv6ND_RA(chlim=64, prf=PREFERENCES[preference], routerlifetime=lifetime_s)
        message /= ICMPv6NDOptSrcLLAddr(lladdr=mac)
        message /= ICMPv6NDOptPrefixInfo(
            prefix=str(network.network_address),
            prefixlen=network.prefixlen,
            validlifetime=prefix_lifetime_s,
            preferredlifetime=prefix_lifetime_s,
        )
        if mtu is not None:
            message /= ICMPv6NDOptMTU(mtu=mtu)
        if servers:
            message /= ICMPv6NDOptRDNSS(lifetime=lifetime_s, dns=servers)
        self.sent = self.solicited = 0
        self._frame = Ether(src=mac, dst=ALL_NODES_MAC) / IPv6(src=ip6, dst=ALL_NODES, hlim=HOP_LIMIT) / message

    def advertisement(self) -> Packet:
        """The next one to send."""
        self.sent += 1
        return self._frame

    def take(self, packet: Packet, now: float) -> list[Packet]:
        if ICMPv6ND_RS not in packet or packet[IPv6].hlim != HOP_LIMIT:
            return []
        self.solicited += 1
        return [self.advertisement()]


def _pool(pool: str | Iterable[str]) -> list[str]:
    """The addresses of `10.0.0.100-10.0.0.150`, or of a list."""
    if not isinstance(pool, str):
        return [str(_ipv4(address)) for address in pool]
    first, _, last = pool.partition("-")
    low, high = int(_ipv4(first.strip())), int(_ipv4((last or first).strip()))
    if not 0 <= high - low < POOL_MAX:
        raise InputError(f"a pool of {pool!r} cannot be; write 10.0.0.100-10.0.0.150, at most {POOL_MAX} addresses")
    return [str(IPv4Address(number)) for number in range(low, high + 1)]


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise InputError(f"{text!r} is no IPv4 address; write numbers, no name") from None
