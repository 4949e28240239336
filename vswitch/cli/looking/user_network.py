"""`vswitch leases|nat|forwards|hosts`: the guests of a user network, and what leads to them."""

from collections.abc import Iterable

import click

from vswitch.cli import table
from vswitch.cli.looking.show import ask, drops, lists, span
from vswitch.cli.options import names_switch
from vswitch.cli.output import say
from vswitch.cli.table import Column
from vswitch.control import client, model, operations
from vswitch.endpoints.user.reasons import REASONS

LEASE_COLUMNS = (
    Column("IP"),
    Column("NAME", 1),
    Column("MAC", 2),
    Column("PORT", 3),
    Column("NETWORK", 5),
    Column("LEFT", 4, right=True),
)
NAT_COLUMNS = (
    Column("IP"),
    Column("NAME", 1),
    Column("MAC", 3),
    Column("OUT FRAMES", 6, right=True),
    Column("OUT BYTES", 2, right=True),
    Column("IN FRAMES", 6, right=True),
    Column("IN BYTES", 2, right=True),
    Column("OPEN", 4, right=True),
    Column("DROPPED", 5),
    Column("NETWORK", 7),
)
DROP_COLUMNS = (
    Column("DROPPED"),
    Column("FRAMES", right=True),
    Column("NETWORK", 2),
    Column("BECAUSE", 1, wraps=True),
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
def nat(name: str | None, as_json: bool, wide: bool) -> None:
    """Show what passes the NAT of a user network.

    Of each guest, and then what is dropped, and why.
    """
    shown = ask(name, operations.NAT, as_json)
    if shown is None:
        return
    guests = [_guest(network, guest) for network in shown for guest in network.guests]
    table.show(NAT_COLUMNS, guests, wide)
    if dropped := [row for network in shown for row in _dropped(network)]:
        say("")
        table.show(DROP_COLUMNS, dropped, wide)
    for network in shown:
        say(f"\n{_summary(network)}")


def _guest(network: model.NatInfo, guest: model.NatGuest) -> tuple[str, ...]:
    counted = (guest.out_frames, guest.out_bytes, guest.in_frames, guest.in_bytes, guest.connections)
    numbers = (f"{count:,}" for count in counted)
    return guest.ip, guest.name or "-", guest.mac, *numbers, drops(guest.drops), network.network


def _dropped(network: model.NatInfo) -> list[tuple[str, ...]]:
    dropped = network.total.drops
    return [
        (reason, f"{dropped[reason]:,}", network.network, f"{why.about}; {why.advice}")
        for reason, why in REASONS.items()
        if reason in dropped
    ]


def _summary(network: model.NatInfo) -> str:
    if network.age_s is None:
        return f"{network.network}: its process does not answer; ask again, and see the log"
    served = ", ".join(f"{count:,} {service.upper()}" for service, count in network.served.items())
    return f"{network.network}: requests served: {served}; counted for {span(network.age_s)}"


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
