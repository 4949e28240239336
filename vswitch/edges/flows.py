"""Flows: who talked to whom, made of the journal's entries. For each one, what became of its frames.

A flow is what came in by one port with the same addresses (Ethernet and IP), VLAN tag, EtherType, IP protocol and the
lower of two TCP or UDP ports, which is most likely the service's. It keeps its first frame's head, from which all of
that is read where it is shown.

Guests choose what they send, so that a port has a bounded number of flows; of more, only frames are counted.
"""

from typing import Final, final

from librt.strings import read_i16_be, read_i32_be, read_i64_be
from mypy_extensions import i64

from vswitch.dataplane.frame import (
    AT_TPID,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    HEADER,
    PREFIX,
    TCP,
    TPID_8021AD,
    TPID_8021Q,
    TPID_9100,
    TPID_9200,
    TPID_9300,
    UDP,
    frame_length,
)
from vswitch.dataplane.journal import IN, UNKNOWN, Entry

HEAD: Final = 82  # bytes: two tags, IPv6, and the two ports
FLOWS_MAX: Final = 8192
FLOWS_OF_PORT_MAX: Final = 512
VERDICTS_MAX: Final = 16  # that a flow tells apart, and ports that a flood tells of
REASON_BITS: Final = 8

Key = tuple[int, int, int, int, int, int, int, int, int]
NO_KEY: Final = (0, 0, 0, 0, 0, 0, 0, 0, 0)


@final
class Flow:
    """Frames and bytes that came in by a port (its serial), since `first_ns` and up to `last_ns`.

    `verdicts` has frames by verdict: see `verdict`. Beyond VERDICTS_MAX of them, as in a flood, `more` counts frames.
    """

    def __init__(self, port: i64, head: bytes, time_ns: i64) -> None:
        self.port = port
        self.head = head
        self.frames: i64 = 0
        self.size: i64 = 0
        self.first_ns = time_ns
        self.last_ns = time_ns
        self.verdicts: dict[int, int] = {}
        self.more: i64 = 0

    def note(self, verdict: i64, frames: i64) -> None:
        """What became of some of its frames."""
        before = self.verdicts.get(verdict, 0)
        if before == 0 and len(self.verdicts) >= VERDICTS_MAX:
            self.more += frames
        else:
            self.verdicts[verdict] = before + int(frames)


def verdict(port: i64, reason: i64) -> i64:
    """What became of a frame: it went to a port (its serial), or was dropped there; -1 is where it came in."""
    return (port + 1) << REASON_BITS | (reason + 1)


@final
class Part:
    """Neighbouring frames of a run that are of one flow; none if it has no room."""

    def __init__(self, flow: Flow | None, frames: i64) -> None:
        self.flow = flow
        self.frames = frames


