"""The options of `vde_switch`, read as vde_switch 2.3.2 reads them: with getopt_long_only(3).

A long option may have one dash or two, and be cut short as long as it is clear which is meant; `-sDIR` and `-xd` are
as everywhere. What vde_switch has and this switch has not is taken, and `ignored` says in the log why it has no effect.
"""

from collections.abc import Sequence
from typing import NamedTuple

from vswitch.endpoints.url import LIMIT_DEFAULT
from vswitch.endpoints.vde.unused import NO_SPANNING_TREE
from vswitch.errors import InputError


class Option(NamedTuple):
    """One option: its long names, the first of which it is known by, and a letter if it has one.

    `value` names its value, for those that take one. `ignored` is why it has no effect, if so.
    """

    names: tuple[str, ...]
    letter: str = ""
    value: str = ""
    help: str = ""
    ignored: str = ""


OPTIONS = (
    Option(("sock", "vdesock", "unix"), "s", "DIR", "the directory that clients plug into"),
    Option(("mode", "mod"), "m", "MODE", "permissions of the control socket, octal"),
    Option(("dirmode",), "", "MODE", "permissions of the directory, octal"),
    Option(("group",), "g", "GROUP", "the group that the sockets are for"),
    Option(("numports",), "n", "N", f"most clients at a time (default {LIMIT_DEFAULT})"),
    Option(("hub",), "x", "", "repeat every frame to all ports"),
    Option(("pad",), "", "", "have frames leave with at least 60 bytes, as vde_switch 2.3.3 does"),
    Option(("hashsize",), "", "N", "room for so many stations, if that is more than the default"),
    Option(("tap",), "t", "TAP", "plug in TAP devices, too; several with commas"),
    Option(("mgmt",), "M", "SOCK", "management socket, for unixterm and vdeterm"),
    Option(("mgmtmode",), "", "MODE", "permissions of the management socket, octal"),
    Option(("mgmtgroup",), "", "GROUP", "the group that the management socket is for"),
    Option(("rcfile",), "f", "FILE", "commands to begin with, instead of ~/.vde2/vde_switch.rc or /etc/vde2/…"),
    Option(("daemon",), "d", "", "go on in the background, once clients can plug in"),
    Option(("nostdin",), "", "", "take no commands from standard input, and do not end with it"),
    Option(("pidfile",), "p", "FILE", "the process's number goes here"),
    Option(("help",), "h", "", "show this"),
    Option(("version",), "v", "", "show the version"),
    Option(("fstp",), "F", "", "no effect: there is no spanning tree", NO_SPANNING_TREE),
    Option(("priority",), "", "N", "no effect either", NO_SPANNING_TREE),
    Option(("macaddr",), "", "MAC", "no effect: it has no address of its own", "this switch has no address of its own"),
    Option(("debugclients",), "D", "N", "no effect: the log has what happens", "the log has what happens"),
)
_BY_LETTER = {option.letter: option for option in OPTIONS if option.letter}
_BY_NAME = {name: option for option in OPTIONS for name in option.names}
_IN_FULL = ("nostdin", "pad")  # not in 2.3.2: they must not make `--n` or `--p` ambiguous

Given = dict[str, list[str]]  # values by an option's name, in the order they were given


def read(arguments: Sequence[str]) -> Given:
    """The options on a command line. Raises InputError."""
    given: Given = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        letter, more = argument[1:2], argument[2:]
        if argument == "--" and not rest:
            break
        if argument in ("-", "--") or not argument.startswith("-"):
            raise InputError(f"{(argument if argument != '--' else rest[0])!r} is no option; see --help")
        found = None if letter in _BY_LETTER and not more else _long(argument)
        if found is not None:
            _give(given, *found, rest)
        elif letter in _BY_LETTER:
            _give_letters(given, argument[1:], rest)
        else:
            raise InputError(f"unknown option {argument}; see --help")
    return given


def ignored(given: Given) -> list[str]:
    """A line for each option that was given and has no effect."""
    return [
        f"--{option.names[0]}: {option.ignored}" for option in OPTIONS if option.ignored and option.names[0] in given
    ]


def usage() -> str:
    """What --help shows."""
    lines = [
        "Usage: vde_switch [OPTION]...",
        "",
        "A learning switch that VDE clients and QEMU's -netdev vde plug into.",
        "",
    ]
    for option in OPTIONS:
        names = ", ".join([f"-{option.letter}"] * bool(option.letter) + [f"--{name}" for name in option.names])
        lines.append(f"  {names} {option.value}".ljust(38) + option.help)
    return "\n".join(lines)


def _long(argument: str) -> tuple[Option, str | None] | None:
    """The option and its `=` value that a word with one or two dashes is, or None. Raises InputError."""
    name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
    if name in _BY_NAME:
        found = {_BY_NAME[name]}
    else:
        found = {_BY_NAME[full] for full in _BY_NAME if full.startswith(name) and full not in _IN_FULL}
    if len(found) > 1:
        names = ", ".join(f"--{option.names[0]}" for option in OPTIONS if option in found)
        raise InputError(f"option {argument} can be {names}; write it in full")
    return (found.pop(), value if equals else None) if found else None


def _give_letters(given: Given, letters: str, rest: list[str]) -> None:
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in _BY_LETTER:
            raise InputError(f"unknown option -{letter}; see --help")
        option = _BY_LETTER[letter]
        if option.value and letters:
            _give(given, option, letters, rest)
            return
        _give(given, option, None, rest)


def _give(given: Given, option: Option, value: str | None, rest: list[str]) -> None:
    name = option.names[0]
    if option.value and value is None:
        if not rest:
            raise InputError(f"--{name} needs a value, {option.value}; see --help")
        value = rest.pop(0)
    if value is not None and not option.value:
        raise InputError(f"--{name} takes no value")
    given.setdefault(name, []).append(value or "")
