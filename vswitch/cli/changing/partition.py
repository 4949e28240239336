"""`vswitch partition|isolate|heal`: islands of ports between which nothing passes."""

from collections.abc import Sequence

import click

from vswitch.cli.names import complete_port
from vswitch.cli.options import names_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.model import PartitionInfo, PartitionRequest
from vswitch.errors import InputError


@click.command()
@click.argument("islands", metavar="[A,B C,D]...", nargs=-1)
@click.option("--rest", is_flag=True, help="All other ports are one more island.")
@names_switch
def partition(islands: tuple[str, ...], rest: bool, name: str | None) -> None:
    """Let nothing pass between islands of ports.

    An island is names of ports and endpoints, by comma. Other ports reach all islands. Without islands, it lists what
    is parted.
    """
    if rest and not islands:
        raise InputError("partition: name the ports that are parted from the rest")
    if not islands:
        found = client.call(client.find(name), operations.PARTITIONS)
        _say(found)
    else:
        _part([island.split(",") for island in islands], rest, name)


@click.command()
@click.argument("port", shell_complete=complete_port)
@names_switch
def isolate(port: str, name: str | None) -> None:
    """Let nothing pass between a port and all others.

    Of an endpoint, all ports are meant; they reach each other.
    """
    _part([[port]], True, name)


@click.command()
@click.argument("numbers", metavar="[NUMBER]...", nargs=-1, type=int)
@names_switch
def heal(numbers: tuple[int, ...], name: str | None) -> None:
    """Undo partitions, by their numbers, or all of them."""
    path = client.find(name)
    for number in numbers or [found.number for found in client.call(path, operations.PARTITIONS)]:
        client.call(path, operations.HEAL, number=str(number))


def _part(islands: list[list[str]], rest: bool, name: str | None) -> None:
    request = PartitionRequest(islands=islands, rest=rest)
    _say([client.call(client.find(name), operations.PART, body=request)])


def _say(partitions: Sequence[PartitionInfo]) -> None:
    for found in partitions:
        islands = [",".join(names) for names in found.islands] + ["the rest"] * found.rest
        say(f"{found.number}  {' | '.join(islands)}")
    if not partitions:
        say("nothing is parted")
