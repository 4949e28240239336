"""`vswitch port` and `vswitch mirror`: what ports of a running switch go by."""

from typing import Any

import click

from vswitch.cli.names import complete_port
from vswitch.cli.options import key_values, names_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.model import SetRequest
from vswitch.endpoints import url
from vswitch.errors import InputError
from vswitch.ports import policy
from vswitch.values import endpoint_of


@click.group()
def port() -> None:
    """Change what ports go by, while their guests are plugged in."""


@port.command("set")
@click.argument("port", shell_complete=complete_port)
@click.argument("parameters", metavar="KEY=VALUE...", nargs=-1, required=True)
@names_switch
def set_(port: str, parameters: tuple[str, ...], name: str | None) -> None:
    """Set parameters of a port, or of an endpoint with all its ports.

    They are those of a URL: vlan=10, rate=10Mbit/s, locked=yes. KEY= is what is usual. What is set on one port of a
    listener goes with its guest's connection.
    """
    _set(name, port, _read(port, parameters))


@port.command()
@click.argument("ports", metavar="PORT...", nargs=-1, required=True, shell_complete=complete_port)
@names_switch
def up(ports: tuple[str, ...], name: str | None) -> None:
    """Let frames in and out again."""
    for each in ports:
        _set(name, each, {"up": None})


@port.command()
@click.argument("ports", metavar="PORT...", nargs=-1, required=True, shell_complete=complete_port)
@names_switch
def down(ports: tuple[str, ...], name: str | None) -> None:
    """Let nothing in or out, while the guest stays plugged in."""
    for each in ports:
        _set(name, each, {"up": False})


@click.command()
@click.argument("mirror", metavar="PORT", shell_complete=complete_port)
@click.argument("watched", nargs=-1, shell_complete=complete_port)
@click.option("--in", "direction", flag_value="in", help="Only what comes in there.")
@click.option("--out", "direction", flag_value="out", help="Only what leaves there.")
@click.option("--off", is_flag=True, help="Make it an ordinary port again.")
@names_switch
def mirror(mirror: str, watched: tuple[str, ...], direction: str | None, off: bool, name: str | None) -> None:
    """Have a port get a copy of what passes at others.

    WATCHED are ports, or endpoints with all their ports.
    """
    if off == bool(watched) or (off and direction):
        raise InputError("mirror: name the ports to watch, or say --off")
    _set(name, mirror, {"mirror_of": list(watched) or None, "mirror": direction})


def _read(port: str, texts: tuple[str, ...]) -> dict[str, Any]:
    """The parameters by name; a list may be given item by item, as in a URL."""
    found: dict[str, Any] = {}
    for key, value in key_values(texts):
        if key in url.ALL_PARAMETERS or key == "remote":
            raise InputError(f"{key} cannot change while {port} is attached; detach it, and attach it anew")
        if key in found and (key not in policy.LISTS or not value or found[key] is None):
            raise InputError(f"parameter {key!r} is given twice")
        found[key] = (
            [*found[key], value] if key in found else [value] if value and key in policy.LISTS else value or None
        )
    return found


def _set(name: str | None, port: str, parameters: dict[str, Any]) -> None:
    request = SetRequest(parameters=parameters)
    found = client.call(client.find(name), operations.SET, body=request, name=port)
    says = " ".join(f"{key}={value}" for key, value in found.parameters.items())
    say(f"{found.name}  {says or 'as usual'}")
    if not found.lasts:
        say(f"  until its guest disconnects; set it on {endpoint_of(port)} for all that come")
