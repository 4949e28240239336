"""The policy of a port: a plain value, made of URL parameters, that can be set on a port at any time.

To add one: a field of Policy, a line in PARAMETERS, and what the data plane goes by in `build` or `build_vlans`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import msgspec
from librt.vecs import vec
from mypy_extensions import i64

from vswitch import units, values
from vswitch.dataplane import drops
from vswitch.dataplane.frame import FRAME_MAX, GROUP_BIT, HEADER, TPIDS, VLAN_MAX, VLAN_ZERO
from vswitch.dataplane.policy import EgressPolicy, IngressPolicy, Limiter
from vswitch.dataplane.vlan import ALL_VLANS, NO_VLANS, TAG, TRANSPARENT, PortVlans, vlan_set
from vswitch.errors import InputError
from vswitch.protocols.guard import Guard
from vswitch.values import FLAG, Parameter

TPID_DEFAULT = 0x88A8  # IEEE 802.1Q's service tag
FRAME_MAX_MIN = 60
BURST_DEFAULT_S = 0.1
BURST_MAX_S = 60.0
MACS_MAX = 2**20
ALLOWED_MAX = 1024
LISTED_MAX = 8  # of a list, in a text for a person
MTU_DEFAULT = 1500  # of a card that is told nothing

_MAC = re.compile(r"[0-9a-f]{2}([:-])[0-9a-f]{2}(?:\1[0-9a-f]{2}){4}", re.IGNORECASE)


class StaticMac(NamedTuple):
    """A station that is always behind the port, in a VLAN, or in the port's VLAN for untagged frames (None)."""

    mac: int
    vlan: int | None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a port does beyond learning and forwarding. MAC addresses are 48-bit integers, times are in seconds.

    `vlan` makes it an access port, `trunk` a trunk, `qinq` a customer port of that service VLAN; none of them:
    transparent. A trunk, and nothing that a URL can say, may have VLAN 0 too: frames with VID 0, apart from all others.
    Raises InputError for what does not go together.
    """

    up: bool = True
    vlan: int | None = None
    trunk: tuple[int, ...] | Literal["all"] | None = None
    native: int | None = None
    qinq: int | None = None
    tpid: int = TPID_DEFAULT
    reserved: Literal["drop", "forward"] = "drop"
    sources: Literal["stations", "any"] = "stations"
    isolated: bool = False
    loop: Literal["block", "warn", "off"] = "block"
    max_frame: int = FRAME_MAX
    pad: bool = False
    rate: units.Rate | None = None
    storm_broadcast: units.Rate | None = None
    storm_multicast: units.Rate | None = None
    storm_unknown: units.Rate | None = None
    burst: float = BURST_DEFAULT_S
    mirror_of: tuple[str, ...] = ()
    mirror: Literal["in", "out", "both"] = "both"
    static: tuple[StaticMac, ...] = ()
    sticky: bool = False
    locked: bool = False
    max_macs: int | None = None
    allow_mac: tuple[int, ...] = ()
    allow_ip: tuple[IPv4Address | IPv6Address, ...] = ()
    dhcp_server: bool = True
    router: bool = True

    def __post_init__(self) -> None:
        _check(self)

    @property
    def pvid(self) -> int | None:
        """The VLAN of untagged frames; None if there is none."""
        if self.trunk is not None:
            return self.native
        return self.vlan or self.qinq or TRANSPARENT.pvid

    @property
    def senders(self) -> tuple[int, ...] | None:
        """The only stations whose frames may come in, static ones first; None: the policy names none.

        What a port has learned before it was locked passes as well.
        """
        static = tuple(dict.fromkeys(station.mac for station in self.static))
        if self.allow_mac:
            static = tuple(mac for mac in static if mac in self.allow_mac)
        if self.locked and self.static:
            return static
        return tuple(dict.fromkeys((*static, *self.allow_mac))) if self.allow_mac else None

    @property
    def stations(self) -> tuple[int, ...]:
        """The stations that are meant to be behind the port, in the order to give their addresses to guests."""
        return tuple(dict.fromkeys(station.mac for station in self.static)) if self.senders is None else self.senders

    @property
    def pinned(self) -> set[tuple[int, int]]:
        """The static entries, by address and VLAN."""
        return {(station.mac, self.vlan_of(station)) for station in self.static}

    def vlan_of(self, station: StaticMac) -> int:
        """The VLAN of one of its static entries."""
        vlan = self.pvid if station.vlan is None else station.vlan
        assert vlan is not None
        return vlan

    @property
    def mtu(self) -> int:
        """What `max_frame` leaves to a guest's packets: room for a tag stays where its frames are to have one."""
        return self.max_frame - HEADER - (TAG if self.trunk is not None or self.qinq is not None else 0)

    def lacks(self, mac: int) -> list[str]:
        """The parameters that have to name a station, too, before its frames may come in."""
        lacking = []
        if self.allow_mac and mac not in self.allow_mac:
            lacking.append("allow_mac")
        if self.locked and self.static and all(mac != station.mac for station in self.static):
            lacking.append("static")
        return lacking


