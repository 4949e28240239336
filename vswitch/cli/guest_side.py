"""`vswitch qemu-args|libvirt-xml`: what to write on a guest's side to plug it into an endpoint.

An endpoint is meant by its URL, whether it exists yet or not, or by its name or a port's in a running switch. A
guest with a name has an address derived from that name alone, so that it is the same in every command. A
guest without gets the next address not in use: from the switch that has the endpoint, or from a counter. Where the
port's policy names the stations that may send, the address is one of theirs.
"""

import fcntl
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import click

from vswitch.cli import qemu_version
from vswitch.cli.names import complete_port, complete_switch, endpoints
from vswitch.cli.output import say
from vswitch.control import client, model, operations, runtime
from vswitch.endpoints.guests import libvirt, qemu
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import InputError, RefusedError
from vswitch.ports.policy import Policy, listed, mac_text, read_mac, remarks
from vswitch.values import check_name, endpoint_of

QEMU_ANSWER_S = 3.0
LAST_MAC = "last-mac"  # the file with the address that was handed out last without a switch
NAMED_MACS = "named-macs"  # the same of addresses that policies name, the last one last
NAMED_MACS_MAX = 4096

Source = tuple[Path, str]  # the switch that has an endpoint, and the endpoint's name there
Running = tuple[EndpointConfig, Source]


