"""The bridge: classify, learn, forward or flood (IEEE 802.1D 7.7, 802.1Q 8.6).

A chunk is walked once. Neighbouring frames with the same addresses and VLAN are one flow and share one
look-up; neighbours with the same verdict are one run and share one queue entry for each egress. The
verdict on a flow is taken in one fixed order:

    runt → tag → source address → reserved destination → learn → group → look up → same port

A verdict is the egress port's index, FLOOD, or a drop reason encoded by `_drop`. Transparent ports
never change a frame: the VLAN only chooses the table entry.
"""

from typing import Final, final

from librt.strings import read_i64_be
from mypy_extensions import i64

from vswitch.dataplane.frame import (
    AT_DST,
    AT_SRC,
    FRAME_MAX,
    GROUP_BIT,
    HEADER,
    MAC_MASK,
    PREFIX,
    RESERVED,
    VLAN_DEFAULT,
    frame_length,
    vlan_id,
)
from vswitch.dataplane.mac_table import NO_PORT, MacTable, mac_key
from vswitch.dataplane.port import (
    BAD_SOURCE,
    BAD_TAG,
    DROP_REASON_COUNT,
    NO_DESTINATION,
    RUNT,
    SAME_PORT,
    STRANGER,
    Port,
    QueuePool,
)
from vswitch.dataplane.port import RESERVED as RESERVED_DROP

RECEIVE_MIN: Final = 16 * 1024
COPIES_MAX: Final = 1 << 24  # bytes that flooding one chunk may queue

FLOOD: Final = -1
NO_VERDICT: Final = -1000

BROKEN: Final = -1  # ingress: the stream cannot be followed any further


def _drop(reason: i64) -> i64:
    return -2 - reason


