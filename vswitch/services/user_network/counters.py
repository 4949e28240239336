"""What is counted for who looks: traffic and drops of each guest that the NAT knows, and of all others together.

A frame is one that the NAT takes or gives: segments that were joined on the way to it are one (coalescing.py), and so
are fragments.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

# Why frames are dropped. What each means is in endpoints/user/reasons.py.
Reason = Literal[
    "short",
    "malformed",
    "protocol",
    "crowded",
    "timeout",
    "failed",
    "not_routed",
    "fragments",
    "foreign_source",
    "host_access",
    "restricted",
    "denied",
    "connections",
    "queue_full",
]
Service = Literal["dhcp", "dns", "tftp"]

GUESTS_A_WORD = 40  # of at most 1 KiB each: the switch takes 64 KiB


class Traffic:
    """From a guest, and to it."""

    __slots__ = ("drops", "in_bytes", "in_frames", "out_bytes", "out_frames")

    def __init__(self) -> None:
        self.out_frames = self.out_bytes = 0
        self.in_frames = self.in_bytes = 0
        self.drops: Counter[Reason] = Counter()

    def add(self, other: "Traffic") -> None:
        self.out_frames += other.out_frames
        self.out_bytes += other.out_bytes
        self.in_frames += other.in_frames
        self.in_bytes += other.in_bytes
        self.drops.update(other.drops)

    @property
    def counts(self) -> list[object]:
        """As a word has it."""
        return [self.out_frames, self.out_bytes, self.in_frames, self.in_bytes, self.drops]


class Known(NamedTuple):
    """A guest that the NAT knows; `connections` are its open sockets."""

    mac: bytes
    ip: str
    connections: int
    traffic: Traffic


def words(
    number: int, guests: Iterable[Known], others: Traffic, served: Mapping[Service, int]
) -> Iterator[list[object]]:
    """The answer to a question of a number, in pieces that a word can carry; the last one has what is of no guest."""
    told = [[guest.mac.hex(":"), guest.ip, guest.connections, guest.traffic.counts] for guest in guests]
    for at in range(0, len(told), GUESTS_A_WORD):
        yield [number, told[at : at + GUESTS_A_WORD], None]
    yield [number, [], [others.counts, served]]
