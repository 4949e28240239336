"""A switch's configuration: the TOML file, and the values it shares with the command line."""

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from vswitch import units
from vswitch.control.captures import check_budget
from vswitch.control.recording import RecordLimits, read_limits
from vswitch.control.toml_lines import line_of
from vswitch.edges.capture_file import check_path
from vswitch.endpoints import together
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import InputError, RefusedError
from vswitch.values import DURATION, SIZE, TEXT, Parameter, check_name, instead, numbers, shown

NAME_DEFAULT = "default"
AGEING_DEFAULT_S = 300.0
TABLE_SIZE_DEFAULT = 8192
TABLE_SIZE_MAX = 2**20
AGEING_MIN_S, AGEING_MAX_S = 1.0, 1e6  # IEEE 802.1Q 8.8.3: 10 s to 1,000,000 s; shorter is for tests


class SwitchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a switch is told before it runs. None: not said."""

    name: str | None = None
    ageing_s: float | None = None
    table_size: int | None = None
    capture: str | None = None  # a path
    capture_memory: int | None = None  # bytes
    record: RecordLimits | None = None
    metrics: str | None = None  # an address
    endpoints: tuple[EndpointConfig, ...] = ()


def check_ageing(ageing_s: float) -> float:
    """An ageing time in seconds that a MAC table can have. Raises InputError."""
    if not AGEING_MIN_S <= ageing_s <= AGEING_MAX_S:
        raise InputError(f"ageing of {ageing_s:g}s is out of range; {AGEING_MIN_S:g}s to {AGEING_MAX_S:g}s")
    return ageing_s


def check_table_size(entries: int) -> int:
    """A number of entries that a MAC table can have. Raises InputError."""
    if not 1 <= entries <= TABLE_SIZE_MAX:
        raise InputError(f"a table size of {shown(entries)} is out of range; 1 to {TABLE_SIZE_MAX} entries")
    return entries


def check_address(address: str) -> str:
    """An address to listen on. Raises InputError."""
    try:
        parse(f"tcp://{address}?insecure=yes" if "?" not in address else "")
    except InputError:
        raise InputError(f"{address[:80]!r} is no address; write it like 127.0.0.1:9160") from None
    return address


def read(path: str, *, whole: bool = False) -> SwitchConfig:
    """Read a TOML file: `[switch]` and `[[endpoint]]` tables. It is the `whole` configuration if no URLs are added.

    Raises InputError, with file and line in its text, and RefusedError if the file may not be read.
    """
    text, content = load(path)
    with located(path, text):
        return convert(content, whole=whole)


def load(path: str) -> tuple[str, dict[str, Any]]:
    """A TOML file's text, and what it says. Raises as `read` does."""
    if not path:
        raise InputError("the config file has no name")
    try:
        text = Path(path).read_bytes().decode()
        return text, tomllib.loads(text)
    except PermissionError as error:
        raise RefusedError(f"{path}: {error.strerror}; make it readable for this user") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; a configuration is a TOML file") from None
    except (ValueError, RecursionError) as error:
        found = re.search(r" \(at line ([0-9]+), column [0-9]+\)$", str(error))
        place, message = (f":{found[1]}", str(error)[: found.start()]) if found else ("", str(error))
        raise InputError(f"{path}{place}: not TOML: {message[:200]}") from None


@contextmanager
def located(path: str, text: str) -> Iterator[None]:
    """Says of what is wrong in a file on which line it is."""
    try:
        yield
    except WrongError as error:
        raise InputError(f"{path}:{line_of(text, error.place)}: {error}") from None


def convert(content: dict[str, Any], *, whole: bool) -> SwitchConfig:
    """What a file says of a switch. Raises WrongError."""
    if "guest" in content:
        raise WrongError("[[guest]] is for: vswitch lab up", "guest")
    only(content, ("switch", "endpoint"), "the file")
    switch = content.get("switch", {})
    if not isinstance(switch, dict):
        raise WrongError("switch is not a table; write [switch]", "switch")
    endpoints = tables(content, "endpoint", "[[endpoint]]")
    only(switch, tuple(SWITCH), "[switch]", "switch")
    values: dict[str, Any] = {}
    for name, (field, kind, likely) in _WRITTEN.items():
        if name in switch:
            value = switch[name]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise WrongError(f"[switch] {name} is {shown_value(value)}; write it like {likely}", "switch", name)
            try:
                values[field] = SWITCH[name].read(value)
            except InputError as error:
                raise WrongError(f"[switch] {name}: {error}", "switch", name) from None
    return SwitchConfig(**values, endpoints=_endpoints(endpoints, whole))


