"""Accepting, when descriptors are used up for a while, and when more come than can be seen to."""

import errno
import logging
import os
import resource
import socket
from typing import Any

import pytest
import trio
import trio.testing

from vswitch.endpoints.accepting import AT_A_TIME, Acceptor
from vswitch.ports.ports import Ports


async def test_a_shortage_of_descriptors_passes(caplog: pytest.LogCaptureFixture, autojump_clock: object) -> None:
    troubles = [errno.ECONNABORTED, errno.EMFILE, errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]

    class Short:
        async def accept(self) -> tuple[object, None]:
            await trio.lowlevel.checkpoint()
            if troubles:
                number = troubles.pop(0)
                raise OSError(number, os.strerror(number))
            return self, None

    short: Any = Short()
    with caplog.at_level(logging.WARNING):
        assert await Acceptor(short, "/run/m").next() is short
    assert [record.message for record in caplog.records] == ["/run/m: accepting pauses: Too many open files"]


class Plenty:
    """A listener that always has a connection."""

    def __init__(self) -> None:
        self.accepted = 0
        self.ready, self._other = socket.socketpair()
        self._other.send(b"!")

    def fileno(self) -> int:
        return self.ready.fileno()

    async def accept(self) -> tuple[object, None]:
        await trio.lowlevel.checkpoint()
        self.accepted += 1
        return self, None

    def close(self) -> None:
        self.ready.close()
        self._other.close()


async def test_the_last_descriptors_are_for_the_control_side(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    ports = Ports(table_size=16, ageing_s=300)
    listener: Any = Plenty()
    lowest = os.dup(0)
    os.close(lowest)
    limit = 1000
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    try:
        await Acceptor(listener, "control").next()
        limit = lowest + 4  # of which a quarter is more than what is left
        with trio.move_on_after(10):
            await Acceptor(listener, "lab", ports).next()
        assert listener.accepted == 1
        assert [record.message for record in caplog.records] == ["lab: accepting pauses: Too many open files"]
        limit = 1000
        await Acceptor(listener, "lab", ports).next()
        assert listener.accepted == 2
    finally:
        listener.close()
        ports.close()


async def test_peers_are_accepted_no_faster_than_the_data_plane_sees_to_them() -> None:
    ports = Ports(table_size=16, ageing_s=300)
    listener: Any = Plenty()
    here, there = os.pipe()
    try:
        ports.loop.epoll.register(here, 1)
        os.write(there, b"!")  # the loop has something to do, and nobody does it
        acceptor = Acceptor(listener, "lab", ports)

        async def accept_all() -> None:
            while True:
                await acceptor.next()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_all)
            await trio.testing.wait_all_tasks_blocked()
            assert listener.accepted == 0
            for seen in range(1, 4):
                ports.loop.polls += 3
                ports.reap()
                await trio.testing.wait_all_tasks_blocked()
                assert listener.accepted == seen * AT_A_TIME
            nursery.cancel_scope.cancel()
    finally:
        os.close(here)
        os.close(there)
        listener.close()
        ports.close()
