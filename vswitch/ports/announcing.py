"""Stations that have come here from behind an uplink: the switch says so there, in their name.

Bridges there learn from what the station sends. But what it sends to stations of this switch never gets there, so that
they would go on sending what is for it to where it was, until they forget it, minutes later. A guest that announces
itself, as QEMU has it do when it has migrated, does not need this; it costs no more than another such frame.
"""

from typing import TYPE_CHECKING

import trio

from vswitch.dataplane.frame import PREFIX
from vswitch.dataplane.mac_table import KEY_MAC_MASK, VLAN_SHIFT
from vswitch.ports.policy import shown_vlan
from vswitch.ports.port import SwitchPort, now_ms
from vswitch.protocols.rarp import announcement

if TYPE_CHECKING:
    from vswitch.ports.ports import Ports

PERIOD_S = 0.1
AT_ONCE_MAX = 64  # stations; guests may pretend that many more come
FLUSH_S = 0.001


async def announce_moved_stations(ports: "Ports") -> None:
    """Announce them until cancelled."""
    seen = ports.table.moves
    while True:
        await ports.worked.wait()
        await trio.sleep(PERIOD_S)
        if ports.table.moves != seen:
            moved = {key: (left, now) for key, left, now in ports.table.moved(seen)}  # of a station, its last move
            seen = ports.table.moves
            announce(ports, moved)


def announce(ports: "Ports", moved: dict[int, tuple[int, int]]) -> None:
    """`moved` has, by their keys in the MAC table, the ports that stations left and have."""
    announced = 0
    for key, (left, now) in moved.items():
        uplink, port = ports.by_index(left), ports.by_index(now)
        if uplink is not None and port is not None and _is_to_know(uplink, port, key >> VLAN_SHIFT):
            frame = announcement((key & KEY_MAC_MASK).to_bytes(6), _tag(uplink, port, key >> VLAN_SHIFT))
            ports.bridge.originate(uplink.port, len(frame).to_bytes(PREFIX) + frame)
            announced += 1
            if announced == AT_ONCE_MAX:
                break
    if announced:
        ports.loop.flush(now_ms(), FLUSH_S)
        ports.reap()


def _is_to_know(uplink: SwitchPort, port: SwitchPort, vlan: int) -> bool:
    """Whether what a station sends by a port to all would go to an uplink, too."""
    there, here = uplink.port, port.port
    return (
        uplink.is_uplink
        and not port.is_uplink
        and there.up
        and there.forwards
        and not there.is_mirror
        and there.vlans.carries(vlan)
        and not (there.isolated and here.isolated)
        and not there.is_parted_from(here)
    )


def _tag(uplink: SwitchPort, port: SwitchPort, vlan: int) -> bytes:
    if uplink.port.vlans.pvid == vlan:
        return b""
    return int(port.port.vlans.push & 0xFFFF).to_bytes(2) + shown_vlan(vlan).to_bytes(2)