_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Policy)}


def read(given: dict[str, Any]) -> Policy:
    """The policy that some parameters make, by their names. Raises InputError."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        try:
            fields[name] = PARAMETERS[name].read(value)
        except InputError as error:
            raise InputError(f"{name}: {error}", name) from None
    return Policy(**fields)


def _check(policy: Policy) -> None:
    """Whether what a policy asks for goes together. Raises InputError."""
    given = set(_given(policy))
    modes = [name for name in ("vlan", "trunk", "qinq") if name in given]
    if len(modes) > 1:
        raise InputError(f"{modes[0]} and {modes[1]} do not go together; a port is one or the other", modes[1])
    for name, with_ in _NEEDS.items():
        if name in given and not given & set(with_):
            raise InputError(f"{name} goes with {' or '.join(with_)}; add one, or leave it out", name)
    if policy.mirror_of and (others := given - {"mirror_of", "mirror", "up"}):
        raise InputError(
            f"{min(others)} and mirror_of do not go together; a mirror port only sends copies", "mirror_of"
        )
    trunk = policy.trunk if isinstance(policy.trunk, tuple) else ()
    tagged = (vlan for vlan in (*trunk, policy.native) if vlan != 0)
    for vlan in (policy.vlan, *tagged, policy.qinq, *(station.vlan for station in policy.static)):
        if vlan is not None:
            read_vlan(vlan)
    _tpid(policy.tpid)
    if policy.pvid is None and any(station.vlan is None for station in policy.static):
        raise InputError(
            "static: a trunk without native has no VLAN of its own; write one, like 52:54:00:12:34:56@10", "static"
        )
    vlans = build_vlans(policy)
    for station in policy.static:
        if station.vlan is not None and not vlans.carries(station.vlan):
            raise InputError(f"static: the port does not carry VLAN {station.vlan}", "static")


def _given(policy: Policy) -> dict[str, Any]:
    """What a policy asks for, by the names of the parameters."""
    return {name: value for name, default in _DEFAULTS.items() if (value := getattr(policy, name)) != default}


def goes_with_hub(policy: Policy) -> bool:
    """Whether it asks for nothing but what a hub does anyway, or does on its ports' way out."""
    return set(_given(policy)) <= {"reserved", "sources", "pad"}


_NEEDS = {
    "native": ("trunk",),
    "tpid": ("qinq",),
    "mirror": ("mirror_of",),
    "burst": ("rate", "storm_broadcast", "storm_multicast", "storm_unknown"),
}


