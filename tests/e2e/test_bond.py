"""A bond of two guests (IEEE 802.1AX): its frames are of those that a bridge keeps to itself, and vde_switch passes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.e2e import guest as netdev_guest
from tests.e2e.guest import boot, guest_image
from tests.e2e.test_vde_peers import our_switch
from tests.peers import until
from tests.vde2 import RealSwitch, program, real_switch
from vswitch.testing import Lan, Nic
from vswitch.testing.guest_image import build

CARD = "virtio-net-pci,speed=1000,duplex=full"  # of unknown speed, no card is bundled
MODULES = ["bonding"]
BOND = """
cd /sys/class/net/bond0/bonding
echo 802.3ad >mode; echo 100 >miimon; echo fast >lacp_rate
for card in eth0 eth1; do ip link set $card down; echo +$card >slaves; done
ip address add 10.5.0.{number}/24 dev bond0
ip link set bond0 up
"""
STATE = "/proc/net/bonding/bond0"
IS_UP = f"grep -q 'Number of ports: 2' {STATE} && grep -q 'Partner Mac Address: {{mac}}' {STATE}"
# The first cards of both guests are in one VLAN, the second ones in another.
RC_FILE = """
vlan/create 10
vlan/create 20
port/create 1
port/create 2
port/create 3
port/create 4
port/setvlan 1 10
port/setvlan 2 20
port/setvlan 3 10
port/setvlan 4 20
"""


@pytest.fixture(autouse=True)
def qemu() -> None:
    guest_image()


@pytest.mark.parametrize("switch", [our_switch, real_switch], ids=["ours", "Debian's"])
async def test_at_a_vde_switch(switch: Callable[..., AbstractContextManager[RealSwitch]], directory: Path) -> None:
    program("vde_switch")
    (directory / "rc").write_text(RC_FILE)
    image = await trio.to_thread.run_sync(partial(build, modules=MODULES))
    with switch(directory, "-f", str(directory / "rc")) as vde:
        netdevs = [f"vde,sock={vde.directory},port={port}" for port in (1, 2, 3, 4)]
        a, b = (
            netdev_guest.Guest(name, *(netdev_guest.Nic(netdev, device=CARD) for netdev in two))
            for name, two in (("a", netdevs[:2]), ("b", netdevs[2:]))
        )
        async with boot(a, b, image=image):
            for number, guest in enumerate((a, b), 1):
                assert (await guest.run(BOND.format(number=number))).ok
            for guest, other in ((a, b), (b, a)):
                is_up = IS_UP.format(mac=other.nics[0].mac)
                assert (await guest.run(f"until {is_up}; do usleep 50000; done")).ok
            assert (await a.run("ping -c 2 10.5.0.2")).ok


async def bonded(lan: Lan, **port: str) -> None:
    """Boots `a` and `b`, whose cards want to be bundled."""
    nics = [Nic(ip="", device=CARD, port={"vlan": vlan, **port}) for vlan in (10, 20)]
    for number, guest in enumerate(await lan.boot("a", "b", nics=nics, modules=MODULES), 1):
        (await guest.run(BOND.format(number=number))).check()


async def test_where_reserved_frames_are_forwarded(lan: Lan) -> None:
    await bonded(lan, reserved="forward")
    a, b = lan.guests["a"], lan.guests["b"]
    for guest, other in ((a, b), (b, a)):
        await guest.wait_for(IS_UP.format(mac=other.mac))
    assert (await a.run("ping -c 2 10.5.0.2")).ok
    for card in (0, 1):  # whichever it goes by, the other one is there
        await b.set_link(False, card)
        await a.wait_for("ping -c 1 -W 1 10.5.0.2")
        await b.set_link(True, card)
        await a.wait_for(IS_UP.format(mac=b.mac))


async def test_a_bridge_keeps_them_to_itself(lan: Lan) -> None:
    await bonded(lan)
    await until(lambda: all(port.drops.get("reserved") for port in lan.switch.ports()))
    assert "Partner Mac Address: 00:00:00:00:00:00" in (await lan.guests["a"].run(f"cat {STATE}")).stdout
