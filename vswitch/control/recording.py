"""The flight recorder of a running switch, and what is written out of it."""

import time
from collections.abc import AsyncGenerator
from typing import NamedTuple

import trio

from vswitch import heap, units
from vswitch.control.capture_requests import CaptureRequest
from vswitch.control.captures import Matches, find_filter
from vswitch.control.flows import flow_info
from vswitch.control.model import FlowsInfo
from vswitch.edges.capture import UNBOUNDED, Budget, Capture
from vswitch.edges.flows import Flows
from vswitch.edges.recorder import Recorder
from vswitch.errors import InputError, RefusedError
from vswitch.pace import Pace
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports
from vswitch.values import endpoint_of
from vswitch.version import __version__

MIB = 2**20
SIZE_DEFAULT = 256 * MIB
SIZE_MIN, SIZE_MAX = 2**20, 2**36
AGE_MAX_S = 1e6
PORTION_ENTRIES = 256
FLOWS_SHOWN = 1000


class RecordLimits(NamedTuple):
    """How much is kept: bytes, and seconds."""

    size: int
    age_s: float


def read_limits(text: str) -> RecordLimits:
    """`60s`, `64MiB`, or both by comma. Raises InputError."""
    found: dict[str, float] = {}
    for part in (part.strip() for part in text.split(",")):
        kind = "time" if part.endswith(tuple(units.DURATION_S)) else "size"
        if kind in found:
            raise InputError(f"{text!r} says two of a kind; write one like 60s, 64MiB or 60s,64MiB")
        found[kind] = units.duration(part) if kind == "time" else units.size(part)
    size, age_s = int(found.get("size", SIZE_DEFAULT)), found.get("time", AGE_MAX_S)
    if not SIZE_MIN <= size <= SIZE_MAX or not 0 < age_s <= AGE_MAX_S:
        raise InputError(f"{text!r} is out of range; 1MiB to 64GiB can be kept, for up to {AGE_MAX_S:g}s")
    return RecordLimits(size, age_s)


def check_fits(limits: RecordLimits) -> RecordLimits:
    """Raises RefusedError if there is not the memory for it: the system would end the whole program some time later."""
    most = heap.available() * 3 // 4
    if limits.size > most:
        raise RefusedError(
            f"there is not the memory to record {limits.size // MIB:,} MiB; record {most // MIB}MiB at most"
        )
    return limits


class Recording:
    """What passed the switch's ports last. It watches them from when it is made."""

    def __init__(self, ports: Ports, limits: RecordLimits) -> None:
        self.sink = self._recorder = Recorder(limits.size, int(limits.age_s * 1e3))
        self._names: dict[int, SwitchPort] = {}  # by serial, also of ports that are gone
        self._gone: list[tuple[int, int]] = []  # how many segments there had been then, and their serials
        self._ports = ports
        ports.watchers.add(self, ports)

    def moment(self) -> int:
        """A moment for `stream`: now."""
        self._ports.watchers.tell()
        return int(self._recorder.taken)

    async def stream(
        self, request: CaptureRequest, matches: Matches | None = None, since: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """What there is since a moment, as pcapng. Raises InputError and RefusedError for a filter."""
        capture = Capture(
            f"vswitch {__version__}",
            Budget(UNBOUNDED),
            snaplen=request.snaplen,
            only_drops=request.drops,
            frames_max=request.count,
            matches=matches or await find_filter(request.filter),
            filter_text=request.filter,
        )
        # What comes from now on is not in it.
        segments = [segment for segment in self._recorder.segments if segment.number >= since]
        for serial, port in self._names.items():
            if not request.ports or port.is_one_of(request.ports):
                capture.add_interface(serial, port.name, port.url)
        yield capture.header()
        time_ns = 0
        for segment in segments:
            time_ns = segment.entries[0].time_ns
            capture.take(segment.entries, segment.now)
            while pieces := capture.portion():
                for piece in pieces:
                    yield piece.blocks
            await trio.lowlevel.checkpoint()
        yield capture.trailer(time_ns)

    async def flows(self, since_s: float | None = None, port: str | None = None) -> FlowsInfo:
        """Who talked to whom, in the last so many seconds, and by a port or endpoint; the last one heard first."""
        self._ports.watchers.tell()
        since_ns = 0 if since_s is None else time.time_ns() - int(since_s * 1e9)
        names = {serial: it.name for serial, it in self._names.items()}  # they may be forgotten meanwhile
        flows, pace = Flows(), Pace()
        for segment in list(self._recorder.segments):
            for at in range(0, len(segment.entries), PORTION_ENTRIES):
                flows.take(segment.entries[at : at + PORTION_ENTRIES], since_ns)
                await pace.pause()
        flows.close()
        found = []
        for flow in sorted(flows.flows, key=lambda flow: -flow.last_ns):
            info = flow_info(flow, names)
            if port is None or any(port in (name, endpoint_of(name)) for name in (info.port, *info.forwarded)):
                found.append(info)
            await pace.pause()
        return FlowsInfo(flows=found[:FLOWS_SHOWN], older=len(found[FLOWS_SHOWN:]), others=flows.others)

    def told(self) -> None:
        oldest = self._recorder.segments[0].number if self._recorder.segments else self._recorder.taken
        while self._gone and self._gone[0][0] <= oldest:
            del self._names[self._gone.pop(0)[1]]

    def port_added(self, port: SwitchPort) -> None:
        self._names[port.port.serial] = port

    def port_removed(self, port: SwitchPort) -> None:
        self._gone.append((int(self._recorder.taken), port.port.serial))

    def failed(self, error: Exception) -> None:
        """It goes on with what comes next."""

    async def wait_for_room(self, until_s: float) -> None:
        """It always has room."""
