"""vswitch: a virtual LAN for QEMU guests in one process, without root.

import trio, vswitch

async def main() -> None:
    async with vswitch.VSwitch() as switch:
        lab = await switch.attach("tcp://127.0.0.1:0")
        print("guests connect to", lab.url)
        await trio.sleep_forever()

trio.run(main)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vswitch.errors import InputError, RefusedError, VSwitchError
from vswitch.version import __version__

if TYPE_CHECKING:
    from vswitch.control.capture_requests import CaptureRequest
    from vswitch.control.recording import RecordLimits
    from vswitch.edges.packet_filter import PacketFilter
    from vswitch.switch import Attachment, VSwitch

__all__ = [
    "Attachment",
    "CaptureRequest",
    "InputError",
    "PacketFilter",
    "RecordLimits",
    "RefusedError",
    "VSwitch",
    "VSwitchError",
    "__version__",
]

_WHERE = {
    "Attachment": "vswitch.switch",
    "CaptureRequest": "vswitch.control.capture_requests",
    "PacketFilter": "vswitch.edges.packet_filter",
    "RecordLimits": "vswitch.control.recording",
    "VSwitch": "vswitch.switch",
}


def __getattr__(name: str) -> Any:
    """Import the switch only when it is asked for: the commands that only talk to one start faster."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