def build_vlans(policy: Policy) -> PortVlans:
    """The VLANs of a port, as the data plane reads them."""
    if policy.trunk is not None:
        own = [] if policy.native is None else [table_vlan(policy.native)]
        tagged = ALL_VLANS if policy.trunk == "all" else vlan_set([*map(table_vlan, policy.trunk), *own])
        return PortVlans(own[0] if own else 0, tagged)
    if policy.vlan is not None:
        return PortVlans(policy.vlan, NO_VLANS)
    if policy.qinq is not None:
        return PortVlans(policy.qinq, NO_VLANS, customer=True, push=service_tpid(policy))
    return TRANSPARENT


def table_vlan(vlan: int) -> int:
    """The data plane's number of a VLAN; it has another one for VLAN 0."""
    return vlan or VLAN_ZERO


def shown_vlan(vlan: int) -> int:
    """The VLAN that has a number in the data plane."""
    return 0 if vlan == VLAN_ZERO else vlan


def service_tpid(policy: Policy) -> int:
    """The TPID of the service tags, as 16 signed bits."""
    return policy.tpid - (policy.tpid >> 15 << 16)


def build_ingress(policy: Policy) -> IngressPolicy | None:
    """What is asked of the frames that come in; None if nothing is."""
    limits = (policy.rate, policy.storm_broadcast, policy.storm_multicast, policy.storm_unknown, policy.max_macs)
    sources = (policy.allow_mac, policy.allow_ip, not policy.dhcp_server, not policy.router, policy.locked)
    others = (not policy.up, policy.mirror_of, policy.max_frame != FRAME_MAX)
    if not any((*limits, *sources, *others)):
        return None
    built = IngressPolicy()
    if not policy.up:
        built.closed = drops.PORT_DOWN
    elif policy.mirror_of:
        built.closed = drops.MIRROR
    built.frame_max = policy.max_frame
    built.limit = _limiter(policy.rate, policy.burst)
    built.broadcast = _limiter(policy.storm_broadcast, policy.burst)
    built.multicast = _limiter(policy.storm_multicast, policy.burst)
    built.unknown = _limiter(policy.storm_unknown, policy.burst)
    built.macs = vec[i64](list(policy.allow_mac))
    built.locked = policy.locked
    built.macs_max = policy.max_macs or 0
    if policy.allow_ip or not (policy.dhcp_server and policy.router):
        addresses = frozenset(policy.allow_ip) or None
        built.guard = Guard(dhcp_server=policy.dhcp_server, router=policy.router, addresses=addresses).judge
    return built


def build_egress(policy: Policy) -> EgressPolicy | None:
    """What is done to the frames that leave; None if nothing is."""
    if not policy.pad and policy.max_frame == FRAME_MAX:
        return None
    built = EgressPolicy()
    built.frame_max = policy.max_frame
    built.pads = policy.pad
    return built


def changed(policy: Policy, old: Policy, new: Policy) -> Policy:
    """What a port goes by when its endpoint's policy changes: what was set on it alone stays, unless it does not go."""
    own = {name: it for name in new.__struct_fields__ if (it := getattr(policy, name)) != getattr(old, name)}
    try:
        return msgspec.structs.replace(new, **_without_other_modes(own), **own)
    except InputError:
        return new


def amended(policy: Policy, given: Mapping[str, Any]) -> Policy:
    """A policy with some parameters, by their names, read anew; None is what is usual.

    A port that becomes an access port, a trunk, a customer's or a mirror is no longer any other of these. Raises
    InputError.
    """
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name not in PARAMETERS:
            raise InputError(f"unknown parameter {name!r}; {values.instead(name, PARAMETERS)}", name)
        try:
            fields[name] = _DEFAULTS[name] if value is None else PARAMETERS[name].read(value)
        except InputError as error:
            raise InputError(f"{name}: {error}", name) from None
    fields = _without_other_modes(fields) | fields
    amended_policy = {name: getattr(policy, name) for name in policy.__struct_fields__} | fields
    for name, with_ in _NEEDS.items():
        if name not in given and all(amended_policy[other] == _DEFAULTS[other] for other in with_):
            fields[name] = _DEFAULTS[name]
    return msgspec.structs.replace(policy, **fields)


