"""Which acknowledgements go to a guest, and which a later one takes the place of."""

from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from vswitch.services.user_network.acks import Acks


def frame(ack: int, data: bytes = b"", *, sport: int = 80, seq: int = 1, flags: str = "A", **tcp: Any) -> bytes:
    segment = TCP(sport=sport, dport=1000, seq=seq, ack=ack, flags=flags, **tcp)
    packet = Ether(src="52:55:0a:00:02:02", dst="52:54:00:00:00:0a") / IP(src="10.0.2.2", dst="10.0.2.15") / segment
    return bytes(packet / Raw(data) if data else packet)


def sent(*frames: bytes) -> list[bytes]:
    found: list[bytes] = []
    acks = Acks(found.append)
    for each in frames:
        acks.put(each)
    acks.flush()
    acks.flush()
    return found


def test_the_last_of_several_goes() -> None:
    assert sent(frame(100), frame(200), frame(300)) == [frame(300)]


def test_each_connection_has_its_own() -> None:
    one, two = [frame(ack, sport=80) for ack in (100, 200)], [frame(ack, sport=81) for ack in (100, 200)]
    assert sent(one[0], two[0], one[1], two[1]) == [one[1], two[1]]


def test_what_asks_for_something_again_and_what_opens_a_window_goes() -> None:
    again = [frame(100)] * 3
    assert sent(*again) == again
    opened = [frame(100, window=0), frame(100, window=9000)]
    assert sent(*opened) == opened


def test_what_says_more_than_that_goes_and_nothing_overtakes_it() -> None:
    for other in (frame(200, b"data"), frame(200, flags="FA"), frame(200, seq=2), frame(200, options=[("NOP", 0)] * 4)):
        assert sent(frame(100), other) == [frame(100), other]
        assert sent(other, frame(300, seq=9)) == [other, frame(300, seq=9)]
