"""The NAT of all guests: a stack of libslirp for each, and what may pass to it."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

from vswitch.protocols import inet
from vswitch.protocols.inet import Arp
from vswitch.services.user_network.leases import Leases
from vswitch.services.user_network.settings import Settings
from vswitch.services.user_network.slirp import Library, Stack

FRAGMENT_BYTES_PER_S = 2 << 20
GUESTS_MAX = 1024
ASKERS_MAX = 256  # peers of a guest's UDP forwards that may be answered
_TCP, _SYN, _ACK = 6, 0x02, 0x10
_NOT_ROUTED = {0, 127, *range(224, 256)}  # first bytes: this machine, past the gateway's address, and groups


class _Guest:
    """A guest's stack, and the address it has been told."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.ip = b""
        self.askers: dict[bytes, None] = {}  # whom it may answer: the peer's address, both ports


class Nat:
    """`send` takes frames for the switch; `came` is told of a guest that has a stack from now on, or another address.

    Services of this machine's loopback are at the gateway's address. Without `host_access`, and for everything with
    `restrict`, a guest only answers: whoever has come to it by a forward.
    """

    def __init__(
        self,
        settings: Settings,
        library: Library,
        leases: Leases,
        *,
        send: Callable[[bytes], None],
        came: Callable[[bytes, IPv4Address, float], None],
    ) -> None:
        self._settings = settings
        self._library = library
        self._leases = leases
        self._send, self._came = send, came
        self._guests: dict[bytes, _Guest] = {}  # by MAC address
        self._fragments, self._fragments_since_s = 0, 0.0
        self._own = {settings.host.packed, settings.dns.packed}
        self._network, self._mask = int(settings.network.network_address), int(settings.network.netmask)

    @property
    def stacks(self) -> Iterator[Stack]:
        return (guest.stack for guest in self._guests.values())

    def put(self, frame: bytes, now_s: float) -> str:
        """An IPv4 packet to the gateway, with a whole header. Answers why it is dropped, or nothing."""
        mac, source, target = frame[6:12], frame[26:30], frame[30:34]
        is_local = int.from_bytes(target) & self._mask == self._network and target not in self._own
        if target[0] in _NOT_ROUTED or is_local:
            return "not_routed"
        is_fragment = bool(frame[20] & 0x3F or frame[21])
        if is_fragment and not self._may_fragment(len(frame), now_s):
            return "fragments"
        guest = self._guests.get(mac)
        if guest is None or guest.ip != source:
            ip = IPv4Address(source)
            if not self._may_be(mac, ip, now_s):
                return "foreign_source"
            self.stack_at(mac, ip)
            guest = self._guests[mac]
            self._came(mac, ip, now_s)
        if self._only_answers(target) and (is_fragment or self._opens(guest, frame)):
            return "host_access" if target in self._own else "restricted"
        if guest.stack.is_full and (frame[23] != _TCP or _is_syn(frame)):
            return "connections"
        guest.stack.put(frame)
        return ""

    def stack_at(self, mac: bytes, ip: IPv4Address) -> Stack:
        """The stack of a guest that has this address now."""
        guest = self._guests.get(mac)
        if guest is None:
            if len(self._guests) >= GUESTS_MAX:
                self._guests.pop(self._least_needed()).stack.close()
            stack = Stack(self._library, self._settings, deliver=self._deliver)
            guest = self._guests[mac] = _Guest(stack)
        if guest.ip != ip.packed:
            guest.ip = ip.packed
            said = Arp(inet.ARP_REQUEST, mac, ip, bytes(6), ip)  # so that the stack knows where its guest is
            guest.stack.put(inet.arp(said, inet.BROADCAST))
        return guest.stack

    def close(self) -> None:
        for stack in self.stacks:
            stack.close()
        self._guests.clear()

    def _only_answers(self, target: bytes) -> bool:
        settings = self._settings
        if target == settings.host.packed:
            return not settings.host_access
        # libslirp would pass on what is for the name server to this machine's, whatever its port.
        return settings.restrict or target in self._own

    def _opens(self, guest: _Guest, frame: bytes) -> bool:
        """Whether a packet is other than an answer. To a ping, the gateway's answer is libslirp's own."""
        at = _payload_at(frame)
        if frame[23] == _TCP:
            return _is_syn(frame)
        if frame[23] == inet.UDP:
            return frame[30:34] + frame[at : at + 4] not in guest.askers
        return frame[30:34] not in self._own

    def _may_fragment(self, size: int, now_s: float) -> bool:
        """Whether one more fragment may wait for the rest of its packet: libslirp keeps them without a limit."""
        if now_s - self._fragments_since_s >= 1:
            self._fragments_since_s, self._fragments = now_s, 0
        self._fragments += size
        return self._fragments <= FRAGMENT_BYTES_PER_S

    def _may_be(self, mac: bytes, source: IPv4Address, now_s: float) -> bool:
        """Whether a station may have an address: one of this network's that is neither ours nor leased to another."""
        if source not in self._settings.network or source.packed in self._own:
            return False
        lease = self._leases.at(source)
        return lease is None or lease.until_s <= now_s or lease.mac == mac.hex(":")

    def _least_needed(self) -> bytes:
        """The oldest of those that lack most of: a forward, a lease, a socket. There are fewer forwards than guests."""

        def need(mac: bytes) -> tuple[bool, bool, bool]:
            stack = self._guests[mac].stack
            return stack.forwards > 0, self._leases.of(mac.hex(":")) is not None, stack.is_busy

        return min(self._guests, key=need)

    def _deliver(self, frame: bytes) -> None:
        """From a stack. It would look for its guest by ARP, and advertise itself; that is ours to do."""
        if frame[12:14] != b"\x08\x00":
            return
        if frame[23] == inet.UDP and self._only_answers(frame[26:30]):
            self._note_asker(frame)
        own = self._settings.mac
        self._send(frame if frame[6:12] == own else frame[:6] + own + frame[12:])

    def _note_asker(self, frame: bytes) -> None:
        guest = self._guests.get(frame[:6])
        if guest is not None and not frame[20] & 0x1F and not frame[21]:  # the first fragment has the ports
            at = _payload_at(frame)
            asker = frame[26:30] + frame[at + 2 : at + 4] + frame[at : at + 2]
            guest.askers.pop(asker, None)
            guest.askers[asker] = None
            if len(guest.askers) > ASKERS_MAX:
                del guest.askers[next(iter(guest.askers))]


def _payload_at(frame: bytes) -> int:
    return 14 + (frame[14] & 15) * 4


def _is_syn(frame: bytes) -> bool:
    """Whether it opens a connection, or might: what has no flags is nothing else."""
    at = _payload_at(frame) + 13
    return len(frame) <= at or frame[at] & (_SYN | _ACK) == _SYN
