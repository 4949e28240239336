"""What a switch would do with a frame now, and why, step by step.

The verdict is the forwarding code's own, on a twin of the bridge (dataplane/twin.py). The words around it ask the same
functions and tables, as far as the step that drops the frame.
"""

from collections.abc import Callable, Iterator

from vswitch.control.model import Step, Trace, TraceEgress, TraceStep
from vswitch.dataplane import drops
from vswitch.dataplane.drops import DROP_REASONS, PASSED
from vswitch.dataplane.frame import FRAME_MAX, GROUP_BIT, HEADER, PREFIX, TPID_NONE, TPIDS, UNTAGGED, wire_tag
from vswitch.dataplane.journal import Entry
from vswitch.dataplane.mac_table import NO_PORT, MacTable, mac_key
from vswitch.dataplane.twin import Observer, twin_of
from vswitch.errors import InputError
from vswitch.ports.policy import listed, mac_text, shown_vlan, written
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports
from vswitch.ports.reasons import REASONS

TAKES_IN = (drops.RUNT, drops.MIRROR, drops.TOO_LONG, drops.RATE_LIMIT)
ADDRESSES = (drops.BAD_SOURCE, drops.RESERVED, drops.PROBE)
POLICY = (drops.SPOOFED_MAC, drops.SPOOFED_IP, drops.DHCP_SERVER, drops.ROUTER, drops.LOCKED, drops.MAX_MACS)
SENDERS = ("static", "locked", "max_macs", "allow_mac", "allow_ip", "dhcp_server", "router")


def trace(ports: Ports, port: SwitchPort, frame: bytes, now_ms: int) -> Trace:
    """What would become of a frame that came in by a port. Raises InputError for what no port can take in."""
    if len(frame) > FRAME_MAX:
        raise InputError(f"the frame has {len(frame):,} bytes; {FRAME_MAX:,} are the most that a port takes in")
    chunk = len(frame).to_bytes(PREFIX) + frame
    source, destination, vlan = _parsed(ports, port, chunk)
    keys = [int(mac_key(vlan, mac)) for mac in (source, destination) if vlan > 0]
    twin, observer = twin_of(ports.bridge, port.port, keys, now_ms), Observer()
    twin.journal.add(observer)
    twin.ingress(twin.ports[port.port.index], chunk, 0, now_ms)
    twin.journal.hand_on()
    came, *left = observer.entries
    by_serial = {found.port.serial: found for found in ports}
    egress = [_egress(by_serial[entry.port], entry) for entry in left]
    steps = _Steps(ports, port, chunk, came.reason, egress, now_ms)
    goes = any(one.reason is None and not one.mirror for one in egress)
    reasons = [_name(came.reason), *(one.reason for one in egress if not one.mirror)]
    reason = None if goes else next(filter(None, reasons), None)
    return Trace(port=port.name, forwarded=goes, reason=reason, steps=list(steps.taken()), egress=egress)


def _parsed(ports: Ports, port: SwitchPort, chunk: bytes) -> tuple[int, int, int]:
    """A frame's source, its destination, and its VLAN, which is below zero if it has none at the port."""
    vlan = int(port.port.vlans.classify(_tag(ports, port, chunk)))
    return int.from_bytes(chunk[10:16]), int.from_bytes(chunk[4:10]), vlan


def _tag(ports: Ports, port: SwitchPort, chunk: bytes) -> int:
    """What a frame's tag says, UNTAGGED or CUT_OFF; of one that is too short for any, UNTAGGED."""
    vlans, length = port.port.vlans, len(chunk) - PREFIX
    if length < HEADER:
        return UNTAGGED
    return int(wire_tag(chunk, 0, length, vlans.tpid, TPID_NONE if vlans.customer else ports.bridge.service_tpid))


def _egress(port: SwitchPort, entry: Entry) -> TraceEgress:
    frame = entry.chunk[entry.start + PREFIX : entry.end]
    tagged = len(frame) >= 18 and int.from_bytes(frame[12:14]) in TPIDS
    vlan = int.from_bytes(frame[14:16]) & 0xFFF if tagged else None
    mirror, reason = port.port.is_mirror, _name(entry.reason)
    return TraceEgress(port=port.name, tag=vlan, mirror=mirror, reason=reason, frame=frame.hex())


def _name(reason: int) -> str | None:
    return None if reason == PASSED else DROP_REASONS[reason]


