"""What has passed, as scapy packets: what tests ask for it, and what they are shown when it is not there."""

import inspect
import io
from collections.abc import Awaitable, Callable
from typing import Any

from vswitch import PacketFilter
from vswitch.testing.layers import Packet, PcapNgReader

Wanted = str | Callable[[Packet], Any]
"""A filter in the pcap language, or a function (async, too) of a packet."""

_PACKET = b"\x06\0\0\0"  # block types
_STATISTICS = b"\x05\0\0\0"


class Packets:
    """A capture's blocks, of whole blocks of a kind at a time, as packets."""

    def __init__(self) -> None:
        self._head = b""  # the section and its interfaces, which every reader has to see

    def feed(self, blocks: bytes) -> list[Packet]:
        if blocks[:4] == _STATISTICS:
            return []
        if blocks[:4] != _PACKET:
            self._head += blocks
            return []
        with PcapNgReader(io.BytesIO(self._head + blocks)) as reader:  # type: ignore[arg-type]
            return list(reader)


def read_wanted(
    wanted: Wanted,
) -> tuple[Callable[[bytes], bool] | None, Callable[[Packet], Awaitable[bool]]]:
    """What is asked of frames, and then of packets. Raises InputError, RefusedError.

    Filters are compiled here and now: a thread would let a MockClock jump.
    """

    async def anything(packet: Packet) -> bool:
        return True

    async def ask(packet: Packet) -> bool:
        try:
            answer = wanted(packet)  # type: ignore[operator]
            return bool(await answer if inspect.isawaitable(answer) else answer)
        except IndexError:  # `packet[TCP]` of one that has none
            return False

    if isinstance(wanted, str):
        return PacketFilter(wanted).matches if wanted else None, anything
    return None, ask


def describe(packets: list[Packet]) -> str:
    """Packets as lines, below what is said of them."""
    if not packets:
        return "; nothing passed at all"
    ways = {1: "in", 2: "out"}
    lines = [
        f"  {packet.sniffed_on:12} {ways.get(packet.direction or 0, '-'):3} {packet.summary()}"
        + "".join(f"  {comment.decode(errors='backslashreplace')}" for comment in packet.comments or [])
        for packet in packets
    ]
    return "\n".join([":" if len(lines) == 1 else "; the last that passed:", *lines])
