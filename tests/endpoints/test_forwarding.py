"""What a switch does beside forwarding: it gives memory back."""

import pytest
import trio
from trio.testing import MockClock

from vswitch import heap
from vswitch.ports import forwarding
from vswitch.ports.ports import Ports

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
