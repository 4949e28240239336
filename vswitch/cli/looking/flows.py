"""`vswitch flows`: who talked to whom, and what became of it."""

import time

import click

from vswitch import units
from vswitch.cli import table
from vswitch.cli.names import complete_port
from vswitch.cli.options import asks_switch
from vswitch.cli.output import say
from vswitch.cli.table import Column
from vswitch.control import client, operations, text
from vswitch.control.model import FlowsRequest
from vswitch.errors import InputError

COLUMNS = (
    Column("PORT", 2),
    Column("SOURCE"),
    Column("DESTINATION"),
    Column("VLAN", 5, right=True),
    Column("WHAT"),
    Column("FRAMES", 3, right=True),
    Column("BYTES", 6, right=True),
    Column("AGO", 4, right=True),
    Column("BECAME OF IT", wraps=True),
)


@click.command()
@click.option("--since", metavar="TIME", help="Only what passed in the last 60s, for one. [default: all there is]")
@click.option("--port", shell_complete=complete_port, help="Only what came in by a port, or went there.")
@table.wide
@asks_switch
def flows(since: str | None, port: str | None, name: str | None, as_json: bool, wide: bool) -> None:
    """Say who talked to whom, and what became of it.

    The switch has to record (serve --record 60s). What was heard last is first.
    """
    try:
        since_s = None if since is None else units.duration(since)
    except InputError as error:
        raise InputError(f"--since: {error}") from None
    path, request = client.find(name), FlowsRequest(since_s=since_s, port=port)
    body = client.ask(path, operations.FLOWS, request)
    found = client.decode(path, operations.FLOWS, body)
    if as_json:
        say(body.decode())
        return
    now_s = time.time()
    table.show(COLUMNS, [text.flow_row(flow, now_s) for flow in found.flows], wide)
    if found.older:
        say(f"and {found.older:,} flows that were heard before; --since and --port leave fewer")
    if found.others:
        say(f"and {found.others:,} frames of more flows than are told apart")
