"""What a switch says of itself while it goes on."""

import trio
from trio.testing import MockClock

from tests.frames import mac
from vswitch.control import answers
from vswitch.dataplane.mac_table import mac_key
from vswitch.endpoints.url import parse
from vswitch.ports.port import now_ms
from vswitch.ports.ports import Ports


async def test_a_station_that_is_heard_meanwhile_is_not_static(mock_clock: MockClock) -> None:
    """The table is read in portions, between which forwarding goes on."""
    ports = Ports(table_size=65536, ageing_s=300)
    port = ports.add("a", "a", parse("unix:///a"))
    keys = [mac_key(1, mac(number)) for number in range(50)]

    async def hear() -> None:
        for _ in range(100):
            mock_clock.jump(1)
            for key in keys:
                ports.table.learn(key, port.port.index, now_ms())
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        await trio.lowlevel.checkpoint()
        found = await answers.macs(ports)
    assert found
    assert not any(station.static for station in found)
    ports.remove(port)
    ports.close()


async def test_who_was_heard_later_is_younger(mock_clock: MockClock) -> None:
    """Whenever the portion that has it is read."""
    ports = Ports(table_size=65536, ageing_s=300)
    port = ports.add("a", "a", parse("unix:///a"))
    for number in range(50):
        ports.table.learn(mac_key(1, mac(number)), port.port.index, now_ms())
        mock_clock.jump(0.001)

    async def pass_time() -> None:
        for _ in range(100):
            mock_clock.jump(1)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_time)
        ages = {station.mac: station.age_s or 0.0 for station in await answers.macs(ports)}
    in_order = [ages[station] for station in sorted(ages)]
    assert len(in_order) == 50
    assert in_order == sorted(in_order, reverse=True)
    ports.remove(port)
    ports.close()
