"""The grammar of endpoint URLs, one for the command line and for TOML.

    SCHEME://TARGET?NAME=VALUE&NAME=VALUE&FLAG

A flag may stand bare; booleans are yes/no, on/off, true/false. `%` with two hexadecimal digits after it is
decoded, any other `%` is itself, and so is `+`; lists are by comma or repetition. A parameter means the same wherever
it is allowed: PARAMETERS says how each is read, SCHEMES which of them a kind of endpoint takes. All kinds take those of
a port's policy (policy.py).
"""

import ipaddress
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from ipaddress import IPv4Network
from typing import Any

import msgspec

from vswitch import units, values
from vswitch.dataplane.port import QUEUE_BYTES_DEFAULT, QUEUE_BYTES_MIN
from vswitch.endpoints.interface import options as interface
from vswitch.endpoints.interface.options import InterfaceOptions
from vswitch.endpoints.tls import files as tls
from vswitch.endpoints.tls.files import TlsFiles
from vswitch.endpoints.tunnel import options as tunnel
from vswitch.endpoints.tunnel.options import TunnelOptions
from vswitch.endpoints.user import options as user
from vswitch.endpoints.user.options import UserOptions
from vswitch.errors import InputError
from vswitch.ports import policy as policies
from vswitch.ports.policy import Policy
from vswitch.values import FLAG, TEXT, UNIX_PATH_MAX, Parameter, check_name, check_unix_path, interface_name

IFACE_DEFAULT = "127.0.0.1"
LIMIT_DEFAULT = 256
LIMIT_MAX = 65535
IDLE_DEFAULT_S = 300.0
NETWORK_DEFAULT = "10.0.2.0/24"
NETDEV_DEFAULT = "net0"  # as in the lines to paste
VDE_NAME_MAX = len("/65535.99999999")  # what a switch puts into its directory

