"""How the values of parameters are read, from a URL's text or from TOML's own types. All raise InputError."""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from vswitch.errors import InputError

SHOWN_MAX = 1000  # characters of a value, in an error
UNIX_PATH_MAX = 107  # sun_path has 108 bytes, one of them for the final NUL

# JSON schemas of parameters, as they are written in TOML; read from there, and by editors.
_TRUE, _FALSE = ("yes", "on", "true"), ("no", "off", "false")
FLAG = {"anyOf": [{"type": "boolean"}, {"enum": [*_TRUE, *_FALSE]}]}
TEXT = {"type": "string"}
SIZE = {"type": "string", "examples": ["4MiB"]}
DURATION = {"type": "string", "examples": ["300s", "20ms"]}


class Parameter(NamedTuple):
    """Something that can be said of an endpoint or a port, by a URL or in TOML alike.

    `read` makes a value of what was written, or raises InputError. `schema` is what may be written in TOML, as a JSON
    schema; `about` is a sentence on what it means.
    """

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]
    about: str


def numbers(least: int, most: int) -> dict[str, Any]:
    """The schema of whole numbers from `least` to `most`."""
    return {"type": "integer", "minimum": least, "maximum": most}


def also_text(number: Mapping[str, Any], pattern: str = "^[0-9]+$") -> dict[str, Any]:
    """The schema of a number that may be a text, too."""
    return {"anyOf": [number, {"type": "string", "pattern": pattern}]}


def several(item: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a list, of which one item may stand alone."""
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}


_INTERFACE = re.compile(r"[^/\s]{1,15}")  # IFNAMSIZ less the final NUL
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}")


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


def instead(name: str, known: Iterable[str], takes: str = "it takes") -> str:
    """What to write in place of a name that is not known, for an error."""
    names = list(known)
    if alike := difflib.get_close_matches(name, names, 1):
        return f"did you mean {alike[0]!r}?"
    return f"{takes} {', '.join(names)}"


def shown(value: Any) -> str:
    """What was written, for an error; without the digits of a number that has too many of them."""
    if isinstance(value, bool):
        return "nothing" if value else "no"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "such a large number"
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # of any depth, or with such a number in it
        return "such a value"
    return text if len(text) <= SHOWN_MAX else "such a value"


def check_name(text: str) -> str:
    """A name for a switch, an endpoint or a port. Raises InputError."""
    if not _NAME.fullmatch(text):
        raise InputError(f"{text!r} cannot be a name; use up to 63 letters, digits and _.:- with no sign first")
    return text


def endpoint_of(port: str) -> str | None:
    """The listener that has given a port its name, if one has."""
    listener, _, number = port.rpartition(".")
    return listener if number.isdecimal() else None


def check_unix_path(path: str) -> str:
    """A path that fits a unix socket address, and that a terminal can show, as `os` wants it. Raises InputError."""
    if "\0" in path:
        raise InputError("a path cannot contain a NUL byte")
    if not re.sub("[\udc80-\udcff]", "", path).isprintable():  # bytes that are no UTF-8 are merely odd
        raise InputError("the path has a control character; use another one")
    raw = path.encode(errors="surrogateescape")
    if len(raw) > UNIX_PATH_MAX:
        raise InputError(f"the path has {len(raw)} bytes, a unix socket's at most {UNIX_PATH_MAX}; use a shorter one")
    return os.fsdecode(raw)  # where the locale is not UTF-8, that is another text


def interface_name(text: str) -> str:
    """Raises InputError if it cannot be one (Linux net/core/dev.c, dev_valid_name)."""
    if not _INTERFACE.fullmatch(text) or not text.isprintable() or not text.isascii() or text in (".", ".."):
        raise InputError(f"{text!r} cannot be an interface's name; use up to 15 letters, digits and signs like - and .")
    return text
