"""Tunnel sockets and links over real sockets: every header right and wrong, bursts, sequence numbers, flows."""

import random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import check_balance, drops
from tests.frames import BROADCAST, frame, framed, mac
from tests.protocols.test_tunnel_headers import SESSIONS, other_end
from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.frame import FRAME_MAX, PREFIX
from vswitch.dataplane.loop import Loop
from vswitch.dataplane.mac_table import MacTable
from vswitch.dataplane.mmsg import BURST, SLOT_SIZES
from vswitch.dataplane.port import QueuePool
from vswitch.dataplane.tunnel import Encapsulation, TunnelLink, TunnelSocket, flow_hash
from vswitch.endpoints.tunnel import sockets
from vswitch.protocols import l2tpv3, vxlan
from vswitch.protocols.l2tpv3 import Session

VNI = 42
HEADER = vxlan.header(VNI)
SESSION = Session(1, 2, rx_cookie=b"\x8b\xad\xf0\x0d")
BUDGET_S = 0.001


class Tunnel:
    """A loop with one tunnel socket, and another port whose queue is looked at."""

    def __init__(self, stack: ExitStack, encapsulation: Encapsulation, *, outs: int = 1, any_port: bool = True) -> None:
        self.bridge = Bridge(MacTable(1024, 300_000, 1), QueuePool())
        self.loop = Loop(self.bridge)
        self.encapsulation = encapsulation
        self.any_port = any_port
        self.peers: dict[bytes, TunnelLink] = {}
        self.sock = udp(stack)
        self.outs = [self.sock, *(udp(stack) for _ in range(outs - 1))]
        for out in self.outs:
            sockets.set_up(out, fragment=False)
        self.source = TunnelSocket(self.sock, self.bridge, self.loop.callers, encapsulation, self.peers, any_port)
        self.loop.watch(self.source)
        self.sink = self.bridge.add_port(1 << 24)
        self.bridge.port_up(self.sink)
        stack.callback(self.loop.close)

    def plug(self, address: Any) -> TunnelLink:
        name = sockets.sockaddr(self.sock.family, address)
        key = sockets.key(name, any_port=self.any_port)
        port = self.bridge.add_port(1 << 24)
        link = TunnelLink(self.peers, key, name, self.outs, self.encapsulation, port, self.bridge)
        self.loop.add(link)
        return link

    def run(self) -> None:
        while self.loop.turn(0, BUDGET_S):
            self.loop.callers.clear()
        check_balance(self.bridge)

    def arrived(self) -> list[bytes]:
        """Frames that came in, whole."""
        stream = b"".join(run.chunk[run.start : run.end] for run in self.sink.waiting())
        self.sink.sent(len(stream))
        found = []
        while stream:
            size = PREFIX + int.from_bytes(stream[:PREFIX])
            found.append(stream[PREFIX:size])
            stream = stream[size:]
        return found

    def send(self, link: TunnelLink, frames: list[bytes]) -> None:
        """Frames come in by the other port, for everybody."""
        chunk = framed(frames)
        assert self.bridge.ingress(self.sink, chunk, 0, 0) == len(chunk)
        self.run()