@final
class Bridge:
    """Ports, the MAC table, and what happens to a frame between them.

    `rx_frames + copies = tx_frames + queued_frames + drops`, summed over all ports there ever were, holds
    whenever no call is in progress: a flood to n ports makes n - 1 copies.
    """

    def __init__(self, table: MacTable, pool: QueuePool) -> None:
        self.table = table
        self.pool = pool
        self.ports: list[Port] = []  # by index; a removed port stays until its index is used again
        self.active: list[Port] = []  # the ports that are up: where a flood goes
        self.dirty: list[Port] = []  # the ports with something to flush
        self.copies: i64 = 0
        self.gone = Port(-1, pool)  # the sum of the counters of removed ports, and what strangers sent
        self.free: list[int] = []  # indices of removed ports
        self.pressed: Port | None = None  # a port that was pressed by what came in last
        self.hub = False  # repeat every frame to all other ports, whatever it says

    def add_port(self, queue_bytes_max: i64) -> Port:
        """A new port, down until `port_up`."""
        if self.free:
            index: i64 = self.free.pop()
            port = Port(index, self.pool, queue_bytes_max)
            self.ports[index] = port
        else:
            port = Port(len(self.ports), self.pool, queue_bytes_max)
            self.ports.append(port)
        return port

    def remove_port(self, port: Port) -> None:
        """Take a port out for good; its counters live on in `gone`."""
        self.port_down(port)
        gone = self.gone
        gone.rx_frames += port.rx_frames
        gone.rx_bytes += port.rx_bytes
        gone.tx_frames += port.tx_frames
        gone.tx_bytes += port.tx_bytes
        for reason in range(DROP_REASON_COUNT):
            gone.drops[reason] += port.drops[reason]
        self.free.append(port.index)

    def port_up(self, port: Port) -> None:
        if not port.up:
            port.up = True
            self.active.append(port)

    def port_down(self, port: Port) -> None:
        """The port lost its link: drop its queue, forget what was learned on it, flood to it no more."""
        if port.up:
            port.up = False
            self.active.remove(port)
        port.clear()
        self.table.forget_port(port.index)

    def receive_max(self) -> i64:
        """How much one read may bring, in bytes: less with many ports, which all get a copy of what is flooded."""
        return max(RECEIVE_MIN, COPIES_MAX // (len(self.active) + 1))

    def ingress(self, port: Port, chunk: bytes, at: i64, now: i64) -> i64:
        """Forward the whole frames of `chunk` from `at`, a frame's prefix, on; they came in by `port`.

        Answers where the first frame that is cut off by the chunk's end starts (the chunk's length if
        none), or BROKEN when a prefix announces more than FRAME_MAX bytes.
        """
        if self.hub:
            return self._repeat(port, chunk, at)
        end: i64 = len(chunk)
        start = at  # of the current run
        frames: i64 = 0
        verdict: i64 = NO_VERDICT
        flow_dst: i64 = 0  # the first and the last eight bytes of the current flow's addresses
        flow_src: i64 = 0
        flow_vlan: i64 = 0  # 0: no flow yet
        while end - at >= PREFIX:
            length = frame_length(chunk, at)
            if length > FRAME_MAX:
                self._forward(port, chunk, start, at, frames, verdict)
                return BROKEN
            after = at + PREFIX + length
            if after > end:
                break
            if length < HEADER:
                decided = _drop(RUNT)
                flow_vlan = 0
            else:
                dst = read_i64_be(chunk, at + AT_DST)
                src = read_i64_be(chunk, at + AT_SRC)
                vlan = vlan_id(chunk, at, length)
                if dst == flow_dst and src == flow_src and vlan == flow_vlan:
                    frames += 1
                    at = after
                    continue
                flow_dst = dst
                flow_src = src
                flow_vlan = vlan
                decided = self._classify(port, (dst >> 16) & MAC_MASK, src & MAC_MASK, vlan, now)
            if decided != verdict:
                self._forward(port, chunk, start, at, frames, verdict)
                verdict = decided
                start = at
                frames = 0
            frames += 1
            at = after
        self._forward(port, chunk, start, at, frames, verdict)
        return at

    def _repeat(self, port: Port, chunk: bytes, at: i64) -> i64:
        """A hub's ingress: only empty frames are dropped, which no link may send."""
        end: i64 = len(chunk)
        start = at
        frames: i64 = 0
        while end - at >= PREFIX:
            length = frame_length(chunk, at)
            if length > FRAME_MAX:
                self._forward(port, chunk, start, at, frames, FLOOD)
                return BROKEN
            after = at + PREFIX + length
            if after > end:
                break
            if length == 0:
                self._forward(port, chunk, start, at, frames, FLOOD)
                self._forward(port, chunk, at, after, 1, _drop(RUNT))
                start = after
                frames = 0
            else:
                frames += 1
            at = after
        self._forward(port, chunk, start, at, frames, FLOOD)
        return at

    def take_pressed(self) -> Port | None:
        """The port that was pressed since this was asked last."""
        pressed = self.pressed
        self.pressed = None
        return pressed

    def stranger(self, size: i64) -> None:
        """Count a frame of `size` bytes that came from an address without a port."""
        self.gone.rx_frames += 1
        self.gone.rx_bytes += size
        self.gone.drop(STRANGER, 1)

    def _classify(self, port: Port, dst: i64, src: i64, vlan: i64, now: i64) -> i64:
        if vlan < VLAN_DEFAULT:
            return _drop(BAD_TAG)
        if src & GROUP_BIT != 0 or src == 0:
            return _drop(BAD_SOURCE)
        if dst > RESERVED and dst <= RESERVED + 15:
            return _drop(RESERVED_DROP)
        table = self.table
        table.learn(mac_key(vlan, src), port.index, now)
        if dst & GROUP_BIT != 0:
            return FLOOD
        egress = table.lookup(mac_key(vlan, dst), now)
        if egress == NO_PORT:
            return FLOOD
        if egress == port.index:
            return _drop(SAME_PORT)
        return egress

    def _forward(self, port: Port, chunk: bytes, start: i64, end: i64, frames: i64, verdict: i64) -> None:
        """Count the run chunk[start:end] in at `port`, and queue it where the verdict says."""
        if frames == 0:
            return
        port.rx_frames += frames
        port.rx_bytes += end - start - PREFIX * frames
        if verdict >= 0:
            self._queue(self.ports[verdict], chunk, start, end, frames)
        elif verdict != FLOOD:
            port.drop(-2 - verdict, frames)
        else:
            copies: i64 = -1
            for egress in self.active:
                if egress is not port:
                    self._queue(egress, chunk, start, end, frames)
                    copies += 1
            if copies < 0:
                port.drop(NO_DESTINATION, frames)
            else:
                self.copies += copies * frames

    def _queue(self, egress: Port, chunk: bytes, start: i64, end: i64, frames: i64) -> None:
        egress.enqueue(chunk, start, end, frames)
        if egress.blocked:
            if egress.is_pressed():
                self.pressed = egress
        elif not egress.dirty:
            egress.dirty = True
            self.dirty.append(egress)
