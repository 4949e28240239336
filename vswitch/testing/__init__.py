"""Networks of several machines for tests: guests, scapy hosts and faults, with pytest or without."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vswitch.testing.conditions import ConditionFailed
    from vswitch.testing.container import Container
    from vswitch.testing.expectations import ExpectationFailed
    from vswitch.testing.faults import Fault
    from vswitch.testing.guest import Guest, GuestDied
    from vswitch.testing.guest_image import GuestImage, GuestImageError
    from vswitch.testing.host import HostUnreachable, ScapyHost
    from vswitch.testing.internet import HttpSite, Request, Response
    from vswitch.testing.lan import Lan
    from vswitch.testing.link import Link, Nic
    from vswitch.testing.machine import Disk, Kernel, Login, Share
    from vswitch.testing.namespace import Namespace
    from vswitch.testing.program import Program
    from vswitch.testing.qemu import QemuError
    from vswitch.testing.shell import CommandFailed, Result
    from vswitch.testing.sync import SyncLan

__all__ = [
    "CommandFailed",
    "ConditionFailed",
    "Container",
    "Disk",
    "ExpectationFailed",
    "Fault",
    "Guest",
    "GuestDied",
    "GuestImage",
    "GuestImageError",
    "HostUnreachable",
    "HttpSite",
    "Kernel",
    "Lan",
    "Link",
    "Login",
    "Namespace",
    "Nic",
    "Program",
    "QemuError",
    "Request",
    "Response",
    "Result",
    "ScapyHost",
    "Share",
    "SyncLan",
]

_WHERE = {
    "CommandFailed": "shell",
    "ConditionFailed": "conditions",
    "Container": "container",
    "Disk": "machine",
    "ExpectationFailed": "expectations",
    "Fault": "faults",
    "Guest": "guest",
    "GuestDied": "guest",
    "GuestImage": "guest_image",
    "GuestImageError": "guest_image",
    "HostUnreachable": "host",
    "HttpSite": "internet",
    "Kernel": "machine",
    "Lan": "lan",
    "Link": "link",
    "Login": "machine",
    "Namespace": "namespace",
    "Nic": "link",
    "Program": "program",
    "QemuError": "qemu",
    "Request": "internet",
    "Response": "internet",
    "Result": "shell",
    "ScapyHost": "host",
    "Share": "machine",
    "SyncLan": "sync",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, when it is: the image builder needs nothing but the standard library."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
