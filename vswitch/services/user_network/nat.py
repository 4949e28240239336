"""The NAT of all guests: a stack of libslirp for each, and what may pass to it."""

from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address

from vswitch.protocols import inet, inet6, tcp
from vswitch.protocols.inet import Arp
from vswitch.services.user_network import packet as packets
from vswitch.services.user_network.counters import Known, Reason, Traffic
from vswitch.services.user_network.egress import Egress
from vswitch.services.user_network.guest_forwards import GuestForwards
from vswitch.services.user_network.leases import DECLINED, Leases
from vswitch.services.user_network.packet import TCP, Packet
from vswitch.services.user_network.settings import Address, Settings
from vswitch.services.user_network.slirp import Library, Stack

GUESTS_MAX = 1024
ADDRESSES_MAX = 8  # of IPv6, that a stack is told of: its table has 16 entries
ASKERS_MAX = 256  # peers of a guest's UDP forwards that may be answered
ASKED_S = 120.0  # for so long; a longer silence ends what QEMU's user network has of it, too (udp.h: SO_EXPIRE)
PASSING_MAX, PASSING_S = 4096, 1.0  # how many connections pass unasked, and for how long
TOLD_S = 600.0  # how often it is told that a guest uses an address of IPv6
HEARD_S = 300.0  # a guest that is silent for so long may lose an address that it has given itself

# First bytes: this machine, past the gateway's address, and groups
_NOT_ROUTED4 = {0, 127, *range(224, 256)}
_NOT_ROUTED6 = {bytes(12), bytes(10) + b"\xff\xff"}  # the first twelve: this machine, and IPv4 in other clothes
_GROUP6 = 0xFF
_PLAIN_IPV4 = b"\x08\x00\x45"  # without a tag or IP options
_LOOPBACK = {IPv4Address("127.0.0.1").packed, IPv6Address("::1").packed}
_ADVERTISEMENTS = range(133, 138)  # kinds of ICMPv6 that are neighbour discovery


class _Guest:
    """A guest's stack, what has passed it, and the addresses it has been told."""

    def __init__(self, stack: Stack, traffic: Traffic) -> None:
        self.stack, self.traffic = stack, traffic
        self.ip4 = b""
        self.ips6: dict[bytes, float] = {}  # and until when it need not be told that it uses them
        self.askers: dict[bytes, float] = {}  # whom it may answer until when: an address, the guest's port, its port
        self.heard_s = 0.0

    def has(self, ip: bytes) -> bool:
        return ip == self.ip4 or ip in self.ips6

    def is_known_to_use(self, ip: bytes, now_s: float) -> bool:
        return ip == self.ip4 or now_s < self.ips6.get(ip, now_s)


