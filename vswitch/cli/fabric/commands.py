"""`vswitch fabric`: machines whose guests are on one LAN."""

import json
import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec

from vswitch.cli import table
from vswitch.cli.fabric import configuration, description, findings, frr, links, show
from vswitch.cli.fabric.description import Host
from vswitch.cli.fabric.findings import Finding
from vswitch.cli.fabric.frr import FrrError
from vswitch.cli.output import say
from vswitch.errors import InputError, printable

Command = Callable[..., None]

by_name = click.option("--host", metavar="NAME", help="Which host of FILE; this machine's name if left out.")
from_file = click.argument("file", metavar="[FILE]", required=False, type=click.Path())
vty_socket = click.option("--vty-socket", metavar="DIR", help="Where FRR's sockets are, if not in /run/frr.")


def described(command: Command) -> Command:
    """A host, by a file or by options."""
    for option in reversed(
        (
            from_file,
            by_name,
            click.option("--address", metavar="IP", help="This host's address."),
            click.option("--peer", "peers", metavar="IP", multiple=True, help="Another host, or a route reflector."),
            click.option("--vni", metavar="N", multiple=True, help="A LAN's number. Default: 100."),
            click.option("--as", "as_number", metavar="N", help="The AS number. Default: 65000."),
            click.option("--mtu", metavar="N", help="What the network between hosts carries. Default: 1500."),
            click.option("--hold", metavar="TIME", help="Forget a host that is silent so long. Default: 9s."),
            click.option("--user", metavar="USER", help="Who runs the switch. Default: root."),
        )
    ):
        command = option(command)
    return command


@click.group()
def fabric() -> None:
    """Have guests of many machines on one LAN.

    By VXLAN, and FRRouting's BGP EVPN.
    """


@fabric.command()
@described
def commands(**options: Any) -> None:
    """Print the commands that make this machine a host."""
    say(configuration.commands(_host(**options)))


@fabric.command("frr")
@described
def frr_(**options: Any) -> None:
    """Print the host's frr.conf."""
    say(configuration.frr_conf(_host(**options)))


def _host(file: str | None, host: str | None, address: str | None, peers: tuple[str, ...], **options: Any) -> Host:
    options["as"] = options.pop("as_number")
    if file is None:
        return description.of_options(address, peers, host, **options)
    if address is not None or peers or any(value not in (None, ()) for value in options.values()):
        raise InputError(f"{file} says it all but --host; leave the other options out")
    return description.read(file, host)


@fabric.command()
@from_file
@by_name
@vty_socket
def check(file: str | None, host: str | None, vty_socket: str | None) -> None:
    """Say what is wrong with this host, and what to do.

    With FILE, also whether all is there that it says. The exit code is 1 if anything is wrong.
    """
    wanted = description.read(file, host) if file is not None else None
    found = _check(wanted, vty_socket)
    for finding in found:
        mark, advice = ("wrong", f"; {finding.advice}") if finding.advice else ("ok   ", "")
        say(printable(f"{mark}  {finding.what}{advice}"))
    if any(finding.advice for finding in found):
        sys.exit(1)


def _check(wanted: Host | None, vty_socket: str | None) -> list[Finding]:
    there = links.all_links()
    vnis = list(wanted.vnis) if wanted is not None else findings.vnis_of(there)
    found = [] if vnis else [Finding("there is no VXLAN device", "run what this prints: vswitch fabric commands")]
    try:
        summary, known = frr.summary(vty_socket), frr.vnis(vty_socket)
    except FrrError as error:
        summary, known = None, {}
        found.append(Finding(error.what, error.advice))
    for vni in vnis:
        wrong = list(findings.of_lan(vni, there))
        if summary is not None:
            remotes = [*summary.peers, *(known[str(vni)].remote_vteps if str(vni) in known else ())]
            wrong += findings.of_mtu(vni, there, remotes, links.way_to)
            wrong += findings.of_zebra(vni, known)
        found += wrong or [findings.in_short(vni, there)]
    if summary is not None:
        found += findings.of_peers(summary, wanted.neighbors if wanted is not None else ())
    return found


@fabric.command("show")
@vty_socket
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@table.wide
def show_(vty_socket: str | None, as_json: bool, wide: bool) -> None:
    """Show other hosts, LANs, and where stations are."""
    found = show.gather(frr.summary(vty_socket), frr.vnis(vty_socket), frr.macs(vty_socket))
    if as_json:
        say(json.dumps(msgspec.to_builtins(found), indent=2))
    else:
        show.show(found, wide)
