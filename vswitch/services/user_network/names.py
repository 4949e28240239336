"""DNS for the names of a user network's own stations (RFC 1035). Sans-IO: a query in, a response out, or None for what
others know."""

import codecs
import re
from ipaddress import IPv4Address, IPv6Address

import dnslib  # type: ignore[import-untyped]
from dnslib import QTYPE

from vswitch.services.user_network.leases import Lease, Leases, mac_bytes
from vswitch.services.user_network.neighbors import Neighbors
from vswitch.services.user_network.settings import Address, Settings

_REVERSE = (".in-addr.arpa", ".ip6.arpa")

codecs.lookup("idna")  # which dnslib needs when no file can be read any more

TTL_S = 10
QUERY_MAX = 1232
_NOBODYS = {"host", "localhost", "wpad", "isatap"}  # the last two have Windows trust whoever has that name
_LABEL = re.compile(rb"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def label(text: str | bytes) -> str:
    """A name as one label, in small letters; empty if it cannot be one. Of a name with dots, the first counts."""
    data = text.encode(errors="replace") if isinstance(text, str) else text
    first = data.rstrip(b"\0").split(b".")[0].replace(b"_", b"-")
    return first.decode().lower() if _LABEL.fullmatch(first) else ""


def port_label(port: str) -> str:
    return label(port.replace(".", "-"))


def read(query: bytes) -> dnslib.DNSRecord:
    """A query, of one question. Raises ValueError if it is malformed."""
    try:
        asked = dnslib.DNSRecord.parse(query[:QUERY_MAX])
        if asked.header.qr or len(asked.questions) != 1:
            raise ValueError("not a query")
    except Exception as error:  # dnslib raises many kinds
        raise ValueError("malformed") from error
    return asked


class Names:
    """NAME.`domain`, and NAME alone, for whoever has a lease; the gateway is `host`."""

    def __init__(self, settings: Settings, leases: Leases, neighbors: Neighbors) -> None:
        self._settings = settings
        self._domain = settings.domainname.lower()
        self._leases = leases
        self._neighbors = neighbors
        self.invented: dict[str, list[Address]] = {}  # whole names, and what they stand for

    def take(self, wanted: str, holder: Lease, now_s: float) -> str:
        """The name for a station: what it wants, unless another has it, or a port of that name. Who is behind a port of
        the name takes it from others."""
        if not wanted or wanted in _NOBODYS:
            return ""
        others = [lease for lease in self._leases.current(now_s) if lease.mac != holder.mac]
        if any(wanted == port_label(lease.port) for lease in others if lease.port != holder.port):
            return ""
        namesakes = [lease for lease in others if lease.name == wanted]
        if namesakes and (wanted != port_label(holder.port) or any(it.port == holder.port for it in namesakes)):
            return ""
        for lease in namesakes:
            lease.name = ""
        return wanted

    def addresses(self, name: str, now_s: float) -> list[Address] | None:
        """Those that a name stands for, of either version; None if it is nobody's."""
        settings = self._settings
        if name == "host":
            own: list[tuple[bool, Address]] = [(settings.ipv4, settings.host), (settings.ipv6, settings.host6)]
            return [ip for is_there, ip in own if is_there]
        lease = self._leases.named(name, now_s)
        return None if lease is None else [lease.ip, *self._neighbors.of(mac_bytes(lease.mac))]

    def answer(self, query: bytes, now_s: float) -> bytes | None:
        """The response to a query, or None if it is not about this network. Raises ValueError if it is malformed."""
        asked = read(query)
        try:
            return self._answer(asked, now_s)
        except Exception as error:  # dnslib raises many kinds
            raise ValueError("malformed") from error

    def is_invented(self, query: bytes) -> bool:
        """Whether a query is about a name that a program has made up. Raises ValueError if it is malformed."""
        return bool(self.invented) and _name(read(query)) in self.invented

    def _answer(self, asked: dnslib.DNSRecord, now_s: float) -> bytes | None:
        name = _name(asked)
        reply = asked.reply(aa=1, ra=1)
        if name.endswith(_REVERSE):
            return self._reverse(name, asked, reply, now_s)
        if not name:  # the root
            return None
        if name in self.invented:
            return self._with(self.invented[name], asked, reply)
        own, _, rest = name.partition(".")
        if rest not in (self._domain, ""):
            return None if not name.endswith(f".{self._domain}") else _nothing(reply)
        ips = self.addresses(own, now_s)
        if ips is None:
            return None if rest == "" else _nothing(reply)
        return self._with(ips, asked, reply)

    def _with(self, ips: list[Address], asked: dnslib.DNSRecord, reply: dnslib.DNSRecord) -> bytes:
        for ip in ips:
            kind, data = (QTYPE.A, dnslib.A) if ip.version == 4 else (QTYPE.AAAA, dnslib.AAAA)
            if asked.q.qtype in (kind, QTYPE.ANY):
                reply.add_answer(dnslib.RR(asked.q.qname, kind, rdata=data(str(ip)), ttl=TTL_S))
        return bytes(reply.pack())

    def _reverse(self, name: str, asked: dnslib.DNSRecord, reply: dnslib.DNSRecord, now_s: float) -> bytes | None:
        own = self._name_of(_reversed(name), now_s)
        if not own:
            return None
        full = f"{own}.{self._domain}"
        if asked.q.qtype in (QTYPE.PTR, QTYPE.ANY):
            reply.add_answer(dnslib.RR(asked.q.qname, QTYPE.PTR, rdata=dnslib.PTR(full), ttl=TTL_S))
        return bytes(reply.pack())

    def _name_of(self, ip: Address | None, now_s: float) -> str:
        if ip in (self._settings.host, self._settings.host6):
            return "host"
        lease: Lease | None = None
        if isinstance(ip, IPv4Address):
            lease = self._leases.at(ip)
        elif ip is not None and (mac := self._neighbors.whose(ip)) is not None:
            lease = self._leases.of(mac.hex(":"))
        return lease.name if lease is not None and lease.until_s > now_s else ""


def _name(asked: dnslib.DNSRecord) -> str:
    return str(asked.q.qname).rstrip(".").lower()


def _reversed(name: str) -> Address | None:
    """The address that a name of in-addr.arpa or ip6.arpa is about (RFC 1035, 3.5; RFC 3596, 2.5)."""
    labels = name.split(".")[-3::-1]
    try:
        if name.endswith(_REVERSE[0]):
            return IPv4Address(".".join(labels))
        digits = "".join(labels)
        return IPv6Address(bytes.fromhex(digits)) if len(labels) == len(digits) == 32 else None
    except ValueError:
        return None


def _nothing(reply: dnslib.DNSRecord) -> bytes:
    reply.header.rcode = dnslib.RCODE.NXDOMAIN
    return bytes(reply.pack())