_HOST = re.compile(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
DESCRIPTOR_NAME = re.compile(r"[A-Za-z_][\w.@-]{0,254}", re.ASCII)  # as a service manager may call one
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


class EndpointConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint as written; times are in seconds. Of host/port, path (of tap, a name; of user, a network) and fd,
    one is set."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1
    name: str | None = None
    connect: bool = False
    single: bool = False
    any_user: bool = False
    unsealed: bool = False  # vhost-user: memory may be of a file that can shrink
    insecure: bool = False
    tls: TlsFiles | None = None
    tls_name: str | None = None
    queue: int = QUEUE_BYTES_DEFAULT
    remote: tuple[str, int] | str | None = None  # udp, l2tpv3: host and port; unixgram: path
    limit: int = LIMIT_DEFAULT  # most peers at a time
    idle: float = IDLE_DEFAULT_S
    iface: str = IFACE_DEFAULT  # mcast: an interface's address or name
    mode: int | None = None  # vde: permissions of the control socket
    dirmode: int | None = None
    group: str | None = None
    mgmt: str | None = None
    mgmtmode: int = 0o600
    mgmtgroup: str | None = None
    qmp: str | None = None  # where the one guest's QEMU takes commands
    netdev: str = NETDEV_DEFAULT  # what the guest's card is called there
    user: UserOptions = UserOptions()
    tap: InterfaceOptions = InterfaceOptions()
    tunnel: TunnelOptions = TunnelOptions()
    policy: Policy = Policy()

    @property
    def url(self) -> str:
        """The URL without its parameters, but for those that say what the endpoint is."""
        if self.host:
            target = f"{_host(self.host)}:{self.port}"
        elif self.path:
            target = _encode(self.path)
        else:
            target = str(self.fd) if self.scheme == "fd" else ""
        says = [f"{name}={_encode(text, '?&')}" for name, text in interface.says(self.tap)]
        if self.connect:
            says.append("connect")
        if self.remote is not None:
            says.append(f"remote={_encode(self._remote, '?&')}")
        if self.iface != IFACE_DEFAULT:
            says.append(f"iface={_encode(self.iface, '?&')}")
        says += [f"{name}={_encode(text, '?&')}" for name, text in tunnel.written(self.tunnel, tunnel.SAYS_WHAT)]
        return f"{self.scheme}://{target}" + ("?" if says else "") + "&".join(says)

    @property
    def full_url(self) -> str:
        """The URL with all its parameters but the name, as `parse` reads it back."""
        says = [f"{name}={text}" for name, text in _written(self)]
        if self.policy != Policy():
            says.append(policies.query(self.policy))
        url = self.url
        return url + ("&" if "?" in url else "?") + "&".join(says) if says else url

    @property
    def remote_text(self) -> str:
        """The remote end as it is written."""
        if isinstance(self.remote, tuple):
            return f"{_host(self.remote[0])}:{self.remote[1]}"
        return self.remote or ""

    @property
    def _remote(self) -> str:
        """The same, not encoded."""
        if isinstance(self.remote, tuple):
            host, port = self.remote
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return self.remote or ""

    def absolute(self) -> "EndpointConfig":
        """The same, with paths that hold in any working directory."""
        path = os.path.abspath(self.path) if self.path and self.scheme not in ("tap", "fd", "user") else self.path
        remote = os.path.abspath(self.remote) if isinstance(self.remote, str) else self.remote
        mgmt = os.path.abspath(self.mgmt) if self.mgmt is not None else None
        qmp = os.path.abspath(self.qmp) if self.qmp is not None else None
        files, user, tap = self.tls and self.tls.absolute(), self.user.absolute(), self.tap.absolute()
        fields = {"path": path, "remote": remote, "mgmt": mgmt, "qmp": qmp, "tls": files, "user": user, "tap": tap}
        return msgspec.structs.replace(self, **fields)

    def check_paths(self) -> None:
        """Guests are told paths in full, so these have to fit a socket's address, too. Raises InputError."""
        full = self.absolute()
        check_path = check_vde_directory if self.scheme == "vde" else check_unix_path
        sockets = (full.remote_text, full.mgmt or "", full.qmp or "")
        for check, path in ((check_path, full.path), *((check_unix_path, path) for path in sockets)):
            try:
                check(path)
            except InputError as error:
                raise InputError(f"{self.url}: {path}: {error}") from None

    @property
    def place(self) -> tuple[object, ...]:
        """Where it is: of two endpoints of one place, only one can be there at a time."""
        any_free = (self.host and self.port == 0) or self.tap.helper is not None
        port = id(self) if any_free else self.port
        number = 0 if self.tunnel.udp else self.tunnel.session  # without ports there may be several
        return self.scheme, self.host, port, self.absolute().path, self.fd, self.connect, number

    @property
    def listens(self) -> bool:
        """Whether each of its peers gets a port of its own."""
        if self.scheme == "vxlan":
            return not self.tunnel.has_one_peer
        return not (
            self.connect or self.single or self.remote is not None or self.scheme in ("mcast", "tap", "fd", "user")
        )


_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(EndpointConfig)}


def parse(text: str, parameters: Mapping[str, Any] | None = None) -> EndpointConfig:
    """Read an endpoint URL; `parameters` are more of them, as TOML has them. Raises InputError."""
    try:
        return _parse(text, parameters or {})
    except InputError as error:
        raise InputError(f"{text}: {error}", error.parameter) from None
    except UnicodeEncodeError:
        raise InputError(f"{text}: has characters that cannot be encoded") from None


def check_vde_directory(path: str) -> str:
    """A path of a directory in which the sockets of a VDE switch fit. Raises InputError."""
    longest = UNIX_PATH_MAX - VDE_NAME_MAX
    if len(path.encode(errors="surrogateescape")) > longest:
        raise InputError(f"the path is too long for the sockets in it; use one of at most {longest} bytes")
    return path


