"""The DHCPv6 server (RFC 8415) of a network whose guests make their own addresses (RFC 4862). Sans-IO: a message in, an
answer out.

It knows no addresses, so it remembers nothing and needs no clock. It answers so that a client stops asking it for one:

    INFORMATION-REQUEST     REPLY       what there is to know (18.3.6)
    SOLICIT                 ADVERTISE   the same, and no address: NoAddrsAvail in each IA (18.3.9)
    REQUEST                 REPLY       as for SOLICIT (18.3.2)
    RENEW                   REPLY       NoBinding in each IA (18.3.4)
    CONFIRM, REBIND         nothing: the address may be another server's (18.3.3, 18.3.5)
    RELEASE, DECLINE        nothing: nobody has an address of ours

Those who boot from the network get a boot file's URL (RFC 5970), if they ask for it or do not say what they ask for.
"""

from ipaddress import IPv6Address

from vswitch.protocols import dhcp6, inet6
from vswitch.protocols.dhcp6 import Message

ASSOCIATIONS_MAX = 8  # that one answer is about, so that it fits the smallest MTU
URL_MAX = 512  # so, too

# How each kind of message is answered, and why an IA_NA, IA_TA or IA_PD gets nothing.
_NOTHING_LEFT = {
    dhcp6.IA_NA: dhcp6.NO_ADDRS_AVAIL,
    dhcp6.IA_TA: dhcp6.NO_ADDRS_AVAIL,
    dhcp6.IA_PD: dhcp6.NO_PREFIX_AVAIL,
}
_ANSWERS = {
    dhcp6.INFORMATION_REQUEST: (dhcp6.REPLY, {}),
    dhcp6.SOLICIT: (dhcp6.ADVERTISE, _NOTHING_LEFT),
    dhcp6.REQUEST: (dhcp6.REPLY, _NOTHING_LEFT),
    dhcp6.RENEW: (dhcp6.REPLY, dict.fromkeys(dhcp6.IA_HEADS, dhcp6.NO_BINDING)),
}
_FOR_ONE_SERVER = {dhcp6.REQUEST, dhcp6.RENEW}


class Dhcp6Server:
    """`mac` is the gateway's, which its DUID is made of. It gives one name server, domains to search, and if
    `bootfile_url` is not empty, that. Raises ValueError if the URL is too long."""

    def __init__(self, mac: bytes, dns: IPv6Address, search: tuple[str, ...] = (), bootfile_url: str = "") -> None:
        self._duid = dhcp6.duid_ll(mac)
        known = {
            dhcp6.DNS: dns.packed,
            dhcp6.SEARCH: inet6.domain_names(search),
            dhcp6.BOOT_FILE_URL: bootfile_url.encode(),
        }
        if len(known[dhcp6.BOOT_FILE_URL]) > URL_MAX:
            raise ValueError(f"a boot file's URL of more than {URL_MAX} bytes")
        self._known = {code: value for code, value in known.items() if value}

    def answer(self, payload: bytes) -> bytes | None:
        """The answer to what came to ALL_SERVERS; what came to one address is not for a server (RFC 8415, 18.4)."""
        message = dhcp6.read(payload)
        if message is None or message.kind not in _ANSWERS or not self._is_valid(message):
            return None
        kind, statuses = _ANSWERS[message.kind]
        associations = [
            dhcp6.refused(code, iaid, statuses[code]) for code, iaid in message.associations[:ASSOCIATIONS_MAX]
        ]
        wanted = self._known.keys() if message.wanted is None else message.wanted
        known = [(code, value) for code, value in self._known.items() if code in wanted]
        return dhcp6.reply(message, kind, self._duid, associations + known)

    def _is_valid(self, message: Message) -> bool:
        """Whether it says who it is from and for as it must (RFC 8415, 16.2, 16.4, 16.6 and 16.12)."""
        if message.kind == dhcp6.INFORMATION_REQUEST:
            return message.server in (None, self._duid) and not message.associations
        return message.client is not None and message.server == (
            self._duid if message.kind in _FOR_ONE_SERVER else None
        )
