"""The parameters of vxlan:// and l2tpv3://; those of the latter are named as QEMU's `-netdev l2tpv3` names them.

What is `tx` we send, and what is `rx` we are sent: at the other end it is the other way round.
"""

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from vswitch import values
from vswitch.errors import InputError
from vswitch.protocols import l2tpv3, vxlan
from vswitch.values import FLAG, TEXT, Parameter

End = tuple[str, int]  # a host, and a port, or 0 for the usual one

REMOTES_MAX = 256


class TunnelOptions(msgspec.Struct, frozen=True):
    """What is asked for. Cookies are in hexadecimal, 0 is a number that was not said."""

    vni: int = 0
    remote: tuple[End, ...] = ()  # of a vxlan://
    mcast: str = ""
    learn: bool = False
    vxvde: bool = False
    session: int = 0
    rxsession: int = 0
    txcookie: str = ""
    rxcookie: str = ""
    counter: bool = False
    pincounter: bool = False
    offset: int = 0
    udp: bool = True
    fragment: bool = False

    @property
    def has_one_peer(self) -> bool:
        """Of a vxlan://."""
        return len(self.remote) == 1 and not self.learn

    @property
    def l2tp_session(self) -> l2tpv3.Session:
        """As we have it."""
        return l2tpv3.Session(
            tx=self.session,
            rx=self.rxsession or self.session,
            tx_cookie=bytes.fromhex(self.txcookie),
            rx_cookie=bytes.fromhex(self.rxcookie),
            sequence=self.counter or self.pincounter,
            numbers=not self.pincounter,
            offset=self.offset,
            udp=self.udp,
        )

    def check(self, scheme: str, given: Mapping[str, Any], host: str, port: int) -> None:
        """Whether what goes together is there. Raises InputError."""
        if scheme == "vxlan":
            self._check_vxlan(host, port)
        elif scheme == "l2tpv3":
            if not self.session:
                raise InputError("session: is missing; add the number of the session, like session=1", "session")
            if "remote" not in given:
                raise InputError("remote: is missing; a session has two ends: add remote=HOST:PORT", "remote")

    def _check_vxlan(self, host: str, port: int) -> None:
        if not self.vni:
            raise InputError("vni: is missing; add the number of the segment, like vni=42", "vni")
        if not self.remote and not self.mcast and not self.learn:
            raise InputError(
                "says nobody to send to; add remote=HOST, one or several, or mcast=GROUP, or learn", "remote"
            )
        if self.remote and self.mcast:
            raise InputError("mcast: all others are in the group; leave remote= out", "mcast")
        if self.vxvde and not self.mcast:
            raise InputError("vxvde goes with mcast=; add the group, 239.0.0.1 if none was said there", "vxvde")
        if self.mcast and port == 0:
            raise InputError(f"a group needs a port that all agree on; write vxlan://{host}:{vxlan.PORT}")
        if self.mcast and (":" in self.mcast) != (":" in host):
            raise InputError("mcast: the group is IPv4 and the address here IPv6, or so; write both alike", "mcast")


# What an endpoint is, and how it goes about it: cookies need not be seen everywhere.
SAYS_WHAT = ("vni", "remote", "mcast", "learn", "session")
SAYS_HOW = [name for name in TunnelOptions.__struct_fields__ if name not in SAYS_WHAT]


