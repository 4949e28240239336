"""Two guests that ping each other, what this looks like on the wire, and a partition between them.

`lan` is the switch of this test. `lan.guest` boots a virtual machine, returns when it takes commands, and gives it the
next address of 10.0.0.0/24. When the test ends, guests and switch are gone; if it failed, everything that passed on the
wire has been kept in a file, and the report says where.
"""

from vswitch.testing import Lan


async def test_a_ping_is_seen_on_the_wire_and_a_partition_stops_it(lan: Lan) -> None:
    a, b = await lan.guest("a"), await lan.guest("b")
    assert (await a.run("ping -c1 " + b.ip)).ok
    await lan.expect("icmp and src host " + a.ip, within=2)

    async with lan.partition([a], [b]):
        assert not (await a.run("ping -c1 -W1 " + b.ip)).ok
    assert (await a.run("ping -c1 " + b.ip)).ok
