"""Frames out of a stream; segments that follow each other become one, and their data and checksums stay right."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from vswitch.services.user_network.coalescing import DATA_MAX, FRAME_MAX, split

FLOWS = 3


def segment(seq: int, data: bytes, *, flow: int = 0, flags: str = "A", ack: int = 7, **tcp: Any) -> bytes:
    head = TCP(sport=1000 + flow, dport=80, seq=seq % 2**32, ack=ack, flags=flags, **tcp)
    packet = Ether(src="52:54:00:00:00:0a", dst="52:55:0a:00:02:02") / IP(src="10.0.2.15", dst="10.9.9.9", id=seq % 9)
    return bytes(packet / head / Raw(data) if data else packet / head)


def passed(*frames: bytes) -> list[bytes]:
    found, rest = split(stream(*frames))
    assert rest == b""
    return found


def stream(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4) + frame for frame in frames)


def data_of(frames: list[bytes], flow: int) -> bytes:
    return b"".join(bytes(TCP(frame[34:]).payload) for frame in frames if int.from_bytes(frame[34:36]) == 1000 + flow)


def is_right(frame: bytes) -> bool:
    """Whether its checksums are what scapy works out."""
    packet = Ether(frame)
    del packet[IP].chksum, packet[IP].len, packet[TCP].chksum
    return bytes(packet) == frame


def test_those_that_follow_each_other_are_one_with_the_last_ones_header() -> None:
    frames = [
        segment(2**32 - 1448, b"a" * 1448, window=100),
        segment(0, b"b" * 1448, flags="PA", window=200),
        segment(1448, b"c" * 7, window=300),
    ]
    (whole,) = passed(*frames)
    head, last = TCP(whole[34:]), TCP(frames[-1][34:])
    assert (head.seq, head.ack, head.window, head.flags) == (2**32 - 1448, last.ack, 300, "PA")
    assert bytes(head.payload) == b"a" * 1448 + b"b" * 1448 + b"c" * 7
    assert is_right(whole)


def test_one_alone_is_left_as_it_is() -> None:
    frame = segment(0, b"data") + bytes(6)  # which says less than there is
    assert passed(frame, segment(0, b"data", flow=1)) == [frame, segment(0, b"data", flow=1)]


@pytest.mark.parametrize(
    "other",
    [
        segment(9, b"data"),  # a gap
        segment(0, b"data"),  # once more
        segment(4, b""),
        segment(4, b"data", ack=8),
        segment(4, b"data", flags="FA"),
        segment(4, b"data", flags="UA"),
        segment(4, b"data", options=[("NOP", 0)] * 4),
        segment(4, b"data") + b"\0",
        segment(4, b"data")[:24] + bytes(2) + segment(4, b"data")[26:],  # its IP header's checksum is wrong
    ],
)
def test_nothing_else_is_joined_and_nothing_overtakes(other: bytes) -> None:
    assert passed(segment(0, b"data"), other) == [segment(0, b"data"), other]
    assert passed(segment(0, b"odd"), segment(3, b"data")) == [segment(0, b"odd"), segment(3, b"data")]


def test_nobody_waits_for_more_than_so_much() -> None:
    frames = [segment(number * 1448, bytes([number]) * 1448) for number in range(100)]
    wholes = passed(*frames)
    assert [len(whole) - 54 <= DATA_MAX for whole in wholes] == [True] * 7
    assert data_of(wholes, 0) == data_of(frames, 0)
    assert all(map(is_right, wholes))


def test_what_is_cut_is_left_and_what_is_too_long_is_refused() -> None:
    data = stream(segment(0, b"data"), segment(4, b"more"))
    for size in range(len(data)):
        frames, rest = split(data[:size])
        assert stream(*frames) + rest == data[:size]
    with pytest.raises(ValueError, match="too long"):
        split(stream(b"whole") + (FRAME_MAX + 1).to_bytes(4))


@given(st.lists(st.binary(max_size=80), max_size=5), st.integers(0, 99))
def test_any_bytes(frames: list[bytes], flow: int) -> None:
    """Whatever comes between, and whatever frames begin with."""
    frames = [segment(0, b"data")[: flow % 60] + frame for frame in frames]
    assert passed(*frames) == frames


def test_more_connections_than_are_looked_at() -> None:
    """Connections that have not gone on for a while begin anew."""
    frames = [segment(seq, b"data", flow=flow) for seq in (0, 4) for flow in range(9)]
    assert passed(*frames) == frames
    assert len(passed(*(segment(seq, b"data", flow=flow) for seq in (0, 4) for flow in range(8)))) == 8


@given(st.data())
def test_any_segments_of_any_connections(data: st.DataObject) -> None:
    """Those of a connection stay in order, say the same data, and are damaged if one was."""
    seqs, frames = [2**32 - 50] * FLOWS, []
    damaged: set[int] = set()
    for _ in range(data.draw(st.integers(1, 12))):
        flow = data.draw(st.integers(0, FLOWS - 1))
        payload = data.draw(st.binary(max_size=40))
        frame = segment(seqs[flow], payload, flow=flow, flags=data.draw(st.sampled_from(["A", "PA"])))
        seqs[flow] += len(payload)
        if payload and flow not in damaged and data.draw(st.integers(0, 9)) == 0:
            frame = frame[:54] + bytes([frame[54] ^ 1]) + frame[55:]
            damaged.add(flow)
        frames.append(frame)
    wholes = passed(*frames)
    for flow in range(FLOWS):
        assert data_of(wholes, flow) == data_of(frames, flow)
    for whole in wholes:
        flow = int.from_bytes(whole[34:36]) - 1000
        assert is_right(whole) or flow in damaged
    for flow in damaged:
        assert not all(is_right(whole) for whole in wholes if int.from_bytes(whole[34:36]) == 1000 + flow)
