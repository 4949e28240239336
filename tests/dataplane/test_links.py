"""Stream links and the loop, over real sockets: splits, bad input, peers that go away or never read."""

import select
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import check_balance, drops, take
from tests.frames import BROADCAST, frame, framed, mac, unframed
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.frame import FRAME_MAX
from vswitch.dataplane.link import StreamLink
from vswitch.dataplane.loop import Loop
from vswitch.dataplane.mac_table import MacTable
from vswitch.dataplane.port import QUEUE_BYTES_MIN, QueuePool

BUDGET_S = 0.001


class Switch:
    """A loop with stream links whose other ends are `peers`; the peers do not block."""

    def __init__(self, ports: int = 0, queue_bytes_max: int = 1 << 20) -> None:
        self.bridge = Bridge(MacTable(1024, 300_000, 1), QueuePool())
        self.loop = Loop(self.bridge)
        self.queue_bytes_max = queue_bytes_max
        self.peers: list[socket.socket] = []
        self.links: list[StreamLink] = []
        for _ in range(ports):
            self.plug()

    def plug(self, kind: type[socket.socket] = socket.socket) -> socket.socket:
        ours, there = socket.socketpair()
        there.setblocking(False)
        here = kind(fileno=ours.detach())
        link = StreamLink(here, self.bridge.add_port(self.queue_bytes_max), self.bridge)
        self.loop.add(link)
        self.links.append(link)
        self.peers.append(there)
        return there

    def run(self) -> None:
        """Turn until nothing is ready, and close what was lost, as the task that drives the loop does."""
        while self.loop.turn(0, BUDGET_S):
            pass
        for link in self.loop.lost:
            link.close()
            self.bridge.remove_port(link.port)
        self.loop.lost = []

    def close(self) -> None:
        for link in self.links:
            if link.lost is None:
                self.loop.remove(link)
                link.close()
        for peer in self.peers:
            peer.close()
        self.loop.close()


@pytest.fixture
def switch() -> Iterator[Switch]:
    made = Switch()
    yield made
    made.close()


def receive(peer: socket.socket) -> bytes:
    """What has come in so far."""
    received = b""
    try:
        while data := peer.recv(1 << 20):
            received += data
    except BlockingIOError:
        pass  # that was all
    return received


def numbered(number: int, size: int = 60, src: int = 1) -> bytes:
    return frame(BROADCAST, mac(src), size, payload=number.to_bytes(4))


sizes = st.one_of(st.integers(0, 13), st.integers(14, 80), st.sampled_from([1514, 9014, FRAME_MAX - 1, FRAME_MAX]))


@given(st.lists(sizes, max_size=12), st.data())
def test_any_split_of_a_stream_gives_what_whole_frames_give(lengths: list[int], data: st.DataObject) -> None:
    """Each part of the stream is read by itself, down to single bytes of a prefix."""
    frames = [numbered(at, length)[:length] for at, length in enumerate(lengths)]
    stream = framed(frames)
    cuts = [*sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20))), len(stream)]
    bridge = Bridge(MacTable(1024, 300_000, 1), QueuePool())
    here, there = socket.socketpair()
    with here, there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        link = StreamLink(here, bridge.add_port(1 << 20), bridge)
        bridge.port_up(link.port)
        egress = bridge.add_port(1 << 20)
        bridge.port_up(egress)
        start = 0
        for cut in cuts:
            while start < cut:
                sent = there.send(stream[start : min(cut, start + 65536)])
                start += sent
                while sent > 0:
                    sent -= link.receive(0)
    assert link.lost is None
    assert take(egress) == [data for data in frames if len(data) >= 14]
    assert link.port.rx_frames == len(frames)
    assert link.port.rx_bytes == len(stream) - 4 * len(frames)
    assert sum(drops(link.port).values()) == sum(length < 14 for length in lengths)
    check_balance(bridge)


@pytest.mark.parametrize("trickle", [b"\0", b"\0\0\0", b"\0\0\0\x3c", b"\0\0\0\x3c" + b"\xff" * 30])
def test_a_half_header_or_frame_then_silence_keeps_nobody_waiting(switch: Switch, trickle: bytes) -> None:
    quiet, talker, listener = (switch.plug() for _ in range(3))
    quiet.send(trickle)
    talker.send(framed([numbered(1)]))
    switch.run()
    assert receive(listener) == framed([numbered(1)])
    assert receive(quiet) == framed([numbered(1)])


def test_half_a_frame_then_close_is_a_lost_link_and_no_frame(switch: Switch) -> None:
    cut, listener = switch.plug(), switch.plug()
    cut.send(framed([numbered(1), numbered(2)])[:-1])
    switch.run()
    cut.close()
    switch.run()
    assert receive(listener) == framed([numbered(1)])
    assert switch.links[0].lost == "closed by peer in the middle of a frame"
    assert switch.bridge.gone.rx_frames == 1
    check_balance(switch.bridge)


