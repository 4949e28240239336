"""Frames through rings: a driver in Python, the link, and ports beside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import check_balance, drops, take
from tests.dataplane.rings import BUDGET_S, card_link
from tests.frames import BROADCAST, frame, framed, mac
from tests.virtio import GUEST_BASE, HEADER, USER_BASE, Card, Memory
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.guest_memory import GuestMemory
from vswitch.dataplane.loop import Loop
from vswitch.dataplane.mac_table import MacTable
from vswitch.dataplane.port import Port, QueuePool


class Switch:
    """A loop with a card at one port, and a port without a link, whose queue is looked at."""

    def __init__(self, card: Card, *, mergeable: bool = True, header_size: int = HEADER) -> None:
        self.bridge = Bridge(MacTable(1024, 300_000, 1), QueuePool())
        self.loop = Loop(self.bridge)
        self.other: Port = self.bridge.add_port(1 << 24)
        self.bridge.port_up(self.other)
        self.memory = GuestMemory()
        self.memory.add(GUEST_BASE, USER_BASE, card.memory.size, card.memory.fd, 0)
        port = self.bridge.add_port(1 << 20)
        self.link = card_link(card, self.memory, port, self.bridge, mergeable=mergeable, header_size=header_size)
        self.loop.add(self.link)

    def run(self) -> None:
        while self.loop.turn(0, BUDGET_S):
            pass

    def send(self, *frames: bytes) -> None:
        """To the card."""
        self.bridge.ingress(self.other, framed(frames), 0, 0)
        self.run()

    def close(self) -> None:
        self.loop.lost.clear()
        if self.link.lost is None:
            self.loop.remove(self.link)
        self.loop.close()
        del self.link
        self.memory.close()


@contextmanager
def plugged(
    size: int = 256, *, event_index: bool = True, index: int = 0, **how: bool | int
) -> Iterator[tuple[Switch, Card]]:
    memory = Memory()
    card = Card(memory, size, event_index=event_index, index=index)
    switch = Switch(card, **how)  # type: ignore[arg-type]
    yield switch, card
    check_balance(switch.bridge)
    switch.close()
    card.close()
    memory.close()


FRAMES = [frame(mac(2), mac(1), size) for size in (60, 61, 300, 1514, 9014, 65000)]


@pytest.mark.parametrize("event_index", [True, False])
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("cuts", [(), (HEADER,), (10, 12), (5, 26, 27)])
def test_what_a_guest_sends(cuts: tuple[int, ...], indirect: bool, event_index: bool) -> None:
    with plugged(event_index=event_index) as (switch, card):
        card.send(*FRAMES, cuts=cuts, indirect=indirect)
        switch.run()
        assert take(switch.other) == FRAMES
        assert len(card.sending.take_used()) == len(FRAMES)
        assert card.sending.was_called()


@pytest.mark.parametrize("event_index", [True, False])
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("parts", [(2048,), (12, 2036), (1, 1, 20, 100)])
def test_what_a_guest_gets(parts: tuple[int, ...], indirect: bool, event_index: bool) -> None:
    sent = [frame(BROADCAST, mac(3), size) for size in (60, 1514, 2036, 2037, 9014)]
    with plugged(1024, event_index=event_index) as (switch, card):
        card.post(250, parts, indirect=indirect)
        switch.send(*sent)
        assert card.frames() == sent
        assert card.receiving.was_called()


def test_what_a_guest_gets_waits_for_buffers() -> None:
    sent = [frame(BROADCAST, mac(3), payload=bytes([number])) for number in range(100)]
    with plugged() as (switch, card):
        switch.send(*sent)
        assert switch.link.port.blocked
        got = []
        for _ in range(10):
            card.post(10)
            switch.run()
            got += card.frames()
        assert got == sent
        assert not switch.link.port.blocked
        switch.run()
        assert not switch.loop.is_busy()  # a notice that is over does not keep the loop busy


def test_a_frame_that_no_buffers_hold_is_dropped() -> None:
    sent = [frame(BROADCAST, mac(3), size) for size in (60, 9014, 61)]
    with plugged(4) as (switch, card):
        card.post(4, (1024,))
        switch.send(*sent)
        switch.run()
        assert card.frames() == [sent[0]]
        card.post(1, (1024,))
        switch.run()
        assert drops(switch.link.port) == {"too_long": 1}
        assert card.frames() == [sent[2]]


def test_without_mergeable_buffers_each_frame_has_one() -> None:
    sent = [frame(BROADCAST, mac(3), size) for size in (60, 1514, 100)]
    with plugged(mergeable=False, header_size=10) as (switch, card):
        card.post(3, (10, 1000))
        switch.send(*sent)
        assert [content for _, content in card.received(10)] == [sent[0], sent[2]]
        assert drops(switch.link.port) == {"too_long": 1}
        card.send(FRAMES[0], header=bytes(10))
        switch.run()
        assert take(switch.other) == [FRAMES[0]]


@given(st.data())
def test_any_buffers_around_the_end_of_the_rings(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([2, 4, 16]))
    with plugged(size, index=65_530, event_index=data.draw(st.booleans())) as (switch, card):
        for number in range(data.draw(st.integers(1, 12))):
            sent = [
                frame(mac(2), mac(1), 60 + number, payload=bytes([n])) for n in range(data.draw(st.integers(1, size)))
            ]
            card.send(*sent)
            switch.run()
            assert take(switch.other) == sent
            assert len(card.sending.take_used()) == len(sent)
            card.post(size - len(card.receiving._chains))
            back = [frame(BROADCAST, mac(3), payload=bytes([n])) for n in range(data.draw(st.integers(1, size)))]
            switch.send(*back)
            assert card.frames() == back


addresses = st.one_of(
    st.integers(0, (1 << 64) - 1), st.integers(GUEST_BASE, GUEST_BASE + (4 << 20)), st.just(GUEST_BASE)
)
sizes = st.one_of(st.integers(0, (1 << 32) - 1), st.integers(0, 2048), st.sampled_from([12, 16, 32, 4 << 20]))
descriptors = st.tuples(st.integers(0, 7), addresses, sizes, st.integers(0, 7), st.integers(0, 9))
words = st.tuples(st.integers(0, 12), st.integers(0, 0xFFFF))


@given(st.lists(descriptors, max_size=8), st.lists(words, max_size=6), st.booleans(), st.booleans())
def test_any_ring_costs_at_most_the_link(
    table: list[tuple[int, int, int, int, int]], entries: list[tuple[int, int]], sends: bool, event_index: bool
) -> None:
    """Whatever a driver writes, and while frames wait for it."""
    with plugged(8, event_index=event_index) as (switch, card):
        ring = card.sending if sends else card.receiving
        for number, *descriptor in table:
            ring.descriptor(number, *descriptor)
        for at, word in entries:
            ring.put16(ring.available + 2 * at, word)
        os.eventfd_write(ring.kick, 1)
        for _ in range(3):
            switch.send(*[frame(BROADCAST, mac(3), size) for size in (60, 1514, 3000)])
            os.eventfd_write(ring.kick, 1)
        assert switch.loop.failures == []
        if switch.link.lost is not None:
            assert switch.link.lost.startswith("the guest's ring is broken: ")
        take(switch.other)


def test_memory_that_is_in_use_is_not_taken_away() -> None:
    memory = Memory()
    shared = GuestMemory()
    shared.add(GUEST_BASE, USER_BASE, memory.size, memory.fd, 0)
    held = shared.contents[0]
    with pytest.raises(BufferError):
        shared.close()
    assert held[:8] == bytes(8)
    memory.close()
