"""Which IPv6 addresses guests have given themselves (RFC 4862), by their MAC addresses. Sans-IO; time is an argument.

What nobody uses any more is forgotten. When there are too many stations, one goes that has no lease, as a guest can say
any number of MAC addresses; of leases it has few.
"""

from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network

from vswitch.services.user_network.settings import Address

STATIONS_MAX = 1024
EACH_MAX = 8
AGE_S = 4 * 3600.0  # without being used
LOOK_S = 60.0  # how often to see what is older


class Neighbors:
    """Of one network. What anybody says of itself is believed: it says so of its own MAC address only. `has_lease` says
    whether a station does."""

    def __init__(self, network: IPv6Network, has_lease: Callable[[bytes], bool] = lambda mac: False) -> None:
        self._network = network
        self._has_lease = has_lease
        self._by_mac: dict[bytes, dict[IPv6Address, float]] = {}  # when each was seen
        self._look_s = 0.0

    def learn(self, mac: bytes, ip: IPv6Address, now_s: float, *, is_used: bool) -> bool:
        """One that is used, or that a station is about to: unless another one has it. Answers whether that is new."""
        if ip not in self._network or (not is_used and self.whose(ip) not in (None, mac)):
            return False
        known = self._by_mac.get(mac, {})
        is_new = ip not in known or (is_used and next(iter(known)) != ip)
        if is_used:
            known = {ip: now_s} | known
        known[ip] = now_s
        if len(known) > EACH_MAX:
            known.popitem()
        self._by_mac[mac] = known
        if len(self._by_mac) > STATIONS_MAX:
            del self._by_mac[self._least_needed()]
        return is_new

    def tick(self, now_s: float) -> None:
        """Forgets what has not been used for long."""
        if now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_S
        for mac, known in list(self._by_mac.items()):
            fresh = {ip: seen_s for ip, seen_s in known.items() if now_s - seen_s < AGE_S}
            if fresh:
                self._by_mac[mac] = fresh
            else:
                del self._by_mac[mac]

    def of(self, mac: bytes) -> list[IPv6Address]:
        """The one that was used last comes first."""
        return list(self._by_mac.get(mac, ()))

    def whose(self, ip: Address) -> bytes | None:
        return next((mac for mac, ips in self._by_mac.items() if ip in ips), None)

    def _least_needed(self) -> bytes:
        """The oldest of those without a lease, or of all."""
        return next((mac for mac in self._by_mac if not self._has_lease(mac)), next(iter(self._by_mac)))
