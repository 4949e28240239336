"""`vswitch reload`: have a running switch become as its configuration file says."""

import click
import msgspec

from vswitch.cli.options import asks_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.model import ReloadRequest


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@asks_switch
def reload(dry_run: bool, as_json: bool, name: str | None) -> None:
    """Have a switch read its configuration file again.

    It prints what changes, as a diff. Guests stay plugged in, and lose no frame, unless their endpoint's line ends
    with a remark. If the file is wrong, nothing changes.
    """
    changes = client.call(client.find(name), operations.RELOAD, ReloadRequest(dry_run=dry_run))
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(changes)).decode())
    elif changes:
        say("\n".join(line for change in changes for line in change.diff))
    else:
        say("nothing changes")
