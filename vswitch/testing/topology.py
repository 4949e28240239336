"""A whole LAN in a TOML file: a switch's configuration, and a `[[guest]]` table for each guest on it.

[switch]
name = "lab"

[[endpoint]]                   # whoever else is to be let in
url = "tcp://127.0.0.1:1234"

[[guest]]
name = "web"
ip = "10.0.0.80"
packages = ["nginx-light"]
vlan = 10                      # and other parameters of its port

[[guest]]
name = "router"
disk = "router.qcow2"
login = {user = "root", password = "secret"}

[[guest.nic]]
vlan = 10

[[guest.nic]]
vlan = 20
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from vswitch import RecordLimits, VSwitch
from vswitch.control import config
from vswitch.control.captures import BUDGET_DEFAULT
from vswitch.control.config import SwitchConfig, WrongError
from vswitch.endpoints.url import parse
from vswitch.errors import InputError
from vswitch.ports import policy
from vswitch.testing import guest_image
from vswitch.testing.boards import ARCHES, X86_64
from vswitch.testing.guest_image import GuestImageError
from vswitch.testing.link import STREAM, TRANSPORTS, Nic
from vswitch.testing.machine import Disk, Image, Kernel, Login, Share
from vswitch.values import check_name, instead

# What [[guest]] may say beside `nic` and its image, each a keyword of Lan.guest: its type, and how to write it.
OPTIONS: dict[str, tuple[type, str]] = {
    "memory": (str, 'memory = "256M"'),
    "cpus": (int, "cpus = 2"),
    "arch": (str, 'arch = "aarch64"'),
    "board": (str, 'board = "pc"'),
    "accelerator": (str, 'accelerator = "kvm"'),
    "arguments": (list, 'arguments = ["-vga", "std"]'),
    "append": (str, 'append = "quiet"'),
    "packages": (list, 'packages = ["nftables"]'),
    "modules": (list, 'modules = ["nf_tables"]'),
    "gateway": (str, 'gateway = "10.0.0.254"'),
    "netboot": (bool, "netboot = true"),
    "share": (list, 'share = ["src"]'),
}
IMAGE: dict[str, tuple[type, str]] = {
    "disk": (str, 'disk = "x.qcow2"'),
    "format": (str, 'format = "raw"'),
    "keep": (bool, "keep = true"),
    "kernel": (str, 'kernel = "vmlinuz"'),
    "initrd": (str, 'initrd = "initrd.img"'),
    "login": (dict, 'login = {user = "root", password = "secret"}'),
}
CARD: dict[str, tuple[type, str]] = {
    "ip": (str, 'ip = "10.0.0.9"'),
    "mac": (str, 'mac = "52:54:00:00:00:01"'),
    "device": (str, 'device = "e1000"'),
    "transport": (str, 'transport = "vhost-user"'),
}
PORT = ("queue", *policy.PARAMETERS)
LOGIN = tuple(field.name for field in fields(Login))


@dataclass(frozen=True)
class GuestSpec:
    """A guest to be: its name, and what else `Lan.guest` is told."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Topology:
    name: str
    switch: SwitchConfig
    guests: tuple[GuestSpec, ...]


def read(path: str) -> Topology:
    """Reads a file; a switch without a name has the file's. Paths in it are relative to its directory.

    Raises InputError, with file and line in its text, and RefusedError if the file may not be read.
    """
    text, content = config.load(path)
    with config.located(path, text):
        tables = config.tables(content, "guest", "[[guest]]")
        content.pop("guest", None)
        switch = config.convert(content, whole=True)
        guests: dict[str, GuestSpec] = {}
        for number, table in enumerate(tables, 1):
            with _in_guest("guest", number):
                found = _guest(table, Path(path).absolute().parent)
                if found.name in guests:
                    raise WrongError(f"there are two guests {found.name!r}; give this one another name", "name")
                guests[found.name] = found
    return Topology(switch.name or _name_of(path), switch, tuple(guests.values()))


def _name_of(path: str) -> str:
    stem = Path(path).stem
    try:
        return check_name(stem)
    except InputError:
        raise InputError(f'{path}: {stem!r} cannot be a name; write one: [switch] name = "lab"') from None


@contextmanager
def _in_guest(*place: str | int) -> Iterator[None]:
    """Says of errors in which table they are."""
    try:
        yield
    except WrongError as error:
        where = "".join(f"[[{step}]] " if isinstance(step, str) else f"{step}: " for step in place[-2:])
        raise WrongError(f"{where}{error}", *place, *error.place) from None


def _guest(table: dict[str, Any], directory: Path) -> GuestSpec:
    if not isinstance(table.get("name"), str):
        raise WrongError('has no name; write name = "a"', *(["name"] if "name" in table else []))
    name = _named(table["name"])
    _known(table, ("name", "nic", *OPTIONS, *IMAGE, *CARD, *PORT))
    options = {key: _typed(table, key, *OPTIONS[key]) for key in OPTIONS if key in table}
    if "share" in options:
        options["share"] = [_shared(directory / name) for name in options["share"]]
    if (image := _image(table, directory)) is not None:
        options["image"] = image
    if "login" in table:
        options["login"] = _login(_typed(table, "login", *IMAGE["login"]))
    _check(options)
    own = [key for key in (*CARD, *PORT) if key in table]
    if "nic" not in table:
        only = _nic(table)
        options["nics"] = [replace(only, ip="") if options.get("netboot") and only.ip is None else only]
    else:
        if own:
            raise WrongError(f"{own[0]}: of which card? write it in [[guest.nic]]", own[0])
        options["nics"] = []
        for card, nic in enumerate(config.tables(table, "nic", "[[guest.nic]]"), 1):
            with _in_guest("nic", card):
                _known(nic, (*CARD, *PORT))
                options["nics"].append(_nic(nic))
    return GuestSpec(name, options)


