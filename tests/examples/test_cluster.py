"""A cluster of three nodes is parted and healed, in virtual time.

What one learns: software under test that runs in the test's own process, one task for each node; `autojump_clock` of
pytest-trio, by which seconds pass at once as soon as everybody waits, so that timeouts cost nothing and nothing depends
on how busy the machine is. Guests have clocks of their own, so this is for hosts only.
"""

import math

import trio
from scapy.layers.inet import IP, UDP
from trio.testing import MockClock

from vswitch.testing import Lan, ScapyHost

NODES, BEAT_S, DEAD_AFTER_S = 3, 1.0, 3.5


class Node:
    """It has a quorum as long as it hears enough heartbeats: with itself, those of more than half of the nodes."""

    def __init__(self, host: ScapyHost) -> None:
        self.host = host
        self.heard: dict[str, float] = {}

    @property
    def has_quorum(self) -> bool:
        alive = [peer for peer, at in self.heard.items() if trio.current_time() - at < DEAD_AFTER_S]
        return 1 + len(alive) > NODES / 2

    async def beat(self) -> None:
        while True:
            await self.host.send(IP(dst="10.0.0.255") / UDP(sport=7000, dport=7000) / b"alive")
            await trio.sleep(BEAT_S)

    async def listen(self) -> None:
        while True:
            if (packet := await self.host.recv("udp port 7000", timeout=math.inf)) is not None:
                self.heard[packet[IP].src] = trio.current_time()


async def test_who_is_cut_off_loses_the_quorum_until_it_is_healed(lan: Lan, autojump_clock: MockClock) -> None:
    a, b, c = nodes = [Node(await lan.host(name)) for name in ("a", "b", "c")]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.beat)
            nursery.start_soon(node.listen)
        await trio.sleep(10)
        assert [node.has_quorum for node in nodes] == [True, True, True]
        async with lan.partition([a.host], [b.host, c.host]):
            await trio.sleep(10)
            assert [node.has_quorum for node in nodes] == [False, True, True]
        await trio.sleep(10)
        assert [node.has_quorum for node in nodes] == [True, True, True]
        nursery.cancel_scope.cancel()
