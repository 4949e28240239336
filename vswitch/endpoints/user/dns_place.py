"""Where programs of this machine ask for guests' names (`dns_listen=`), as it is written."""

import ipaddress
import re
from typing import Any

import msgspec

from vswitch import values
from vswitch.errors import InputError

EXAMPLE = "127.0.0.1:5300"
_FORM = re.compile(r"(?:\[([^\]]*)\]|([^:\[]*)):([0-9]{1,5})")


class Place(msgspec.Struct, frozen=True):
    """An address and a port."""

    host: str
    port: int

    @property
    def is_of_ipv6(self) -> bool:
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_of_ipv6 else f"{self.host}:{self.port}"

    def check(self, *, insecure: bool) -> None:
        """Whether it may be. Raises InputError."""
        if not ipaddress.ip_address(self.host).is_loopback and not insecure:
            raise InputError(
                f"dns_listen: {self}: anyone on the network could ask; add insecure=yes if that is meant, "
                "or use 127.0.0.1",
                "dns_listen",
            )


def read(value: Any) -> Place:
    """ADDRESS:PORT. Raises InputError."""
    text = values.text(value, EXAMPLE)
    match = _FORM.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        host = str(ipaddress.IPv4Address(match[2]) if match[1] is None else ipaddress.IPv6Address(match[1]))
    except ValueError:
        raise InputError(f"{values.shown(text)} is no address and port of this machine; write {EXAMPLE}") from None
    if not 1 <= int(match[3]) <= 65535:
        raise InputError(f"port {match[3]} is out of range; 1 to 65535")
    return Place(host, int(match[3]))