class Nat:
    """`send` takes frames for the switch; `came` is told of a guest that has a stack from now on, or another address,
    and once in a while that it uses one of IPv6.

    Services of this machine's loopback are at the gateway's address. Without `host_access`, and for everything in a
    closed network, a guest only answers: whoever has come to it by a forward. Beyond that, `egress` says what it
    reaches, if there is one.
    """

    def __init__(
        self,
        settings: Settings,
        library: Library,
        leases: Leases,
        guest_forwards: GuestForwards,
        *,
        send: Callable[[bytes], None],
        came: Callable[[bytes, Address, float], None],
    ) -> None:
        self._settings = settings
        self._library = library
        self._leases = leases
        self._guest_forwards = guest_forwards
        self.egress: Egress | None = None
        self._send, self._came = send, came
        self._guests: dict[bytes, _Guest] = {}  # by MAC address
        self.others = Traffic()  # of guests that are known no more, and drops of other stations
        self._now_s = 0.0
        self._passing: dict[bytes, _Guest] = {}  # connections that have passed of late, by addresses and ports
        self._passing_until_s = 0.0
        self._hosts = {ip.packed for ip in (settings.host, settings.host6)}
        self._own = self._hosts | {ip.packed for ip in (settings.dns, settings.dns6)}
        self._network, self._mask = int(settings.network.network_address), int(settings.network.netmask)
        self._prefix6 = settings.network6.network_address.packed[:8]

    @property
    def stacks(self) -> Iterator[Stack]:
        return (guest.stack for guest in self._guests.values())

    def owner_of(self, name: object) -> bytes | None:
        """The guest that has a socket of this name (getsockname(2)), if one does."""
        return next((mac for mac, guest in self._guests.items() if name in guest.stack.socket_names()), None)

    @property
    def known(self) -> Iterator[Known]:
        """The guests that there are, and what is counted of each."""
        for mac, guest in self._guests.items():
            connections = len(guest.stack.opened - guest.stack.listeners.keys())
            yield Known(mac, str(ip_address(guest.ip4 or next(iter(guest.ips6)))), connections, guest.traffic)

    def traffic_of(self, mac: bytes) -> Traffic:
        """Where what concerns a station is counted."""
        guest = self._guests.get(mac)
        return self.others if guest is None else guest.traffic

    def pass_on(self, frame: bytes) -> bool:
        """A frame of a connection that has passed `put` of late: most are. Answers whether it is one, and has gone."""
        guest = self._passing.get(frame[:12] + frame[26:38])
        if guest is None or frame[12:15] != _PLAIN_IPV4 or frame[23] != TCP or packets.may_open(frame):
            return False
        guest.stack.put(frame)
        guest.traffic.out_frames += 1
        guest.traffic.out_bytes += len(frame)
        return True

    def put(self, frame: bytes, packet: Packet, now_s: float) -> Reason | None:
        """A frame to the gateway, and the packet in it. Answers why it is dropped, if it is."""
        mac, source, target = frame[6:12], packet.source, packet.target
        self.tick(now_s)
        inward = self._guest_forwards.inward(frame, packet)
        if inward is None and not self._is_routed(target):
            return "not_routed"
        guest = self._guests.get(mac)
        if guest is None or not guest.is_known_to_use(source, now_s):
            ip = IPv4Address(source) if len(source) == 4 else IPv6Address(source)
            if not self._may_be(mac, ip, now_s):
                return "foreign_source"
            self.stack_at(mac, ip)
            guest = self._guests[mac]
            if ip.version == 6:
                guest.ips6[source] = now_s + TOLD_S
            self._came(mac, ip, now_s)
        guest.heard_s = now_s
        if reason := self._kept_in(guest, frame, packet, is_served=inward is not None):
            return reason
        if guest.stack.is_full and (packet.protocol != TCP or packet.opens_connection(frame)):
            return "connections"
        guest.stack.put(frame if inward is None else inward)
        guest.traffic.out_frames += 1
        guest.traffic.out_bytes += len(frame)
        if packet.protocol == TCP and inward is None and len(source) == 4:
            self._passing[frame[:12] + frame[26:38]] = guest
        return None

    def tick(self, now_s: float) -> None:
        """What comes from outside from now on, comes now."""
        self._now_s = now_s
        if now_s >= self._passing_until_s or len(self._passing) > PASSING_MAX:
            self._passing.clear()
            self._passing_until_s = now_s + PASSING_S

    def has_been_heard(self, mac: bytes, ip: Address, now_s: float) -> bool:
        """Whether a guest has an address, and has said something of late."""
        guest = self._guests.get(mac)
        return guest is not None and guest.has(ip.packed) and now_s - guest.heard_s < HEARD_S

    def whose(self, ip: Address) -> bytes | None:
        """The guest that has an address, if one does."""
        return next((mac for mac, guest in self._guests.items() if guest.has(ip.packed)), None)

    def forget_askers(self, mac: bytes, port: int) -> None:
        """A forward to a port of a guest's is gone."""
        guest = self._guests.get(mac)
        if guest is not None:
            gone = port.to_bytes(2)
            guest.askers = {asker: until_s for asker, until_s in guest.askers.items() if asker[-4:-2] != gone}

    def stack_at(self, mac: bytes, ip: Address) -> Stack:
        """The stack of a guest that has this address now."""
        guest = self._guests.get(mac)
        if guest is None:
            if len(self._guests) >= GUESTS_MAX:
                self._forget(self._least_needed())
            traffic = Traffic()
            stack = Stack(self._library, self._settings, deliver=partial(self._deliver, traffic))
            guest = self._guests[mac] = _Guest(stack, traffic)
        if not guest.has(ip.packed):  # the stack has to know where its guest is
            if isinstance(ip, IPv4Address):
                guest.ip4 = ip.packed
                guest.stack.put(inet.arp(Arp(inet.ARP_REQUEST, mac, ip, bytes(6), ip), inet.BROADCAST))
            else:
                guest.ips6[ip.packed] = self._now_s
                if len(guest.ips6) > ADDRESSES_MAX:
                    del guest.ips6[next(iter(guest.ips6))]
                guest.stack.put(inet6.neighbor_advertisement(ip, mac))
        return guest.stack

    def close(self) -> None:
        for stack in self.stacks:
            stack.close()
        self._guests.clear()
        self._passing.clear()

    def _is_routed(self, target: bytes) -> bool:
        """Whether packets for it leave this network, or are for us."""
        if target in self._own:
            return True
        if len(target) == 4:
            return target[0] not in _NOT_ROUTED4 and int.from_bytes(target) & self._mask != self._network
        is_link_local = target[0] == 0xFE and target[1] & 0xC0 == 0x80
        is_local = target[:8] == self._prefix6 or target[:12] in _NOT_ROUTED6
        return not (is_link_local or is_local or target[0] == _GROUP6)

    def _kept_in(self, guest: _Guest, frame: bytes, packet: Packet, *, is_served: bool) -> Reason | None:
        """Why a packet that is no answer may not leave, if so. A connection is refused at once. What a server of
        ours takes, is judged if it seems to be outside."""
        target, egress = packet.target, self.egress
        only_answers = not is_served and self._only_answers(target)
        if is_served and (target in self._own or not self._is_routed(target)):
            egress = None
        if (egress is None and not only_answers) or not self._opens(guest, frame, packet):
            return None
        reason: Reason = "denied"
        if only_answers:
            reason = "host_access" if target in self._own else "restricted"
        elif egress is None or egress.permits(frame[6:12], frame, packet, self._now_s):
            return None
        refusal = tcp.refusal(frame, packet.at) if packet.protocol == TCP else None
        if refusal is not None:
            self._send(refusal)
        return reason

    def _only_answers(self, target: bytes) -> bool:
        if target in self._hosts:
            return not self._settings.host_access
        # libslirp would pass on what is for the name server to this machine's, whatever its port.
        return self._settings.is_closed or target in self._own

    def _opens(self, guest: _Guest, frame: bytes, packet: Packet) -> bool:
        """Whether a packet is other than an answer. To a ping, the gateway's answer is libslirp's own."""
        if packet.protocol == TCP:
            return packet.opens_connection(frame)
        if packet.protocol == inet.UDP:
            until_s = guest.askers.get(packet.target + packet.ports(frame))
            return until_s is None or until_s < self._now_s
        return packet.target not in self._own

    def _may_be(self, mac: bytes, source: Address, now_s: float) -> bool:
        """Whether a station may have an address: one of this network's that is neither ours nor leased to another."""
        if source.packed in self._own or source in self._guest_forwards.addresses:
            return False
        if isinstance(source, IPv6Address):
            return source in self._settings.network6 or source.is_link_local
        lease = self._leases.at(source)
        is_free = lease is None or lease.until_s <= now_s or lease.mac in (mac.hex(":"), DECLINED)
        return is_free and source in self._settings.network

    def _forget(self, mac: bytes) -> None:
        guest = self._guests.pop(mac)
        guest.stack.close()
        self.others.add(guest.traffic)
        self._passing.clear()

    def _least_needed(self) -> bytes:
        """The oldest of those that lack most of: a forward, a lease, a socket. There are fewer forwards than guests."""

        def need(mac: bytes) -> tuple[bool, bool, bool]:
            stack = self._guests[mac].stack
            return bool(stack.listeners), self._leases.of(mac.hex(":")) is not None, stack.is_busy

        return min(self._guests, key=need)

    def _deliver(self, traffic: Traffic, frame: bytes) -> None:
        """From a stack, and where that is counted. A stack would look for its guest itself, and advertise itself; that
        is ours to do."""
        if frame[12:14] == b"\x08\x00":
            packet = packets.read4(frame)
        elif frame[12:14] == b"\x86\xdd" and not (frame[20] == inet6.ICMPV6 and frame[54] in _ADVERTISEMENTS):
            packet = packets.read6(frame)
        else:
            return
        if packet is None:
            return
        if packet.protocol == inet.UDP and packet.source in _LOOPBACK:
            frame, packet = self._from_host(frame, packet)
        if packet.protocol == inet.UDP and (self.egress is not None or self._only_answers(packet.source)):
            self._note_asker(frame, packet)
        frame = self._guest_forwards.outward(frame, packet)
        own = self._settings.mac
        if frame[6:12] != own:
            frame = frame[:6] + own + frame[12:]
        traffic.in_frames += 1
        traffic.in_bytes += len(frame)
        self._send(frame)

    def _from_host(self, frame: bytes, packet: Packet) -> tuple[bytes, Packet]:
        """Who comes by a forward from this machine is at the gateway's address. libslirp forgets to say so once the
        guest has sent something elsewhere from that port."""
        host = self._settings.host if len(packet.source) == 4 else self._settings.host6
        frame = inet.readdressed(frame, packet.at, source=host.packed + packet.ports(frame)[:2], udp=True)
        return frame, packet._replace(source=host.packed)

    def _note_asker(self, frame: bytes, packet: Packet) -> None:
        """Who has come by a forward."""
        guest, ports = self._guests.get(frame[:6]), packet.ports(frame)
        if guest is not None and packet.has_ports and int.from_bytes(ports[2:]) in guest.stack.listeners.values():
            asker = packet.source + ports[2:] + ports[:2]
            guest.askers.pop(asker, None)
            guest.askers[asker] = self._now_s + ASKED_S
            if len(guest.askers) > ASKERS_MAX:
                del guest.askers[next(iter(guest.askers))]
