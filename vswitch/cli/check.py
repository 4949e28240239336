"""`vswitch check` and `schema`: whether a configuration file is right, and what may be in one."""

import json

import click

from vswitch.cli.output import say
from vswitch.control import config
from vswitch.control import schema as schemas


@click.command()
@click.argument("file", metavar="FILE", type=click.Path())
def check(file: str) -> None:
    """Say whether a configuration file is right.

    Nothing is opened, and no switch is asked: addresses and files that it names may still be in use by others.
    """
    found = config.read(file, whole=True)
    count = len(found.endpoints)
    say(f"{file}: right, for {count} endpoint{'' if count == 1 else 's'}")


@click.command()
def schema() -> None:
    """Print the JSON schema of configuration files, for editors."""
    say(json.dumps(schemas.schema(), indent=2))