def _without_other_modes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Where fields make a port one of its kinds, what is usual of the others."""
    chosen = {mode for mode in _MODES if fields.get(mode)}
    if not chosen:
        return {}
    names = [name for mode, its in _MODES.items() if mode not in chosen for name in (mode, *its)]
    return {name: _DEFAULTS[name] for name in names if name not in fields}


_MODES = {"vlan": (), "trunk": ("native",), "qinq": ("tpid",), "mirror_of": ("mirror",)}


def query(policy: Policy) -> str:
    """A policy as a URL has it, such as `vlan=10&sticky=yes`."""
    return "&".join(f"{name}={quote(text, safe=':,/@', errors='surrogateescape')}" for name, text in written(policy))


def written(policy: Policy) -> Iterator[tuple[str, str]]:
    """What a policy asks for: parameters by name, and their texts."""
    for name, value in _given(policy).items():
        yield name, _written(name, value)


def _written(name: str, value: Any) -> str:
    if isinstance(value, units.Rate):
        rates = (value.frames_per_s, "fps"), (value.bits_per_s, "bit/s")
        return ",".join(f"{per_s}{unit}" for per_s, unit in rates if per_s)
    if isinstance(value, StaticMac):
        return mac_text(value.mac) + ("" if value.vlan is None else f"@{value.vlan}")
    if isinstance(value, tuple):
        return ",".join(_written(name, item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "allow_mac":
        return mac_text(value)
    if name == "tpid":
        return f"0x{value:04x}"
    if name == "burst":
        return f"{value}s"
    return str(value)


def remarks(policy: Policy) -> list[str]:
    """What to know of a port before a guest is plugged in, a line each: words and numbers only, safe in any comment."""
    found = []
    if not policy.up:
        found.append("up=no: the port is down, nothing comes in or leaves")
    if policy.mirror_of:
        found.append("a mirror: the guest gets copies of what others send; what it sends is dropped")
    if (where := _where(policy)) is not None:
        found.append(where)
    if policy.mtu < MTU_DEFAULT:
        found.append(f"max_frame={policy.max_frame}: the guest's MTU has to be {policy.mtu} or less")
    if policy.locked and not policy.static:
        found.append("locked=yes without static=: what a new guest sends is dropped")
    elif policy.senders == ():
        found.append("no guest may send here: no address is both in allow_mac= and in static=")
    return found


def _where(policy: Policy) -> str | None:
    """The VLANs of a guest, and whether it has to tag its frames; None on a transparent port."""
    if policy.vlan is not None:
        return f"in VLAN {policy.vlan}: the guest sends frames without a tag"
    if policy.qinq is not None:
        return f"in service VLAN {policy.qinq}: tags are the guest's own"
    if policy.trunk is None:
        return None
    tagged = "all" if policy.trunk == "all" else listed(vlan for vlan in policy.trunk if vlan != policy.native)
    if policy.native is None:
        return f"in VLAN {tagged}: the guest has to tag its frames"
    without = f"in VLAN {policy.native} without a tag"
    return f"{without}, in VLAN {tagged} with one" if tagged else without


def listed(items: Iterable[object]) -> str:
    """The first items of a list, for a text, and how many more there are."""
    texts = [str(item) for item in items]
    more = [f"{len(texts) - LISTED_MAX} more"] if len(texts) > LISTED_MAX else []
    return ", ".join([*texts[:LISTED_MAX], *more])


def _limiter(rate: units.Rate | None, burst_s: float) -> Limiter | None:
    if rate is None:
        return None
    return Limiter(rate.frames_per_s, rate.bits_per_s, round(burst_s * 1000))


def read_vlan(value: Any) -> int:
    """A VLAN from 1 to 4094. Raises InputError."""
    try:
        return values.number(value, 1, VLAN_MAX)
    except InputError as error:
        raise InputError(f"{error}, which VLANs have") from None


def _trunk(value: Any) -> tuple[int, ...] | str:
    items = values.items(value, "10,20 or all")
    if items == ["all"]:
        return "all"
    if "all" in items:
        raise InputError("all has every VLAN in it; write it alone, or the others without it")
    return tuple(sorted({read_vlan(item) for item in items}))


def _tpid(value: Any) -> int:
    """One that guards look behind, too."""
    tpid = int(value, 16) if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{4}", value) else value
    if tpid not in TPIDS:
        known = ", ".join(f"0x{known:04x}" for known in TPIDS)
        raise InputError(f"{values.shown(value)} is not a tag's EtherType; there are {known}")
    return int(tpid)


def _max_frame(value: Any) -> int:
    """Bytes, with their unit or without."""
    try:
        size = units.size(value) if isinstance(value, str) and not value.isdecimal() else value
        return values.number(size, FRAME_MAX_MIN, FRAME_MAX)
    except InputError:
        shown = values.shown(value)
        raise InputError(
            f"{shown} is not a length of {FRAME_MAX_MIN} to {FRAME_MAX} bytes; write one like 1518 or 9000B"
        ) from None


def _rate(value: Any) -> units.Rate:
    return units.rate([values.text(item, "1000fps or 10Mbit/s") for item in values.items(value, "1000fps,10Mbit/s")])


def _burst(value: Any) -> float:
    seconds = units.duration(values.text(value, "100ms"))
    if not 0.001 <= seconds <= BURST_MAX_S:
        raise InputError(f"{value} is out of range; a burst is what comes in 1ms to {BURST_MAX_S:g}s")
    return seconds


def read_mac(value: Any) -> int:
    """One station's address. Raises InputError."""
    if not isinstance(value, str) or not _MAC.fullmatch(value):
        raise InputError(f"{values.shown(value)} is not a MAC address; write it like 52:54:00:12:34:56")
    mac = int(re.sub("[:-]", "", value), 16)
    if mac == 0 or mac & GROUP_BIT:
        raise InputError(f"{value} is not one station's address; write one like 52:54:00:12:34:56")
    return mac


