"""Which IPv6 addresses guests have given themselves (RFC 4862), by their MAC addresses. Sans-IO."""

from ipaddress import IPv6Address, IPv6Network

from vswitch.services.user_network.settings import Address

STATIONS_MAX = 1024
EACH_MAX = 8


class Neighbors:
    """Of one network. What anybody says of itself is believed: it says so of its own MAC address only."""

    def __init__(self, network: IPv6Network) -> None:
        self._network = network
        self._by_mac: dict[bytes, dict[IPv6Address, None]] = {}

    def learn(self, mac: bytes, ip: IPv6Address, *, is_used: bool) -> bool:
        """One that is used, or that a station is about to: unless another one has it. Answers whether that is new."""
        if ip not in self._network or (not is_used and self.whose(ip) not in (None, mac)):
            return False
        known = self._by_mac.setdefault(mac, {})
        is_new = ip not in known or (is_used and next(iter(known)) != ip)
        if is_used:
            self._by_mac[mac] = known = {ip: None} | known
        known.setdefault(ip)
        if len(known) > EACH_MAX:
            known.popitem()
        if len(self._by_mac) > STATIONS_MAX:
            del self._by_mac[next(iter(self._by_mac))]
        return is_new

    def of(self, mac: bytes) -> list[IPv6Address]:
        """The one that was used last comes first."""
        return list(self._by_mac.get(mac, ()))

    def whose(self, ip: Address) -> bytes | None:
        return next((mac for mac, ips in self._by_mac.items() if ip in ips), None)
