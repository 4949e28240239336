"""What is known of a LAN when a test has failed: for its report, and to be kept."""

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
from librt.strings import BytesWriter

from vswitch import VSwitch
from vswitch.control import text as texts
from vswitch.control.model import FlowInfo, MacInfo, PortInfo
from vswitch.edges.pcapng import PACKET, comment_option, write_packet
from vswitch.testing.guest import Guest
from vswitch.testing.qemu import QemuError
from vswitch.testing.timeline import Timeline

LOOK_TIMEOUT_S = 5.0
LINES_MAX = 20  # of each table
PORT_HEADS = ("PORT", "IS", "IN", "OUT", "QUEUED", "DROPS")
STATION_HEADS = ("MAC", "VLAN", "PORT", "AGE")
FLOW_HEADS = ("PORT", "SOURCE", "DESTINATION", "VLAN", "WHAT", "FRAMES", "BYTES", "AGO", "BECAME OF IT")

_EMPTY = bytes(4)  # a frame of no bytes


@dataclass
class Evidence:
    """How a LAN looked at a moment. `screens` are PNGs, by guest."""

    time_s: float
    ports: list[PortInfo]
    stations: list[MacInfo]
    flows: list[FlowInfo]
    screens: dict[str, bytes]


async def gather(switch: VSwitch, guests: Iterable[Guest]) -> Evidence:
    """Looks at a LAN that runs. Takes some seconds at most, also when a test is being cancelled."""
    found = Evidence(time.time(), switch.ports(), [], [], {})
    with trio.CancelScope(shield=True), trio.move_on_after(LOOK_TIMEOUT_S):
        found.stations = await switch.macs()
        found.flows = (await switch.captures.flows()).flows
        async with trio.open_nursery() as nursery:
            for guest in guests:
                if guest.running:
                    nursery.start_soon(_screen, guest, found.screens)
    return found


async def _screen(guest: Guest, screens: dict[str, bytes]) -> None:
    try:
        screens[guest.name] = await guest.screenshot()
    except (QemuError, OSError, ValueError):  # it has none, or has ended; or there is no room for it
        return


def text(timeline: Timeline, found: Evidence | None) -> str:
    """For people: what the test did, and then how its LAN looked."""
    parts = [_part("what the test did", timeline.lines())]
    if found is not None:
        parts += [
            _part("ports", aligned(PORT_HEADS, [_port(port) for port in found.ports])),
            _part("stations", aligned(STATION_HEADS, [_station(station) for station in found.stations])),
            _part("flows", flow_lines(found.flows, found.time_s)),
        ]
    return "\n".join(filter(None, parts))


def flow_lines(flows: Sequence[FlowInfo], now_s: float) -> list[str]:
    """A table of flows; none if there are none. `now_s` is seconds since 1970."""
    return aligned(FLOW_HEADS, [texts.flow_row(flow, now_s) for flow in flows])


def _part(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)]) if lines else ""


def _port(port: PortInfo) -> tuple[str, ...]:
    drops = ", ".join(f"{count:,} {reason}" for reason, count in port.drops.items() if count)
    counts = f"{port.rx_frames:,}", f"{port.tx_frames:,}", f"{port.queued_frames:,}"
    return port.name, "up" if port.up else "down", *counts, drops or "-"


def _station(station: MacInfo) -> tuple[str, ...]:
    return station.mac, str(station.vlan), station.port, texts.age(station)


def aligned(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table as lines; none if it has no rows."""
    if not rows:
        return []
    shown = [heads, *rows[:LINES_MAX]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in shown]
    return [*lines, *([f"and {len(rows) - LINES_MAX} more"] if len(rows) > LINES_MAX else [])]


async def write_capture(path: Path, blocks: AsyncIterable[bytes], timeline: Timeline) -> None:
    """A capture's blocks, with what the test did in between: packets of no bytes, which have it as a comment."""
    with path.open("wb") as file:
        async for data in _interleaved(blocks, timeline):
            file.write(data)


async def _interleaved(blocks: AsyncIterable[bytes], timeline: Timeline) -> AsyncIterator[bytes]:
    spans = sorted(timeline.spans, key=lambda span: span.time_ns, reverse=True)
    async for data in blocks:
        begin = at = 0
        while spans and at < len(data):
            kind, size = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
            if kind == PACKET and _time_ns(data, at) > spans[-1].time_ns:
                yield data[begin:at]
                begin = at
                yield _comment(spans[-1].time_ns, spans.pop().what)
                continue
            at += size
        yield data[begin:]
    while spans:
        yield _comment(spans[-1].time_ns, spans.pop().what)


def _time_ns(data: bytes, at: int) -> int:
    upper, lower = (int.from_bytes(data[at + n : at + n + 4], "little") for n in (12, 16))
    return upper << 32 | lower


def _comment(time_ns: int, what: str) -> bytes:
    out = BytesWriter()
    write_packet(out, 0, time_ns, 0, _EMPTY, 0, 0, 0, -1, 0, comment_option(what))
    return out.getvalue()
