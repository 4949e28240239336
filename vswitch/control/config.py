"""A switch's configuration: the TOML file, and the values it shares with the command line."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from vswitch import units
from vswitch.endpoints.url import EndpointConfig, check_name, parse, printable
from vswitch.errors import InputError

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
    endpoints: tuple[EndpointConfig, ...] = ()


def check_table(ageing_s: float, table_size: int) -> None:
    """Raises InputError for an ageing time or a MAC table size out of range."""
    if not AGEING_MIN_S <= ageing_s <= AGEING_MAX_S:
        raise InputError(f"ageing of {ageing_s:g}s is out of range; {AGEING_MIN_S:g}s to {AGEING_MAX_S:g}s")
    if not 1 <= table_size <= TABLE_SIZE_MAX:
        raise InputError(f"a table size of {table_size} is out of range; 1 to {TABLE_SIZE_MAX} entries")


def read(path: str) -> SwitchConfig:
    """Read a TOML file: `[switch]` and `[[endpoint]]` tables. Raises InputError, with the place in its text."""
    try:
        content = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{printable(path)}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(path)}: not TOML: {error}") from None
    try:
        return _convert(content)
    except InputError as error:
        raise InputError(f"{printable(path)}: {error}") from None


def _convert(content: dict[str, Any]) -> SwitchConfig:
    _only(content, ("switch", "endpoint"), "the file")
    switch = content.get("switch", {})
    endpoints = content.get("endpoint", [])
    if not isinstance(switch, dict):
        raise InputError("switch is not a table; write [switch]")
    if not isinstance(endpoints, list) or not all(isinstance(endpoint, dict) for endpoint in endpoints):
        raise InputError("endpoint is not a list of tables; write [[endpoint]]")
    _only(switch, ("name", "ageing", "table_size"), "[switch]")
    config = SwitchConfig(
        name=check_name(_typed(switch, "name", str)) if "name" in switch else None,
        ageing_s=units.duration(_typed(switch, "ageing", str)) if "ageing" in switch else None,
        table_size=_typed(switch, "table_size", int) if "table_size" in switch else None,
        endpoints=tuple(_endpoint(number, table) for number, table in enumerate(endpoints, 1)),
    )
    check_table(
        AGEING_DEFAULT_S if config.ageing_s is None else config.ageing_s,
        TABLE_SIZE_DEFAULT if config.table_size is None else config.table_size,
    )
    return config


def _endpoint(number: int, table: dict[str, Any]) -> EndpointConfig:
    if not isinstance(table.get("url"), str):
        raise InputError(f'[[endpoint]] {number} has no url; write url = "tcp://127.0.0.1:1234"')
    try:
        return parse(table["url"], {name: value for name, value in table.items() if name != "url"})
    except InputError as error:
        raise InputError(f"[[endpoint]] {number}: {error}") from None


def _typed(table: dict[str, Any], name: str, kind: type) -> Any:
    value = table[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        likely = {"ageing": 'ageing = "300s"', "name": 'name = "lab"', "table_size": "table_size = 8192"}[name]
        raise InputError(f"[switch] {name} is {value!r}; write it like {likely}")
    return value


def _only(table: dict[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for name in table:
        if name not in allowed:
            raise InputError(f"{where} has an unknown entry {printable(name)!r}; it takes {', '.join(allowed)}")