@pytest.mark.parametrize("length", [0, 1, 13])
def test_runts_are_dropped_and_counted_and_the_stream_goes_on(switch: Switch, length: int) -> None:
    talker, listener = switch.plug(), switch.plug()
    talker.send(framed([b"x" * length, numbered(1), b"x" * length]))
    switch.run()
    assert receive(listener) == framed([numbered(1)])
    assert drops(switch.links[0].port) == {"runt": 2}


@pytest.mark.parametrize("length", [FRAME_MAX + 1, 0x7FFF_FFFF, 0xFFFF_FFFF])
@pytest.mark.parametrize("split", [1, 4, 100])
def test_a_prefix_too_long_closes_that_port_only(switch: Switch, length: int, split: int) -> None:
    broken, talker, listener = (switch.plug() for _ in range(3))
    stream = framed([numbered(1)]) + length.to_bytes(4) + b"x" * 1000
    for at in range(0, len(stream), split):
        if switch.links[0].lost is None:
            broken.send(stream[at : at + split])
            switch.run()
    assert switch.links[0].lost is not None
    assert "frame longer than 69632" in switch.links[0].lost
    talker.send(framed([numbered(2, src=2)]))
    switch.run()
    assert receive(listener) == framed([numbered(1), numbered(2, src=2)])


def test_a_peer_that_never_reads_fills_its_own_queue_only(switch: Switch) -> None:
    talker, deaf, listener = (switch.plug() for _ in range(3))
    heard = b""
    for number in range(400):
        talker.send(framed([numbered(number * 8 + at, 1500) for at in range(8)]))
        switch.run()
        heard += receive(listener)
    assert unframed(heard) == [numbered(number, 1500) for number in range(3200)]
    full = switch.links[1].port
    assert full.blocked
    assert full.queued_bytes <= full.queue_bytes_max
    assert drops(full)["queue_full"] > 0
    check_balance(switch.bridge)
    stream = b""
    while data := receive(deaf):  # it wakes up: what was queued arrives whole and in order
        stream += data
        switch.run()
    numbers = [int.from_bytes(data[14:18]) for data in unframed(stream)]
    assert numbers == sorted(numbers)
    assert len(numbers) == 3200 - drops(full)["queue_full"]
    assert not full.blocked
    check_balance(switch.bridge)


def test_a_peer_that_reads_byte_by_byte_gets_whole_frames(switch: Switch) -> None:
    """The link finds its peer full at every place within a frame."""
    talker, slow = switch.plug(), switch.plug()
    switch.links[1].sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    sent = [numbered(number, 14 + number * 37 % 3000) for number in range(300)]
    stream = b""
    for data in sent:
        talker.send(framed([data]))
        switch.run()
    while data := receive_some(slow, 331):
        stream += data
        switch.run()
    assert unframed(stream) == [data.ljust(18, b".")[: max(len(data), 18)] for data in sent]


def receive_some(peer: socket.socket, size: int) -> bytes:
    try:
        return peer.recv(size)
    except BlockingIOError:
        return b""


def test_a_peer_that_goes_away_while_frames_wait_for_it(switch: Switch) -> None:
    talker, deaf, listener = (switch.plug() for _ in range(3))
    for _ in range(100):
        talker.send(framed([numbered(1, 9000)] * 8))
        switch.run()
        receive(listener)
    waiting = switch.links[1].port.queued_frames
    assert waiting > 0
    deaf.close()
    switch.run()
    assert switch.links[1].lost is not None
    assert switch.bridge.gone.drops[7] == waiting  # port_down
    talker.send(framed([numbered(2)]))
    switch.run()
    assert receive(listener).endswith(framed([numbered(2)]))
    check_balance(switch.bridge)


def test_an_event_for_a_descriptor_that_was_reused_since_is_harmless(switch: Switch) -> None:
    first, listener = switch.plug(), switch.plug()
    first.send(framed([numbered(1)]))
    old = switch.links[0]
    switch.loop.remove(old)  # with its event still to come
    old.close()
    second = switch.plug()
    assert switch.links[2].fd == old.fd
    switch.run()
    assert receive(listener) == b""
    second.send(framed([numbered(2)]))
    switch.run()
    assert receive(listener) == framed([numbered(2)])


def test_a_turn_ends_with_its_budget_and_nothing_is_lost(switch: Switch) -> None:
    talkers = [switch.plug() for _ in range(20)]
    listener = switch.plug()
    for number, talker in enumerate(talkers):
        talker.send(framed([numbered(number, 1000, src=number)] * 20))
    turns = 1
    heard = b""
    while switch.loop.turn(0, 0):  # no time at all: each turn does the least it can
        turns += 1
        heard += receive(listener)
    assert turns > 1
    assert len(unframed(heard + receive(listener))) == 400


