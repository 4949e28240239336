"""What a port that asks for it does to each frame on its way in and out; ports that ask for nothing never come here.

A frame comes in past these, in this order; the bridge's own steps are in between (bridge.py):

    closed → frame_max → limit → (tag, source, reserved) → macs → guard → max_macs, locked → (learn, look up) → storm

A frame leaves by these: frame_max → pad → mirrors.
"""

from collections.abc import Callable
from typing import Final, final

from librt.strings import BytesWriter, read_i16_be, write_i32_be
from librt.vecs import vec
from mypy_extensions import i32, i64

from vswitch.dataplane.drops import (
    LOCKED,
    MAX_MACS,
    PASSED,
    RATE_LIMIT,
    SPOOFED_MAC,
    STORM,
    TOO_LONG,
)
from vswitch.dataplane.frame import (
    AT_TPID,
    BROADCAST,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_MIN,
    FRAME_MAX,
    GROUP_BIT,
    HEADER,
    ICMP,
    PREFIX,
    TCP,
    TPID_8021AD,
    TPID_8021Q,
    TPID_9100,
    TPID_9200,
    TPID_9300,
    UDP,
    copy,
    frame_length,
)
from vswitch.dataplane.mac_table import MacTable
from vswitch.dataplane.run import Run

PAD_TO: Final = 60  # bytes of the shortest frame on a real wire, without FCS (IEEE 802.3 4.2.3.3)
ELAPSED_MAX_MS: Final = 1_000_000  # keeps the arithmetic below 63 bits
EXPIRE_EVERY_MS: Final = 1000


@final
class Limiter:
    """At most so many frames and bits a second, after a burst; 0 is no limit (RFC 2697's bucket, in both units).

    A frame passes while there is something in the bucket of bits, which may owe as much as that frame then: so
    any burst lets frames of any length through, and the rate over time is exact.
    """

    def __init__(self, frames_per_s: i64, bits_per_s: i64, burst_ms: i64) -> None:
        self.frames_per_s = frames_per_s
        self.bits_per_s = bits_per_s
        self._frames_max: i64 = max(1000, frames_per_s * burst_ms)  # in thousandths, as a rate times milliseconds is
        self._bits_max: i64 = max(1000, bits_per_s * burst_ms)
        self._frames = self._frames_max
        self._bits = self._bits_max
        self._filled: i64 = 0

    def copy(self) -> "Limiter":
        """Another one in the same state."""
        copied = Limiter(self.frames_per_s, self.bits_per_s, 0)
        copied._frames_max = self._frames_max
        copied._bits_max = self._bits_max
        copied._frames = self._frames
        copied._bits = self._bits
        copied._filled = self._filled
        return copied

    def passes(self, length: i64, now: i64) -> bool:
        """Whether a frame of `length` bytes is within the limit; if so, it is counted."""
        elapsed: i64 = min(now - self._filled, ELAPSED_MAX_MS)
        self._filled = now
        self._frames = min(self._frames_max, self._frames + elapsed * self.frames_per_s)
        self._bits = min(self._bits_max, self._bits + elapsed * self.bits_per_s)
        if self.frames_per_s > 0 and self._frames < 1000:
            return False
        if self.bits_per_s > 0 and self._bits <= 0:
            return False
        self._frames -= 1000
        self._bits -= length * 8000
        return True


