"""An event, and the codes that there are, which stay the same from version to version.

To add one: a line in `KINDS`, and whoever notices it calls `Events.say`.
"""

import logging
from typing import NamedTuple

import msgspec


class Kind(NamedTuple):
    """A code: what it says, the level it is logged at, and how often one subject may cause it (seconds)."""

    about: str
    level: int = logging.WARNING
    period_s: float = 60.0


KINDS = {
    "up": Kind("a peer was plugged in", logging.INFO, 0.0),
    "down": Kind("a peer is gone, and why", logging.INFO, 0.0),
    "turned_away": Kind("a peer may not come in, and why", period_s=1.0),
    "no_connection": Kind("what an endpoint connects to cannot be had, and why", period_s=0.0),
    "denied": Kind("a guest may not reach what it wants outside, and by which rule", period_s=0.0),
    "dhcp_server": Kind("another DHCP server answers in a user network's LAN", period_s=0.0),
    "silent": Kind("a guest was plugged in and has sent nothing since", logging.INFO),
    "duplicate_mac": Kind("two guests have one MAC address"),
    "mac_flap": Kind("a MAC address moves between ports again and again"),
    "loop": Kind("frames come back: most likely several links lead to one LAN"),
    "loop_over": Kind("a port that was blocked, as there was a loop, takes part again", logging.INFO),
    "stalled": Kind("a guest takes nothing, and what is for it is dropped: it is paused or hangs"),
    "too_long": Kind("frames are longer than a port's way out carries"),
    "bad_source": Kind("a guest sends from an address that can never be answered"),
    "qmp": Kind("a guest's QEMU could not be told that its port is up or down"),
    "drops": Kind("a port drops frames, and mainly why"),
}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """`number` rises by one from event to event, `time_s` is since 1970, `text` says what is wrong and what to do.

    `repeats` is how many more like it there were since the last one of its subject that was said.
    """

    number: int
    time_s: float
    code: str
    ports: tuple[str, ...]
    mac: str | None
    text: str
    repeats: int
