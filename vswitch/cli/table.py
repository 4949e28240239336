"""Tables for people. On a terminal no word is ever broken: columns that have no room are left out, and that is said.

What is read by a program, through a pipe, has all columns, each row on one line, whatever it takes.
"""

import io
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from vswitch.cli.output import say

if TYPE_CHECKING:
    from rich.table import Table

UNBOUNDED = 10**9  # a width, for rich, which has to have one
BETWEEN = 2  # blanks between two columns, as rich puts them


wide = click.option("--wide", is_flag=True, help="Show all columns, however narrow the terminal.")


class Column(NamedTuple):
    """`rank`: those of the highest are left out first, all of one rank together. One that `wraps` does so at blanks."""

    head: str
    rank: int = 0
    right: bool = False
    wraps: bool = False


def show(columns: Sequence[Column], rows: Sequence[Sequence[str]], wide: bool = False) -> None:
    """Print a table, with all its columns if `wide`."""
    from rich.console import Console

    terminal = is_terminal()
    width = shutil.get_terminal_size().columns if terminal and not wide else UNBOUNDED
    table, left_out = made(columns, rows, width)
    printed = io.StringIO()
    Console(file=printed, force_terminal=terminal, width=UNBOUNDED, highlight=False).print(table)
    say("\n".join(line.rstrip() for line in printed.getvalue().splitlines()))
    if left_out:
        said = f"No room for {', '.join(left_out)}; --wide shows all."
        say(textwrap.fill(said, width, break_long_words=False, break_on_hyphens=False))


def is_terminal() -> bool:
    """Whether a person sees what is printed."""
    return sys.stdout is not None and sys.stdout.isatty()


def made(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> "tuple[Table, list[str]]":
    """A table that fits a terminal's width, and the heads of the columns that it has no room for."""
    cells = list(zip(*([column.head for column in columns], *rows), strict=True))
    widths = _fit(columns, cells, width)
    left_out = [column.head for at, column in enumerate(columns) if at not in widths]
    return _table([(columns[at], cells[at], widths[at]) for at in sorted(widths)]), left_out


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print what is known of one thing: a line for each fact."""
    show((Column(""), Column("", wraps=True)), facts)


def _fit(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """The columns that there is room for, and the width of each. Those of the lowest rank always are."""
    full = [max(map(_width, texts)) for texts in cells]
    least = [
        max(_width(word) for text in texts for word in text.split(" ")) if column.wraps else whole
        for column, texts, whole in zip(columns, cells, full, strict=True)
    ]
    widths: dict[int, int] = {}
    for rank in sorted({column.rank for column in columns}):
        more = {at: least[at] for at, column in enumerate(columns) if column.rank == rank}
        if not widths or _total(widths | more) <= width:
            widths |= more
    growing = [at for at in sorted(widths) if widths[at] < full[at]]
    for number, at in enumerate(growing):
        share = max(0, width - _total(widths)) // (len(growing) - number)
        widths[at] = min(full[at], widths[at] + share)
    return widths


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + BETWEEN * (len(widths) - 1)


def _width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def _table(columns: Sequence[tuple[Column, Sequence[str], int]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    headed = any(column.head for column, _, _ in columns)
    table = Table(box=None, show_header=headed, header_style="bold", pad_edge=False, padding=(0, BETWEEN // 2))
    for column, _, width in columns:
        table.add_column(column.head, justify="right" if column.right else "left", width=width, overflow="fold")
    for row in zip(*(texts[1:] for _, texts, _ in columns), strict=True):
        table.add_row(*map(Text, row))
    return table
