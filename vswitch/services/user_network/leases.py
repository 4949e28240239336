"""Who has which address: leases that follow a MAC address and the port it is behind. Sans-IO; time is an argument.

An address stays its station's as long as there are others: of those that are free, the one is given that was never
given or has been free the longest. What a station has is no other's while its port is up, so nobody takes a lease by
guessing a MAC address; and a port has no more than its share, so nobody takes them all.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

import msgspec

OFFER_S = 60.0  # how long an offered address is kept for who is to ask for it
DECLINED = ""  # in place of a MAC address: a station had said that another one uses the address
PER_PORT_MAX = 64  # leases that one port's stations may have


class Lease(msgspec.Struct, kw_only=True):
    """`name` is what the station calls itself, or its port's."""

    mac: str
    ip: IPv4Address
    port: str
    name: str = ""
    until_s: float = 0.0  # by the wall clock


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


class Leases:
    """Addresses of a `pool`, given for `duration_s`; `reserved` ones by MAC address or port."""

    def __init__(
        self,
        pool: Iterable[IPv4Address],
        duration_s: float,
        reserved: dict[str, IPv4Address] | None = None,
        known: Iterable[Lease] = (),
    ) -> None:
        self.duration_s = duration_s
        self._reserved = reserved or {}
        self._pool = dict.fromkeys(pool)
        self._by_mac: dict[str, Lease] = {}
        self._by_ip: dict[IPv4Address, Lease] = {}
        for lease in known:
            self._enter(lease)

    def of(self, mac: str) -> Lease | None:
        return self._by_mac.get(mac)

    def at(self, ip: IPv4Address) -> Lease | None:
        return self._by_ip.get(ip)

    def current(self, now_s: float) -> Iterator[Lease]:
        return (lease for lease in self._by_mac.values() if lease.until_s > now_s)

    def named(self, name: str, now_s: float) -> Lease | None:
        """Whose a name is: of several, it is the one's that has had it longest."""
        return next((lease for lease in self.current(now_s) if lease.name == name), None)

    def offer(self, mac: str, port: str, now_s: float, wanted: IPv4Address | None = None) -> Lease | None:
        """An address for a station; None if there is none, or its port has had its share.

        It is the one that the station has or had, else the one it wants if that is free.
        """
        ip = self._reserved.get(mac) or self._reserved.get(port)
        holder = None if ip is None else self._by_ip.get(ip)
        if holder is not None and holder.mac != mac and holder.until_s > now_s:  # another one behind that port
            ip = None
        lease = self._by_mac.get(mac)
        has_it = lease is not None and lease.port == port and lease.until_s > now_s
        if ip is None and not has_it and self._held_by(port, now_s) >= PER_PORT_MAX:
            return None
        if lease is not None and (lease.ip == ip if ip is not None else self._may_keep(lease, mac, port)):
            lease.port = port
            lease.until_s = max(lease.until_s, now_s + OFFER_S)
            return lease
        if ip is None:
            ip = wanted if wanted is not None and self.is_free(wanted, now_s) else self._free(now_s)
        if ip is None:
            return None
        lease = Lease(mac=mac, ip=ip, port=port, until_s=now_s + OFFER_S)
        self._enter(lease)
        return lease

    def _may_keep(self, lease: Lease, mac: str, port: str) -> bool:
        """Whether an address that a station has had is still one to be given, and nobody else's."""
        owners = [who for who, ip in self._reserved.items() if ip == lease.ip]
        return lease.ip in self._pool and all(who in (mac, port) for who in owners)

    def take(self, lease: Lease, now_s: float) -> None:
        """It is asked for."""
        lease.until_s = now_s + self.duration_s

    def decline(self, mac: str, ip: IPv4Address, now_s: float) -> None:
        """Somebody uses it already: it is given to nobody for a while."""
        lease = self._by_mac.get(mac)
        if lease is not None and lease.ip == ip:
            del self._by_mac[mac]
            self._by_ip[ip] = Lease(mac=DECLINED, ip=ip, port=lease.port, until_s=now_s + self.duration_s)

    def _held_by(self, port: str, now_s: float) -> int:
        """How many addresses are kept for a port's stations, those that they have declined among them."""
        return sum(lease.port == port and lease.until_s > now_s for lease in self._by_ip.values())

    def _enter(self, lease: Lease) -> None:
        self._forget(lease.mac, lease.ip)
        self._by_mac[lease.mac] = lease
        self._by_ip[lease.ip] = lease

    def _forget(self, mac: str, ip: IPv4Address) -> None:
        for lease in (self._by_mac.get(mac), self._by_ip.get(ip)):
            if lease is not None:
                self._by_mac.pop(lease.mac, None)
                self._by_ip.pop(lease.ip, None)

    def is_free(self, ip: IPv4Address, now_s: float) -> bool:
        """Whether anybody may have an address."""
        lease = self._by_ip.get(ip)
        return ip in self._pool and ip not in self._reserved.values() and (lease is None or lease.until_s <= now_s)

    def _free(self, now_s: float) -> IPv4Address | None:
        taken = set(self._reserved.values())
        free = [ip for ip in self._pool if ip not in taken]
        for ip in free:
            if ip not in self._by_ip:
                return ip
        over = [lease for ip in free if (lease := self._by_ip[ip]).until_s <= now_s]
        return min(over, key=lambda lease: lease.until_s).ip if over else None
