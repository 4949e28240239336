"""Machines as arguments."""

from vswitch.testing.guest import Guest
from vswitch.testing.host import ScapyHost
from vswitch.testing.link import Link
from vswitch.testing.namespace import Namespace
from vswitch.testing.program import Program

Machine = Guest | ScapyHost | Namespace | Program

Station = Machine | Link | str
"""What can be named where a machine is meant: itself, one of its cables, or the name of a port or endpoint."""


def name_of(station: Station) -> str:
    return station if isinstance(station, str) else station.name