def _plugs(command: Callable[..., None]) -> Callable[..., None]:
    """The argument and options of every command that says how to plug in."""
    options = [
        click.argument("target", metavar="URL|PORT", shell_complete=complete_port),
        click.option("--name", metavar="NAME", shell_complete=complete_switch, help="Which switch has it."),
        click.option("--guest", metavar="NAME", help="The guest's name; its MAC address is derived from it."),
        click.option("--qemu-version", metavar="V", help="Which QEMU it is for. [default: the one here, or else 7.2]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("qemu-args")
@_plugs
def qemu_args(target: str, name: str | None, guest: str | None, qemu_version: str | None) -> None:
    """Print the QEMU arguments that plug a guest in.

    URL is an endpoint's, PORT the name of an endpoint or a port of a running switch.
    """
    _plug(_line, target, name, guest, qemu_version)


@click.command("libvirt-xml")
@_plugs
def libvirt_xml(target: str, name: str | None, guest: str | None, qemu_version: str | None) -> None:
    """Print the element of a libvirt domain that plugs a guest in.

    URL is an endpoint's, PORT the name of an endpoint or a port of a running switch.
    """
    _plug(libvirt.xml, target, name, guest, qemu_version)


def _line(config: EndpointConfig, version: qemu.Version, guest: qemu.Guest, mtu: int | None) -> str:
    netdev = qemu.best_netdev(config, version, guest)
    line = qemu.arguments(netdev, guest.mac, mtu)
    for remark in (*netdev.notes, *remarks(config.policy)):
        click.echo(f"# {remark}", err=True)  # standard output is for a command line, which no comment may cut short
    return line


def _plug(
    write: Callable[[EndpointConfig, qemu.Version, qemu.Guest, int | None], str],
    target: str,
    name: str | None,
    guest: str | None,
    version_text: str | None,
) -> None:
    named = None if guest is None else qemu.named_guest(guest)
    version = None if version_text is None else qemu_version.parse(version_text)
    if "://" in target:
        config = _parse(target)
        running = _find_url(config, name)
    else:
        running = _find(target, name)
    if running is not None:
        config, source = running  # its policy is what the guest will meet, whatever was written now
    if guest is not None and named is not None:
        _check_may_send(config.policy, target, guest, named.mac)
    plugged = named or qemu.unnamed_guest(_next_mac(config.policy) if running is None else _next_mac_of(*source))
    if version is None:
        version = qemu_version.QemuVersion().get(QEMU_ANSWER_S)
    try:
        beside = [] if running is None else [parse(known.url) for known in endpoints(running[1][0])]
        text = write(config, version, plugged, qemu.host_mtu(config.policy, beside))
    except InputError as error:
        raise InputError(f"{target}: {error}") from None
    say(text)


def _parse(url: str) -> EndpointConfig:
    config = parse(url)
    config.check_paths()
    if config.host and config.port == 0:
        raise InputError(f"{url}: port 0 is another one each time; write the port that serve printed")
    return config.absolute()


def _check_may_send(policy: Policy, target: str, guest: str, mac: str) -> None:
    """Whether a port takes in what a guest sends. Raises InputError."""
    if lacking := policy.lacks(read_mac(mac)):
        allowed = listed(map(mac_text, policy.senders or ())) or "none"
        more = " and ".join(f"{name}={mac}" for name in lacking)
        raise InputError(
            f"{target}: the port drops what comes from {mac}, the address of --guest {guest}; allowed are {allowed}: "
            f"leave --guest out, or add {more} to the endpoint"
        )


def _find_url(config: EndpointConfig, name: str | None) -> Running | None:
    """The endpoint of that URL in a running switch. Raises RefusedError if the switch called `name` has none."""
    if name is not None:
        path = client.find(name)
        known = endpoints(path)
        found = _of_url(path, known, config.url)
        if found is None:
            raise RefusedError(f"switch {name!r} has no endpoint {config.url}; it has {_listed(known)}")
        return found
    for path in client.running():
        with suppress(RefusedError):  # one that does not answer hands nothing out either
            if found := _of_url(path, endpoints(path), config.url):
                return found
    return None


def _of_url(path: Path, known: Iterable[model.EndpointInfo], url: str) -> Running | None:
    for endpoint in known:
        config = parse(endpoint.url)
        if config.url == url:
            return config, (path, endpoint.name)
    return None


def _find(target: str, name: str | None) -> Running:
    """The endpoint of that name, or that a port of that name belongs to. Raises RefusedError."""
    check_name(target)
    path = client.find(name)
    known = {endpoint.name: endpoint for endpoint in endpoints(path)}
    found = known.get(target) or known.get(endpoint_of(target) or "")
    if found is None:
        raise RefusedError(f"switch {path.stem!r} has no endpoint or port {target!r}; it has {_listed(known.values())}")
    return parse(found.url), (path, found.name)


def _listed(known: Iterable[model.EndpointInfo]) -> str:
    return ", ".join(f"{endpoint.name} ({endpoint.url})" for endpoint in known) or "none"


def _next_mac_of(path: Path, endpoint: str) -> str:
    """An address that the switch has not seen and not handed out."""
    return client.call(path, operations.NEXT_GUEST, name=endpoint).mac


def _next_mac(policy: Policy) -> str:
    """An address that no call before got, as a file remembers, or where a policy names them, longest ago."""
    named = [mac_text(mac) for mac in policy.stations]
    if len(named) == 1:
        return named[0]
    return _next_named(named) if named else _next_number()


def _next_number() -> str:
    """The address after the last; the first is random."""
    with _memory(LAST_MAC) as file:
        last = file.read(7)
        number = int(last, 16) if re.fullmatch("[0-9a-f]{6}", last) else secrets.randbits(24)
        digits = f"{(number + 1) % 2**24:06x}"
        file.truncate(0)
        file.write(digits)
    return f"52:54:00:{digits[:2]}:{digits[2:4]}:{digits[4:]}"


def _next_named(named: Sequence[str]) -> str:
    """The next of some addresses, in turn."""
    with _memory(NAMED_MACS) as file:
        given = file.read().split()
        mac = qemu.next_mac(named, given)
        file.truncate(0)
        file.write("\n".join([*(other for other in given if other != mac), mac][-NAMED_MACS_MAX:]))
    return mac


@contextmanager
def _memory(name: str) -> Iterator[TextIO]:
    """A file of what was handed out, for this call alone. Raises RefusedError."""
    path = runtime.make_directory() / name
    try:
        with path.open("a+", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file
    except OSError as error:
        raise RefusedError(f"cannot use {path}: {error.strerror}; remove it, or say --guest NAME") from None