def mac_text(mac: int) -> str:
    """An address as it is written."""
    return mac.to_bytes(6).hex(":")


def _static(value: Any) -> tuple[StaticMac, ...]:
    found: list[StaticMac] = []
    for item in values.items(value, "52:54:00:12:34:56"):
        mac, at, vlan = values.text(item, "52:54:00:12:34:56").partition("@")
        found.append(StaticMac(read_mac(mac), read_vlan(vlan) if at else None))
    return _not_too_many(tuple(dict.fromkeys(found)))


def _address(value: Any) -> IPv4Address | IPv6Address:
    try:
        return ip_address(value if isinstance(value, str) and "%" not in value else "")
    except ValueError:
        raise InputError(f"{values.shown(value)} is not an IP address; write it like 10.0.0.5") from None


def _list_of(read_item: Callable[[Any], Any], likely: str, value: Any) -> tuple[Any, ...]:
    return _not_too_many(tuple(dict.fromkeys(read_item(item) for item in values.items(value, likely))))


def _not_too_many(found: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(found) > ALLOWED_MAX:
        raise InputError(f"there are {len(found)}; at most {ALLOWED_MAX} can be given")
    return found


def _names(value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values.text(item, "web,lab.1") for item in values.items(value, "web,lab.1")))


_VID = values.numbers(1, VLAN_MAX)
_VIDS = values.several(values.also_text(_VID, "^[0-9]+(,[0-9]+)*$"))
_MAC_TEXT = {"type": "string", "examples": ["52:54:00:12:34:56"]}
_RATES = values.several({"type": "string", "examples": ["10Mbit/s", "1000fps"]})


def _one_of(*choices: str) -> tuple[Callable[[Any], Any], Mapping[str, Any]]:
    return lambda value: values.one_of(value, *choices), {"enum": list(choices)}


