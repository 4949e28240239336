"""`vswitch log-level`: what a running switch logs."""

import click

from vswitch.cli.options import names_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.model import LogInfo


@click.command()
@click.argument("level", type=click.Choice(["error", "warning", "info", "debug"]), required=False)
@names_switch
def log_level(level: str | None, name: str | None) -> None:
    """Say what a switch logs, or have it log more or less."""
    path = client.find(name)
    if level is None:
        found = client.call(path, operations.LOG)
    else:
        found = client.call(path, operations.SET_LOG, body=LogInfo(level=level))  # type: ignore[arg-type]
    say(found.level)
