"""Segments become the frame that was cut into them, and nothing else is joined."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.dataplane.test_offload import TCPV4, TCPV6, A, B, finished, left_to_do
from tests.frames import framed
from vswitch.dataplane.joining import Joiner

MANY = 1 << 20
SEGMENT = 100


def joined(frames: list[bytes], most: int = MANY) -> tuple[int, bytes, int]:
    """How many frames become one, that, and what is left to do for it."""
    chunk = framed(frames)
    joiner = Joiner()
    count = joiner.join(chunk, 0, len(chunk), most)
    data = b"".join(chunk[start:end] for start, end in joiner.data) if count > 1 else b""
    return count, joiner.headers + data if count > 1 else b"", joiner.unfinished


def long(data: bytes, size: int = SEGMENT, network: Packet | None = None, **tcp: Any) -> tuple[bytes, int]:
    """A long frame, and what is left to do for it."""
    network = network or IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", id=7)
    says: dict[str, Any] = {"sport": 1, "dport": 2, "seq": 5, "ack": 9, "flags": "A"}
    layer = TCP(**(says | tcp))
    kind = TCPV4 if IP in network else TCPV6
    return left_to_do(Ether(src=A, dst=B) / network / layer / Raw(data), size, kind)


def cut(raw: bytes, unfinished: int) -> list[bytes]:
    return finished(unfinished, raw)


networks = st.sampled_from(
    [IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", id=0xFFFE), IPv6(src="fd00::1", dst="fd00::2", tc=3, fl=77)]
)


@given(
    networks,
    st.integers(0, 2**32 - 1),
    st.sampled_from(["A", "PA"]),
    st.sampled_from([[], [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]]),
    st.binary(min_size=101, max_size=3000),
    st.integers(60, 100),
)
def test_segments_become_what_was_cut(
    network: Packet, seq: int, flags: str, options: list[Any], data: bytes, size: int
) -> None:
    raw, unfinished = long(data, size, network, seq=seq, flags=flags, options=options)
    segments = finished(unfinished, raw)
    assert joined(segments) == (len(segments), raw, unfinished)
    assert joined([*segments, *segments])[0] == len(segments), "what follows is another one"
    assert joined(segments, 2)[0] == min(2, len(segments))


def edited(at: int, value: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """The second of some frames is another one, whose checksums are right."""

    def edit(frames: list[bytes]) -> list[bytes]:
        packet = Ether(frames[1][:at] + value + frames[1][at + len(value) :])
        del packet[IP].chksum, packet[TCP].chksum
        return [frames[0], bytes(packet), *frames[2:]]

    return edit


@pytest.mark.parametrize(
    "change",
    [
        edited(5, b"\x77"),
        edited(11, b"\x77"),
        edited(15, b"\x02"),
        edited(22, b"\x07"),
        edited(20, b"\0\0"),
        edited(29, b"\x77"),
        edited(33, b"\x77"),
        edited(35, b"\x77"),
        edited(38, b"\x77"),
        edited(45, b"\x77"),
        edited(47, b"\x11"),
        edited(47, b"\x30"),
        edited(49, b"\x77"),
        edited(53, b"\x77"),
        lambda frames: [frames[0], frames[2]],
        lambda frames: [frames[0], frames[1][:-1] + b"\x55"],
        lambda frames: [frames[0][:-1] + b"\x55", frames[1]],
        lambda frames: [frames[0], frames[1][:24] + b"\x55" + frames[1][25:]],
        lambda frames: [frames[0], frames[1] + b"\0"],
        lambda frames: [frames[0] + b"\0", frames[1]],
        lambda frames: [frames[0], frames[1][:50]],
    ],
)
def test_what_is_not_the_same_connection_going_on_is_not_joined(
    change: Callable[[list[bytes]], list[bytes]],
) -> None:
    raw, unfinished = long(bytes(300))
    frames = finished(unfinished, raw)
    assert joined(frames)[0] == 3
    assert joined(change(frames))[0] == 1


@pytest.mark.parametrize(
    "first",
    [
        Ether(src=A, dst=B) / IP(flags="DF") / UDP() / Raw(bytes(100)),
        Ether(src=A, dst=B) / Dot1Q(vlan=7) / IP(flags="DF") / TCP(flags="A") / Raw(bytes(100)),
        Ether(src=A, dst=B) / IP() / TCP(flags="A") / Raw(bytes(100)),
        Ether(src=A, dst=B) / IP(flags="DF") / TCP(flags="S") / Raw(bytes(100)),
        Ether(src=A, dst=B) / IP(flags="DF") / TCP(flags="A"),
        Ether(src=A, dst=B) / IP(flags="DF", options=b"\1\1\1\1") / TCP(flags="A") / Raw(bytes(100)),
    ],
)
def test_what_nothing_may_follow_stays_by_itself(first: Packet) -> None:
    frame = bytes(first)
    assert joined([frame, frame])[0] == 1


def test_a_short_one_or_one_that_is_pushed_is_the_last() -> None:
    raw, unfinished = long(bytes(250))
    frames = finished(unfinished, raw)
    more = cut(*long(bytes(200), seq=5 + 250))
    assert joined([*frames, *more])[0] == 3
    pushed = cut(*long(bytes(200), flags="PA"))
    more = cut(*long(bytes(200), seq=5 + 200))
    assert joined([*pushed, *more])[0] == 2


def test_a_long_frame_is_one_that_ip_can_have() -> None:
    first = cut(*long(bytes(60_000), 1400))
    second = cut(*long(bytes(60_000), 1400, seq=5 + 60_000))
    whole = [frame for frame in [*first, *second] if len(frame) == 1454]
    count, frame, _ = joined(whole)
    assert 42 <= count < len(whole)
    assert len(frame) - 14 <= 0xFFFF


pieces = st.lists(st.binary(max_size=90) | st.sampled_from(cut(*long(bytes(300)))), max_size=5)


@given(pieces, st.integers(0, 90), st.binary(max_size=3))
def test_whatever_comes_is_joined_or_not(frames: list[bytes], at: int, new: bytes) -> None:
    damaged = [frame[:at] + new + frame[at + len(new) :] for frame in frames]
    if damaged:
        count, frame, _ = joined(damaged)
        assert 1 <= count <= len(damaged)
        assert count == 1 or len(frame) <= sum(map(len, damaged))
