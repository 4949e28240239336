"""What guests may reach outside (`allow=`, `deny=`). Sans-IO.

Rules about names hold for the addresses that the name server has found for them: for the guest that has asked, and no
other, as long as the answer holds. It is told to ask again soon, so that it does when its network has started anew.
A connection of TCP is judged when it opens, others by each packet, until they are silent.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import ip_address

from vswitch.protocols import dns, dns_records, inet
from vswitch.protocols.dns_records import Answer, Name
from vswitch.services.user_network.denials import Denial, Denials
from vswitch.services.user_network.egress_rules import Rules, Wish
from vswitch.services.user_network.packet import TCP, Packet
from vswitch.services.user_network.settings import Settings

GUESTS_MAX = 1024
KNOWN_EACH_MAX = 512  # addresses and aliases of a guest
KNOWN_MAX = 1 << 13  # of all together
NAMES_MAX = 8  # of each
FLOWS_EACH_MAX = 128
FLOW_S = 240.0  # a silence after which libslirp forgets it, too (udp.h: SO_EXPIRE)
KEPT_MIN_S, KEPT_MAX_S = 300.0, 86400.0  # how long an answer holds: clients keep some for longer than they are told
TOLD_S = 60  # how long it does for the guest, at most


class _Known:
    """The names of an address, or of an alias, each until when: those asked for, and aliases that led there."""

    def __init__(self) -> None:
        self.asked: dict[Name, float] = {}
        self.through: dict[Name, float] = {}


class _Guest:
    def __init__(self) -> None:
        self.known: OrderedDict[bytes | Name, _Known] = OrderedDict()
        self.flows: OrderedDict[bytes, float] = OrderedDict()

    def note(self, key: bytes | Name, asked: Mapping[Name, float], through: Mapping[Name, float]) -> None:
        """Names that lead there, each until when."""
        known = self.known.setdefault(key, _Known())
        self.known.move_to_end(key)
        for names, new in ((known.asked, asked), (known.through, through)):
            for name, until_s in new.items():
                names[name] = max(until_s, names.pop(name, 0.0))
            while len(names) > NAMES_MAX:
                del names[next(iter(names))]

    def asked(self, key: bytes | Name, now_s: float) -> dict[Name, float]:
        """The names that a guest has asked for and that lead there, each until when."""
        return _valid(self.known[key].asked, now_s) if key in self.known else {}

    def through(self, key: bytes | Name, now_s: float) -> dict[Name, float]:
        """The aliases that lead there."""
        return _valid(self.known[key].through, now_s) if key in self.known else {}

    def keep_open(self, flow: bytes, until_s: float) -> None:
        self.flows[flow] = until_s
        self.flows.move_to_end(flow)
        if len(self.flows) > FLOWS_EACH_MAX:
            self.flows.popitem(last=False)


_NOBODY = _Guest()  # who has asked for nothing


class Egress:
    """`tell` is told what was stopped, not too often. `rules` may change: connections of TCP stay. Who `has_lease` is
    forgotten last."""

    def __init__(
        self,
        settings: Settings,
        rules: Rules,
        tell: Callable[[Denial], None],
        has_lease: Callable[[bytes], bool] = lambda mac: False,
    ) -> None:
        self._rules = rules
        self._has_lease = has_lease
        self._networks = settings.network, settings.network6
        self._denials = Denials(tell)
        self._guests: OrderedDict[bytes, _Guest] = OrderedDict()

    def change(self, rules: Rules) -> None:
        self._rules = rules
        for guest in self._guests.values():
            guest.flows.clear()

    def permits(self, mac: bytes, frame: bytes, packet: Packet, now_s: float) -> bool:
        """Whether a packet may go that opens a connection, or belongs to one of another protocol than TCP."""
        guest, has_ports = self._guests.get(mac, _NOBODY), packet.protocol in (TCP, inet.UDP)
        ports = packet.ports(frame) if has_ports else b""
        if has_ports and len(ports) < 4:
            return False
        flow = bytes([packet.protocol]) + packet.source + packet.target + ports
        is_open = packet.protocol != TCP and guest.flows.get(flow, 0.0) > now_s
        if not is_open:
            wish = Wish(packet.protocol, packet.target, int.from_bytes(ports[2:]) if has_ports else None)
            asked = guest.asked(packet.target, now_s)
            verdict = self._rules.judge(wish, asked, guest.through(packet.target, now_s))
            if verdict is not None:
                name = dns_records.written([*asked][-1]) if asked else ""
                self._denials.packet(mac, wish, name, verdict, now_s)
                return False
        if packet.protocol != TCP:
            self._guest(mac).keep_open(flow, now_s + FLOW_S)
        return True

    def may_ask(self, mac: bytes, name: Name, now_s: float) -> bool:
        """Whether a guest may ask what is behind a name."""
        return not self._is_hidden(mac, name, [], now_s)

    def answered(self, mac: bytes, name: Name, response: bytes, now_s: float) -> bytes:
        """What a guest is told of the response to what it has asked, whose addresses it may reach then. Raises
        ValueError if that is malformed."""
        found = dns_records.answers(response, name)
        aliases = _aliases(name, found)
        if self._is_hidden(mac, name, aliases, now_s):
            return dns.failure(response, dns.NXDOMAIN)
        guest = self._guest(mac)
        asked = guest.asked(name, now_s) | {name: math.inf}  # what led there does so no longer than it said
        for answer in found:
            key = answer.name or answer.ip
            if key and answer.owner in (name, *aliases) and not (answer.ip and self._is_ours(answer.ip)):
                until_s = now_s + min(max(answer.ttl_s, KEPT_MIN_S), KEPT_MAX_S)
                limited = {other: min(end_s, until_s) for other, end_s in asked.items()}
                guest.note(key, limited, dict.fromkeys(aliases, until_s))
        self._make_room(guest)
        return dns_records.shortened(response, found, TOLD_S)

    def _is_hidden(self, mac: bytes, name: Name, aliases: list[Name], now_s: float) -> bool:
        verdict = self._rules.judge_names([*self._guests.get(mac, _NOBODY).asked(name, now_s), name], aliases)
        if verdict is not None:
            self._denials.name(mac, dns_records.written(name), verdict, now_s)
        return verdict is not None

    def _is_ours(self, ip: bytes) -> bool:
        """Whether an address is in this network: what is there, a name outside opens to nobody."""
        return any(ip_address(ip) in network for network in self._networks)

    def _guest(self, mac: bytes) -> _Guest:
        guest = self._guests.get(mac)
        if guest is None:
            if len(self._guests) >= GUESTS_MAX:
                del self._guests[self._least_needed()]
            guest = self._guests[mac] = _Guest()
        self._guests.move_to_end(mac)
        return guest

    def _make_room(self, guest: _Guest) -> None:
        """Forgets what is oldest: of a guest that knows too much, and of those that know most, best without a lease."""
        while len(guest.known) > KNOWN_EACH_MAX:
            guest.known.popitem(last=False)
        surplus = sum(len(other.known) for other in self._guests.values()) - KNOWN_MAX
        while surplus > 0:
            rivals = [mac for mac, other in self._guests.items() if other.known and not self._has_lease(mac)]
            known = self._guests[max(rivals or self._guests, key=lambda mac: len(self._guests[mac].known))].known
            for _ in range(min(surplus, len(known))):
                known.popitem(last=False)
                surplus -= 1

    def _least_needed(self) -> bytes:
        """The oldest of those without a lease, or of all."""
        return next((mac for mac in self._guests if not self._has_lease(mac)), next(iter(self._guests)))


def _valid(names: Mapping[Name, float], now_s: float) -> dict[Name, float]:
    return {name: until_s for name, until_s in names.items() if until_s > now_s}


def _aliases(name: Name, found: list[Answer]) -> list[Name]:
    """Those that a name leads to, in their order."""
    leads = {answer.owner: answer.name for answer in found if answer.name is not None}
    names = [name]
    while (following := leads.get(names[-1])) is not None and following not in names:
        names.append(following)
    return names[1:]
