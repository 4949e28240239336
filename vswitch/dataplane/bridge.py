"""The bridge: classify, learn, forward or flood (IEEE 802.1D 7.7, 802.1Q 8.6).

A chunk is walked once. Neighbouring frames with the same addresses and tag are one flow and share one
look-up; neighbours with the same verdict are one run and share one queue entry for each egress. The
verdict on a flow is taken in one fixed order:

    runt → VLAN → source address → reserved or own destination → learn → group → look up → same port → may it go there

A verdict below zero is a drop. Any other names a port, or FLOOD. Where frames do not go to all ports alike, it also has
the VLAN and the form of the run's frames (vlan.py), from which follows what each egress sends: the run as it is, or
rebuilt, once for all that send it with a tag and once for all that send it without.

Frames of a port with an ingress policy are judged one at a time (policy.py), by the same steps with others in between;
so are those of a port that does not forward.

What comes in with work left to do (offload.py) is unfinished while it is forwarded. It leaves so by ports that take it,
and is finished once for all others, those with a policy among them, as policies are about what is on the wire.
"""

from typing import Final, final

from librt.strings import read_i64_be
from mypy_extensions import i64

from vswitch.dataplane.drops import (
    BAD_OFFLOAD,
    BAD_SOURCE,
    DROP_REASON_COUNT,
    ISOLATED,
    LOOP,
    NO_DESTINATION,
    PARTITION,
    PASSED,
    PORT_DOWN,
    PROBE,
    RUNT,
    SAME_PORT,
    STICKY,
    STRANGER,
    TOO_LONG,
    VLAN,
    refuse,
)
from vswitch.dataplane.drops import RESERVED as RESERVED_DROP
from vswitch.dataplane.frame import (
    AT_DST,
    AT_SRC,
    FRAME_MAX,
    GROUP_BIT,
    HEADER,
    MAC_MASK,
    PREFIX,
    RESERVED,
    TPID_8021Q,
    TPID_NONE,
    VID_MASK,
    frame_length,
    wire_tag,
)
from vswitch.dataplane.journal import UNKNOWN, Journal
from vswitch.dataplane.mac_table import NO_PORT, MacTable, mac_key
from vswitch.dataplane.offload import Finished, Finisher, finish, leaves_segments, shifted
from vswitch.dataplane.policy import EgressPolicy, IngressPolicy
from vswitch.dataplane.port import Port, QueuePool
from vswitch.dataplane.run import Run
from vswitch.dataplane.vlan import TAG, form_of, retag

RECEIVE_MIN: Final = 16 * 1024
COPIES_MAX: Final = 1 << 24  # bytes that flooding one chunk may queue

FLOOD: Final = 0xFFFFF  # instead of a port's index
VLAN_SHIFT: Final = 20
FORM_SHIFT: Final = 32
NO_VERDICT: Final = -1000
NO_FLOW: Final = -1000
NO_ADDRESS: Final = -1
RETURNED_MAX: Final = 128  # bytes of a probe that are kept

