"""What the ports of a switch do besides forwarding."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer
from vswitch import VSwitch, heap


async def test_memory_of_large_queues_is_given_back_once_they_have_drained(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    trimmed: list[float] = []
    monkeypatch.setattr(heap, "trim", lambda: trimmed.append(trio.current_time()))

    async def pass_time() -> None:
        for _ in range(5):
            mock_clock.jump(10)
            await wait_all_tasks_blocked()

    async with VSwitch() as switch, await Peer.plugged_into(switch) as talker, await Peer.plugged_into(switch) as deaf:
        for round in (1, 2):
            sent = 0
            while switch.status().totals.queued_frames < 600:
                await talker.send(*[frame(BROADCAST, mac(1), 9000)] * 100)
                await wait_all_tasks_blocked()
                sent += 100
            await pass_time()
            assert len(trimmed) == round - 1, "they have not drained yet"
            await deaf.receive(sent)
            await pass_time()
            assert len(trimmed) == round
