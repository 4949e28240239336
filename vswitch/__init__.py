"""vswitch: a virtual LAN for QEMU guests in one process, without root.

import trio, vswitch

async def main() -> None:
    async with vswitch.VSwitch() as switch:
        lab = await switch.attach("tcp://127.0.0.1:0")
        print("guests connect to", lab.url)
        await trio.sleep_forever()

trio.run(main)
"""

from typing import TYPE_CHECKING, Any

from vswitch.errors import InputError, RefusedError, VSwitchError
from vswitch.version import __version__

if TYPE_CHECKING:
    from vswitch.switch import Attachment, VSwitch

__all__ = ["Attachment", "InputError", "RefusedError", "VSwitch", "VSwitchError", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the switch only when it is asked for: the commands that only talk to one start faster."""
    if name in ("Attachment", "VSwitch"):
        from vswitch import switch

        return getattr(switch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
