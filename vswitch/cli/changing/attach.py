"""`vswitch attach|detach`: endpoints of a running switch come and go."""

import os

import click

from vswitch.cli.names import complete_port
from vswitch.cli.options import names_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.model import AttachRequest
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import InputError


@click.command()
@click.argument("url")
@names_switch
def attach(url: str, name: str | None) -> None:
    """Give a running switch one more way in.

    The URL is one that `serve` takes. The endpoint's name and URL are printed; `vswitch qemu-args NAME` prints what to
    add to a guest's QEMU. fd://N is a descriptor of this command, a socket, which is passed on.
    """
    config = parse(url)
    config.check_paths()
    if config.scheme == "fd":
        check_descriptor(config)
    parameters = {} if config.name is None else {"name": config.name}
    request = AttachRequest(url=config.absolute().full_url, parameters=parameters)
    passed = config.fd if config.scheme == "fd" else None
    attached = client.call(client.find(name), operations.ATTACH, body=request, descriptor=passed)
    say(f"{attached.name}  {attached.url}")


def check_descriptor(config: EndpointConfig) -> None:
    """Raises InputError if it cannot be passed on."""
    try:
        if config.fd < 0:
            raise InputError(f"{config.url}: descriptors have numbers here; write it like fd://3")
        os.fstat(config.fd)
    except OSError as error:
        raise InputError(f"{config.url}: {error.strerror}; pass it on to this command, as with 3<&5") from None


@click.command()
@click.argument("endpoint", shell_complete=complete_port)
@names_switch
def detach(endpoint: str, name: str | None) -> None:
    """Take an endpoint out of a running switch, with its ports."""
    client.call(client.find(name), operations.DETACH, name=endpoint)
