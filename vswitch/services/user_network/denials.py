"""What the switch is told of packets and names that were stopped: each of a guest's once in a while, and no more than
a few at a time, with how many were left out."""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address

import msgspec

from vswitch.budget import Budget
from vswitch.protocols import inet, inet6
from vswitch.services.user_network.egress_rules import Verdict, Wish
from vswitch.services.user_network.packet import ICMP, TCP

AGAIN_S = 60.0
BURST, REST_S = 10, 6.0  # so many at once; one more in so long
ALL_BURST, ALL_REST_S = 50, 1.0  # of all guests together
GUESTS_MAX, SAID_MAX = 1024, 64  # that are remembered, and what was said of each
NAME_MAX = 255
_PROTOCOLS = {TCP: "tcp", inet.UDP: "udp", ICMP: "icmp", inet6.ICMPV6: "icmp"}


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """`mac` wants to reach a port of `ip`, or to know what is behind `name`. `rule` is the one that denies it; if it is
    empty, none allows it. `more` were not told since the last."""

    mac: str
    protocol: str
    ip: str = ""
    port: int = 0
    name: str = ""
    rule: str = ""
    more: int = 0


class _Guest:
    def __init__(self) -> None:
        self.said: OrderedDict[tuple[str, str, int, str, str], float] = OrderedDict()  # until when
        self.budget = Budget(BURST, REST_S)


class Denials:
    def __init__(self, tell: Callable[[Denial], None]) -> None:
        self._tell = tell
        self._all = Budget(ALL_BURST, ALL_REST_S)
        self._guests: OrderedDict[bytes, _Guest] = OrderedDict()

    def packet(self, mac: bytes, wish: Wish, name: str, verdict: Verdict, now_s: float) -> None:
        ip, protocol = str(ip_address(wish.ip)), _PROTOCOLS.get(wish.protocol, "ip")
        self._say(
            mac,
            Denial(mac=mac.hex(":"), protocol=protocol, ip=ip, port=wish.port or 0, name=name, rule=verdict.rule),
            now_s,
        )

    def name(self, mac: bytes, name: str, verdict: Verdict, now_s: float) -> None:
        self._say(mac, Denial(mac=mac.hex(":"), protocol="dns", name=name, rule=verdict.rule), now_s)

    def _say(self, mac: bytes, denial: Denial, now_s: float) -> None:
        guest = self._guests.setdefault(mac, _Guest())
        self._guests.move_to_end(mac)
        if len(self._guests) > GUESTS_MAX:
            self._guests.popitem(last=False)
        key = denial.protocol, denial.ip, denial.port, "" if denial.ip else denial.name, denial.rule
        if guest.said.get(key, 0.0) > now_s:
            return guest.budget.leave_out()
        more = guest.budget.take(now_s)
        if more is None:
            return None
        if self._all.take(now_s) is None:
            return guest.budget.leave_out(more + 1)
        guest.said[key] = now_s + AGAIN_S
        guest.said.move_to_end(key)
        if len(guest.said) > SAID_MAX:
            guest.said.popitem(last=False)
        return self._tell(msgspec.structs.replace(denial, name=denial.name[:NAME_MAX], more=more))
