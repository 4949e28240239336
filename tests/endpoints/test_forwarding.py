"""What a switch does beside forwarding: it gives memory back, and names guests that can never be answered."""

import pytest
import trio
from trio.testing import MockClock

from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, until
from vswitch import VSwitch, heap
from vswitch.dataplane.drops import BAD_SOURCE
from vswitch.endpoints import forwarding
from vswitch.endpoints.policy import Policy
from vswitch.endpoints.ports import Ports

FROM_NOBODY = frame(BROADCAST, 0x0100_5E00_0001)


async def test_a_port_whose_guest_cannot_be_answered_is_named_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "LOOK_PERIOD_S", 0.001)
    async with VSwitch() as switch:
        wrong = await Peer.plugged_into(switch, name="wrong")
        open_to_all = await Peer.plugged_into(switch, name="any", sources="any")
        right = await Peer.plugged_into(switch, name="right")
        await open_to_all.send(FROM_NOBODY)
        assert await right.receive(1) == [FROM_NOBODY]
        await wrong.send(FROM_NOBODY, frame(BROADCAST, 0))
        await until(lambda: "bad_source" in caplog.text)
        await wrong.send(FROM_NOBODY, frame(BROADCAST, mac(1)))
        assert await right.receive(1) == [frame(BROADCAST, mac(1))]
        assert next(port for port in switch.ports() if port.name == "wrong").drops == {"bad_source": 3}
        looked = [port for port in switch._ports if port.port.drops[BAD_SOURCE] > 0 and not port.warned]
        assert looked == []
        switch.set_policy("wrong", Policy(sources="any"))
        await wrong.send(FROM_NOBODY)
        assert await right.receive(1) == [FROM_NOBODY]
        said = [record.getMessage() for record in caplog.records if "bad_source" in record.getMessage()]
        assert said == [
            "wrong: drops what comes from a group address or zero, which can never be answered (bad_source); "
            "give the guest another address, or the port sources=any"
        ]


MIB = 2**20


async def test_memory_is_given_back_once_queues_stay_drained_though_some_stay_full(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = trio.current_time()
    given_back: list[float] = []
    monkeypatch.setattr(heap, "trim", lambda: given_back.append(trio.current_time() - began))
    ports = Ports(table_size=16, ageing_s=300)
    pool = ports.bridge.pool
    nursery.start_soon(forwarding.give_memory_back, ports)
    for second in range(10):  # it comes and goes
        pool.peak, pool.used = 32 * MIB, (30 * MIB if second % 2 else 16 * MIB)
        ports.swollen.set()
        await trio.sleep(1)
    assert given_back == []
    pool.used = 16 * MIB  # of guests that never read
    await trio.sleep(60)
    assert given_back == [12]
    ports.swollen.set()  # something else was let go
    await trio.sleep(60)
    assert given_back == [12, 72]
