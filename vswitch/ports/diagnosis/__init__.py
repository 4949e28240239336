"""What is wrong in a LAN though nothing fails: said as events, where its guests only see that little works.

Looked for once a second while frames come in, and never while the LAN is idle; guests that are silent are looked for
once, some time after they were plugged in.
"""

from typing import TYPE_CHECKING

import trio

from vswitch.ports.diagnosis.drops import Drops
from vswitch.ports.diagnosis.moves import Moves

if TYPE_CHECKING:
    from vswitch.ports.ports import Ports

LOOK_PERIOD_S = 1.0


async def look_for_what_is_wrong(ports: "Ports") -> None:
    """Look for it until cancelled."""
    moves, drops = Moves(ports), Drops(ports)
    while True:
        await ports.worked.wait()
        await trio.sleep(LOOK_PERIOD_S)
        ports.worked = trio.Event()
        now_s = trio.current_time()
        moves.look(now_s)
        await drops.look(now_s)
