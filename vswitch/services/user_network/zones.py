"""DNS for programs of this machine: what a user network is the authority on (RFC 1035, 6.1). Sans-IO.

That is its domain, and the reverse names of its addresses. All else is refused, so that a resolver may ask here without
anybody taking this for a server of other names.
"""

from ipaddress import IPv4Network, IPv6Network

import dnslib  # type: ignore[import-untyped]

from vswitch.protocols import dns
from vswitch.services.user_network import names
from vswitch.services.user_network.names import Names
from vswitch.services.user_network.settings import Settings

_IPV4, _IPV6 = ".in-addr.arpa", ".ip6.arpa"

Network = IPv4Network | IPv6Network


class Zones:
    def __init__(self, settings: Settings, own: Names) -> None:
        self._names = own
        self._domain = settings.domainname.lower()
        both: list[tuple[bool, Network]] = [(settings.ipv4, settings.network), (settings.ipv6, settings.network6)]
        self._networks = [network for is_there, network in both if is_there]

    def answer(self, query: bytes, now_s: float) -> bytes:
        """The response to a query. Raises ValueError if it is malformed."""
        asked = names.read(query)
        name = str(asked.q.qname).rstrip(".").lower()
        if name == self._domain:
            return _empty(asked, dns.NOERROR)
        addresses = reversed_network(name)
        if addresses is None and not name.endswith(f".{self._domain}"):
            return _empty(asked, dns.REFUSED)
        if addresses is not None and not self._has(addresses):
            return _empty(asked, dns.REFUSED)
        response = self._names.answer(query, now_s)
        if response is not None:
            return response
        is_one = addresses is not None and addresses.num_addresses == 1
        return _empty(asked, dns.NXDOMAIN if is_one else dns.NOERROR)

    def _has(self, addresses: Network) -> bool:
        return any(
            addresses.version == own.version and addresses.subnet_of(own)  # type: ignore[arg-type]
            for own in self._networks
        )


def reversed_network(name: str) -> Network | None:
    """The addresses that a name of in-addr.arpa or ip6.arpa is about, or is above (RFC 1035, 3.5; RFC 3596, 2.5)."""
    labels = name.split(".")[-3::-1]
    try:
        if name.endswith(_IPV4) and len(labels) <= 4:
            return IPv4Network((".".join([*labels, "0", "0", "0"][:4]), 8 * len(labels)))
        if name.endswith(_IPV6) and len(labels) <= 32 and all(len(label) == 1 for label in labels):
            return IPv6Network((bytes.fromhex("".join(labels).ljust(32, "0")), 4 * len(labels)))
    except ValueError:
        pass
    return None


def _empty(asked: dnslib.DNSRecord, code: int) -> bytes:
    reply = asked.reply(aa=code != dns.REFUSED, ra=1)
    reply.header.rcode = code
    return bytes(reply.pack())