def written(options: TunnelOptions, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """What of these is not as usual: parameters by name, and their texts."""
    for field in msgspec.structs.fields(TunnelOptions):
        name, value = field.name, getattr(options, field.name)
        if name not in names or value == field.default:
            continue
        if name == "remote":
            yield name, ",".join(map(_end_text, value))
        elif isinstance(value, bool):
            yield name, "yes" if value else "no"
        else:
            yield name, str(value)


def _end_text(end: End) -> str:
    host, port = end
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host


def _session(value: Any) -> int:
    return values.number(_whole(value), 1, l2tpv3.SESSION_MAX)


def _whole(value: Any) -> Any:
    """Also in hexadecimal, and with ten digits."""
    if isinstance(value, str) and re.fullmatch(r"0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,10}", value):
        return int(value, 0 if value[:2] in ("0x", "0X") else 10)
    return value


def _cookie(value: Any) -> str:
    text = values.text(value, "8badf00d")
    if not re.fullmatch(r"(0[xX])?([0-9A-Fa-f]{8}|[0-9A-Fa-f]{16})", text):
        raise InputError(
            f"{values.shown(text)} is no cookie; it has 8 or 16 hexadecimal digits (4 or 8 bytes), like 8badf00d"
        )
    return text.lower().removeprefix("0x")


def _group(value: Any) -> str:
    text = values.text(value, "239.1.1.1")
    try:
        group = ipaddress.ip_address(text)
    except ValueError:
        raise InputError(f"{values.shown(text)} is not an IP address; write a group like 239.1.1.1") from None
    if not group.is_multicast:
        raise InputError(f"{text} is no multicast group; write one like 239.1.1.1")
    return str(group)


_NUMBER = {"anyOf": [values.numbers(1, l2tpv3.SESSION_MAX), {"type": "string", "pattern": "^(0[xX])?[0-9A-Fa-f]+$"}]}

_FRAGMENT = Parameter(values.flag, FLAG, "Cut up what is too long for the path, rather than drop it.")
_VXLAN = {
    "vni": Parameter(
        lambda value: values.number(value, 1, vxlan.VNI_MAX),
        values.also_text(values.numbers(1, vxlan.VNI_MAX)),
        "The VXLAN segment's number, 1 to 16777215.",
    ),
    "mcast": Parameter(_group, TEXT, "The group that all others are in: floods go there, and who sends is learned."),
    "learn": Parameter(values.flag, FLAG, "Others than those of remote= may come in, too, and get ports."),
    "vxvde": Parameter(values.flag, FLAG, "Answer peers at the port they send from, as vde's vxvde does."),
    "fragment": _FRAGMENT,
}
_L2TPV3 = {
    "session": Parameter(_session, _NUMBER, "The session's number, in what is sent and in what comes in."),
    "rxsession": Parameter(_session, _NUMBER, "Its number in what comes in, if that is another."),
    "txcookie": Parameter(_cookie, TEXT, "The cookie that is sent, 8 or 16 hexadecimal digits: none."),
    "rxcookie": Parameter(_cookie, TEXT, "The cookie that what comes in must have: none."),
    "counter": Parameter(values.flag, FLAG, "A sequence number in each header. It is not looked at."),
    "pincounter": Parameter(values.flag, FLAG, "Room for it in each header, which is always zero."),
    "offset": Parameter(
        lambda value: values.number(value, 0, l2tpv3.OFFSET_MAX),
        values.also_text(values.numbers(0, l2tpv3.OFFSET_MAX)),
        "Zeros between header and frame, 0 to 32 bytes: 0.",
    ),
    "udp": Parameter(values.flag, FLAG, "False: as IP protocol 115, which takes root's rights."),
    "fragment": _FRAGMENT,
}
PARAMETERS: dict[str, dict[str, Parameter]] = {"vxlan": _VXLAN, "l2tpv3": _L2TPV3}  # and remote=


def read_remotes(value: Any, read: Any) -> tuple[End, ...]:
    """The remote ends of a vxlan://: hosts, each with a port or without; `read` reads one with a port."""
    found: list[End] = []
    for item in values.items(value, "192.0.2.7"):
        text = values.text(item, "192.0.2.7")
        bare = re.fullmatch(r"\[[^\[\]]*\]|[^:\[\]]*", text)
        found.append((read(f"{text}:1")["host"], 0) if bare else _with_port(read(text)))
    if len(found) > REMOTES_MAX:
        raise InputError(f"{len(found)} remotes are too many; there may be {REMOTES_MAX}")
    if len({host for host, _ in found}) < len(found):
        raise InputError("two have the same address, by which they are told apart; name each once")
    return tuple(found)


def _with_port(end: Mapping[str, Any]) -> End:
    if end["port"] == 0:
        raise InputError("port 0 is nobody's; leave it out for the one we have")
    return end["host"], end["port"]


def target(scheme: str, text: str) -> str:
    """A host, to which the usual port is added if it has none."""
    if text and re.fullmatch(r"\[[^\[\]]*\]|[^:\[\]]*", text):
        return f"{text}:{vxlan.PORT if scheme == 'vxlan' else l2tpv3.PORT}"
    return text
