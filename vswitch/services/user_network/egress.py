"""What guests may reach outside (`allow=`, `deny=`). Sans-IO.

Rules about names hold for the addresses that the name server has found for them: for the guest that has asked, and no
other, as long as the answer holds. It is told to ask again soon, so that it does when its network has started anew.
A connection of TCP is judged when it opens, others by each packet, until they are silent.
"""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address

import msgspec

from vswitch.protocols import dns, dns_records, inet
from vswitch.protocols.dns_records import Answer, Name
from vswitch.services.user_network.denials import Denial, Denials
from vswitch.services.user_network.egress_rules import Rules, Wish
from vswitch.services.user_network.packet import TCP, Packet
from vswitch.services.user_network.settings import Settings

GUESTS_MAX = 1024
KNOWN_EACH_MAX = 512  # addresses and aliases of a guest
KNOWN_MAX = 1 << 15  # of all together
FLOWS_EACH_MAX = 128
FLOW_S = 240.0  # a silence after which libslirp forgets it, too (udp.h: SO_EXPIRE)
KEPT_MIN_S, KEPT_MAX_S = 300.0, 86400.0  # how long an answer holds: clients keep some for longer than they are told
TOLD_S = 60  # how long it does for the guest, at most


class _Known(msgspec.Struct):
    """What there is about an address, or about an alias: a name that led to it, and rules, each until when."""

    name: Name
    allowed: dict[int, float]
    denied: dict[int, float]


class _Guest:
    def __init__(self) -> None:
        self.known: OrderedDict[bytes | Name, _Known] = OrderedDict()
        self.flows: OrderedDict[bytes, float] = OrderedDict()

    def note(self, key: bytes | Name, name: Name, allowed: list[int], denied: list[int], until_s: float) -> None:
        known = self.known.setdefault(key, _Known(name, {}, {}))
        self.known.move_to_end(key)
        known.name = name
        for rules, numbers in ((known.allowed, allowed), (known.denied, denied)):
            rules.update((number, max(until_s, rules.get(number, 0.0))) for number in numbers)

    def keep_open(self, flow: bytes, until_s: float) -> None:
        self.flows[flow] = until_s
        self.flows.move_to_end(flow)
        if len(self.flows) > FLOWS_EACH_MAX:
            self.flows.popitem(last=False)

    def rules(self, key: bytes | Name, now_s: float) -> tuple[Name, list[int], list[int]]:
        """A name that led there, and which rules hold for it."""
        known = self.known.get(key)
        if known is None:
            return (), [], []
        allowed, denied = (
            [number for number, until_s in rules.items() if until_s > now_s] for rules in (known.allowed, known.denied)
        )
        return known.name, allowed, denied


class Egress:
    """`tell` is told what was stopped, not too often."""

    def __init__(self, settings: Settings, tell: Callable[[Denial], None]) -> None:
        self._rules = Rules(settings.allow, settings.deny)
        self._networks = settings.network, settings.network6
        self._denials = Denials(tell)
        self._guests: OrderedDict[bytes, _Guest] = OrderedDict()

    def permits(self, mac: bytes, frame: bytes, packet: Packet, now_s: float) -> bool:
        """Whether a packet may go that opens a connection, or belongs to one of another protocol than TCP."""
        guest, has_ports = self._guest(mac), packet.protocol in (TCP, inet.UDP)
        ports = packet.ports(frame) if has_ports else b""
        if has_ports and len(ports) < 4:
            return False
        wish = Wish(packet.protocol, packet.target, int.from_bytes(ports[2:]) if has_ports else None)
        flow = bytes([packet.protocol]) + packet.source + packet.target + ports
        is_open = packet.protocol != TCP and guest.flows.get(flow, 0.0) > now_s
        if not is_open:
            name, allowed, denied = guest.rules(packet.target, now_s)
            verdict = self._rules.judge(wish, allowed, denied)
            if verdict is not None:
                self._denials.packet(mac, wish, dns_records.written(name) if name else "", verdict, now_s)
                return False
        if packet.protocol != TCP:
            guest.keep_open(flow, now_s + FLOW_S)
        return True

    def may_ask(self, mac: bytes, name: Name, now_s: float) -> bool:
        """Whether a guest may ask what is behind a name."""
        return not self._is_hidden(mac, [name], self._allowing(mac, name, now_s), now_s)

    def answered(self, mac: bytes, name: Name, response: bytes, now_s: float) -> bytes:
        """What a guest is told of the response to what it has asked, whose addresses it may reach then. Raises
        ValueError if that is malformed."""
        found = dns_records.answers(response, name)
        names, allowed = _aliases(name, found), self._allowing(mac, name, now_s)
        if self._is_hidden(mac, names, allowed, now_s):
            return dns.failure(response, dns.NXDOMAIN)
        denied = self._rules.denying(names)
        guest = self._guest(mac)
        for answer in found:
            if answer.owner in names:
                until_s = now_s + min(max(answer.ttl_s, KEPT_MIN_S), KEPT_MAX_S)
                if answer.name is not None and allowed:
                    guest.note(answer.name, name, allowed, [], until_s)
                elif answer.ip and not self._is_ours(answer.ip):
                    guest.note(answer.ip, name, allowed, denied, until_s)
        self._make_room(guest)
        return dns_records.shortened(response, found, TOLD_S)

    def _allowing(self, mac: bytes, name: Name, now_s: float) -> list[int]:
        """The rules that allow a name, or one that led to it."""
        return [*{*self._rules.allowing(name), *self._guest(mac).rules(name, now_s)[1]}]

    def _is_hidden(self, mac: bytes, names: list[Name], allowed: list[int], now_s: float) -> bool:
        verdict = self._rules.judge_names(names, is_allowed=bool(allowed))
        if verdict is not None:
            self._denials.name(mac, dns_records.written(names[0]), verdict, now_s)
        return verdict is not None

    def _is_ours(self, ip: bytes) -> bool:
        """Whether an address is in this network: what is there, a name outside opens to nobody."""
        return any(ip_address(ip) in network for network in self._networks)

    def _guest(self, mac: bytes) -> _Guest:
        guest = self._guests.get(mac)
        if guest is None:
            guest = self._guests[mac] = _Guest()
            if len(self._guests) > GUESTS_MAX:
                self._guests.popitem(last=False)
        self._guests.move_to_end(mac)
        return guest

    def _make_room(self, guest: _Guest) -> None:
        """Forgets what is oldest: of a guest that knows too much, and of those that know most."""
        while len(guest.known) > KNOWN_EACH_MAX:
            guest.known.popitem(last=False)
        while sum(len(other.known) for other in self._guests.values()) > KNOWN_MAX:
            max(self._guests.values(), key=lambda other: len(other.known)).known.popitem(last=False)


def _aliases(name: Name, found: list[Answer]) -> list[Name]:
    """A name, and those that it leads to, in their order."""
    leads = {answer.owner: answer.name for answer in found if answer.name is not None}
    names = [name]
    while (following := leads.get(names[-1])) is not None and following not in names:
        names.append(following)
    return names