def _parse(text: str, more: Mapping[str, Any]) -> EndpointConfig:
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise InputError("not an endpoint URL; write one like tcp://127.0.0.1:1234 or unix:///run/lan.sock")
    if scheme not in SCHEMES:
        raise InputError(f"unknown kind of endpoint {scheme!r}; {values.instead(scheme, SCHEMES, 'there are')}")
    target, _, query = rest.partition("?")
    given: dict[str, Any] = {}
    for item in filter(None, query.split("&")):
        name, equals, value = item.partition("=")
        lists = (*LISTS, "remote") if scheme == "vxlan" else LISTS
        _give(given, _decode(name), _decode(value) if equals else True, lists)
    from_url = set(given)
    for name, value in more.items():
        if name in from_url:
            raise InputError(f"parameter {name!r} is given twice", name)
        given[name] = value
    if scheme == "tap" and "fd" in given:
        scheme, target = "fd", _passed_on(target, given.pop("fd"))
    read_target, own = SCHEMES[scheme]
    fields = read_target(_decode(target))
    policy = {name: given.pop(name) for name in list(given) if name in policies.PARAMETERS}
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name not in own:
            takes = (*own, *policies.PARAMETERS)
            others = name in ALL_PARAMETERS or name == "remote"  # which other kinds take
            instead = f"it takes {', '.join(takes)}" if others else values.instead(name, takes)
            raise InputError(f"unknown parameter {name!r} for {scheme}://; {instead}", name)
        try:
            read = parameter(scheme, name).read(value)
            if name in _OWN.get(scheme, {}):
                options[user.field(name)] = read
            else:
                fields[name] = read
        except InputError as error:
            raise InputError(f"{name}: {error}", name) from None
    if scheme == "vde":
        _check_vde(given, bool(fields.get("connect")))
    if scheme == "user":
        fields["user"] = UserOptions(**options)
    elif scheme == "tap":
        fields["tap"] = InterfaceOptions(**options)
    elif scheme in tunnel.PARAMETERS:
        fields["tunnel"] = TunnelOptions(**options)
    config = EndpointConfig(scheme=scheme, **fields, policy=policies.read(policy))
    if scheme == "user":
        config.user.check(IPv4Network(config.path), insecure=config.insecure)
    elif scheme == "tap":
        config.tap.check(config.path)
    elif scheme in tunnel.PARAMETERS:
        config.tunnel.check(scheme, given, config.host, config.port)
    tls.check(config.tls, config.tls_name, connect=config.connect, qmp=config.qmp)
    if config.listens:
        check_static(config)
        if config.qmp is not None:
            one = "remote=" if scheme in REMOTES else "single=yes"
            raise InputError(f"qmp: is one guest's, and here each peer gets a port of its own; add {one}", "qmp")
    if "netdev" in given and config.qmp is None:
        raise InputError("netdev goes with qmp; add one, or leave it out", "netdev")
    return config


def parameter(scheme: str, name: str) -> Parameter:
    """What a name means to a kind of endpoint that takes it."""
    if name in _OWN.get(scheme, {}):
        return _OWN[scheme][name]
    return REMOTES[scheme] if name == "remote" else ALL_PARAMETERS[name]


def check_static(config: EndpointConfig) -> None:
    """A listener's ports cannot all have the same station. Raises InputError."""
    if config.policy.static:
        raise InputError(
            "static: an address is behind one port, and here each peer gets its own; add single=yes", "static"
        )


def _check_vde(given: Mapping[str, Any], connect: bool) -> None:
    """A switch and a client take different parameters."""
    for name in given:
        if connect and name not in (*_COMMON, "connect", "port"):
            raise InputError(f"{name}: is for a vde:// without connect; the switch at the other end has its own", name)
        if not connect and name == "port":
            raise InputError("port: is for vde:// with connect; here the clients ask for theirs", name)


def _give(given: dict[str, Any], name: str, value: Any, lists: Collection[str]) -> None:
    if name not in given:
        given[name] = value
    elif name in lists:
        given[name] = [*given[name], value] if isinstance(given[name], list) else [given[name], value]
    else:
        raise InputError(f"parameter {name!r} is given twice")


def _written(config: EndpointConfig) -> Iterator[tuple[str, str]]:
    """What its kind takes of parameters, and is not as usual; without those that `url` has."""
    _, own = SCHEMES[config.scheme]
    tunnels = tunnel.written(config.tunnel, tunnel.SAYS_HOW)
    for written in (user.written(config.user), interface.written(config.tap), tunnels):
        yield from ((name, _encode(text, "?&")) for name, text in written)
    for name in own:
        if name in _OWN.get(config.scheme, {}):
            continue
        value = getattr(config, name)
        if name not in ("name", "connect", "remote", "iface") and value != _DEFAULTS[name]:
            yield name, _write(name, value)


