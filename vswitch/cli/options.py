"""Options and arguments that many commands have."""

from collections.abc import Callable, Iterable, Iterator

import click

from vswitch.cli.names import complete_switch
from vswitch.errors import InputError

Command = Callable[..., None]


def key_values(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Arguments KEY=VALUE. Raises InputError."""
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is no KEY=VALUE; write it like vlan=10")
        yield key, value


def names_switch(command: Command) -> Command:
    """`--name`: which switch."""
    return click.option(
        "--name", metavar="NAME", shell_complete=complete_switch, help="Which switch, if several are running."
    )(command)


def asks_switch(command: Command) -> Command:
    """`--name` and `--json`, which every command has that shows what a switch says."""
    return names_switch(click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command))
