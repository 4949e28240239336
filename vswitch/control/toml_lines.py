"""Where something stands in a TOML file, which tomllib does not say."""

import tomllib
from typing import Any

Place = tuple[str | int, ...]  # keys of tables, and numbers from 1 in lists


def line_of(text: str, place: Place) -> int:
    """The line, from 1, on which a place begins to be written in a valid file that has it; 1 for the whole file.

    A prefix of the file that is no TOML has a value cut off at its end, which is finished further on. So the first
    prefix that has the place, or is cut off within it, is looked for by bisection.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    without, with_it = 0, len(lines) if place else 1
    while with_it - without > 1:
        middle = (without + with_it) // 2
        whole = ((end, content) for end in range(middle, with_it) if (content := _read(lines[:end])) is not None)
        end, content = next(whole, (with_it, None))
        if content is None or _has(content, place):
            with_it = middle
        else:
            without = end
    return with_it


def _read(lines: list[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines))
    except ValueError:
        return None


def _has(content: Any, place: Place) -> bool:
    for step in place:
        if isinstance(step, int):
            if not isinstance(content, list) or len(content) < step:
                return False
            content = content[step - 1]
        else:
            if not isinstance(content, dict) or step not in content:
                return False
            content = content[step]
    return True
