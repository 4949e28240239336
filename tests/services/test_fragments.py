"""Fragments become packets, in any order, or nothing."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from vswitch.services.user_network import packet as packets
from vswitch.services.user_network.fragments import BYTES_MAX, PIECES_MAX, WAIT_S, Fragments

A = "52:54:00:00:00:0a"


class Waiting:
    def __init__(self) -> None:
        self.drops: list[str] = []
        self.fragments = Fragments(lambda reason, mac: self.drops.append(reason))

    def put(self, packet: Packet | bytes, now_s: float = 0.0) -> bytes:
        frame = bytes(packet)
        known = packets.read4(frame)
        assert known is not None
        return self.fragments.put(frame, known.at, now_s)


def whole(size: int = 4000, **fields: Any) -> Packet:
    ip = IP(src="10.0.2.15", dst="192.0.2.1", **{"id": 7} | fields)
    data = random.Random(1).randbytes(size)
    return ip / UDP(sport=1, dport=2) / Raw(data)


def in_frames(packet: Packet, size: int = 1000) -> list[Packet]:
    return [Ether(src=A) / fragment for fragment in packet.fragment(size)]


def piece(data: bytes, at: int = 0, *, more: bool = True, **fields: Any) -> Packet:
    fields = {"id": 7, "frag": at // 8, "flags": "MF" if more else 0} | fields
    return Ether(src=A) / IP(src="10.0.2.15", dst="192.0.2.1", **fields) / Raw(data)


@given(st.integers(0, 6000), st.integers(1, 180), st.randoms(use_true_random=False), st.booleans())
def test_a_packet_is_whole_again_in_any_order(size: int, unit: int, order: random.Random, options: bool) -> None:
    packet = whole(size, options=[b"\x01\x01\x01\x01"] * options)
    frames = in_frames(packet, unit * 8)
    if len(frames) > PIECES_MAX:
        return
    order.shuffle(frames)
    waiting = Waiting()
    twice = [frame for frame in frames for _ in range(2)][:-1] if len(frames) > 1 else frames
    *nothing, found = map(waiting.put, twice)
    assert not any(nothing)
    assert found[14:] == bytes(packet)
    assert found[6:12] == bytes(frames[0])[6:12]
    assert (waiting.fragments.bytes, waiting.drops) == (0, [])


@pytest.mark.parametrize(
    "frames",
    [
        [piece(bytes(16)), piece(b"x" * 16, 8)],
        [piece(b"x" * 16, 8), piece(bytes(16))],
        [piece(bytes(16)), piece(b"x" * 16)],
        [piece(bytes(8), 8, more=False), piece(bytes(8), 16)],
        [piece(bytes(8), 16), piece(bytes(8), 8, more=False)],
        [piece(bytes(8), 8, more=False), piece(bytes(8), 24, more=False)],
        [piece(bytes(800), 65_000)],
    ],
    ids=["behind", "before", "same", "beyond", "short", "ends", "long"],
)
def test_what_does_not_fit_is_dropped_with_its_packet(frames: list[Packet]) -> None:
    waiting = Waiting()
    assert [waiting.put(frame) for frame in frames] == [b""] * len(frames)
    assert (waiting.fragments.bytes, waiting.drops) == (0, ["fragments"])


@pytest.mark.parametrize(
    "frame",
    [
        piece(bytes(12)),
        piece(b""),
        piece(bytes(16), chksum=1),
        piece(bytes(16), len=100),
        piece(bytes(16), len=20),
        piece(bytes(16), ihl=4),
        piece(bytes(16), ihl=15),
    ],
    ids=range(7),
)
def test_what_is_malformed_is_dropped(frame: Packet) -> None:
    waiting = Waiting()
    assert waiting.put(frame) == b""
    assert waiting.drops == ["malformed"]


def test_each_packet_has_its_own() -> None:
    waiting = Waiting()
    first, second = (in_frames(whole(1500, id=number)) for number in (1, 2))
    first[1].src = "52:54:00:00:00:0b"
    for frame in (first[0], second[0], first[1]):
        assert waiting.put(frame) == b""
    assert waiting.put(second[1])[14:] == bytes(whole(1500, id=2))


def test_the_rest_comes_in_time_or_not_at_all() -> None:
    waiting = Waiting()
    first, last = in_frames(whole(1500))
    waiting.put(first)
    assert waiting.put(last, WAIT_S) == b""
    assert waiting.drops == ["fragments"]
    waiting.fragments.expire(2 * WAIT_S)
    assert (waiting.fragments.bytes, len(waiting.drops)) == (0, 2)


def test_no_more_wait_than_there_is_room_for_and_the_oldest_go() -> None:
    waiting = Waiting()
    first = bytes(piece(bytes(9000)))
    count = 2 * BYTES_MAX // len(first)
    for number in range(count):
        waiting.put(first[:6] + number.to_bytes(6) + first[12:])
        assert waiting.fragments.bytes <= BYTES_MAX
    assert len(waiting.drops) > count // 2
    assert set(waiting.drops) == {"fragments"}
    last = bytes(piece(bytes(8), 9000, more=False))
    assert waiting.put(last[:6] + (count - 1).to_bytes(6) + last[12:])


def test_a_packet_is_in_no_more_pieces_than_a_small_mtu_makes() -> None:
    waiting = Waiting()
    for number in range(PIECES_MAX + 1):
        waiting.put(piece(bytes(8), 16 * number))
    assert (waiting.fragments.bytes, waiting.drops) == (0, ["fragments"])
    frames = in_frames(whole(65_000), 552)
    assert len(frames) <= PIECES_MAX
    assert [*map(waiting.put, frames)][-1][14:] == bytes(whole(65_000))
