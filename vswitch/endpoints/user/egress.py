"""A rule about what guests reach outside (`allow=`, `deny=`): where, at which ports, by which protocol.

    [tcp:|udp:|icmp:][WHERE][:PORT[-PORT]]

WHERE is an address, a network, a domain name, `*.` and one for all that is below it, or nothing for everywhere. Of what
is left out, all is meant. An IPv6 address with a port is in brackets.
"""

import re
from ipaddress import ip_network
from typing import Any

import msgspec

from vswitch import values
from vswitch.errors import InputError

EXAMPLE = "deb.debian.org:443"
MOST = 128  # of each kind, in a network
PORT_MAX = 65535
_PROTOCOLS = ("tcp", "udp", "icmp")
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::(.*))?", re.DOTALL)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(\*\.)?({_LABEL}\.)*(?![0-9]+$){_LABEL}")  # the last label is no number: that is an address
NAME_MAX = 253


class Rule(msgspec.Struct, frozen=True):
    """`network` and `name` are empty for everywhere; without `ports`, from the first to the last, all are meant."""

    protocol: str = ""
    network: str = ""
    name: str = ""
    ports: tuple[int, int] | None = None

    @property
    def told(self) -> dict[str, Any]:
        """To the network's process."""
        return {"text": str(self), **msgspec.structs.asdict(self)}

    def __str__(self) -> str:
        where = self.network or self.name
        if self.ports is None:
            return ":".join(filter(None, (self.protocol, where))) or "*"
        first, last = self.ports
        ports = str(first) if first == last else f"{first}-{last}"
        where = f"[{where}]" if ":" in where else where
        return ":".join([*filter(None, (self.protocol, where)), ports] if self.protocol or where else ["", ports])


def read(value: Any) -> Rule:
    """Raises InputError."""
    text = values.text(value, EXAMPLE)
    try:
        return _read(text.lower())
    except InputError as error:
        raise InputError(f"{values.shown(text)}: {error}") from None


def _read(text: str) -> Rule:
    head, _, tail = text.partition(":")
    protocol, rest = (head, tail) if head in _PROTOCOLS else ("", text)
    where, ports = _split(rest)
    if ports is not None and protocol == "icmp":
        raise InputError("icmp has no ports; leave them out, like icmp:10.0.0.0/8")
    if where in ("", "*"):
        if not (ports or protocol or where):
            raise InputError(f"says nothing; write it like {EXAMPLE}")
        return Rule(protocol, ports=_ports(ports))
    if re.fullmatch(r"[0-9.]+|.*[:/%].*", where, re.DOTALL):
        return Rule(protocol, network=_network(where), ports=_ports(ports))
    return Rule(protocol, name=_name(where), ports=_ports(ports))


def _split(text: str) -> tuple[str, str | None]:
    """Where, and at which ports, if these are said."""
    if match := _BRACKETED.fullmatch(text):
        return match[1], match[2]
    if text.count(":") > 1:  # an IPv6 address
        return text, None
    if _PORTS.fullmatch(text):
        return "", text
    where, colon, ports = text.partition(":")
    return where, ports if colon else None


def _ports(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = _PORTS.fullmatch(text)
    if match is None:
        raise InputError(f"{values.shown(text)} is no port; write one like :443, or several like :8000-8010")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= PORT_MAX:
        raise InputError(f"ports are 1 to {PORT_MAX}, the lower one first; write them like :443 or :8000-8010")
    return first, last


def _network(text: str) -> str:
    try:
        if "%" in text:
            raise ValueError(text)
        network = ip_network(text)
    except ValueError as error:
        why = str(error) if "host bits" in str(error) else f"{values.shown(text)} is no address and no network"
        raise InputError(
            f"{why}; write one like 10.0.0.0/8, 192.0.2.1:443, 2001:db8::/32 or [2001:db8::1]:443"
        ) from None
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def _name(text: str) -> str:
    name = text.removesuffix(".")
    if not name.isascii():
        raise InputError("DNS has no such letters; write the name as xn--…")
    if len(name) > NAME_MAX or not _NAME.fullmatch(name):
        raise InputError(
            f"that is no address and no domain name; write it like {EXAMPLE}, *.debian.org, 10.0.0.0/8 or :25"
        )
    return name