PARAMETERS = {
    "up": Parameter(values.flag, FLAG, "False: nothing comes in or leaves, though the peer stays plugged in."),
    "vlan": Parameter(
        read_vlan, values.also_text(_VID), "Access port: untagged frames are in this VLAN, tagged ones are dropped."
    ),
    "trunk": Parameter(_trunk, {"anyOf": [{"enum": ["all"]}, _VIDS]}, "Carries these VLANs tagged, or all of them."),
    "native": Parameter(read_vlan, values.also_text(_VID), "The VLAN of a trunk's frames without a tag."),
    "qinq": Parameter(
        read_vlan, values.also_text(_VID), "A customer's port: all its frames ride under a service tag of this VLAN."
    ),
    "tpid": Parameter(
        _tpid,
        {"anyOf": [{"enum": [*TPIDS]}, {"type": "string", "pattern": "^0x[0-9a-fA-F]{4}$"}]},
        "The EtherType of service tags: 0x88a8.",
    ),
    "reserved": Parameter(*_one_of("drop", "forward"), "Frames to 01-80-C2-00-00-01 to 0F, which bridges drop."),
    "sources": Parameter(*_one_of("stations", "any"), "Any: frames from a group address or zero are forwarded, too."),
    "isolated": Parameter(values.flag, FLAG, "Reaches only ports that are not isolated."),
    "loop": Parameter(
        *_one_of("block", "warn", "off"),
        "Where what is sent comes back: block the newer port, only say so, or do not look.",
    ),
    "max_frame": Parameter(
        _max_frame,
        {"anyOf": [values.numbers(FRAME_MAX_MIN, FRAME_MAX), values.SIZE]},
        "Longer frames neither come in nor leave: bytes, without FCS, with tag.",
    ),
    "pad": Parameter(values.flag, FLAG, "Frames leave with at least 60 bytes, filled with zeros."),
    "rate": Parameter(_rate, _RATES, "The port brings at most so much."),
    "storm_broadcast": Parameter(_rate, _RATES, "The port brings at most so many broadcasts."),
    "storm_multicast": Parameter(_rate, _RATES, "The port brings at most so many multicasts."),
    "storm_unknown": Parameter(_rate, _RATES, "The port brings at most so much for stations that nobody knows."),
    "burst": Parameter(_burst, values.DURATION, "How much of a rate, in time, may come at once: 100ms."),
    "mirror_of": Parameter(_names, values.several(values.TEXT), "Gets a copy of what these ports or endpoints do."),
    "mirror": Parameter(*_one_of("in", "out", "both"), "What a mirror copies: what comes in, or leaves."),
    "static": Parameter(_static, values.several(_MAC_TEXT), "These are behind this port: MAC, or MAC@VLAN."),
    "sticky": Parameter(values.flag, FLAG, "What is learned here does not move until it has aged out."),
    "locked": Parameter(values.flag, FLAG, "Only stations pass that are known here."),
    "max_macs": Parameter(
        lambda value: values.number(value, 1, MACS_MAX),
        values.also_text(values.numbers(1, MACS_MAX)),
        "At most so many stations.",
    ),
    "allow_mac": Parameter(
        partial(_list_of, read_mac, "52:54:00:12:34:56"), values.several(_MAC_TEXT), "No other source comes in."
    ),
    "allow_ip": Parameter(
        partial(_list_of, _address, "10.0.0.5"),
        values.several({"type": "string", "examples": ["10.0.0.5"]}),
        "ARP and neighbour discovery claim no other address.",
    ),
    "dhcp_server": Parameter(values.flag, FLAG, "False: no DHCP server is behind the port."),
    "router": Parameter(values.flag, FLAG, "False: no router is behind the port."),
}
LISTS = {  # may be repeated
    *("trunk", "rate", "storm_broadcast", "storm_multicast", "storm_unknown"),
    *("mirror_of", "static", "allow_mac", "allow_ip"),
}
