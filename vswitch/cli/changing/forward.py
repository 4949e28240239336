"""`vswitch forward` and `vswitch ssh`: ways from this machine to the guests of a user network."""

import os
import shutil
from pathlib import Path

import click

from vswitch.cli import signals
from vswitch.cli.options import names_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.model import ForwardRequest, LeaseInfo, UnforwardRequest
from vswitch.endpoints.user import forward as forwards
from vswitch.errors import MissingError, RefusedError

SSH_PORT = 22

_network = click.option("--network", metavar="NAME", help="Which user network, if there are several.")


@click.group()
def forward() -> None:
    """Have ports of this machine lead to guests."""


@forward.command()
@click.argument("forward", metavar="[tcp|udp]:[HOST]:PORT-[GUEST]:PORT")
@_network
@names_switch
def add(forward: str, network: str | None, name: str | None) -> None:
    """Have a port of this machine lead to a guest's.

    GUEST is a name or an address, of a guest that may not have booted yet; without it, the first that gets a lease is
    meant. HOST is loopback by default, and PORT 0 any that is free. A socket is written unix:/PATH-[GUEST]:PORT.
    """
    info = client.call(client.find(name), operations.FORWARD, body=ForwardRequest(forward=forward, network=network))
    if info.problem:
        raise RefusedError(f"{info.forward}: {info.problem}")
    say(info.forward)


@forward.command("del")
@click.argument("forward")
@_network
@names_switch
def delete(forward: str, network: str | None, name: str | None) -> None:
    """Take a forward back.

    What is written before the - is enough. Connections that there are stay.
    """
    client.call(client.find(name), operations.UNFORWARD, UnforwardRequest(network=network), forward=forward)


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("guest", metavar="[USER@]GUEST")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@names_switch
def ssh(guest: str, words: tuple[str, ...], name: str | None) -> None:
    """Open an ssh session in a GUEST of a user network.

    GUEST is its name or its address. WORDS are ssh's: options, and a command. The forward that this needs is made, and
    stays.
    """
    user, at, host = guest.rpartition("@")
    program = shutil.which("ssh")
    if program is None:
        raise RefusedError("ssh is missing; install it (Debian and Ubuntu: package openssh-client)")
    path = client.find(name)
    lease = _lease(path, host)
    line = ["ssh", "-p", str(_port(path, lease)), "-o", f"HostKeyAlias={lease.name or lease.ip}.{lease.domain}"]
    signals.as_usual()
    os.execv(program, [*line, f"{user}{at}127.0.0.1", *words])


def _lease(path: Path, guest: str) -> LeaseInfo:
    leases = client.call(path, operations.LEASES)
    for lease in sorted(leases, key=lambda lease: lease.port != guest):  # who is behind a port of that name comes first
        if guest in (lease.name, f"{lease.name}.{lease.domain}", lease.ip, lease.port):
            return lease
    there_are = ", ".join(lease.name or lease.ip for lease in leases) or "none"
    raise MissingError(f"no guest {guest!r} has a lease; those that have one are {there_are}")


def _port(path: Path, lease: LeaseInfo) -> int:
    """This machine's, which leads to a guest's ssh server."""
    guest = lease.name or lease.ip
    for info in client.call(path, operations.FORWARDS):
        found = forwards.read(info.forward)
        is_it = (info.network, info.ip) == (lease.network, lease.ip) and found.guest in (guest, lease.ip, lease.port)
        if is_it and (found.kind, found.host, found.guest_port) == ("tcp", "127.0.0.1", SSH_PORT):
            return found.host_port
    wanted = ForwardRequest(forward=f"tcp:127.0.0.1:0-{guest}:{SSH_PORT}", network=lease.network)
    info = client.call(path, operations.FORWARD, body=wanted)
    if info.problem:
        raise RefusedError(f"{info.forward}: {info.problem}")
    return forwards.read(info.forward).host_port