@final
class IngressPolicy:
    """What is asked of the frames that come in by a port."""

    def __init__(self) -> None:
        self.closed: i64 = PASSED  # why nothing may come in, if so
        self.frame_max: i64 = FRAME_MAX
        self.limit: Limiter | None = None
        self.macs: vec[i64] = vec[i64]()  # the source addresses that may come in; none: any
        self.guard: Callable[[bytes], int] | None = None  # judges a control frame: PASSED, or why not
        self.locked = False  # only stations pass that are known here
        self.macs_max: i64 = 0  # stations that may be here; 0: any number
        self.broadcast: Limiter | None = None
        self.multicast: Limiter | None = None
        self.unknown: Limiter | None = None
        self._expired: i64 = 0

    def copy(self) -> "IngressPolicy":
        """Another one in the same state."""
        copied = IngressPolicy()
        copied.closed = self.closed
        copied.frame_max = self.frame_max
        copied.limit = _copy(self.limit)
        copied.macs = self.macs
        copied.guard = self.guard
        copied.locked = self.locked
        copied.macs_max = self.macs_max
        copied.broadcast = _copy(self.broadcast)
        copied.multicast = _copy(self.multicast)
        copied.unknown = _copy(self.unknown)
        copied._expired = self._expired
        return copied

    def check_frame(self, length: i64, now: i64) -> i64:
        """Why a frame may not come in, by its size alone, or PASSED."""
        if self.closed != PASSED:
            return self.closed
        if length > self.frame_max:
            return TOO_LONG
        if self.limit is not None and not self.limit.passes(length, now):
            return RATE_LIMIT
        return PASSED

    def check_source(self, chunk: bytes, at: i64, length: i64, src: i64) -> i64:
        """Why a frame may not come in, by who says it is from and what it claims, or PASSED."""
        if len(self.macs) > 0 and not self._may_send(src):
            return SPOOFED_MAC
        if self.guard is not None and may_be_control(chunk, at, length):
            return self.guard(chunk[at + PREFIX : at + PREFIX + length])
        return PASSED

    def check_station(self, table: MacTable, key: i64, port: i64, now: i64) -> i64:
        """Why a station may not be here, or PASSED."""
        if not self.locked and self.macs_max == 0:
            return PASSED
        if table.lookup(key, now) == port:
            return PASSED
        if self.locked:
            return LOCKED
        if self.is_to_expire(table.held(port), now):
            self._expired = now
            table.expire(now)
        if table.held(port) >= self.macs_max:
            return MAX_MACS
        return PASSED

    def is_to_expire(self, held: i64, now: i64) -> bool:
        """Whether a port seems to have too many stations: those that have aged out are to go first."""
        return self.macs_max > 0 and held >= self.macs_max and now - self._expired >= EXPIRE_EVERY_MS

    def check_flood(self, dst: i64, length: i64, now: i64) -> i64:
        """Why a frame may not be flooded, or PASSED."""
        limit = self.unknown
        if dst == BROADCAST:
            limit = self.broadcast
        elif dst & GROUP_BIT != 0:
            limit = self.multicast
        if limit is None or limit.passes(length, now):
            return PASSED
        return STORM

    def _may_send(self, src: i64) -> bool:
        return any(mac == src for mac in self.macs)


def _copy(limit: Limiter | None) -> Limiter | None:
    if limit is None:
        return None
    return limit.copy()


@final
class EgressPolicy:
    """What is done to the frames that leave by a port."""

    def __init__(self) -> None:
        self.frame_max: i64 = FRAME_MAX
        self.pads = False

    def apply(self, chunk: bytes, start: i64, end: i64, frames: i64) -> Run:
        """The frames at chunk[start:end] that may leave, as they leave."""
        if self._passes(chunk, start, end):
            return Run(chunk, start, end, frames)
        out = BytesWriter()
        frames = 0
        while start < end:
            size = frame_length(chunk, start)
            after = start + PREFIX + size
            if size <= self.frame_max:
                padding: i64 = 0
                if self.pads and size < PAD_TO:
                    padding = PAD_TO - size
                write_i32_be(out, i32(size + padding))
                copy(out, chunk, start + PREFIX, after)
                copy(out, ZEROS, 0, padding)
                frames += 1
            start = after
        joined = out.getvalue()
        return Run(joined, 0, len(joined), frames)

    def _passes(self, chunk: bytes, start: i64, end: i64) -> bool:
        """Whether all frames leave as they are."""
        while start < end:
            size = frame_length(chunk, start)
            if size > self.frame_max or (self.pads and size < PAD_TO):
                return False
            start += PREFIX + size
        return True


ZEROS: Final = bytes(PAD_TO)


def may_be_control(chunk: bytes, at: i64, length: i64) -> bool:
    """Whether a guard has to see a frame: ARP, ICMP, DHCP, what has a tag, and what cannot be told so easily.

    That leaves most of what guests say to each other.
    """
    ethertype = i64(read_i16_be(chunk, at + AT_TPID))
    header = at + PREFIX + HEADER
    if length < HEADER + 40:
        return True
    if ethertype == ETHERTYPE_IPV4:
        has_options = chunk[header] != 0x45
        is_fragment = i64(read_i16_be(chunk, header + 6)) & 0x3FFF != 0
        if has_options or is_fragment or i64(read_i16_be(chunk, header + 2)) & 0xFFFF < 28:
            return True
        protocol: i64 = chunk[header + 9]
        if protocol == UDP:
            return _is_dhcp(chunk, header + 20, 67, 68)
        return protocol == ICMP
    if ethertype == ETHERTYPE_IPV6:
        if i64(read_i16_be(chunk, header + 4)) & 0xFFFF < 8 or length < HEADER + 48:
            return True
        following: i64 = chunk[header + 6]
        if following == UDP:
            return _is_dhcp(chunk, header + 40, 546, 547)
        return following != TCP
    return (
        ethertype == ETHERTYPE_ARP
        or ethertype in (TPID_8021Q, TPID_8021AD, TPID_9100, TPID_9200, TPID_9300)
        or 0 <= ethertype < ETHERTYPE_MIN
    )


def _is_dhcp(chunk: bytes, at: i64, client: i64, server: i64) -> bool:
    """Whether one of the ports at `at`, where a UDP header starts, is of DHCP."""
    source = i64(read_i16_be(chunk, at))
    destination = i64(read_i16_be(chunk, at + 2))
    return source in (client, server) or destination in (client, server)
