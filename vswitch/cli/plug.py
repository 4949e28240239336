"""`vswitch qemu-args|libvirt-xml`: what to write on a guest's side to plug it into an endpoint.

An endpoint is meant by its URL, whether it exists yet or not, or by its name or a port's in a running switch. A
guest with a name has an address derived from that name alone, so that it is the same in every command. A
guest without gets the next address not in use: from the switch that has the endpoint, or from a counter.
"""

import fcntl
import re
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click
import trio

from vswitch.cli import qemu_version
from vswitch.cli.output import say
from vswitch.cli.show import complete_name
from vswitch.control import client, model, runtime
from vswitch.endpoints import libvirt, qemu
from vswitch.endpoints.url import EndpointConfig, check_name, parse
from vswitch.errors import InputError, RefusedError

QEMU_ANSWER_S = 3.0
LAST_MAC = "last-mac"  # the file with the address that was handed out last without a switch

Source = tuple[Path, str]  # the switch that has an endpoint, and the endpoint's name there


def _plugs(command: Callable[..., None]) -> Callable[..., None]:
    """The argument and options of every command that says how to plug in."""
    options = [
        click.argument("target", metavar="URL|PORT"),
        click.option("--name", metavar="NAME", shell_complete=complete_name, help="Which switch has it."),
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


def _line(config: EndpointConfig, version: qemu.Version, guest: qemu.Guest) -> str:
    return qemu.arguments(qemu.best_netdev(config, version, guest), guest.mac)


def _plug(
    write: Callable[[EndpointConfig, qemu.Version, qemu.Guest], str],
    target: str,
    name: str | None,
    guest: str | None,
    version_text: str | None,
) -> None:
    named = None if guest is None else qemu.named_guest(guest)
    version = None if version_text is None else qemu_version.parse(version_text)
    if "://" in target:
        config = _parse(target)
        source = _source(config, name) if named is None or name is not None else None
    else:
        config, source = _find(target, name)
    plugged = named or qemu.unnamed_guest(_next_mac() if source is None else _next_mac_of(*source))
    if version is None:
        version = trio.run(qemu_version.QemuVersion().get, QEMU_ANSWER_S)
    try:
        text = write(config, version, plugged)
    except InputError as error:
        raise InputError(f"{target}: {error}") from None
    say(text)


def _parse(url: str) -> EndpointConfig:
    config = parse(url).absolute()
    if config.host and config.port == 0:
        raise InputError(f"{url}: port 0 is another one each time; write the port that serve printed")
    return config


def _source(config: EndpointConfig, name: str | None) -> Source | None:
    """A running switch with an endpoint of that URL. Raises RefusedError if the one called `name` has none."""
    if name is not None:
        path = client.find(name)
        endpoints = _endpoints(path)
        found = [endpoint.name for endpoint in endpoints if endpoint.url == config.url]
        if not found:
            raise RefusedError(f"switch {name!r} has no endpoint {config.url}; it has {_listed(endpoints)}")
        return path, found[0]
    for path in map(runtime.control_path, client.names()):
        with suppress(RefusedError):  # one that does not answer hands nothing out either
            for endpoint in _endpoints(path):
                if endpoint.url == config.url:
                    return path, endpoint.name
    return None


def _find(target: str, name: str | None) -> tuple[EndpointConfig, Source]:
    """The endpoint of that name, or that a port of that name belongs to. Raises RefusedError."""
    check_name(target)
    path = client.find(name)
    endpoints = {endpoint.name: endpoint for endpoint in _endpoints(path)}
    listener, _, number = target.rpartition(".")
    found = endpoints.get(target) or (endpoints.get(listener) if number.isdecimal() else None)
    if found is None:
        raise RefusedError(
            f"switch {path.stem!r} has no endpoint or port {target!r}; it has {_listed(endpoints.values())}"
        )
    return parse(found.url), (path, found.name)


def _endpoints(path: Path) -> list[model.EndpointInfo]:
    return client.decode(path, client.get(path, "endpoints"), list[model.EndpointInfo])


def _listed(endpoints: Iterable[model.EndpointInfo]) -> str:
    return ", ".join(f"{endpoint.name} ({endpoint.url})" for endpoint in endpoints) or "none"


def _next_mac_of(path: Path, endpoint: str) -> str:
    """An address that the switch has not seen and not handed out."""
    return client.decode(path, client.post(path, f"endpoints/{endpoint}/guests"), model.GuestInfo).mac


def _next_mac() -> str:
    """An address that no call before got: the one after the last, which a file remembers; the first is random."""
    path = runtime.make_directory() / LAST_MAC
    try:
        with path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            last = file.read(7)
            number = int(last, 16) if re.fullmatch("[0-9a-f]{6}", last) else secrets.randbits(24)
            digits = f"{(number + 1) % 2**24:06x}"
            file.truncate(0)
            file.write(digits)
    except OSError as error:
        raise RefusedError(f"cannot use {path}: {error.strerror}; remove it, or say --guest NAME") from None
    return f"52:54:00:{digits[:2]}:{digits[2:4]}:{digits[4:]}"
