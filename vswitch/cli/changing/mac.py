"""`vswitch mac`: entries of a running switch's MAC table come and go."""

import click

from vswitch.cli.names import complete_port
from vswitch.cli.options import names_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.model import Dropped, FlushRequest, ForgetRequest, PinRequest

_vlan = click.option("--vlan", metavar="N", type=int, help="In this VLAN only.")


@click.group()
def mac() -> None:
    """Change the MAC table."""


@mac.command()
@click.argument("mac")
@click.argument("port", shell_complete=complete_port)
@click.option("--vlan", metavar="N", type=int, help="In this VLAN. [default: the port's own]")
@names_switch
def add(mac: str, port: str, vlan: int | None, name: str | None) -> None:
    """Have a station be behind a port, whatever is heard."""
    client.call(client.find(name), operations.PIN, body=PinRequest(mac=mac, port=port, vlan=vlan))


@mac.command("del")
@click.argument("mac")
@_vlan
@names_switch
def delete(mac: str, vlan: int | None, name: str | None) -> None:
    """Forget a station, whether it was learned or added."""
    _say(client.call(client.find(name), operations.FORGET, ForgetRequest(vlan=vlan), mac=mac))


@mac.command()
@click.argument("port", required=False, shell_complete=complete_port)
@_vlan
@names_switch
def flush(port: str | None, vlan: int | None, name: str | None) -> None:
    """Forget what was learned.

    That is at all ports, or at PORT. What was added stays.
    """
    _say(client.call(client.find(name), operations.FLUSH, FlushRequest(port=port, vlan=vlan)))


def _say(dropped: Dropped) -> None:
    say(f"{dropped.entries} {'entry' if dropped.entries == 1 else 'entries'} forgotten")