def _capture(path: str) -> str:
    if path == "-":
        raise InputError("standard output has the lines to paste; use: vswitch capture -w -")
    return check_path(path)


# What [switch] may say.
SWITCH = {
    "name": Parameter(check_name, TEXT, "The switch's name, for commands."),
    "ageing": Parameter(lambda text: check_ageing(units.duration(text)), DURATION, "Forget stations silent so long."),
    "table_size": Parameter(check_table_size, numbers(1, TABLE_SIZE_MAX), "Most stations to remember."),
    "capture": Parameter(_capture, TEXT, "Write what passes to this pcapng file."),
    "capture_memory": Parameter(
        lambda text: check_budget(units.size(text)), SIZE, "What all captures may hold together."
    ),
    "metrics": Parameter(check_address, TEXT, "Answer Prometheus on this address."),
    "record": Parameter(read_limits, TEXT, "Keep what passed last in memory, for dump: 60s or 64MiB."),
}
# Of each: its field in SwitchConfig, its type, and how to write it.
_WRITTEN: dict[str, tuple[str, type, str]] = {
    "name": ("name", str, 'name = "lab"'),
    "ageing": ("ageing_s", str, 'ageing = "300s"'),
    "table_size": ("table_size", int, "table_size = 8192"),
    "capture": ("capture", str, 'capture = "lan.pcapng"'),
    "capture_memory": ("capture_memory", str, 'capture_memory = "64MiB"'),
    "record": ("record", str, 'record = "60s"'),
    "metrics": ("metrics", str, 'metrics = "127.0.0.1:9160"'),
}


def _endpoints(tables: list[dict[str, Any]], whole: bool) -> tuple[EndpointConfig, ...]:
    named: dict[str, EndpointConfig] = {}
    for number, table in enumerate(tables, 1):
        with _in_endpoint(number, table):
            endpoint = _endpoint(table)
            endpoint.check_paths()
            together.check_policy(endpoint, named)
            named[together.name_of(endpoint, named)] = endpoint
    for number, (table, name) in enumerate(zip(tables, named, strict=True), 1):
        if whole:
            with _in_endpoint(number, table):
                together.check_mirror(name, named)
    return tuple(named.values())


def _endpoint(table: dict[str, Any]) -> EndpointConfig:
    if not isinstance(table.get("url"), str):
        raise InputError('has no url; write url = "tcp://127.0.0.1:1234"')
    return parse(table["url"], {name: value for name, value in table.items() if name != "url"})


@contextmanager
def _in_endpoint(number: int, table: dict[str, Any]) -> Iterator[None]:
    """Says of errors in which table they are, and in which entry."""
    try:
        yield
    except InputError as error:
        entry = [name for name in (error.parameter, "url") if name in table][:1]
        raise WrongError(f"[[endpoint]] {number}: {error}", "endpoint", number, *entry) from None


def tables(table: dict[str, Any], name: str, written: str) -> list[dict[str, Any]]:
    """The tables of a name; none if there are none. Raises WrongError if it is anything else."""
    found = table.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise WrongError(f"{name} is not a list of tables; write {written}", name)
    return found


def only(table: dict[str, Any], allowed: tuple[str, ...], where: str, *place: str | int) -> None:
    """Raises WrongError for an entry of a table that there cannot be."""
    for name in table:
        if name not in allowed:
            raise WrongError(f"{where} has an unknown entry {name!r}; {instead(name, allowed)}", *place, name)


def shown_value(value: object) -> str:
    """A value as a person has written it, cut short."""
    return str(value).lower() if isinstance(value, bool) else shown(value)


class WrongError(InputError):
    """Something is written wrongly at a place in the file."""

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place = place
