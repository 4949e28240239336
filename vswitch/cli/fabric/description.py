"""What a host of a fabric is told, by options or by a TOML file that is the same on all hosts.

[fabric]
vni = [100]

[[host]]
name = "one"
address = "192.0.2.1"
reflector = true

[[host]]
name = "two"
address = "192.0.2.2"
"""

import socket
from ipaddress import IPv4Address
from typing import Any

import msgspec

from vswitch import units
from vswitch.control import config
from vswitch.control.config import WrongError
from vswitch.errors import InputError
from vswitch.values import check_name, items, number, shown, text

AS_DEFAULT, AS_MAX = 65000, 2**32 - 1  # the default is one of those for private use (RFC 6996)
VNI_DEFAULT, VNI_MAX = 100, 2**24 - 1
MTU_DEFAULT, MTU_MIN, MTU_MAX = 1500, 1330, 65535  # guests with IPv6 need 1280 (RFC 8200)
HOLD_DEFAULT_S, HOLD_MIN_S, HOLD_MAX_S = 9, 3, 65535  # RFC 4271 4.2


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One host. `peers` are those it speaks BGP with as an equal, `clients` those it reflects routes for (RFC 4456).

    `mtu` is what the network between the hosts carries. A host that is silent for `hold_s` is forgotten.
    """

    name: str
    address: IPv4Address
    peers: tuple[IPv4Address, ...]
    clients: tuple[IPv4Address, ...] = ()
    as_number: int = AS_DEFAULT
    vnis: tuple[int, ...] = (VNI_DEFAULT,)
    mtu: int = MTU_DEFAULT
    hold_s: int = HOLD_DEFAULT_S
    user: str | None = None

    @property
    def neighbors(self) -> tuple[IPv4Address, ...]:
        return *self.peers, *self.clients


def read(path: str, name: str | None) -> Host:
    """The host of a name, or of this machine's, in a file. Raises InputError and RefusedError."""
    content_text, content = config.load(path)
    with config.located(path, content_text):
        config.only(content, ("fabric", "host"), "the file")
        fabric = content.get("fabric", {})
        if not isinstance(fabric, dict):
            raise WrongError("fabric is not a table; write [fabric]", "fabric")
        common = _values(fabric, _COMMON, "[fabric]", "fabric")
        hosts: dict[str, dict[str, Any]] = {}
        for place, table in enumerate(config.tables(content, "host", "[[host]]"), 1):
            found = _values(table, _OWN, f"[[host]] {place}", "host", place)
            for needed, likely in (("name", '"one"'), ("address", '"192.0.2.1"')):
                if needed not in found:
                    raise WrongError(f"[[host]] {place} has no {needed}; write {needed} = {likely}", "host", place)
            if found["name"] in hosts or found["address"] in (host["address"] for host in hosts.values()):
                raise WrongError(f"[[host]] {place} is there twice; each has its name and address", "host", place)
            hosts[found["name"]] = found
    wanted = name or socket.gethostname()
    if wanted not in hosts:
        which = ", ".join(hosts) or "none"
        raise InputError(f"{path}: there is no host {wanted!r}; --host says which of: {which}")
    return _host(hosts, wanted, common)


def _host(hosts: dict[str, dict[str, Any]], name: str, common: dict[str, Any]) -> Host:
    """With route reflectors, all others speak with these only; without, everybody speaks with everybody."""
    host = dict(hosts[name])
    reflects = host.pop("reflector", False)
    others = [other for other in hosts.values() if other["name"] != name]
    reflectors = [other["address"] for other in others if other.get("reflector")]
    rest = [other["address"] for other in others if not other.get("reflector")]
    if reflects:
        return Host(**common | host, peers=tuple(reflectors), clients=tuple(rest))
    return Host(**common | host, peers=tuple(reflectors or rest))


def of_options(address: str | None, peers: tuple[str, ...], name: str | None, **options: Any) -> Host:
    """Raises InputError."""
    if address is None or not peers:
        raise InputError("say which hosts: a FILE, or --address and each --peer")
    values = {key: value for key, value in options.items() if value not in (None, ())}
    return Host(
        name=check_name(name or socket.gethostname()),
        address=_address(address),
        peers=tuple(map(_address, peers)),
        **{_COMMON[key][0]: _COMMON[key][1](value) for key, value in values.items()},
    )


def _values(table: dict[str, Any], known: dict[str, tuple[str, Any]], where: str, *place: str | int) -> dict[str, Any]:
    """What a table says, by the fields of `Host`. Raises WrongError."""
    config.only(table, tuple(known), where, *place)
    found = {}
    for key, value in table.items():
        field, reading = known[key]
        try:
            found[field] = reading(value)
        except InputError as error:
            raise WrongError(f"{where} {key}: {error}", *place, key) from None
    return found


def _address(value: Any) -> IPv4Address:
    """FRR's VXLAN is over IPv4 in Debian's release."""
    try:
        found = IPv4Address(text(value, '"192.0.2.1"'))
    except ValueError:
        raise InputError(f"{shown(value)} is no IPv4 address; write it like 192.0.2.1") from None
    if found.is_multicast or found.is_unspecified or int(found) == 2**32 - 1:
        raise InputError(f"{found} is no host's address; write it like 192.0.2.1")
    return found


def _vnis(value: Any) -> tuple[int, ...]:
    return tuple(dict.fromkeys(number(item, 1, VNI_MAX) for item in items(value, "100,200")))


def _hold_s(value: Any) -> int:
    seconds = units.duration(text(value, '"9s"'))
    if not HOLD_MIN_S <= seconds <= HOLD_MAX_S or seconds % 1:
        raise InputError(f"{shown(value)} is not whole seconds from {HOLD_MIN_S}s to {HOLD_MAX_S}s")
    return int(seconds)


def _reflector(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{shown(value)} is neither true nor false")
    return value


# What the file and the options may say: the field of `Host`, and how it is read.
_COMMON: dict[str, tuple[str, Any]] = {
    "as": ("as_number", lambda value: number(value, 1, AS_MAX)),
    "vni": ("vnis", _vnis),
    "mtu": ("mtu", lambda value: number(value, MTU_MIN, MTU_MAX)),
    "hold": ("hold_s", _hold_s),
    "user": ("user", lambda value: check_name(text(value, '"me"'))),
}
_OWN: dict[str, tuple[str, Any]] = {
    "name": ("name", lambda value: check_name(text(value, '"one"'))),
    "address": ("address", _address),
    "reflector": ("reflector", _reflector),
    "user": _COMMON["user"],
    "mtu": _COMMON["mtu"],
}
