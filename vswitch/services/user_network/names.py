"""DNS for the names of a user network's own stations (RFC 1035). Sans-IO: a query in, a response out, or None for what
others know."""

import codecs
import re
from ipaddress import IPv4Address

import dnslib  # type: ignore[import-untyped]

from vswitch.services.user_network.leases import Lease, Leases

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


class Names:
    """NAME.`domain`, and NAME alone, for whoever has a lease; the gateway is `host`."""

    def __init__(self, domain: str, host: IPv4Address, leases: Leases) -> None:
        self._domain = domain.lower()
        self._host = host
        self._leases = leases

    def free_name(self, wanted: str, mac: str, now_s: float) -> str:
        """The name for a station: what it wants, unless another has it, or a port of that name."""
        if not wanted or wanted in _NOBODYS:
            return ""
        others = (lease for lease in self._leases.current(now_s) if lease.mac != mac)
        return "" if any(wanted in (lease.name, port_label(lease.port)) for lease in others) else wanted

    def address(self, name: str, now_s: float) -> IPv4Address | None:
        if name == "host":
            return self._host
        lease = self._leases.named(name, now_s)
        return None if lease is None else lease.ip

    def answer(self, query: bytes, now_s: float) -> bytes | None:
        """The response to a query, or None if it is not about this network. Raises ValueError if it is malformed."""
        try:
            asked = dnslib.DNSRecord.parse(query[:QUERY_MAX])
            if asked.header.qr or len(asked.questions) != 1:
                raise ValueError("not a query")
            return self._answer(asked, now_s)
        except Exception as error:  # dnslib raises many kinds
            raise ValueError("malformed") from error

    def _answer(self, asked: dnslib.DNSRecord, now_s: float) -> bytes | None:
        name = str(asked.q.qname).rstrip(".").lower()
        reply = asked.reply(aa=1, ra=1)
        if name.endswith(".in-addr.arpa"):
            return self._reverse(name, asked, reply, now_s)
        if not name:  # the root
            return None
        own, _, rest = name.partition(".")
        if rest not in (self._domain, ""):
            return None if not name.endswith(f".{self._domain}") else _nothing(reply)
        ip = self.address(own, now_s)
        if ip is None:
            return None if rest == "" else _nothing(reply)
        if asked.q.qtype in (dnslib.QTYPE.A, dnslib.QTYPE.ANY):
            reply.add_answer(dnslib.RR(asked.q.qname, dnslib.QTYPE.A, rdata=dnslib.A(str(ip)), ttl=TTL_S))
        return bytes(reply.pack())

    def _reverse(self, name: str, asked: dnslib.DNSRecord, reply: dnslib.DNSRecord, now_s: float) -> bytes | None:
        try:
            ip = IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split("."))))
        except ValueError:
            return None
        lease: Lease | None = self._leases.at(ip)
        own = "host" if ip == self._host else lease.name if lease is not None and lease.until_s > now_s else ""
        if not own:
            return None
        full = f"{own}.{self._domain}"
        if asked.q.qtype in (dnslib.QTYPE.PTR, dnslib.QTYPE.ANY):
            reply.add_answer(dnslib.RR(asked.q.qname, dnslib.QTYPE.PTR, rdata=dnslib.PTR(full), ttl=TTL_S))
        return bytes(reply.pack())


def _nothing(reply: dnslib.DNSRecord) -> bytes:
    reply.header.rcode = dnslib.RCODE.NXDOMAIN
    return bytes(reply.pack())
