"""What the commands of a VDE console have in common: their arguments, and how they fail."""

import errno
import os
import re
from collections.abc import Collection, Iterator

from vswitch.endpoints.vde.managed import Managed

Lines = Iterator[list[str]]  # portions of what a command prints


class Refusal(Exception):
    """A command that cannot be done: an errno, and why if its text does not say it."""

    def __init__(self, number: int, why: str = "") -> None:
        text = os.strerror(number)
        super().__init__(f"1{number:03d} {text}: {why}" if why else f"1{number:03d} {text}")


def read_number(arguments: str, least: int, most: int) -> int:
    """The first word as a number. Raises Refusal."""
    word = arguments.split(maxsplit=1)[0] if arguments else ""
    if not re.fullmatch("[0-9]{1,9}", word) or not least <= int(word) <= most:
        raise Refusal(errno.EINVAL, f"a number from {least} to {most} is needed")
    return int(word)


def read_two_numbers(arguments: str, first_most: int, second_most: int) -> tuple[int, int]:
    """The first two words as numbers. Raises Refusal."""
    words = [*arguments.split(maxsplit=1), "", ""]
    return read_number(words[0], 0, first_most), read_number(words[1], 0, second_most)


def check_created(managed: Managed, vlan: int) -> None:
    """Raises Refusal."""
    if vlan not in managed.vlans.created:
        raise Refusal(errno.ENXIO)


def chosen_vlans(managed: Managed, wanted: str, most: int) -> Collection[int]:
    """All VLANs, or only the one that is wanted. Raises Refusal."""
    if not wanted:
        return sorted(managed.vlans.created)
    vlan = read_number(wanted, 0, most)
    check_created(managed, vlan)
    return [vlan]
