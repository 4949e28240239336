"""`vswitch exec` and `vswitch netns`: this machine's programs on a LAN."""

import os
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface

import click

from vswitch.cli import signals
from vswitch.cli.joining import network_namespace, port
from vswitch.cli.joining.dhcp_client import Lease
from vswitch.cli.options import Command, names_switch
from vswitch.control.model import PID_MAX
from vswitch.endpoints.guests.qemu import guest_mac
from vswitch.errors import InputError, RefusedError
from vswitch.values import check_name, interface_name, number

NAMED = "/run/netns"  # where ip netns has them (iproute2)
INTERFACE = "eth0"
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


def _address(what: str, kind: type[IPv4Address] | type[IPv4Interface]) -> Callable[..., IPv4Address | None]:
    def read(context: click.Context, parameter: click.Parameter, text: str | None) -> IPv4Address | None:
        try:
            if text is not None and ("/" in text) != ("/" in what):
                raise ValueError
            return None if text is None else kind(text)
        except ValueError:
            raise InputError(f"--{parameter.name}: {text!r} is no address; write it like {what}") from None

    return read


def _addresses(command: Command) -> Command:
    options = [
        click.option("--ip", metavar="ADDRESS/LENGTH", callback=_address("10.0.2.50/24", IPv4Interface)),
        click.option("--gateway", metavar="ADDRESS", callback=_address("10.0.2.2", IPv4Address)),
        click.option("--set", "parameters", metavar="KEY=VALUE", multiple=True, help="As in a URL: vlan=10."),
    ]
    for option in reversed(options):
        command = option(command)
    return names_switch(command)


@click.command(name="exec", context_settings={"allow_interspersed_args": False})
@click.argument("command", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--port", "port_name", metavar="NAME", help="What the port, and the machine, is called.")
@click.option("--dns", metavar="ADDRESS", callback=_address("10.0.2.3", IPv4Address))
@_addresses
def exec_(
    command: tuple[str, ...],
    port_name: str | None,
    ip: IPv4Interface | None,
    gateway: IPv4Address | None,
    dns: IPv4Address | None,
    parameters: tuple[str, ...],
    name: str | None,
) -> None:
    """Run a COMMAND on the LAN, and nowhere else.

    It is in a network namespace of its own, which takes no root, with eth0 on the LAN. Its address is --ip, or comes
    by DHCP. The port goes when COMMAND ends.
    """
    called = port_name or f"exec-{os.getpid()}"
    check_name(called)
    mac = guest_mac(called)
    static = _static(ip, gateway, dns)
    switch = port.find(name)
    network_namespace.enter_new()
    tap = network_namespace.make_tap(INTERFACE, mac)
    port.attach(switch, tap, called, parameters, with_process=True)
    os.close(tap)
    lease = network_namespace.set_up(INTERFACE, mac, called if HOST_NAME.fullmatch(called) else "", static)
    if lease.dns:
        network_namespace.use_name_servers(lease.dns, lease.domain)
    signals.as_usual()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise RefusedError(f"{command[0]}: {error.strerror}") from None


@click.command()
@click.argument("namespace", metavar="NAMESPACE|PID")
@click.option("--port", "port_name", metavar="NAME", help="What the port, and the machine, is called.")
@click.option("--interface", metavar="NAME", default=INTERFACE, help="What the card is called there. [default: eth0]")
@_addresses
def netns(
    namespace: str,
    port_name: str | None,
    interface: str,
    ip: IPv4Interface | None,
    gateway: IPv4Address | None,
    parameters: tuple[str, ...],
    name: str | None,
) -> None:
    """Put a network namespace of this machine's on the LAN.

    NAMESPACE is one of ip netns, a path like /run/user/1000/netns/web, or the PID of a process that is in it, such as a
    container's. It stays until the port that is printed is detached, or that process ends. It takes no root where this
    user has made the namespace, as with containers that podman runs without root.
    """
    signals.raised()
    process = number(namespace, 1, PID_MAX) if namespace.isdecimal() else False
    path = _namespace(namespace)
    called = port_name or (f"pid-{namespace}" if process else namespace.strip("/").replace("/", "-"))
    check_name(called)
    mac = guest_mac(called)
    static = _static(ip, gateway, None)
    interface_name(interface)
    switch = port.find(name)
    network_namespace.enter(path)
    tap = network_namespace.make_tap(interface, mac)
    attached = ""
    try:
        with signals.held():
            attached = port.attach(switch, tap, called, parameters, with_process=process)
        lease = network_namespace.set_up(interface, mac, called if HOST_NAME.fullmatch(called) else "", static)
    except BaseException:  # an interrupt, too
        if attached:
            port.detach(switch, attached)
        raise
    click.echo(f"{attached}  {lease.address.ip}")


def _namespace(text: str) -> str:
    """The file of a network namespace."""
    if text.isdecimal():
        return f"/proc/{text}/ns/net"
    return text if "/" in text else f"{NAMED}/{text}"


def _static(ip: IPv4Interface | None, gateway: IPv4Address | None, dns: IPv4Address | None) -> Lease | None:
    """Raises InputError."""
    if ip is None:
        if gateway is not None or dns is not None:
            raise InputError("--gateway and --dns go with --ip; without it, DHCP says them")
        return None
    if gateway is not None and gateway not in ip.network:
        raise InputError(f"--gateway: {gateway} is not in {ip.network}, where --ip is")
    return Lease(ip, gateway, [] if dns is None else [dns], "", None)
