"""`vswitch attach|detach`: endpoints of a running switch come and go."""

import click

from vswitch.cli.names import complete_port
from vswitch.cli.options import names_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.model import AttachRequest
from vswitch.endpoints.url import parse


@click.command()
@click.argument("url")
@names_switch
def attach(url: str, name: str | None) -> None:
    """Give a running switch one more way in.

    The URL is one that `serve` takes. The endpoint's name and URL are printed; `vswitch qemu-args NAME` prints what to
    add to a guest's QEMU.
    """
    config = parse(url)
    config.check_paths()
    parameters = {} if config.name is None else {"name": config.name}
    request = AttachRequest(url=config.absolute().full_url, parameters=parameters)
    attached = client.call(client.find(name), operations.ATTACH, body=request)
    say(f"{attached.name}  {attached.url}")


@click.command()
@click.argument("endpoint", shell_complete=complete_port)
@names_switch
def detach(endpoint: str, name: str | None) -> None:
    """Take an endpoint out of a running switch, with its ports."""
    client.call(client.find(name), operations.DETACH, name=endpoint)