def _write(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "queue":
        return f"{value}B"
    if name == "idle":
        return f"{value:f}".rstrip("0").rstrip(".") + "s"
    if name in ("mode", "dirmode", "mgmtmode"):
        return f"{value:04o}"
    return _encode(str(value), "?&")


def _decode(text: str) -> str:
    raw = text.encode(errors="surrogateescape")
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), raw).decode(errors="surrogateescape")


def _encode(text: str, special: str = "?") -> str:
    """A target, or with more `special` characters a value, as `_decode` reads it back, printable."""
    escaped = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", text)
    return "".join(
        c
        if c.isprintable() and c not in special
        else "".join(f"%{byte:02X}" for byte in c.encode(errors="surrogateescape"))
        for c in escaped
    )


def _read_inet(scheme: str, target: str, likely: str = "127.0.0.1") -> dict[str, Any]:
    """Host and port; `scheme`, with its separator, and a `likely` host are what is shown as an example."""
    match = re.fullmatch(r"(?:\[(?P<ip6>[^\[\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>.*))?", target, re.DOTALL)
    if match is None or (match["ip6"] is None and match["port"] and ":" in match["port"]):
        raise InputError(f"not a host and a port; an IPv6 address goes in brackets, like {scheme}[::1]:1234")
    host, port = match["host"] or match["ip6"], match["port"] or ""
    number = port if re.fullmatch(r"[0-9]{1,5}", port) else ""
    if not host:
        raise InputError(f"the host is missing; write {scheme}{likely}:{number or 1234}")
    try:
        if match["ip6"]:
            ipaddress.IPv6Address(host)
            if "%" in host:
                interface_name(host.partition("%")[2])
        elif re.fullmatch(r"[0-9.]+", host):
            ipaddress.IPv4Address(host)
    except ValueError:
        raise InputError(f"{host} is not an IP address") from None
    if not match["ip6"] and not (_HOST.fullmatch(host) and len(host) < 254):
        raise InputError(f"{host!r} is not a host")
    if not number:
        problem = f"{port!r} is not a port" if port else "the port is missing"
        raise InputError(f"{problem}; write {scheme}{_host(host)}:1234")
    if int(number) > 65535:
        raise InputError(f"port {number} is over 65535")
    return {"host": host, "port": int(number)}


def _host(host: str) -> str:
    return f"[{_encode(host)}]" if ":" in host else host


def _read_tunnel(scheme: str, target: str) -> dict[str, Any]:
    return _read_inet(f"{scheme}://", tunnel.target(scheme, target))


def _read_mcast(target: str) -> dict[str, Any]:
    fields = _read_inet("mcast://", target, "230.0.0.1")
    try:
        is_group = ipaddress.IPv4Address(fields["host"]).is_multicast
    except ValueError:
        is_group = False
    if not is_group:
        raise InputError(f"{fields['host']} is no IPv4 multicast group; write one like mcast://230.0.0.1:1234")
    if fields["port"] == 0:
        raise InputError(f"a group needs a port that all agree on; write mcast://{fields['host']}:1234")
    return fields


def _read_unix(scheme: str, target: str) -> dict[str, Any]:
    if not target:
        raise InputError(f"the path is missing; write {scheme}:///run/lan.sock")
    return {"path": check_unix_path(target)}


def _read_vde(target: str) -> dict[str, Any]:
    directory = target.rstrip("/") or target[:1]
    if not directory:
        raise InputError("the directory is missing; write vde:///run/lan.vde")
    return {"path": check_vde_directory(check_unix_path(directory))}


def _read_tap(target: str) -> dict[str, Any]:
    return {"path": interface_name(target) if target else ""}


def _passed_on(name: str, value: Any) -> str:
    """The target of fd://, where tap:// has an open device."""
    try:
        if name:
            raise InputError("a device that is open has its name; leave that out")
        return str(interface.read_descriptor(value))
    except InputError as error:
        raise InputError(f"fd: {error}", "fd") from None


