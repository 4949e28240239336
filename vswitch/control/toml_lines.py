"""Where something stands in a TOML file, which tomllib does not say."""

import re
import tomllib
from typing import Any

Place = tuple[str | int, ...]  # keys of tables, and numbers from 1 in lists

# A line that may begin a table or an entry; it may also be within a text of several lines.
_BEGINS = re.compile(r"\s*(\[|[\w.\"' -]+=)")


def line_of(text: str, place: Place) -> int:
    """The line, from 1, on which a place begins to be written in a valid file that has it; 1 for the whole file.

    A file ends well before each line that begins something. So the first part of it that has the place is looked for
    by bisection, and the place begins where the part before that ends.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    begins = [number for number, line in enumerate(lines) if _BEGINS.match(line)]
    ends = [*begins[1:], len(lines)]  # of the parts, each one longer by what begins at the line of its number
    if not place or not begins:
        return 1
    without, with_it = -1, len(begins) - 1
    while with_it - without > 1:
        middle = (without + with_it) // 2
        whole = (
            (part, content) for part in range(middle, with_it) if (content := _read(lines[: ends[part]])) is not None
        )
        part, content = next(whole, (with_it, None))
        if content is None or _has(content, place):
            with_it = middle
        else:
            without = part
    return begins[with_it] + 1


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
