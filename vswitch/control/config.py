"""A switch's configuration: the TOML file, and the values it shares with the command line."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vswitch import units
from vswitch.control.captures import check_budget
from vswitch.control.recording import RecordLimits, read_limits
from vswitch.edges.capture_file import check_path
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import InputError, RefusedError
from vswitch.values import check_name

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
    endpoints: tuple[EndpointConfig, ...] = ()


def check_ageing(ageing_s: float) -> float:
    """An ageing time in seconds that a MAC table can have. Raises InputError."""
    if not AGEING_MIN_S <= ageing_s <= AGEING_MAX_S:
        raise InputError(f"ageing of {ageing_s:g}s is out of range; {AGEING_MIN_S:g}s to {AGEING_MAX_S:g}s")
    return ageing_s


def check_table_size(entries: int) -> int:
    """A number of entries that a MAC table can have. Raises InputError."""
    if not 1 <= entries <= TABLE_SIZE_MAX:
        raise InputError(f"a table size of {entries} is out of range; 1 to {TABLE_SIZE_MAX} entries")
    return entries


def read(path: str) -> SwitchConfig:
    """Read a TOML file: `[switch]` and `[[endpoint]]` tables.

    Raises InputError, with the place in its text, and RefusedError if the file may not be read.
    """
    if not path:
        raise InputError("the config file has no name")
    try:
        content = tomllib.loads(Path(path).read_bytes().decode())
    except PermissionError as error:
        raise RefusedError(f"{path}: {error.strerror}; make it readable for this user") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; --config takes a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not TOML: {str(error)[:200]}") from None
    try:
        return _convert(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _convert(content: dict[str, Any]) -> SwitchConfig:
    _only(content, ("switch", "endpoint"), "the file")
    switch = content.get("switch", {})
    endpoints = content.get("endpoint", [])
    if not isinstance(switch, dict):
        raise InputError("switch is not a table; write [switch]")
    if not isinstance(endpoints, list) or not all(isinstance(endpoint, dict) for endpoint in endpoints):
        raise InputError("endpoint is not a list of tables; write [[endpoint]]")
    _only(switch, tuple(_SWITCH), "[switch]")
    values: dict[str, Any] = {}
    for name, (field, kind, read, likely) in _SWITCH.items():
        if name in switch:
            value = switch[name]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InputError(f"[switch] {name} is {value!r}; write it like {likely}")
            try:
                values[field] = read(value)
            except InputError as error:
                raise InputError(f"[switch] {name}: {error}") from None
    endpoints = tuple(_endpoint(number, table) for number, table in enumerate(endpoints, 1))
    return SwitchConfig(**values, endpoints=endpoints)


# What [switch] may say: its field in SwitchConfig, its TOML type, how it is read, and how to write it.
_SWITCH: dict[str, tuple[str, type, Callable[[Any], Any], str]] = {
    "name": ("name", str, check_name, 'name = "lab"'),
    "ageing": ("ageing_s", str, lambda text: check_ageing(units.duration(text)), 'ageing = "300s"'),
    "table_size": ("table_size", int, check_table_size, "table_size = 8192"),
    "capture": ("capture", str, check_path, 'capture = "lan.pcapng"'),
    "capture_memory": ("capture_memory", str, lambda text: check_budget(units.size(text)), 'capture_memory = "64MiB"'),
    "record": ("record", str, read_limits, 'record = "60s"'),
}


def _endpoint(number: int, table: dict[str, Any]) -> EndpointConfig:
    if not isinstance(table.get("url"), str):
        raise InputError(f'[[endpoint]] {number} has no url; write url = "tcp://127.0.0.1:1234"')
    try:
        return parse(table["url"], {name: value for name, value in table.items() if name != "url"})
    except InputError as error:
        raise InputError(f"[[endpoint]] {number}: {error}") from None


def _only(table: dict[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for name in table:
        if name not in allowed:
            raise InputError(f"{where} has an unknown entry {name!r}; it takes {', '.join(allowed)}")