def _shared(directory: Path) -> Share:
    share = Share(directory)
    try:
        share.check()
    except InputError as error:
        raise WrongError(f"share: {error}", "share") from None
    return share


def _check(options: Mapping[str, Any]) -> None:
    """What would be found out too late, and in QEMU's words."""
    if options.get("cpus", 1) < 1:
        raise WrongError("cpus: a machine has 1 at least", "cpus")
    if options.get("arch", X86_64) not in ARCHES:
        raise WrongError(f"arch: {options['arch']!r} is none of {', '.join(ARCHES)}", "arch")
    try:
        guest_image.check(options.get("packages", ()), ())
    except GuestImageError as error:
        raise WrongError(f"packages: {error}", "packages") from None
    try:
        guest_image.check((), options.get("modules", ()))
    except GuestImageError as error:
        raise WrongError(f"modules: {error}", "modules") from None


def _named(name: str) -> str:
    try:
        return check_name(name)
    except InputError as error:
        raise WrongError(str(error), "name") from None


def _known(table: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for key in table:
        if key not in allowed:
            raise WrongError(f"unknown entry {key!r}; {instead(key, allowed)}", key)


def _typed(table: Mapping[str, Any], key: str, kind: type, likely: str) -> Any:
    value = table[key]
    wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
    if wrong or (kind is list and not all(isinstance(one, str) for one in value)):
        raise WrongError(f"{key} is {config.shown_value(value)}; write it like {likely}", key)
    return value


def _image(table: Mapping[str, Any], directory: Path) -> Image | None:
    said = {key: _typed(table, key, *IMAGE[key]) for key in IMAGE if key in table}
    if "disk" in said and "kernel" in said:
        raise WrongError("has a disk and a kernel; one of them is what it boots", "kernel")
    for key, other in (("format", "disk"), ("keep", "disk"), ("initrd", "kernel")):
        if key in said and other not in said:
            raise WrongError(f"{key} goes with {other}; add one, or leave it out", key)
    if "disk" in said:
        return Disk(directory / said["disk"], said.get("format", "qcow2"), keep=said.get("keep", False))
    if "kernel" in said:
        return Kernel(directory / said["kernel"], directory / said["initrd"] if "initrd" in said else None)
    return None


def _login(table: dict[str, Any]) -> Login:
    config.only(table, LOGIN, "login", "login")
    for key, value in table.items():
        if not isinstance(value, str):
            raise WrongError(f"login: {key} is {config.shown_value(value)}; write a text", "login", key)
    return Login(**table)


def _nic(table: Mapping[str, Any]) -> Nic:
    card = {key: _typed(table, key, *CARD[key]) for key in CARD if key in table}
    if card.get("ip"):
        try:
            IPv4Interface(card["ip"])
        except ValueError:
            raise WrongError(f"ip: {card['ip']!r} is no IPv4 address; write one like 10.0.0.9", "ip") from None
    if "mac" in card:
        try:
            policy.read_mac(card["mac"])
        except InputError as error:
            raise WrongError(f"mac: {error}", "mac") from None
    if card.get("transport", STREAM) not in TRANSPORTS:
        raise WrongError(f"transport: {card['transport']!r} is none of {', '.join(TRANSPORTS)}", "transport")
    port = {key: table[key] for key in PORT if key in table}
    try:
        parse("fd://0", port)  # what plugs it in takes the same
    except InputError as error:
        text = str(error).partition(": ")[2]
        raise WrongError(text, *([error.parameter] if error.parameter in port else [])) from None
    return Nic(**card, port=port)


def switch_of(topology: Topology, record: RecordLimits) -> VSwitch:
    """The switch, which runs when it is entered; it records so much unless the file says how much."""
    said = topology.switch
    return VSwitch(
        topology.name,
        ageing_s=said.ageing_s if said.ageing_s is not None else config.AGEING_DEFAULT_S,
        table_size=said.table_size if said.table_size is not None else config.TABLE_SIZE_DEFAULT,
        record=said.record if said.record is not None else record,
        capture_memory=said.capture_memory if said.capture_memory is not None else BUDGET_DEFAULT,
    )


def addressed(guests: Iterable[GuestSpec], free: Iterator[IPv4Address]) -> list[GuestSpec]:
    """Guests whose cards have addresses, those that none was said for the next ones that are free, in their order."""
    guests = list(guests)
    taken = {(nic.ip or "").partition("/")[0] for guest in guests for nic in guest.options["nics"]}
    left = (str(address) for address in free if str(address) not in taken)
    return [
        replace(guest, options={**guest.options, "nics": [_addressed(nic, left) for nic in guest.options["nics"]]})
        for guest in guests
    ]


def _addressed(nic: Nic, free: Iterator[str]) -> Nic:
    return replace(nic, ip=next(free)) if nic.ip is None else nic