def _read_user(target: str) -> dict[str, Any]:
    return {"path": str(user.read_network(target or NETWORK_DEFAULT))}


def _read_fd(target: str) -> dict[str, Any]:
    if re.fullmatch(r"[0-9]{1,7}", target):
        return {"fd": int(target)}
    if DESCRIPTOR_NAME.fullmatch(target):
        return {"path": target}  # the name that a service manager has for it
    raise InputError("a descriptor's number is missing; write one like fd://3, or its name in a socket unit: fd://lan")


def _queue(value: Any) -> int:
    size = units.size(values.text(value, "4MiB"))
    if size < QUEUE_BYTES_MIN:
        raise InputError(f"{value} is too small; a queue has at least {QUEUE_BYTES_MIN // 1024}KiB")
    if size > 2**30:
        raise InputError(f"{value} is too large; a queue has at most 1GiB")
    return size


def _remote_inet(value: Any) -> tuple[str, int]:
    end = _read_inet("", values.text(value, "127.0.0.1:1234"))
    if end["port"] == 0:
        raise InputError("port 0 is nobody's; write the one the peer has")
    return end["host"], end["port"]


def _remote_l2tp(value: Any) -> tuple[str, int]:
    return _remote_inet(tunnel.target("l2tpv3", values.text(value, "192.0.2.7:1701")))


def _remote_vteps(value: Any) -> tuple[tuple[str, int], ...]:
    return tunnel.read_remotes(value, partial(_read_inet, ""))


def _remote_path(value: Any) -> str:
    return check_unix_path(values.text(value, "/run/guest.sock"))


def _limit(value: Any) -> int:
    return values.number(value, 1, LIMIT_MAX)


def _idle(value: Any) -> float:
    seconds = units.duration(values.text(value, "300s"))
    if seconds < 1:
        raise InputError(f"{value} is too short; peers must be given at least 1s")
    return seconds


def _iface(value: Any) -> str:
    text = values.text(value, "127.0.0.1")
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise InputError(f"{text} is not an IPv4 address") from None
    return interface_name(text)


def _mode(value: Any) -> int:
    """Permissions: a text is octal, a number, as TOML has it, the permissions themselves.

    A number that somebody wrote in decimal has bits that only a text may ask for: 660 is 0o1224.
    """
    if isinstance(value, str) and re.fullmatch(r"[0-7]{1,5}", value) and int(value, 8) <= 0o7777:
        return int(value, 8)
    if isinstance(value, int) and not isinstance(value, bool) and value & ~0o2777 == 0:
        return value
    raise InputError(f"{values.shown(value)} are no permissions; write them in octal, like 0660, or 0o660 in TOML")


_MODE = {"anyOf": [{"type": "string", "pattern": "^[0-7]{1,5}$", "examples": ["0660"]}, values.numbers(0, 0o2777)]}
_PEERS_MOST = values.also_text(values.numbers(1, LIMIT_MAX))

