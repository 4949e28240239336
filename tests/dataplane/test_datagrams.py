"""Datagram links and the loop, over real sockets: bursts of all sizes, peers that are full, and who waits for them."""

import socket
from collections.abc import Iterator

import pytest

from tests.dataplane.plumbing import check_balance, drops
from tests.frames import BROADCAST, frame, mac
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.datagram import DatagramLink
from vswitch.dataplane.frame import FRAME_MAX
from vswitch.dataplane.loop import WAIT_MS, Loop
from vswitch.dataplane.mac_table import MacTable
from vswitch.dataplane.mmsg import BURST, SLOT_SIZES
from vswitch.dataplane.port import QUEUE_BYTES_MIN, QueuePool

BUDGET_S = 0.001


class Switch:
    """A loop with datagram links whose other ends are `peers`; the peers do not block."""

    def __init__(self) -> None:
        self.bridge = Bridge(MacTable(1024, 300_000, 1), QueuePool())
        self.loop = Loop(self.bridge)
        self.links: list[DatagramLink] = []
        self.peers: list[socket.socket] = []

    def plug(self, queue_bytes_max: int = 1 << 20) -> socket.socket:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        there.setblocking(False)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        link = DatagramLink(here, self.bridge.add_port(queue_bytes_max), self.bridge)
        self.loop.add(link)
        self.links.append(link)
        self.peers.append(there)
        return there

    def run(self, now_ms: int = 0) -> None:
        while self.loop.turn(now_ms, BUDGET_S):
            pass
        check_balance(self.bridge)

    def close(self) -> None:
        for link in self.links:
            self.loop.remove(link)
            link.close()
        for peer in self.peers:
            peer.close()
        self.loop.close()


@pytest.fixture
def switch() -> Iterator[Switch]:
    switch = Switch()
    yield switch
    switch.close()


def receive(peer: socket.socket) -> list[bytes]:
    """What waits for a peer."""
    frames = []
    while True:
        try:
            frames.append(peer.recv(FRAME_MAX + 1))
        except BlockingIOError:
            return frames


def send(peer: socket.socket, frames: list[bytes]) -> int:
    """Send as many as the system takes; answers how many."""
    for number, data in enumerate(frames):
        try:
            peer.send(data)
        except BlockingIOError:
            return number
    return len(frames)


SIZES = [14, 60, *(size + more for size in SLOT_SIZES for more in (-1, 0, 1)), 65507, FRAME_MAX - 1, FRAME_MAX]


def test_frames_of_sizes_that_change_all_the_time_pass_in_order(switch: Switch) -> None:
    """Whatever slots the last burst has had it use."""
    talker, listener = switch.plug(1 << 24), switch.plug(1 << 24)
    sent, received = [], []
    for around in range(3):
        for size in SIZES:
            frames = [frame(BROADCAST, mac(1), size, payload=bytes([around, number])) for number in range(3)]
            frames = [data[:size] for data in frames]
            for data in frames:
                talker.send(data)
                switch.run()
            sent += frames
            received += receive(listener)
    assert received == sent


def test_a_burst_of_mixed_sizes_arrives_whole(switch: Switch) -> None:
    talker, listener = switch.plug(1 << 24), switch.plug(1 << 24)
    frames = [frame(BROADCAST, mac(1), 14 + 53 * number) for number in range(2 * BURST)]
    done, received = 0, []
    for _ in range(len(frames)):
        done += send(talker, frames[done:])
        switch.run()
        received += receive(listener)
    assert received == frames


def test_empty_and_too_long_datagrams_are_dropped_between_good_ones(switch: Switch) -> None:
    talker, listener = switch.plug(), switch.plug()
    good = [frame(BROADCAST, mac(1), payload=bytes([number])) for number in range(3)]
    for data in (good[0], b"", good[1], bytes(FRAME_MAX + 1), good[2]):
        talker.send(data)
        switch.run()
    assert receive(listener) == good
    assert drops(switch.links[0].port) == {"runt": 1, "too_long": 1}


def test_a_peer_that_is_gone_is_found_with_the_next_frame(switch: Switch) -> None:
    talker, gone = switch.plug(), switch.plug()
    gone.close()
    talker.send(frame(BROADCAST, mac(1)))
    switch.run()
    assert switch.loop.lost == [switch.links[1]]
    assert drops(switch.links[1].port) == {"port_down": 1}


class Pressed:
    """A talker that sends to one that reads only when told to, and to one that always reads."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self.talker, self.slow, self.quick = switch.plug(), switch.plug(QUEUE_BYTES_MIN * 4), switch.plug()
        for number, peer in enumerate((self.talker, self.slow, self.quick)):
            peer.send(frame(BROADCAST, mac(number)))
        switch.run()
        for peer in switch.peers:
            receive(peer)

    def talk(self, to: int, now_ms: int) -> int:
        """One go of the talker's; answers how many frames the switch has taken."""
        before = self.switch.links[0].port.rx_frames
        send(self.talker, [frame(mac(to), mac(0), 1514)] * BURST)
        self.switch.run(now_ms)
        return self.switch.links[0].port.rx_frames - before

    def press(self) -> None:
        """Until the switch reads no more of the talker."""
        for _ in range(1000):
            if self.talk(1, 0) == 0:
                return
        raise AssertionError("the talker never has to wait")


def test_who_fills_a_queue_waits_and_goes_on_when_it_has_drained(switch: Switch) -> None:
    pressed = Pressed(switch)
    pressed.press()
    slow = switch.links[1].port
    assert slow.queued_bytes * 2 > slow.queue_bytes_max
    assert drops(slow) == {}
    while switch.loop.waiting:
        assert receive(pressed.slow)
        switch.run(1)
    assert pressed.talk(1, 1) > 0
    assert drops(slow) == {}


def test_a_port_that_does_not_drain_is_waited_for_once(switch: Switch) -> None:
    pressed = Pressed(switch)
    pressed.press()
    assert pressed.talk(2, WAIT_MS - 1) == 0
    assert pressed.talk(2, WAIT_MS) > 0
    while not drops(switch.links[1].port):
        assert pressed.talk(1, WAIT_MS) > 0  # it never waits again, and what does not fit is dropped
    receive(pressed.quick)
    assert pressed.talk(2, WAIT_MS) > 0
    assert len(receive(pressed.quick)) > 0
    while switch.links[1].port.queued_frames:
        receive(pressed.slow)
        switch.run(WAIT_MS)
    pressed.press()  # it has caught up, and is waited for again


def test_others_do_not_wait(switch: Switch) -> None:
    pressed = Pressed(switch)
    pressed.press()
    pressed.quick.send(frame(mac(1), mac(2)))
    before = switch.links[2].port.rx_frames
    switch.run(1)
    assert switch.links[2].port.rx_frames == before + 1


def test_one_that_goes_while_it_waits_leaves_nothing(switch: Switch) -> None:
    pressed = Pressed(switch)
    pressed.press()
    switch.loop.remove(switch.links[0])
    assert switch.loop.waiting == []
    switch.loop.remove(switch.links[1])
    switch.run(1)