BROKEN: Final = -1  # ingress: the stream cannot be followed any further


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
        self.joined: i64 = 0  # frames that were cut by the end of a chunk, and joined
        self.rebuilt: i64 = 0  # runs that got another tag, or lost theirs
        self.journal = Journal()
        self.gone = Port(-1, pool)  # the sum of the counters of removed ports, and what strangers sent
        self.free: list[int] = []  # indices of removed ports
        self.added: i64 = 0  # ports that there ever were
        self.pressed: Port | None = None  # a port that was pressed by what came in last
        self.probe_address: i64 = NO_ADDRESS  # a group address of our own: what is sent there and comes back is a probe
        self.returned: list[Port] = []  # where some did
        self.hub = False  # repeat every frame to all other ports, whatever it says
        self.selective = False  # some frames do not go to all ports alike: a port is not plain, or an entry is static
        self._unfinished: i64 = 0  # what is left to do for the frames that are being forwarded
        self._finisher = Finisher()
        self.service_tpid: i64 = TPID_8021Q  # what else starts a tag; the same again if nothing does

    def add_port(self, queue_bytes_max: i64) -> Port:
        """A new port, down until `port_up`."""
        if self.free:
            index: i64 = self.free.pop()
            port = Port(index, self.pool, queue_bytes_max, self.journal)
            self.ports[index] = port
        else:
            port = Port(len(self.ports), self.pool, queue_bytes_max, self.journal)
            self.ports.append(port)
        port.serial = self.added
        self.added += 1
        return port

    def remove_port(self, port: Port) -> None:
        """Take a port out for good; its counters live on in `gone`."""
        self.port_down(port)
        gone = self.gone
        gone.rx_frames += port.rx_frames
        gone.rx_bytes += port.rx_bytes
        gone.tx_frames += port.tx_frames
        gone.tx_bytes += port.tx_bytes
        gone.segmented += port.segmented
        gone.checksummed += port.checksummed
        for reason in range(DROP_REASON_COUNT):
            gone.drops[reason] += port.drops[reason]
        self.free.append(port.index)

    def port_up(self, port: Port) -> None:
        """The port has a link."""
        port.linked = True
        self.settle(port)

    def port_down(self, port: Port) -> None:
        """The port lost its link: drop its queue, forget what was learned on it, flood to it no more."""
        port.linked = False
        self.settle(port)

    def settle(self, port: Port) -> None:
        """Have a port take part, or not, after it changed: its link, or its policy."""
        port.up = port.linked and port.enabled
        floods = port.up and port.forwards and port.takes_floods and not port.is_mirror
        if floods and port not in self.active:
            self.active.append(port)
        elif not floods and port in self.active:
            self.active.remove(port)
        if not port.up:
            port.clear()
        if not port.up or not port.forwards:
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
        if port.ingress_policy is not None:
            return self._ingress_judged(port, port.ingress_policy, chunk, at, now)
        tpid = port.vlans.tpid
        service_tpid = self._service_tpid(port)
        end: i64 = len(chunk)
        start = at  # of the current run
        frames: i64 = 0
        verdict: i64 = NO_VERDICT
        flow_dst: i64 = 0  # the first and the last eight bytes of the current flow's addresses
        flow_src: i64 = 0
        flow_tag: i64 = NO_FLOW
        while end - at >= PREFIX:
            length = frame_length(chunk, at)
            if length > FRAME_MAX:
                self._forward(port, chunk, start, at, frames, verdict)
                return BROKEN
            after = at + PREFIX + length
            if after > end:
                break
            if length < HEADER:
                decided = refuse(RUNT)
                flow_tag = NO_FLOW
            else:
                dst = read_i64_be(chunk, at + AT_DST)
                src = read_i64_be(chunk, at + AT_SRC)
                tag = wire_tag(chunk, at, length, tpid, service_tpid)
                if dst == flow_dst and src == flow_src and tag == flow_tag:
                    frames += 1
                    at = after
                    continue
                flow_dst = dst
                flow_src = src
                flow_tag = tag
                decided = self._classify(port, (dst >> 16) & MAC_MASK, src & MAC_MASK, tag, now)
            if decided != verdict:
                self._forward(port, chunk, start, at, frames, verdict)
                verdict = decided
                start = at
                frames = 0
            frames += 1
            at = after
        self._forward(port, chunk, start, at, frames, verdict)
        return at

    def ingress_unfinished(self, port: Port, chunk: bytes, unfinished: i64, now: i64) -> None:
        """Forward the frames of a chunk, all of which are whole, and have the same left to do."""
        if port.ingress_policy is not None:
            finished = finish(Run(chunk, 0, len(chunk), 0, unfinished))
            port.rx_frames += finished.wrong
            port.drop(BAD_OFFLOAD, finished.wrong)
            self.ingress(port, finished.run.chunk, 0, now)
            return
        self._unfinished = unfinished
        try:
            self.ingress(port, chunk, 0, now)
        finally:
            self._unfinished = 0
            self._finisher.forget()

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
                self._forward(port, chunk, at, after, 1, refuse(RUNT))
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

    def take_returned(self) -> list[Port]:
        """The ports by which probes came back since this was asked last; each has its first."""
        returned = self.returned
        self.returned = []
        return returned

    def originate(self, port: Port, chunk: bytes) -> None:
        """Queue a frame of the switch's own at a port that is up, whatever its state; it counts as a copy."""
        self.journal.current = UNKNOWN
        self.copies += 1
        self._enqueue(port, chunk, 0, len(chunk), 1)

    def stranger(self, size: i64) -> None:
        """Count a frame of `size` bytes that came from an address without a port."""
        self.gone.rx_frames += 1
        self.gone.rx_bytes += size
        self.gone.drop(STRANGER, 1)

    def _ingress_judged(self, port: Port, policy: IngressPolicy, chunk: bytes, at: i64, now: i64) -> i64:
        """The same for a port with an ingress policy."""
        end: i64 = len(chunk)
        start = at
        frames: i64 = 0
        verdict: i64 = NO_VERDICT
        broken = False
        while end - at >= PREFIX:
            length = frame_length(chunk, at)
            broken = length > FRAME_MAX
            after = at + PREFIX + length
            if broken or after > end:
                break
            decided = self._judge(port, policy, chunk, at, length, now)
            if decided != verdict:
                self._forward_mirrored(port, chunk, start, at, frames, verdict)
                verdict = decided
                start = at
                frames = 0
            frames += 1
            at = after
        self._forward_mirrored(port, chunk, start, at, frames, verdict)
        if broken:
            return BROKEN
        return at

    def _judge(self, port: Port, policy: IngressPolicy, chunk: bytes, at: i64, length: i64, now: i64) -> i64:
        """The verdict on one frame of a port with an ingress policy."""
        if length < HEADER:
            return refuse(RUNT)
        why = policy.check_frame(length, now)
        if why != PASSED:
            return refuse(why)
        tag = wire_tag(chunk, at, length, port.vlans.tpid, self._service_tpid(port))
        dst = (read_i64_be(chunk, at + AT_DST) >> 16) & MAC_MASK
        src = read_i64_be(chunk, at + AT_SRC) & MAC_MASK
        vlan = self._admit(port, dst, src, tag)
        if vlan < 0:
            return vlan
        if not port.forwards:
            return refuse(LOOP)
        why = policy.check_source(chunk, at, length, src)
        if why == PASSED:
            why = policy.check_station(self.table, mac_key(vlan, src), port.index, now)
        if why != PASSED:
            return refuse(why)
        verdict = self._learn_and_look_up(port, dst, src, vlan, tag, now)
        if verdict >= 0 and verdict & FLOOD == FLOOD:
            why = policy.check_flood(dst, length, now)
            if why != PASSED:
                return refuse(why)
        return verdict

    def _service_tpid(self, port: Port) -> i64:
        """What starts a service tag in what comes in by a port."""
        if port.vlans.customer:
            return TPID_NONE
        return self.service_tpid

    def _classify(self, port: Port, dst: i64, src: i64, tag: i64, now: i64) -> i64:
        vlan = self._admit(port, dst, src, tag)
        if vlan < 0:
            return vlan
        return self._learn_and_look_up(port, dst, src, vlan, tag, now)

    def _admit(self, port: Port, dst: i64, src: i64, tag: i64) -> i64:
        """The VLAN of a frame that may come in, or a drop."""
        vlan = port.vlans.classify(tag)
        if vlan < 0:
            return vlan
        if (src & GROUP_BIT != 0 or src == 0) and not port.any_source:
            return refuse(BAD_SOURCE)
        if dst & GROUP_BIT != 0:
            if dst > RESERVED and dst <= RESERVED + 15 and not port.forwards_reserved:
                return refuse(RESERVED_DROP)
            if dst == self.probe_address:
                return refuse(PROBE)
        return vlan

    def _learn_and_look_up(self, port: Port, dst: i64, src: i64, vlan: i64, tag: i64, now: i64) -> i64:
        table = self.table
        is_station = src & GROUP_BIT == 0 and src != 0
        if is_station and not table.learn(mac_key(vlan, src), port.place, now):
            return refuse(STICKY)
        if dst & GROUP_BIT == 0:
            index = table.lookup(mac_key(vlan, dst), now)
            if index == port.index:
                return refuse(SAME_PORT)
            if index != NO_PORT:
                if not self.selective:
                    return index
                return self._between(port, self.ports[index], vlan, form_of(tag))
        if self.selective:
            return FLOOD | vlan << VLAN_SHIFT | form_of(tag) << FORM_SHIFT
        return FLOOD

    def _between(self, port: Port, egress: Port, vlan: i64, form: i64) -> i64:
        """The verdict on frames from one port for another, where ports differ."""
        if not egress.up:
            return refuse(PORT_DOWN)
        if not egress.forwards:
            return refuse(LOOP)
        if port.plain and egress.plain:
            return egress.index
        if not egress.vlans.carries(vlan):
            return refuse(VLAN)
        if port.isolated and egress.isolated:
            return refuse(ISOLATED)
        if port.is_parted_from(egress):
            return refuse(PARTITION)
        if egress.vlans.sends_as_is(port.vlans, vlan, form):
            return egress.index
        return egress.index | vlan << VLAN_SHIFT | form << FORM_SHIFT

    def _forward(self, port: Port, chunk: bytes, start: i64, end: i64, frames: i64, verdict: i64) -> None:
        """Count the run chunk[start:end] in at `port`, and queue it where the verdict says."""
        if frames == 0:
            return
        port.rx_frames += frames
        port.rx_bytes += end - start - PREFIX * frames
        if self.journal.on:
            self._note(port, chunk, start, end, frames, verdict)
        if verdict < 0:
            port.drop(refuse(verdict), frames)
            if verdict == refuse(PROBE):
                self._keep_returned(port, chunk, start)
        elif verdict < FLOOD:
            self._queue(self.ports[verdict], chunk, start, end, frames)
        elif verdict == FLOOD:
            copies: i64 = -1
            for egress in self.active:
                if egress is not port:
                    self._queue(egress, chunk, start, end, frames)
                    copies += 1
            self._count_flood(port, copies, frames)
        else:
            self._forward_selected(port, Run(chunk, start, end, frames), verdict)

    def _keep_returned(self, port: Port, chunk: bytes, start: i64) -> None:
        if len(port.returned) == 0:
            port.returned = chunk[start : start + PREFIX + min(frame_length(chunk, start), RETURNED_MAX)]
            self.returned.append(port)

    def _forward_selected(self, port: Port, run: Run, verdict: i64) -> None:
        """Queue a run where its VLAN goes, and `port` may reach, with or without a tag as each egress sends it."""
        target = verdict & FLOOD
        vlan = (verdict >> VLAN_SHIFT) & VID_MASK
        form = verdict >> FORM_SHIFT
        if target != FLOOD:
            egress = self.ports[target]
            if egress.vlans.pvid == vlan:
                vlan = 0
            self._queue_rebuilt(egress, retag(run.chunk, run.start, run.end, form, vlan, port.vlans.push), run)
            return
        tagged: Run | None = None
        untagged: Run | None = None
        copies: i64 = -1
        for egress in self.active:
            vlans = egress.vlans
            if egress is port or not vlans.carries(vlan) or (port.isolated and egress.isolated):
                continue
            if port.is_parted_from(egress):
                continue
            copies += 1
            if vlans.sends_as_is(port.vlans, vlan, form):
                self._queue(egress, run.chunk, run.start, run.end, run.frames)
            elif vlans.pvid == vlan:
                if untagged is None:
                    untagged = retag(run.chunk, run.start, run.end, form, 0, 0)
                self._queue_rebuilt(egress, untagged, run)
            else:
                if tagged is None:
                    tagged = retag(run.chunk, run.start, run.end, form, vlan, port.vlans.push)
                self._queue_rebuilt(egress, tagged, run)
        self._count_flood(port, copies, run.frames)

    def _forward_mirrored(self, port: Port, chunk: bytes, start: i64, end: i64, frames: i64, verdict: i64) -> None:
        """The same as `_forward`, and a copy to the mirrors of what comes in by a port."""
        self._forward(port, chunk, start, end, frames, verdict)
        if verdict != refuse(RUNT) and port.enabled:
            for mirror in port.mirrors_in:
                self._copy_to(mirror, chunk, start, end, frames)

    def _count_flood(self, port: Port, copies: i64, frames: i64) -> None:
        if copies < 0:
            port.drop(NO_DESTINATION, frames)
            if self.journal.on:
                self.journal.entries[-1].reason = NO_DESTINATION  # which came in, and then nothing
        else:
            self.copies += copies * frames

    def _note(self, port: Port, chunk: bytes, start: i64, end: i64, frames: i64, verdict: i64) -> None:
        reason: i64 = PASSED
        if verdict < 0:
            reason = refuse(verdict)
        self.journal.came_in(port.serial, reason, chunk, start, end, frames, self._unfinished)

    def _drop_too_long(self, egress: Port, chunk: bytes, start: i64, end: i64, length_max: i64, frames: i64) -> None:
        """Count the `frames` frames of chunk[start:end] that are longer than `length_max`; their ids are lost."""
        if frames == 0:
            return
        egress.drop(TOO_LONG, frames)
        if self.journal.on:
            self.journal.current = UNKNOWN
            while start < end:
                length = frame_length(chunk, start)
                if length > length_max:
                    self.journal.left(egress.serial, TOO_LONG, chunk, start, start + PREFIX + length, 1, 0)
                start += PREFIX + length

    def _queue_rebuilt(self, egress: Port, rebuilt: Run, run: Run) -> None:
        """Queue what a run has become; some of its frames may have grown too long."""
        self.rebuilt += 1
        first = self.journal.current
        missing = run.frames - rebuilt.frames
        self._drop_too_long(egress, run.chunk, run.start, run.end, FRAME_MAX - TAG, missing)
        if rebuilt.frames > 0:
            unfinished = self._unfinished
            if unfinished != 0:
                grown = frame_length(rebuilt.chunk, rebuilt.start) - frame_length(run.chunk, run.start)
                self._unfinished = shifted(unfinished, grown)
            self._queue(egress, rebuilt.chunk, rebuilt.start, rebuilt.end, rebuilt.frames)
            self._unfinished = unfinished
        self.journal.current = first

    def _queue(self, egress: Port, chunk: bytes, start: i64, end: i64, frames: i64) -> None:
        if self._unfinished != 0:
            self._queue_unfinished(egress, Run(chunk, start, end, frames, self._unfinished))
        elif egress.egress_policy is None:
            self._enqueue(egress, chunk, start, end, frames)
        else:
            self._queue_by_policy(egress, egress.egress_policy, chunk, start, end, frames)

    def _queue_by_policy(
        self, egress: Port, policy: EgressPolicy, chunk: bytes, start: i64, end: i64, frames: i64
    ) -> None:
        first = self.journal.current
        run = policy.apply(chunk, start, end, frames)
        self._drop_too_long(egress, chunk, start, end, policy.frame_max, frames - run.frames)
        if run.frames > 0:
            for mirror in egress.mirrors_out:
                self._copy_to(mirror, run.chunk, run.start, run.end, run.frames)
            self._enqueue(egress, run.chunk, run.start, run.end, run.frames)
        self.journal.current = first

    def _queue_unfinished(self, egress: Port, run: Run) -> None:
        """Queue frames with work left to do as they are, or finished if the port cannot take them so."""
        if egress.takes_unfinished and egress.egress_policy is None:
            egress.enqueue(run.chunk, run.start, run.end, run.frames, run.unfinished)
            self._flush_or_press(egress)
            return
        done = self._finisher.finish(run)
        self._count_finished(egress, run, done)
        finished = done.run
        if finished.frames > 0:
            first = self.journal.current
            self.journal.current = UNKNOWN  # a frame may have become several
            unfinished = self._unfinished
            self._unfinished = 0
            self._queue(egress, finished.chunk, finished.start, finished.end, finished.frames)
            self._unfinished = unfinished
            self.journal.current = first

    def _count_finished(self, egress: Port, run: Run, finished: Finished) -> None:
        """A frame that becomes several is so many copies, one that is wrong is dropped."""
        if leaves_segments(run.unfinished):
            egress.segmented += run.frames
        else:
            egress.checksummed += run.frames
        egress.drop(BAD_OFFLOAD, finished.wrong)
        self.copies += finished.run.frames + finished.wrong - run.frames

    def _enqueue(self, egress: Port, chunk: bytes, start: i64, end: i64, frames: i64) -> None:
        egress.enqueue(chunk, start, end, frames)
        self._flush_or_press(egress)

    def _flush_or_press(self, egress: Port) -> None:
        if not egress.blocked:
            self._to_be_flushed(egress)
        elif egress.is_pressed():
            self.pressed = egress

    def _copy_to(self, mirror: Port, chunk: bytes, start: i64, end: i64, frames: i64) -> None:
        """Queue a copy of some frames at a mirror port."""
        if mirror.up and frames > 0:
            self.copies += frames
            mirror.enqueue(chunk, start, end, frames)
            if not mirror.blocked:  # nobody waits for a mirror
                self._to_be_flushed(mirror)

    def _to_be_flushed(self, egress: Port) -> None:
        if not egress.dirty:
            egress.dirty = True
            self.dirty.append(egress)