PARAMETERS = {
    "name": Parameter(
        lambda value: check_name(values.text(value, "lab")), TEXT, "The endpoint's name: its kind and a number."
    ),
    "queue": Parameter(_queue, values.SIZE, "Bound of each port's egress queue, 128KiB to 1GiB: 16MiB."),
    "connect": Parameter(values.flag, FLAG, "Connect instead of listening."),
    "single": Parameter(values.flag, FLAG, "One peer only; the endpoint is itself the port."),
    "any_user": Parameter(values.flag, FLAG, "Let other users of this machine in."),
    "unsealed": Parameter(values.flag, FLAG, "Take memory of a file that its owner could cut: that ends the switch."),
    "insecure": Parameter(values.flag, FLAG, "Bind beyond loopback. Anyone who reaches the address can join."),
    "limit": Parameter(_limit, _PEERS_MOST, "Most peers at a time: 256."),
    "idle": Parameter(_idle, values.DURATION, "A peer that sends nothing for so long loses its port: 300s."),
    "iface": Parameter(_iface, TEXT, "The interface, by its IPv4 address or its name: 127.0.0.1."),
    "port": Parameter(_limit, _PEERS_MOST, "The port number to ask a VDE switch for: any."),
    "mode": Parameter(_mode, _MODE, "Permissions of the VDE switch's socket: 0600."),
    "dirmode": Parameter(_mode, _MODE, "Permissions of its directory: 2700."),
    "group": Parameter(lambda value: values.text(value, "kvm"), TEXT, "The group of both."),
    "mgmt": Parameter(
        lambda value: check_unix_path(values.text(value, "/run/lan.mgmt")), TEXT, "A management socket at this path."
    ),
    "mgmtmode": Parameter(_mode, _MODE, "The permissions of that socket: 0600."),
    "mgmtgroup": Parameter(lambda value: values.text(value, "kvm"), TEXT, "The group of that socket."),
    "qmp": Parameter(
        lambda value: check_unix_path(values.text(value, "/run/vm.qmp")),
        TEXT,
        "Tell the guest's QEMU there when the port goes up or down.",
    ),
    "netdev": Parameter(
        lambda value: check_name(values.text(value, "net0")), TEXT, "What its card is called there, an id: net0."
    ),
}
_REMOTES = Parameter(_remote_vteps, values.several(TEXT), "The other ends: HOST or HOST:PORT, one or several.")
_OWN: dict[str, dict[str, Parameter]] = {
    "user": user.PARAMETERS,
    "tap": interface.PARAMETERS,
    "vxlan": tunnel.PARAMETERS["vxlan"] | {"remote": _REMOTES},
    "l2tpv3": tunnel.PARAMETERS["l2tpv3"],
}
# What a name means to a kind, `parameter` says.
ALL_PARAMETERS = (
    PARAMETERS | tls.PARAMETERS | interface.PARAMETERS | user.PARAMETERS | _OWN["vxlan"] | tunnel.PARAMETERS["l2tpv3"]
)
LISTS = (*policies.LISTS, "tls", "ip", "hostfwd", "guestfwd", "reserve", "dnssearch", "allow", "deny")
REMOTES = {
    "udp": Parameter(_remote_inet, TEXT, "The one peer: HOST:PORT."),
    "unixgram": Parameter(_remote_path, TEXT, "The one peer: its socket's path."),
    "l2tpv3": Parameter(_remote_l2tp, TEXT, "The other end: HOST or HOST:PORT."),
}

_COMMON = ("name", "queue")
_GUEST = ("qmp", "netdev")
_PEERS = ("limit", "idle")
_VDE_SWITCH = ("mode", "dirmode", "group", "mgmt", "mgmtmode", "mgmtgroup")
SCHEMES: dict[str, tuple[Callable[[str], dict[str, Any]], tuple[str, ...]]] = {
    "tcp": (
        partial(_read_inet, "tcp://"),
        (*_COMMON, "connect", "single", *_GUEST, "any_user", "insecure", *tls.PARAMETERS),
    ),
    "unix": (partial(_read_unix, "unix"), (*_COMMON, "connect", "single", *_GUEST)),
    "vhost-user": (partial(_read_unix, "vhost-user"), (*_COMMON, "connect", "single", *_GUEST, "unsealed")),
    "mcast": (_read_mcast, (*_COMMON, "iface", "insecure")),
    "udp": (partial(_read_inet, "udp://"), (*_COMMON, "remote", *_GUEST, *_PEERS, "any_user", "insecure")),
    "unixgram": (partial(_read_unix, "unixgram"), (*_COMMON, "remote", *_GUEST, *_PEERS)),
    "vde": (_read_vde, (*_COMMON, "connect", "port", "limit", *_VDE_SWITCH)),
    "tap": (_read_tap, (*_COMMON, *interface.PARAMETERS)),
    "vxlan": (partial(_read_tunnel, "vxlan"), (*_COMMON, *_OWN["vxlan"], "iface", *_PEERS, "insecure")),
    "l2tpv3": (
        partial(_read_tunnel, "l2tpv3"),
        (*_COMMON, "remote", *_OWN["l2tpv3"], *_GUEST, "any_user", "insecure"),
    ),
    "user": (_read_user, (*_COMMON, *user.PARAMETERS, "insecure")),
    "fd": (_read_fd, (*_COMMON, "single", *_GUEST, *_PEERS, "any_user")),
}
