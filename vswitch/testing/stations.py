"""Machines as arguments."""

from vswitch.testing.guest import Guest
from vswitch.testing.host import ScapyHost
from vswitch.testing.link import Link

Station = Guest | ScapyHost | Link | str
"""What can be named where a machine is meant: itself, one of its cables, or the name of a port or endpoint."""


def name_of(station: Station) -> str:
    return station if isinstance(station, str) else station.name
