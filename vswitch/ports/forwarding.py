"""The tasks that run a switch's data plane. They share their nursery with no other, and start again if they fail."""

import math

import trio

from vswitch import heap
from vswitch.dataplane.loop import WAIT_MS
from vswitch.ports.announcing import announce_moved_stations
from vswitch.ports.diagnosis import look_for_what_is_wrong
from vswitch.ports.diagnosis.silence import look_for_silent_guests
from vswitch.ports.port import now_ms
from vswitch.ports.ports import Ports
from vswitch.supervision import keep_running

TURN_S = 0.001  # how long forwarding may go on before other tasks get their turn
EXPIRE_PERIOD_MAX_S = 60.0
SWOLLEN_BYTES = 4 * 2**20  # queues that shrank by more than this leave memory worth giving back
DRAINED_AFTER_S = 2.0


def start(ports: Ports, nursery: trio.Nursery) -> None:
    """Forward frames, and keep house, until cancelled."""
    tasks = (
        ("forwarding", drive),
        ("ageing", age),
        ("giving memory back", give_memory_back),
        ("looking for what is wrong", look_for_what_is_wrong),
        ("looking for silent guests", look_for_silent_guests),
        ("announcing moved stations", announce_moved_stations),
        ("looking for loops", look_for_loops),
    )
    for what, task in tasks:
        nursery.start_soon(keep_running, ports.failures, what, task, ports, name=what)


async def drive(ports: Ports) -> None:
    """Forward frames until cancelled."""
    loop = ports.loop
    pool = ports.bridge.pool
    while True:
        # A source that waits for a port goes on at some time, whatever happens.
        with trio.move_on_after(WAIT_MS / 1000 if loop.waiting else math.inf):
            await trio.lowlevel.wait_readable(loop.epoll)
        while loop.turn(now_ms(), TURN_S):
            await _after_turn(ports)
            await trio.lowlevel.checkpoint()
        await _after_turn(ports)
        ports.worked.set()
        if pool.peak - pool.used > SWOLLEN_BYTES:
            ports.swollen.set()


async def _after_turn(ports: Ports) -> None:
    ports.loops.look(now_ms())
    ports.reap()
    ports.watchers.tell()
    await ports.watchers.wait_for_room()


async def look_for_loops(ports: Ports) -> None:
    """Probe the ports that are likely to be in one, until cancelled."""
    while True:
        await ports.loops.work()
        ports.loops.probe_regularly(now_ms())
        ports.reap()


async def age(ports: Ports) -> None:
    """Give back the room of aged MAC table entries, now and then, until cancelled."""
    table = ports.table
    while True:
        await trio.sleep(min(table.ageing / 4000, EXPIRE_PERIOD_MAX_S))
        table.expire(now_ms())


async def give_memory_back(ports: Ports) -> None:
    """Once a lot of memory was let go, and it is not taken again soon, return it to the system, until cancelled.

    Some of the queues may stay full for good: those of guests that do not read.
    """
    pool = ports.bridge.pool
    while True:
        await ports.swollen.wait()
        before = pool.peak = pool.used
        await trio.sleep(DRAINED_AFTER_S)
        if pool.peak - min(before, pool.used) <= SWOLLEN_BYTES:
            ports.swollen = trio.Event()
            heap.trim()
