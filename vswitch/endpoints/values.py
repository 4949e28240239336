"""How the values of parameters are read, from a URL's text or from TOML's own types. All raise InputError."""

import re
from typing import Any

from vswitch.errors import InputError

_TRUE, _FALSE = ("yes", "on", "true"), ("no", "off", "false")


def flag(value: Any) -> bool:
    """yes/no, on/off, true/false; a parameter that stands bare is True already."""
    if isinstance(value, bool):
        return value
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise InputError(f"{shown(value)} is neither yes nor no")


def text(value: Any, likely: str) -> str:
    """A text that looks like `likely`."""
    if not isinstance(value, str):
        raise InputError(f"needs a text; write it like {likely}")
    return value


def number(value: Any, least: int, most: int) -> int:
    """A whole number from `least` to `most`."""
    read = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else value
    if value is True:
        raise InputError(f"needs a number from {least} to {most}")
    if not isinstance(read, int) or isinstance(read, bool) or not least <= read <= most:
        raise InputError(f"{shown(value)} is not a number from {least} to {most}")
    return read


def one_of(value: Any, *choices: str) -> str:
    """One of a few words."""
    if value not in choices:
        raise InputError(f"{shown(value)} is none of {', '.join(choices)}")
    return str(value)


def items(value: Any, likely: str) -> list[Any]:
    """A list: by comma, by repetition, or TOML's."""
    found: list[Any] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        found += item.split(",") if isinstance(item, str) else [item]
    if not found or any(isinstance(item, bool) or item == "" for item in found):
        raise InputError(f"needs a list; write it like {likely}")
    return found


def shown(value: Any) -> str:
    """What was written, for an error; without the digits of a number that has too many of them."""
    if isinstance(value, bool):
        return "nothing" if value else "no"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "such a large number"
    return repr(value)
