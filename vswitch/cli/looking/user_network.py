"""`vswitch leases|forwards|hosts`: the guests of a user network, and what leads to them."""

from collections.abc import Iterable

import click

from vswitch.cli import table
from vswitch.cli.looking.show import ask, lists, span
from vswitch.cli.options import names_switch
from vswitch.cli.output import say
from vswitch.cli.table import Column
from vswitch.control import client, model, operations

LEASE_COLUMNS = (
    Column("IP"),
    Column("NAME", 1),
    Column("MAC", 2),
    Column("PORT", 3),
    Column("NETWORK", 5),
    Column("LEFT", 4, right=True),
)
FORWARD_COLUMNS = (Column("FORWARD"), Column("LEADS TO", 1, wraps=True), Column("NETWORK", 2))


@click.command()
@lists
def leases(name: str | None, as_json: bool, wide: bool) -> None:
    """List the guests that have an address of a user network."""
    shown = ask(name, operations.LEASES, as_json)
    if shown is not None:
        show_leases(shown, wide)


def show_leases(shown: Iterable[model.LeaseInfo], wide: bool = False) -> None:
    rows = [(lease.ip, lease.name or "-", lease.mac, lease.port, lease.network, span(lease.left_s)) for lease in shown]
    table.show(LEASE_COLUMNS, rows, wide)


@click.command()
@lists
def forwards(name: str | None, as_json: bool, wide: bool) -> None:
    """List what leads from this machine to guests."""
    shown = ask(name, operations.FORWARDS, as_json)
    if shown is None:
        return
    rows = [(found.forward, _where(found), found.network) for found in shown]
    table.show(FORWARD_COLUMNS, rows, wide)


def _where(forward: model.ForwardInfo) -> str:
    return forward.ip or forward.problem or "nowhere yet: that guest has no lease"


@click.command()
@names_switch
def hosts(name: str | None) -> None:
    """Print guests' names and addresses as /etc/hosts has them."""
    for lease in client.call(client.find(name), operations.LEASES):
        if lease.name:
            say(f"{lease.ip}\t{lease.name}.{lease.domain} {lease.name}")
