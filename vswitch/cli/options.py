"""Options that many commands have."""

from collections.abc import Callable

import click

from vswitch.cli.names import complete_switch

Command = Callable[..., None]


def names_switch(command: Command) -> Command:
    """`--name`: which switch."""
    return click.option(
        "--name", metavar="NAME", shell_complete=complete_switch, help="Which switch, if several are running."
    )(command)


def asks_switch(command: Command) -> Command:
    """`--name` and `--json`, which every command has that shows what a switch says."""
    return names_switch(click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command))