@final
class Flows:
    """All flows of some entries, which are taken in the order they were made.

    `others` counts frames of flows that had no room.
    """

    def __init__(self) -> None:
        self.others: i64 = 0
        self.flows: list[Flow] = []
        self._by_key: dict[Key, Flow] = {}
        self._of_port: dict[int, int] = {}
        self._run: list[Part] = []  # the run that came in last
        self._first: i64 = UNKNOWN  # the id of its first frame
        self._frames: i64 = 0
        self._whole: list[int] = []  # what became of all of it
        self._more: i64 = 0  # ports that all of it went to, but for these

    def take(self, entries: list[Entry], since_ns: i64) -> None:
        """Some more entries; those before a time are left out."""
        for entry in entries:
            if entry.time_ns < since_ns:
                continue
            if entry.direction == IN:
                self.close()
                self._came_in(entry)
            elif entry.first == self._first and entry.frames == self._frames:
                if len(self._whole) < VERDICTS_MAX:
                    self._whole.append(int(verdict(entry.port, entry.reason)))
                else:
                    self._more += 1
            elif entry.first != UNKNOWN and entry.first >= self._first >= 0:
                self._left(entry)

    def close(self) -> None:
        """Count what became of the run that came in last, once for all ports it went to; after the last entries."""
        for part in self._run:
            flow = part.flow
            if flow is not None:
                for became in self._whole:
                    flow.note(became, part.frames)
                flow.more += self._more * part.frames
        self._run = []
        self._first = UNKNOWN
        self._whole = []
        self._more = 0

    def _came_in(self, entry: Entry) -> None:
        self._first = entry.first
        self._frames = entry.frames
        chunk = entry.chunk
        at = entry.start
        before: Key = NO_KEY
        part: Part | None = None
        while at < entry.end:
            length = frame_length(chunk, at)
            key = key_of(chunk, at, length, entry.port)
            if part is None or key != before:
                part = Part(self._find(key, entry, at, length), 0)
                self._run.append(part)
                before = key
            part.frames += 1
            flow = part.flow
            if flow is None:
                self.others += 1
            else:
                flow.frames += 1
                flow.size += length
                flow.last_ns = entry.time_ns
                if entry.reason >= 0:
                    flow.note(verdict(-1, entry.reason), 1)
            at += PREFIX + length

    def _find(self, key: Key, entry: Entry, at: i64, length: i64) -> Flow | None:
        flow = self._by_key.get(key)
        if flow is not None:
            return flow
        of_port = self._of_port.get(entry.port, 0)
        if of_port >= FLOWS_OF_PORT_MAX or len(self.flows) >= FLOWS_MAX:
            return None
        self._of_port[entry.port] = of_port + 1
        head = entry.chunk[at + PREFIX : at + PREFIX + min(length, HEAD)]
        flow = Flow(entry.port, head, entry.time_ns)
        self._by_key[key] = flow
        self.flows.append(flow)
        return flow

    def _left(self, entry: Entry) -> None:
        """Count what became of frames of the run that came in last."""
        skip = entry.first - self._first
        left = entry.frames
        became = verdict(entry.port, entry.reason)
        for part in self._run:
            if left <= 0:
                break
            if skip >= part.frames:
                skip -= part.frames
                continue
            frames = min(left, part.frames - skip)
            skip = 0
            left -= frames
            flow = part.flow
            if flow is not None:
                flow.note(became, frames)


def key_of(chunk: bytes, at: i64, length: i64, port: i64) -> Key:
    """What the flow of a frame is known by; `at` is where its prefix starts. Any bytes."""
    if length < HEADER:
        return (port, length, 0, 0, 0, 0, 0, 0, 0)
    end = at + PREFIX + length
    addresses = read_i64_be(chunk, at + 4)
    more = i64(read_i32_be(chunk, at + 12))
    kind_at = at + AT_TPID
    kind = i64(read_i16_be(chunk, kind_at))
    tags: i64 = 0
    while kind in (TPID_8021Q, TPID_8021AD, TPID_9100, TPID_9200, TPID_9300) and kind_at + 6 <= end:
        tags = (tags << 13 | (i64(read_i16_be(chunk, kind_at + 2)) & 0xFFF) + 1) & 0x3FF_FFFF
        kind_at += 4
        kind = i64(read_i16_be(chunk, kind_at))
    packet = kind_at + 2
    tagged = tags << 16 | (kind & 0xFFFF)
    if kind == ETHERTYPE_IPV4 and packet + 20 <= end:
        protocol: i64 = chunk[packet + 9]
        header = (i64(chunk[packet]) & 0x0F) * 4
        service: i64 = 0
        if i64(read_i16_be(chunk, packet + 6)) & 0x1FFF == 0:  # no later fragment
            service = service_of(chunk, packet + header, end, protocol)
        return (port, addresses, more, tagged, protocol << 16 | service, read_i64_be(chunk, packet + 12), 0, 0, 0)
    if kind == ETHERTYPE_IPV6 and packet + 40 <= end:
        following: i64 = chunk[packet + 6]
        return (
            port,
            addresses,
            more,
            tagged,
            following << 16 | service_of(chunk, packet + 40, end, following),
            read_i64_be(chunk, packet + 8),
            read_i64_be(chunk, packet + 16),
            read_i64_be(chunk, packet + 24),
            read_i64_be(chunk, packet + 32),
        )
    return (port, addresses, more, tagged, 0, 0, 0, 0, 0)


def service_of(chunk: bytes, at: i64, end: i64, protocol: i64) -> i64:
    """The lower of the two ports of a TCP or UDP header at `at`, which is most likely the service's; else 0."""
    if (protocol != TCP and protocol != UDP) or at + 4 > end:
        return 0
    return min(i64(read_i16_be(chunk, at)) & 0xFFFF, i64(read_i16_be(chunk, at + 2)) & 0xFFFF)
