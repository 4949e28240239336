"""A user network behind one stream of frames: who gets which frame, and the answers to all that is not for the NAT."""

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address

from vswitch.protocols import dhcp, inet
from vswitch.protocols.inet import Arp, Datagram
from vswitch.services.user_network.dhcp_server import ALL, DhcpServer
from vswitch.services.user_network.leases import Lease, Leases
from vswitch.services.user_network.names import Names
from vswitch.services.user_network.settings import Forward, Settings
from vswitch.services.user_network.slirp import Library, Stack
from vswitch.services.user_network.upstream import Upstream

DNS_PORT = 53
DNS_HEADER = 12
COMPLAINT_MAX = 500
FRAGMENT_BYTES_PER_S = 2 << 20
_TCP, _SYN = 6, 0x02
_THIS_MACHINE = (0, 127)  # first bytes of addresses that would be this machine's, past the gateway's
STACKS_MAX = 1024  # guests that the NAT serves at a time
ASKED_MAX = 256  # DHCP messages that wait for the switch to say which port they came in at


class Network:
    """`send` takes frames for the switch. `ask` asks the switch behind which port a station is: it answers by `found`.
    `tell` takes leases as they are given, `complain` what a person is to know."""

    def __init__(
        self,
        settings: Settings,
        library: Library,
        *,
        send: Callable[[bytes], None],
        ask: Callable[[str], None],
        tell: Callable[[Lease], None],
        complain: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.drops: Counter[str] = Counter()
        self.stacks: dict[bytes, Stack] = {}  # by MAC address
        self.upstream = Upstream(settings.resolv_conf)
        pool = _pool(settings)
        self.leases = Leases(pool, settings.lease_s, settings.reserve, settings.leases)
        self.names = Names(settings.domainname, settings.host, self.leases)
        self._dhcp = DhcpServer(settings, self.leases, self.names)
        self._library = library
        self._send, self._ask, self._tell, self._complain = send, ask, tell, complain
        self._asked: dict[str, list[dhcp.Message]] = {}  # by MAC address
        self._forwards: list[Forward] = list(settings.forwards)
        self._served: dict[Forward, tuple[bytes, IPv4Address]] = {}  # which guest each leads to
        self._fragments, self._fragments_since_s = 0, 0.0
        self._own = {settings.host.packed, settings.dns.packed}
        self._here: dict[bytes, bytes] = {}  # the address that each stack's guest has

    def begin(self, now_s: float) -> None:
        """Forward to those who have had leases before this process was there."""
        for lease in self.settings.leases:
            if lease.until_s > now_s:
                self._forward_to(bytes.fromhex(lease.mac.replace(":", "")), lease, now_s)

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
                self._forward_to(message.mac, answer.lease, now_s)

    def close(self) -> None:
        for mac in list(self.stacks):
            self._close(mac)
        self.upstream.close()

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
        if frame[0] & 1:
            return None
        return self._translate(frame, now_s)

    def _translate(self, frame: bytes, now_s: float) -> None:
        mac, source = frame[6:12], frame[26:30]
        if frame[30] in _THIS_MACHINE:
            return self._drop("loopback")
        if (frame[20] & 0x3F or frame[21]) and not self._may_fragment(len(frame), now_s):
            return self._drop("fragments")
        stack = self.stacks.get(mac)
        if stack is None or self._here[mac] != source:
            ip = IPv4Address(source)
            if not self._may_be(mac, ip, now_s):
                return self._drop("foreign_source")
            stack = self._stack_at(mac, ip)
            lease = self.leases.of(mac.hex(":"))
            if lease is not None and lease.ip == ip:  # which had a stack before, perhaps
                self._forward_to(mac, lease, now_s)
        if self.settings.restrict and frame[30:34] != self.settings.host.packed:
            return self._drop("restricted")
        if stack.is_full and (frame[23] != _TCP or _is_syn(frame)):
            return self._drop("connections")
        return stack.put(frame)

    def _may_fragment(self, size: int, now_s: float) -> bool:
        """Whether one more fragment may wait for the rest of its packet: libslirp keeps them without a limit."""
        if now_s - self._fragments_since_s >= 1:
            self._fragments_since_s, self._fragments = now_s, 0
        self._fragments += size
        return self._fragments <= FRAGMENT_BYTES_PER_S

    def _may_be(self, mac: bytes, source: IPv4Address, now_s: float) -> bool:
        """Whether a station may have an address: one of this network's that is neither ours nor leased to another."""
        if source not in self.settings.network or source.packed in self._own:
            return False
        lease = self.leases.at(source)
        return lease is None or lease.until_s <= now_s or lease.mac == mac.hex(":")

    def _stack_at(self, mac: bytes, ip: IPv4Address) -> Stack:
        """The NAT of a station that has this address now."""
        stack = self.stacks.get(mac)
        if stack is None:
            if len(self.stacks) >= STACKS_MAX:
                self._close(self._least_needed())
            settings = self.settings
            stack = self.stacks[mac] = Stack(
                self._library,
                network=settings.network,
                gateway=settings.host,
                dns=settings.dns,
                mtu=settings.mtu,
                host_access=settings.host_access,
                deliver=self._deliver,
            )
        self._here[mac] = ip.packed
        stack.put(inet.arp(Arp(inet.ARP_REQUEST, mac, ip, bytes(6), ip), inet.BROADCAST))  # so that it knows who it is
        return stack

    def _least_needed(self) -> bytes:
        """The oldest stack of those that lack most of: a lease, a forward, a socket."""
        forwarded = {owner for owner, _ in self._served.values()}

        def need(mac: bytes) -> tuple[bool, bool, bool]:
            return self.leases.of(mac.hex(":")) is not None, mac in forwarded, self.stacks[mac].is_busy

        return min(self.stacks, key=need)

    def _close(self, mac: bytes) -> None:
        self.stacks.pop(mac).close()
        del self._here[mac]
        for forward in [forward for forward, (owner, _) in self._served.items() if owner == mac]:
            del self._served[forward]

    def _deliver(self, frame: bytes) -> None:
        """From the NAT. It would look for its guest by ARP, and advertise itself; that is ours to do."""
        if frame[12:14] == b"\x08\x00":
            own = self.settings.mac
            self._send(frame if frame[6:12] == own else frame[:6] + own + frame[12:])

    def _is_still_meant(self, forward: Forward, owner: bytes, other: bytes, now_s: float) -> bool:
        """Whether a forward stays with its owner, though another station is meant as well."""
        lease = self.leases.of(owner.hex(":")) if owner not in (b"", other) else None
        return lease is not None and lease.until_s > now_s and forward.guest in (lease.name, lease.port, str(lease.ip))

    def _forward_to(self, mac: bytes, lease: Lease, now_s: float) -> None:
        """Has the forwards that mean a station lead to it, where it is now."""
        for forward in self._forwards:
            owner, ip = self._served.get(forward, (b"", None))
            is_meant = (
                forward.guest in (lease.name, lease.port, str(lease.ip)) if forward.guest else owner in (b"", mac)
            )
            if not is_meant or (owner, ip) == (mac, lease.ip) or self._is_still_meant(forward, owner, mac, now_s):
                continue
            here = forward.host, forward.host_port
            if owner:
                self.stacks[owner].unforward(here, udp=forward.udp)
                del self._served[forward]
            try:
                stack = self._stack_at(mac, lease.ip)
                stack.forward(here, (str(lease.ip), forward.guest_port), udp=forward.udp)
            except OSError as error:
                self._complain(f"cannot forward from {forward.host}:{forward.host_port}: {error.strerror}")
                continue
            self._served[forward] = mac, lease.ip

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


def _is_syn(frame: bytes) -> bool:
    at = 14 + (frame[14] & 15) * 4 + 13
    return len(frame) <= at or bool(frame[at] & _SYN)


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
