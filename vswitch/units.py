"""Quantities with their unit, as written in URLs, TOML and on the command line: `300s`, `64MiB`, `10Mbit/s`."""

import re
from typing import NamedTuple

from vswitch.errors import InputError

DURATION_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
SIZE_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

FRAMES_PER_S = {"fps": 1, "kfps": 10**3, "Mfps": 10**6}
BITS_PER_S = {"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9}

SIZE_MAX = 2.0**62
RATE_MAX = 10**12

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z/%]*)")


def duration(text: str) -> float:
    """Seconds of `20ms`, `300s`, `5min` or `1h`. Raises InputError."""
    return _quantity(text, DURATION_S, "a time", "s")


def size(text: str) -> int:
    """Bytes of `64KiB`, `100MB`, …. Raises InputError."""
    bytes_ = _quantity(text, SIZE_BYTES, "a size", "MiB")
    if bytes_ > SIZE_MAX:
        raise InputError(f"{text!r} is more than any machine has")
    return round(bytes_)


class Rate(NamedTuple):
    """So many frames and bits a second; 0: no limit."""

    frames_per_s: int
    bits_per_s: int


def rate(texts: list[str]) -> Rate:
    """A rate of frames (`1000fps`), of bits (`10Mbit/s`), or one of each. Raises InputError."""
    rates = {"frames": 0, "bits": 0}
    for text in texts:
        per_s = _quantity(text, {**FRAMES_PER_S, **BITS_PER_S}, "a rate", "Mbit/s")
        kind = "frames" if text.strip().endswith("fps") else "bits"
        if not 1 <= per_s <= RATE_MAX:
            raise InputError(f"{text!r} is out of range; 1bit/s or 1fps to 1000Gbit/s")
        if rates[kind]:
            raise InputError(f"has two rates of {kind}; write one, or one of frames and one of bits")
        rates[kind] = round(per_s)
    return Rate(rates["frames"], rates["bits"])


def _quantity(text: str, units: dict[str, float] | dict[str, int], what: str, likely: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not {what}; write one like 10{likely}")
    number, unit = match.groups()
    if unit not in units:
        wrong = f"has the unit {unit!r}" if unit else "has no unit"
        raise InputError(f"{text!r} {wrong}; write {number}{likely} (units: {', '.join(units)})")
    return float(number) * units[unit]