class _Steps:
    """The steps of a frame that came in by a port, and was dropped there for `reason`, or went to `egress`."""

    def __init__(
        self, ports: Ports, port: SwitchPort, chunk: bytes, reason: int, egress: list[TraceEgress], now_ms: int
    ) -> None:
        self._ports = ports
        self._port = port
        self._reason = reason
        self._egress = egress
        self._now_ms = now_ms
        self._length = len(chunk) - PREFIX
        self._source, self._destination, self._vlan = _parsed(ports, port, chunk)
        self._tag = _tag(ports, port, chunk)

    def taken(self) -> Iterator[TraceStep]:
        """The steps as far as the frame got."""
        if self._ports.bridge.hub:
            yield TraceStep(step="port", text="a hub repeats every frame to all other ports that are up")
            yield from self._leave()
            return
        closed = self._port.port.ingress_policy is not None and self._port.port.ingress_policy.closed != PASSED
        blocked = self._reason == drops.LOOP and not self._port.port.forwards
        stages: tuple[tuple[Step, Callable[[], str], bool], ...] = (
            ("port", self._take_in, closed or blocked or (self._reason in TAKES_IN)),
            ("vlan", self._find_vlan, self._reason == drops.BAD_TAG or self._vlan < 0),
            ("addresses", self._see_addresses, self._reason in ADDRESSES),
            ("policy", self._ask_policy, self._reason in POLICY),
            ("learn", self._learn, self._reason == drops.STICKY),
            ("look_up", self._look_up, self._reason != PASSED),
        )
        for step, said, stops in stages:
            text = said()
            if stops:
                yield TraceStep(step=step, text=f"{text}: {_dropped(DROP_REASONS[self._reason])}")
                yield from map(_left, self._egress)  # mirrors see what is dropped, too
                return
            yield TraceStep(step=step, text=text)
        yield from self._leave()

    def _take_in(self) -> str:
        asked = self._asked("up", "max_frame", "rate", "mirror_of")
        return f"{self._port.name} gets {self._length:,} bytes{asked}"

    def _find_vlan(self) -> str:
        has = "it has no tag" if self._tag == UNTAGGED else f"its tag says VLAN {self._tag}"
        asked = self._asked("vlan", "trunk", "native", "qinq")
        return f"{has}{asked}" if self._vlan < 0 else f"{has}{asked}: VLAN {shown_vlan(self._vlan)}"

    def _see_addresses(self) -> str:
        asked = self._asked("sources", "reserved")
        return f"from {mac_text(self._source)} to {mac_text(self._destination)}{asked}"

    def _ask_policy(self) -> str:
        return f"who may send here{self._asked(*SENDERS)}" if self._asked(*SENDERS) else "anybody may send here"

    def _learn(self) -> str:
        mac, vlan = mac_text(self._source), shown_vlan(self._vlan)
        if self._source & GROUP_BIT or not self._source:
            return f"{mac} is no station's: nothing is learned"
        where, heard = self._known(self._source)
        if where is None:
            return f"{mac} is new in VLAN {vlan}: it is learned to be here"
        if where == self._port.name:
            return f"{mac} is known to be here in VLAN {vlan}, {heard}"
        return f"{mac} is behind {where} in VLAN {vlan}, {heard}, and now heard here"

    def _look_up(self) -> str:
        mac, vlan = mac_text(self._destination), shown_vlan(self._vlan)
        if self._destination & GROUP_BIT:
            return f"{mac} is a group address: flooded in VLAN {vlan}"
        if self._destination == self._source:
            return f"{mac} is behind {self._port.name}, where it has just been heard"
        where, heard = self._known(self._destination)
        if where is None:
            return f"{mac} is not known in VLAN {vlan}: flooded there"
        return f"{mac} is behind {where} in VLAN {vlan}, {heard}"

    def _leave(self) -> Iterator[TraceStep]:
        yield from map(_left, self._egress)
        reached = {one.port for one in self._egress}
        others = [port.name for port in self._ports if port is not self._port and port.name not in reached]
        if others and (len(reached) > 1 or self._destination & GROUP_BIT):
            why = "they are down or blocked, of other VLANs, isolated, parted or mirrors"
            yield TraceStep(step="egress", text=f"not to {listed(others)}: {why}")

    def _known(self, mac: int) -> tuple[str | None, str]:
        """Behind which port a station is, and since when."""
        table: MacTable = self._ports.table
        key = mac_key(self._vlan, mac)
        index = table.lookup(key, self._now_ms)
        port = None if index == NO_PORT else self._ports.by_index(index)
        if port is None:
            return None, ""
        age_ms = table.age(key, self._now_ms)
        return port.name, "static" if age_ms < 0 else f"heard {age_ms / 1000:.1f} s ago"

    def _asked(self, *names: str) -> str:
        """What the port's policy asks for by some parameters, in brackets."""
        asked = [f"{name}={text}" for name, text in written(self._port.policy) if name in names]
        return f" ({', '.join(asked)})" if asked else ""


def _left(one: TraceEgress) -> TraceStep:
    what = "a copy for the mirror " if one.mirror else "to "
    tag = "without a tag" if one.tag is None else f"with a tag of VLAN {one.tag}"
    text = f"{what}{one.port}, {tag}"
    return TraceStep(step="egress", text=text if one.reason is None else f"{text}: {_dropped(one.reason)}")


def _dropped(reason: str) -> str:
    return f"dropped ({reason}): {REASONS[reason].about}; {REASONS[reason].advice}"
