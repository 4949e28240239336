"""Commands of vde_switch for what this switch does not have: spanning tree, debug output, plugins, the hash's tuning.

Scripts give them as a matter of course, so they are answered as vde_switch answers where nothing is changed by it. What
would have an effect there and has none here is said in the log, once. `fstp/showinfo` tells the truth: there is no
spanning tree, whatever was set.
"""

import errno
import re

from vswitch.dataplane.frame import VLAN_MAX
from vswitch.endpoints.vde.managed import Managed
from vswitch.endpoints.vde.replies import Lines, Refusal, check_created, chosen_vlans, read_number

NO_SPANNING_TREE = "this switch has no spanning tree: frames run in circles where cables make a loop"
_NO_ADDRESS = "00:00:00:00:00:00"
_PRIORITY = 32768
_PORT_COST = 20_000_000
_BPDU_ID = f"{_PRIORITY >> 8:02x}:{_PRIORITY & 255:02x}:{_NO_ADDRESS}"
_DEBUG = (  # the categories, their tags and what they are for (vde_switch's hash.c, fstp.c, port.c)
    ("hash/+", "011", "hash: new element"),
    ("hash/-", "012", "hash: discarded element"),
    ("fstp/status", "044", "fstp: status change"),
    ("fstp/root", "045", "fstp: rootswitch/port change"),
    ("fstp/+", "041", "fstp: port becomes active"),
    ("fstp/-", "042", "fstp: port becomes inactive"),
    ("port/+", "021", "new port"),
    ("port/-", "022", "closed port"),
    ("port/descr", "023", "set port description"),
    ("port/ep/+", "031", "new endpoint"),
    ("port/ep/-", "032", "closed endpoint"),
)
_DEBUG_LINE = "{:<22} {:<3} {:<6} {}"


def fstp_showinfo(managed: Managed, _: str) -> Lines:
    yield [f"MAC {_NO_ADDRESS} Priority {_PRIORITY} (0x{_PRIORITY:x})", "FSTP=false"]


def fstp_setfstp(managed: Managed, arguments: str) -> Lines:
    if _integer(arguments):
        managed.ports.say_once(f"fstp/setfstp: {NO_SPANNING_TREE}")
    yield []


def fstp_of_port(managed: Managed, arguments: str) -> None:
    """`fstp/setedge`, `fstp/bonus`: a VLAN, a port and a value."""
    words = arguments.split()
    if len(words) < 3 or not _is_integer(words[2]):
        raise Refusal(errno.EINVAL, "a VLAN, a port and a number are needed")
    vlan = read_number(words[0], 0, VLAN_MAX)
    read_number(words[1], 0, managed.config.limit)
    check_created(managed, vlan)
    managed.ports.say_once(f"fstp/setedge, fstp/bonus: {NO_SPANNING_TREE}")


def fstp_print(managed: Managed, wanted: str) -> Lines:
    active = [peer.number for peer in managed.peers()]
    for vlan in chosen_vlans(managed, wanted, VLAN_MAX):
        ports = managed.vlans.ports
        members = [number for number in active if vlan in ports[number].vlans]
        lines = [f"FST DATA VLAN {vlan:04d} ROOTSWITCH FSTP IS DISABLED", f" ++ root {_BPDU_ID}"]
        lines.append(" ++ designated ff:ff:ff:ff:ff:ff:ff:ff")
        lines.append(" ++ rootport 0000 cost 0 age 0 bonusport 0000 bonuscost 0")
        for tagged, role in ((0, "Designated"), (1, "Unknown")):
            of_kind = [number for number in members if (ports[number].untagged != vlan) == bool(tagged)]
            lines += [f" -- Port {it:04d} tagged={tagged} portcost={_PORT_COST} role={role}" for it in of_kind]
        yield lines


def hash_setsize(managed: Managed, arguments: str) -> None:
    if _integer(arguments) <= 0:
        raise Refusal(errno.EINVAL, "a number from 1 is needed")
    managed.ports.say_once("hash/setsize: the table has the size that it was given at the start")


def hash_setgcint(managed: Managed, _: str) -> None:
    managed.ports.say_once("hash/setgcint: the interval follows from the ageing time")


def hash_setminper(managed: Managed, _: str) -> None:
    managed.ports.say_once("hash/setminper: a station that moves is followed at once")


def debug_list(managed: Managed, path: str) -> Lines:
    yield [
        _DEBUG_LINE.format("CATEGORY", "TAG", "STATUS", "HELP"),
        _DEBUG_LINE.format("-" * 12, "---", "------", "----"),
    ]
    found = [_DEBUG_LINE.format(name, tag, "OFF", help) for name, tag, help in _DEBUG if name.startswith(path.rstrip())]
    if not found:
        raise Refusal(errno.ENOENT)
    yield found


def debug_add(managed: Managed, path: str) -> None:
    _check_category(path)
    managed.ports.say_once("debug/add: this switch has no debug output; the log has what happens")


def debug_del(managed: Managed, path: str) -> None:
    _check_category(path)
    raise Refusal(errno.ENOENT)


def plugin_list(managed: Managed, _: str) -> Lines:
    yield ["{:<22} {}".format("NAME", "HELP"), "{:<22} {}".format("-" * 12, "----")]
    raise Refusal(errno.ENOENT)


def plugin_add(managed: Managed, name: str) -> None:
    if not name:
        raise Refusal(errno.EINVAL, "the name of a plugin is needed")
    raise Refusal(errno.ENOENT, "this switch has no plugins")


def plugin_del(managed: Managed, _: str) -> None:
    raise Refusal(errno.ENOENT, "this switch has no plugins")


def _check_category(path: str) -> None:
    if not any(name.startswith(path.rstrip()) for name, _, _ in _DEBUG):
        raise Refusal(errno.EINVAL, "there is no such category; see debug/list")


def _is_integer(word: str) -> bool:
    return re.fullmatch("[+-]?[0-9]{1,9}", word, re.ASCII) is not None


def _integer(arguments: str) -> int:
    """The first word as a number, 0 if it is none, as vde_switch reads it."""
    word = arguments.split(maxsplit=1)[0] if arguments else ""
    return int(word) if _is_integer(word) else 0
