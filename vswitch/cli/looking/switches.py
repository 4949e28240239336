"""`vswitch list`: the switches that run."""

from pathlib import Path

import click
import msgspec

from vswitch.cli import table
from vswitch.cli.output import say
from vswitch.cli.table import Column
from vswitch.control import client, operations
from vswitch.errors import VSwitchError

COLUMNS = (Column("NAME"), Column("PID", 2, right=True), Column("PORTS", 1, right=True), Column("CONTROL SOCKET", 3))


class SwitchInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A switch that runs; null is what it does not say, because it does not answer or is of another version."""

    name: str
    control: str
    pid: int | None = None
    version: str | None = None
    ports: int | None = None


@click.command()
@table.wide
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list(as_json: bool, wide: bool) -> None:
    """List the switches that run.

    They are this user's, in this environment's directory and in the user's usual other places.
    """
    found = [_ask(path) for path in client.running()]
    if as_json:
        say(msgspec.json.encode(found).decode())
        return
    table.show(COLUMNS, [(it.name, _text(it.pid), _text(it.ports), it.control) for it in found], wide)


def _ask(path: Path) -> SwitchInfo:
    try:
        status = client.call(path, operations.STATUS)
    except VSwitchError:
        return SwitchInfo(name=path.stem, control=str(path))
    ports, version = status.ports, status.version
    return SwitchInfo(name=status.name, control=str(path), pid=status.pid, version=version, ports=ports)


def _text(value: int | None) -> str:
    return "?" if value is None else str(value)
