"""The grammar of endpoint URLs, one for the command line and for TOML.

    SCHEME://TARGET?NAME=VALUE&NAME=VALUE&FLAG

A flag may stand bare; booleans are yes/no, on/off, true/false. `%` with two hexadecimal digits after it is
decoded, any other `%` is itself, and so is `+`. A parameter means the same wherever it is allowed: PARAMETERS
says how each is read, SCHEMES which of them a kind of endpoint takes.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from vswitch import units
from vswitch.dataplane.port import QUEUE_BYTES_DEFAULT, QUEUE_BYTES_MIN
from vswitch.errors import InputError

UNIX_PATH_MAX = 107  # sun_path has 108 bytes, one of them for the final NUL

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}")
_HOST = re.compile(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_TRUE, _FALSE = ("yes", "on", "true"), ("no", "off", "false")


class EndpointConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint as written. Of host/port, path and fd, the scheme's own is set."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1
    name: str | None = None
    connect: bool = False
    single: bool = False
    any_user: bool = False
    insecure: bool = False
    queue: int = QUEUE_BYTES_DEFAULT

    @property
    def url(self) -> str:
        """The URL without its parameters, but for `connect`, which says what the endpoint is."""
        if self.scheme == "tcp":
            target = f"{_host(self.host)}:{self.port}"
        elif self.scheme == "unix":
            target = _encode(self.path)
        else:
            target = str(self.fd)
        return f"{self.scheme}://{target}" + ("?connect" if self.connect else "")


def parse(text: str, parameters: Mapping[str, Any] | None = None) -> EndpointConfig:
    """Read an endpoint URL; `parameters` are more of them, as TOML has them. Raises InputError."""
    try:
        return _parse(text, parameters or {})
    except InputError as error:
        raise InputError(f"{text}: {error}") from None
    except UnicodeEncodeError:
        raise InputError(f"{text}: has characters that cannot be encoded") from None


def check_name(text: str) -> str:
    """A name for a switch, an endpoint or a port. Raises InputError."""
    if not _NAME.fullmatch(text):
        raise InputError(f"{text!r} cannot be a name; use up to 63 letters, digits and _.:- with no sign first")
    return text


def check_unix_path(path: str) -> str:
    """A path that fits a unix socket address, and that a terminal can show. Raises InputError."""
    if "\0" in path:
        raise InputError("a path cannot contain a NUL byte")
    if not re.sub("[\udc80-\udcff]", "", path).isprintable():  # bytes that are no UTF-8 are merely odd
        raise InputError("the path has a control character; use another one")
    size = len(path.encode(errors="surrogateescape"))
    if size > UNIX_PATH_MAX:
        raise InputError(f"the path has {size} bytes, a unix socket's at most {UNIX_PATH_MAX}; use a shorter one")
    return path


def _parse(text: str, more: Mapping[str, Any]) -> EndpointConfig:
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise InputError("not an endpoint URL; write one like tcp://127.0.0.1:1234 or unix:///run/lan.sock")
    if scheme not in SCHEMES:
        raise InputError(f"unknown kind of endpoint {scheme!r}; there are {', '.join(SCHEMES)}")
    target, _, query = rest.partition("?")
    read_target, allowed = SCHEMES[scheme]
    values = read_target(_decode(target))
    given: dict[str, Any] = {}
    for item in filter(None, query.split("&")):
        name, equals, value = item.partition("=")
        _give(given, _decode(name), _decode(value) if equals else True)
    for name, value in more.items():
        _give(given, name, value)
    for name, value in given.items():
        if name not in allowed:
            raise InputError(f"unknown parameter {name!r} for {scheme}://; it takes {', '.join(allowed)}")
        try:
            values[name] = PARAMETERS[name](value)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return EndpointConfig(scheme=scheme, **values)


def _give(given: dict[str, Any], name: str, value: Any) -> None:
    if name in given:
        raise InputError(f"parameter {name!r} is given twice")
    given[name] = value


def _decode(text: str) -> str:
    raw = text.encode(errors="surrogateescape")
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), raw).decode(errors="surrogateescape")


def _encode(text: str) -> str:
    """A target as `_decode` reads it back, printable."""
    escaped = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", text).replace("?", "%3F")
    return "".join(
        c if c.isprintable() else "".join(f"%{byte:02X}" for byte in c.encode(errors="surrogateescape"))
        for c in escaped
    )


def _read_tcp(target: str) -> dict[str, Any]:
    match = re.fullmatch(r"(?:\[(?P<ip6>[^\[\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>.*))?", target, re.DOTALL)
    if match is None or (match["ip6"] is None and match["port"] and ":" in match["port"]):
        raise InputError("not a host and a port; an IPv6 address goes in brackets, like tcp://[::1]:1234")
    host, port = match["host"] or match["ip6"], match["port"] or ""
    number = port if re.fullmatch(r"[0-9]{1,5}", port) else ""
    if not host:
        raise InputError(f"the host is missing; write tcp://127.0.0.1:{number or 1234}")
    try:
        if match["ip6"]:
            ipaddress.IPv6Address(host)
        elif re.fullmatch(r"[0-9.]+", host):
            ipaddress.IPv4Address(host)
    except ValueError:
        raise InputError(f"{host} is not an IP address") from None
    if not match["ip6"] and not (_HOST.fullmatch(host) and len(host) < 254):
        raise InputError(f"{host!r} is not a host")
    if not number:
        problem = f"{port!r} is not a port" if port else "the port is missing"
        raise InputError(f"{problem}; write tcp://{_host(host)}:1234")
    if int(number) > 65535:
        raise InputError(f"port {number} is over 65535")
    return {"host": host, "port": int(number)}


def _host(host: str) -> str:
    return f"[{_encode(host)}]" if ":" in host else host


def _read_unix(target: str) -> dict[str, Any]:
    if not target:
        raise InputError("the path is missing; write unix:///run/lan.sock")
    return {"path": check_unix_path(target)}


def _read_fd(target: str) -> dict[str, Any]:
    if not re.fullmatch(r"[0-9]{1,7}", target):
        raise InputError("a descriptor's number is missing; write one like fd://3")
    return {"fd": int(target)}


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise InputError(f"{value!r} is neither yes nor no")


def _text(value: Any, likely: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"needs a text; write it like {likely}")
    return value


def _queue(value: Any) -> int:
    size = units.size(_text(value, "4MiB"))
    if size < QUEUE_BYTES_MIN:
        raise InputError(f"{value} is too small; a queue has at least {QUEUE_BYTES_MIN // 1024}KiB")
    if size > 2**30:
        raise InputError(f"{value} is too large; a queue has at most 1GiB")
    return size


PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "name": lambda value: check_name(_text(value, "lab")),
    "queue": _queue,
    "connect": _flag,
    "single": _flag,
    "any_user": _flag,
    "insecure": _flag,
}

_COMMON = ("name", "queue")
SCHEMES: dict[str, tuple[Callable[[str], dict[str, Any]], tuple[str, ...]]] = {
    "tcp": (_read_tcp, (*_COMMON, "connect", "single", "any_user", "insecure")),
    "unix": (_read_unix, (*_COMMON, "connect", "single")),
    "fd": (_read_fd, (*_COMMON, "single", "any_user")),
}