def udp(stack: ExitStack, host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((host, 0))
    sock.setblocking(False)
    return sock


@contextmanager
def tunnel(encapsulation: Encapsulation, **options: Any) -> Iterator[tuple[Tunnel, socket.socket, TunnelLink]]:
    """A tunnel, its one peer, and the link to it."""
    with ExitStack() as stack:
        made = Tunnel(stack, encapsulation, **options)
        peer = udp(stack)
        yield made, peer, made.plug(peer.getsockname())


def received(peer: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(peer.recv(FRAME_MAX))
        except BlockingIOError:
            return found


def wrong(right: bytes) -> st.SearchStrategy[bytes]:
    """Datagrams of every shape, many of them almost right."""
    flipped = st.tuples(st.integers(0, len(right) - 1), st.integers(1, 255)).map(
        lambda at: right[: at[0]] + bytes([right[at[0]] ^ at[1]]) + right[at[0] + 1 :]
    )
    cut = st.integers(0, len(right)).map(lambda size: right[:size])
    return st.one_of(
        st.binary(max_size=60),
        cut,
        st.tuples(st.one_of(flipped, st.just(right)), st.binary(max_size=2100)).map(b"".join),
    )


@given(st.lists(wrong(HEADER), min_size=1, max_size=2 * BURST))
def test_vxlan_takes_in_just_what_its_header_says(datagrams: list[bytes]) -> None:
    with tunnel(vxlan.encapsulation(VNI)) as (made, peer, link):
        for datagram in datagrams:
            peer.sendto(datagram, made.sock.getsockname())
        made.run()
        parsed = [vxlan.parse(datagram) for datagram in datagrams]
        check(made, link, [None if it is None or it[0] != VNI else it[1] for it in parsed])
        others = sum(it is not None and it[0] != VNI for it in parsed)
        assert drops(link.port).get("other_tunnel", 0) == others


@given(SESSIONS, st.data())
def test_l2tpv3_takes_in_just_what_its_session_says(session: Session, data: st.DataObject) -> None:
    right = l2tpv3.header(other_end(session), 7)
    datagrams = data.draw(st.lists(wrong(right), min_size=1, max_size=BURST))
    with tunnel(l2tpv3.encapsulation(session), any_port=False) as (made, peer, link):
        for datagram in datagrams:
            peer.sendto(datagram, made.sock.getsockname())
        made.run()
        parsed = [l2tpv3.parse(session, datagram) for datagram in datagrams]
        check(made, link, [None if isinstance(it, str) else it for it in parsed])
        for reason in ("bad_header", "other_tunnel", "bad_cookie"):
            assert drops(link.port).get(reason, 0) == parsed.count(reason)


def check(made: Tunnel, link: TunnelLink, frames: list[bytes | None]) -> None:
    """What came in: frames as they are; the rest is counted. What the bridge thinks of them is not looked at."""
    whole = [it for it in frames if it is not None]
    arrived = made.arrived()
    assert link.port.rx_frames == len(frames)
    assert len(arrived) == len(frames) - sum(drops(link.port).values())
    left = iter(whole)
    assert all(any(it == frame for it in left) for frame in arrived)  # in order
    assert drops(link.port).get("runt", 0) == sum(len(it) < 14 for it in whole)


@pytest.mark.parametrize("size", [14, 100, *SLOT_SIZES, SLOT_SIZES[1] - 8, SLOT_SIZES[1] - 7, 9014, 65000])
def test_frames_of_every_size_come_in_and_go_out(size: int) -> None:
    frames = [frame(BROADCAST, mac(1), size, payload=bytes([at]))[:size] for at in range(3)]
    with tunnel(vxlan.encapsulation(VNI)) as (made, peer, link):
        for data in frames:
            peer.sendto(HEADER + data, made.sock.getsockname())
        made.run()
        assert made.arrived() == frames
        made.send(link, frames)
        assert received(peer) == [HEADER + data for data in frames]
        assert (link.port.tx_frames, link.port.tx_bytes) == (3, 3 * size)


def test_frames_of_mixed_sizes_are_sent_whole_and_in_order() -> None:
    """Neighbours of one length go out as one message, which the system cuts up."""
    chance = random.Random(1)
    sizes = [chance.choice([60, 60, 1514, 1514, 1514, 9014]) for _ in range(5 * BURST)]
    frames = [frame(BROADCAST, mac(2), size, payload=at.to_bytes(2)) for at, size in enumerate(sizes)]
    with tunnel(vxlan.encapsulation(VNI)) as (made, peer, link):
        made.send(link, frames)
        assert received(peer) == [HEADER + data for data in frames]


def test_what_is_sent_is_counted_where_both_ends_are_told_so() -> None:
    session = Session(7, 8, tx_cookie=b"\1\2\3\4", sequence=True, offset=2)
    frames = [frame(BROADCAST, mac(1), 1000) for _ in range(2 * BURST + 3)]
    with tunnel(l2tpv3.encapsulation(session)) as (made, peer, link):
        made.send(link, frames)
        assert received(peer) == [l2tpv3.header(session, at) + data for at, data in enumerate(frames)]
    with tunnel(l2tpv3.encapsulation(session._replace(numbers=False))) as (made, peer, link):
        made.send(link, frames[:5])
        assert received(peer) == [l2tpv3.header(session) + data for data in frames[:5]]


def test_each_sender_is_the_port_that_has_its_address() -> None:
    with ExitStack() as stack:
        made = Tunnel(stack, vxlan.encapsulation(VNI))
        here, there, nobody = udp(stack, "127.0.0.1"), udp(stack, "127.0.0.2"), udp(stack, "127.0.0.3")
        links = [made.plug(here.getsockname()), made.plug(there.getsockname())]
        for at in range(9):
            sender = (here, there, nobody)[at % 3]
            sender.sendto(HEADER + frame(BROADCAST, mac(at), payload=bytes([at])), made.sock.getsockname())
        nobody.sendto(b"nonsense", made.sock.getsockname())
        another = udp(stack, "127.0.0.2")  # at another port, which does not matter
        another.sendto(HEADER + frame(BROADCAST, mac(1)), made.sock.getsockname())
        while made.loop.turn(0, BUDGET_S) and not made.source.strangers:
            pass
        assert [link.port.rx_frames for link in links] == [3, 4]
        (address, frame_of), *others = made.source.strangers
        assert sockets.address_of(address)[1] == nobody.getsockname()
        assert (frame_of[14], len(others)) == (2, 2)
        assert (made.bridge.gone.rx_frames, drops(made.bridge.gone)) == (1, {"stranger": 1})


def ipv4(src: bytes, dst: bytes, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    head = b"\x45\0" + (20 + len(payload)).to_bytes(2) + b"\0\0" + fragment.to_bytes(2) + bytes([64, protocol, 0, 0])
    return mac(2).to_bytes(6) + mac(1).to_bytes(6) + b"\x08\0" + head + src + dst + payload


def hashed(data: bytes) -> int:
    return flow_hash(framed([data]), 0, len(data))


def test_frames_of_a_flow_have_one_hash_and_flows_have_others() -> None:
    a, b = b"\x0a\0\0\1", b"\x0a\0\0\2"
    flows = [
        ipv4(a, b, protocol, port.to_bytes(2) + b"\0\x50" + bytes(16))
        for protocol in (6, 17)
        for port in range(1000, 1064)
    ]
    assert len({hashed(flow) for flow in flows}) > 120
    assert {hashed(flow) % 8 for flow in flows} == set(range(8))
    assert {hashed(flow + bytes(size)) for flow in flows[:1] for size in range(200)} == {hashed(flows[0])}
    parts = {hashed(ipv4(a, b, 17, bytes([at]) * 8, fragment)) for at, fragment in enumerate((0x2000, 1, 0x2007))}
    assert len(parts) == 1  # only the first of them has ports
    six = [b"\x60" + bytes(5) + b"\x06\x40" + a * 4 + b * 3 + at.to_bytes(4) + bytes(20) for at in range(64)]
    ends = mac(2).to_bytes(6) + mac(1).to_bytes(6) + b"\x86\xdd"
    assert {hashed(ends + packet) % 8 for packet in six} == set(range(8))


@given(st.binary(min_size=14, max_size=80))
def test_every_frame_has_a_hash(data: bytes) -> None:
    assert 0 <= hashed(data) < 2**31
    for kind in (b"\x08\0", b"\x86\xdd"):
        assert hashed(data[:12] + kind + data[14:]) >= 0


def test_flows_leave_by_several_ports_each_in_order() -> None:
    a, b = b"\x0a\0\0\1", b"\x0a\0\0\2"
    frames = [ipv4(a, b, 17, (1000 + at % 40).to_bytes(2) + bytes(20) + at.to_bytes(2)) for at in range(400)]
    with tunnel(vxlan.encapsulation(VNI), outs=8) as (made, peer, link):
        made.send(link, frames)
        ports: dict[int, set[int]] = {}
        got: dict[int, list[bytes]] = {}
        for _ in frames:
            datagram, (_, port) = peer.recvfrom(2000)
            flow = int.from_bytes(datagram[8 + 34 : 8 + 36])
            ports.setdefault(flow, set()).add(port)
            got.setdefault(flow, []).append(datagram[8:])
        assert all(len(of_flow) == 1 for of_flow in ports.values())
        assert len(set.union(*ports.values())) > 4
        assert got == {1000 + at: frames[at::40] for at in range(40)}


def test_what_is_too_long_for_the_path_is_dropped_and_the_rest_goes_on() -> None:
    frames = [frame(BROADCAST, mac(1), size) for size in (65500, 65500, 60, 65499, 1514, 65535, 60)]
    with tunnel(vxlan.encapsulation(VNI)) as (made, peer, link):
        made.send(link, frames)
        assert received(peer) == [HEADER + frames[at] for at in (2, 3, 4, 6)]
        assert drops(link.port) == {"too_long": 3}


def test_where_the_system_cuts_nothing_up_each_frame_is_a_message() -> None:
    with tunnel(vxlan.encapsulation(VNI)) as (made, peer, link):
        link.segment_max = 0
        frames = [frame(BROADCAST, mac(1), 1514, payload=bytes([at])) for at in range(100)]
        made.send(link, frames)
        assert received(peer) == [HEADER + data for data in frames]


@given(
    st.lists(
        st.tuples(st.sampled_from([60, 300, 1450, 1450, 9000, 40_000]), st.integers(1, 50)), min_size=1, max_size=6
    )
)
def test_what_the_system_has_joined_is_taken_apart(groups: list[tuple[int, int]]) -> None:
    frames = [
        frame(BROADCAST, mac(7), size, payload=number.to_bytes(2))
        for size, count in groups
        for number in range(min(count, 60_000 // size))
    ]
    with ExitStack() as stack:
        here, there = (Tunnel(stack, vxlan.encapsulation(VNI), any_port=False) for _ in range(2))
        link = here.plug(there.sock.getsockname())
        there.plug(here.sock.getsockname())
        here.send(link, frames)
        there.run()
        assert there.arrived() == frames


def test_datagrams_that_come_as_one_message_are_judged_one_by_one() -> None:
    """The system joins what has one sender and one length, whatever is in it."""
    with tunnel(vxlan.encapsulation(VNI), any_port=False) as (made, peer, link):
        right, other = HEADER + frame(BROADCAST, mac(7), 100), vxlan.header(VNI + 1) + frame(BROADCAST, mac(7), 100)
        segment = [(socket.IPPROTO_UDP, 103, len(right).to_bytes(2, sys.byteorder))]  # UDP_SEGMENT
        peer.sendmsg([right, other, right, right[:-50]], segment, 0, made.sock.getsockname())
        made.run()
        assert made.arrived() == [right[8:], right[8:], right[8:-50]]
        assert drops(link.port) == {"other_tunnel": 1}