def test_no_frame_goes_back_where_it_came_from(switch: Switch) -> None:
    peers = [switch.plug() for _ in range(4)]
    for number, peer in enumerate(peers):
        peer.send(framed([numbered(number, src=number)]))
    switch.run()
    for number, peer in enumerate(peers):
        heard = [int.from_bytes(data[14:18]) for data in unframed(receive(peer))]
        assert sorted(heard) == [other for other in range(4) if other != number]


def test_queues_of_the_least_size_take_the_longest_frame() -> None:
    made = Switch(2, QUEUE_BYTES_MIN)
    talker, listener = made.peers
    longest = framed([numbered(1, FRAME_MAX)])
    at = 0
    heard = b""
    while len(heard) < len(longest):
        if at < len(longest):
            at += talker.send(longest[at : at + 60_000])
        made.run()
        heard += receive(listener)
    assert heard == longest
    made.close()


def test_what_a_peer_said_before_it_hung_up_is_heard_although_it_takes_nothing_any_more(switch: Switch) -> None:
    """The switch has something for it, and finds out by sending; its last frames are still to be read."""
    talker, leaver, listener = (switch.plug() for _ in range(3))
    talker.send(framed([numbered(1)]))
    leaver.send(framed([numbered(2, src=2), numbered(3, src=2)]))
    leaver.close()
    switch.run()
    heard = sorted(int.from_bytes(data[14:18]) for data in unframed(receive(listener)))
    assert heard == [1, 2, 3]
    assert switch.links[1].lost is not None
    check_balance(switch.bridge)


def test_a_peer_that_takes_nothing_but_still_talks_stays(switch: Switch) -> None:
    deaf, listener = switch.plug(), switch.plug()
    deaf.shutdown(socket.SHUT_RD)
    for number in range(3):
        listener.send(framed([numbered(number, src=2)]))
        deaf.send(framed([numbered(number)]))
        switch.run()
    assert receive(listener) == framed([numbered(number) for number in range(3)])
    assert drops(switch.links[0].port) == {"port_down": 3}
    check_balance(switch.bridge)


class RaisesWhenRead(socket.socket):
    """What no socket does: stands for a fault of ours in what is done with a chunk."""

    def recv(self, *_: object) -> bytes:
        raise ZeroDivisionError


class RaisesWhenSentTo(socket.socket):
    def send(self, *_: object) -> int:
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [RaisesWhenRead, RaisesWhenSentTo])
def test_a_link_that_raises_what_none_should_is_lost_alone(switch: Switch, kind: type[socket.socket]) -> None:
    a, b, broken = switch.plug(), switch.plug(), switch.plug(kind)
    if kind is RaisesWhenRead:
        broken.send(b"!")
    hello = framed([frame(BROADCAST, mac(1))])
    a.send(hello)
    switch.run()
    assert receive(b) == hello
    assert switch.links[2].lost == "internal error"
    assert [type(error) for error in switch.loop.failures] == [ZeroDivisionError]
    a.send(hello)
    switch.run()
    assert receive(b) == hello
    check_balance(switch.bridge)


def test_what_a_peer_has_sent_before_it_is_gone_is_taken_in_at_once(switch: Switch) -> None:
    """However much it is: ports of the dead must not add up while others come."""
    a, b = switch.plug(), switch.plug()
    frames = [frame(mac(2), mac(1), 1000, payload=number.to_bytes(4)) for number in range(100)]
    b.send(framed([frame(BROADCAST, mac(2))]))
    switch.run()
    assert a.send(framed(frames)) == len(framed(frames))
    a.close()
    assert not switch.loop.turn(0, 10.0)
    assert switch.loop.polls == 3 + 1
    assert switch.links[0].lost is not None
    assert unframed(receive(b)) == frames


def test_a_turn_waits_in_vain_ever_less_often(switch: Switch) -> None:
    a, _ = switch.plug(), switch.plug()
    lingered = []
    for _ in range(600):
        a.send(framed([frame(BROADCAST, mac(1))]))
        before = switch.loop.lingered
        assert not switch.loop.turn(0, 10.0)
        lingered.append(switch.loop.lingered > before)
    assert [turn for turn, did in enumerate(lingered) if did] == [0, 2, 5, 10, 19, 36, 69, 134, 263, 520]
    assert switch.loop.answered == 0


def test_an_answer_is_forwarded_in_the_turn_of_the_question(switch: Switch) -> None:
    """Within a moment, which depends on the machine: of many answers, some come in time."""
    a, b = switch.plug(), switch.plug()

    def answer() -> None:
        with select.epoll() as waiting:
            waiting.register(b, select.EPOLLIN)
            while waiting.poll() and b.recv(1 << 16):
                b.send(framed([frame(mac(1), mac(2))]))

    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    while switch.loop.answered < 2:
        a.send(framed([frame(BROADCAST, mac(1))]))
        switch.run()
    b.shutdown(socket.SHUT_RDWR)
    answering.join()
