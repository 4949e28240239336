"""A switch's counters as Prometheus reads them (prometheus.io/docs/instrumenting/exposition_formats).

They are read when somebody asks, and cost forwarding nothing.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import trio

from vswitch.control.model import NatInfo
from vswitch.dataplane import compiled
from vswitch.dataplane.drops import DROP_REASONS
from vswitch.dataplane.frame import PREFIX
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports
from vswitch.version import __version__

PORTION = 256  # ports that are read without a pause


class _Sample(NamedTuple):
    labels: tuple[tuple[str, str], ...]
    value: int | float


class _OfPort(NamedTuple):
    """A metric that each port has; `name` without `vswitch_port_`."""

    name: str
    kind: str
    about: str
    read: Callable[[SwitchPort], int]


OF_PORTS = (
    _OfPort("up", "gauge", "Whether a peer is plugged in, and the port takes part.", lambda port: port.up),
    _OfPort("blocked", "gauge", "Whether it takes no part, as there is a loop.", lambda port: not port.port.forwards),
    _OfPort("receive_frames_total", "counter", "Frames that came in.", lambda port: port.port.rx_frames),
    _OfPort("receive_bytes_total", "counter", "Bytes of these, without FCS.", lambda port: port.port.rx_bytes),
    _OfPort("transmit_frames_total", "counter", "Frames that left.", lambda port: port.port.tx_frames),
    _OfPort("transmit_bytes_total", "counter", "Bytes of these, without FCS.", lambda port: port.port.tx_bytes),
    _OfPort("queue_frames", "gauge", "Frames that wait to leave.", lambda port: port.port.queued_frames),
    _OfPort(
        "segmented_frames_total",
        "counter",
        "Frames that were cut into segments, as the port takes no long ones.",
        lambda port: port.port.segmented,
    ),
    _OfPort(
        "checksummed_frames_total",
        "counter",
        "Frames that got their checksum, as the port takes none without.",
        lambda port: port.port.checksummed,
    ),
    _OfPort("queue_bytes", "gauge", "Bytes of these.", lambda port: _queued_bytes(port)),
)


class _OfNetwork(NamedTuple):
    """A metric that each user network has; `name` without `vswitch_user_network_`. It is read as values by a label's
    values, or as one without."""

    name: str
    kind: str
    about: str
    label: str
    read: Callable[[NatInfo], Mapping[str, int]]


OF_NETWORKS = (
    _OfNetwork("guests", "gauge", "Guests that the NAT knows.", "", lambda it: {"": len(it.guests)}),
    _OfNetwork(
        "connections",
        "gauge",
        "Sockets that the NAT has open for guests.",
        "",
        lambda it: {"": sum(guest.connections for guest in it.guests)},
    ),
    _OfNetwork(
        "frames_total",
        "counter",
        "Frames that the NAT took from guests (out) and gave them (in).",
        "direction",
        lambda it: {"out": it.total.out_frames, "in": it.total.in_frames},
    ),
    _OfNetwork(
        "bytes_total",
        "counter",
        "Bytes of these.",
        "direction",
        lambda it: {"out": it.total.out_bytes, "in": it.total.in_bytes},
    ),
    _OfNetwork("drops_total", "counter", "Frames dropped, by reason.", "reason", lambda it: it.total.drops),
    _OfNetwork("requests_total", "counter", "Requests that were served.", "service", lambda it: it.served),
)


def _queued_bytes(port: SwitchPort) -> int:
    return int(port.port.queued_bytes - PREFIX * port.port.queued_frames)


async def metrics(ports: Ports, name: str, started_s: float, networks: Iterable[NatInfo] = ()) -> str:
    """All metrics of a switch, which started at a time since 1970, and of its user networks."""
    lines = list(_of_switch(ports, name, started_s))
    for metric in OF_PORTS:
        lines.append(_head(f"vswitch_port_{metric.name}", metric.kind, metric.about))
        async for port in _slowly(ports):
            lines.append(_line(f"vswitch_port_{metric.name}", _Sample(_labels(port), metric.read(port))))
    lines.append(_head("vswitch_port_drops_total", "counter", "Frames dropped, by reason."))
    async for port in _slowly(ports):
        reasons = (at for at, count in enumerate(port.port.drops) if count) if port.port.dropped else ()
        for at in reasons:
            sample = _Sample((*_labels(port), ("reason", DROP_REASONS[at])), port.port.drops[at])
            lines.append(_line("vswitch_port_drops_total", sample))
    lines += _of_networks([network for network in networks if network.age_s is not None])
    return "".join(lines)


def _of_switch(ports: Ports, name: str, started_s: float) -> Iterator[str]:
    table, bridge = ports.table, ports.bridge
    info = (("version", __version__), ("compiled", str(compiled()).lower()), ("name", name))
    events = [_Sample((("code", code),), count) for code, count in ports.events.counts.items()]
    found: tuple[tuple[str, str, str, Iterable[_Sample]], ...] = (
        ("build_info", "gauge", "What runs.", [_Sample(info, 1)]),
        ("start_time_seconds", "gauge", "When the switch started, since 1970.", [_Sample((), started_s)]),
        ("ports", "gauge", "Ports that there are.", [_Sample((), len(ports))]),
        ("fdb_entries", "gauge", "Stations in the MAC table.", [_Sample((), table.count)]),
        ("fdb_moves_total", "counter", "Stations that were heard behind another port.", [_Sample((), table.moves)]),
        ("fdb_evictions_total", "counter", "Stations that made room for others.", [_Sample((), table.evictions)]),
        ("copies_total", "counter", "Copies of frames that were flooded or mirrored.", [_Sample((), bridge.copies)]),
        ("failures_total", "counter", "Faults beside forwarding.", [_Sample((), ports.failures.total)]),
        ("events_total", "counter", "Events, by code.", events),
    )
    for metric, kind, about, samples in found:
        yield _head(f"vswitch_{metric}", kind, about)
        yield from (_line(f"vswitch_{metric}", sample) for sample in samples)


def _of_networks(networks: list[NatInfo]) -> Iterator[str]:
    """Of all guests together: there may be many, and they choose their MAC addresses."""
    for metric in OF_NETWORKS if networks else ():
        yield _head(f"vswitch_user_network_{metric.name}", metric.kind, metric.about)
        for network in networks:
            for value, count in metric.read(network).items():
                label = [(metric.label, value)] if metric.label else []
                sample = _Sample((("network", network.network), *label), count)
                yield _line(f"vswitch_user_network_{metric.name}", sample)


async def _slowly(ports: Ports) -> AsyncGenerator[SwitchPort, None]:
    """The ports that there are now, with pauses in which others get their turn."""
    for number, port in enumerate(list(ports), 1):
        yield port
        if number % PORTION == 0:
            await trio.lowlevel.checkpoint()


def _labels(port: SwitchPort) -> tuple[tuple[str, str], ...]:
    return ("port", port.name), ("endpoint", port.endpoint)


def _head(name: str, kind: str, about: str) -> str:
    return f"# HELP {name} {about}\n# TYPE {name} {kind}\n"


def _line(name: str, sample: _Sample) -> str:
    labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels)
    value = f"{sample.value:.3f}" if isinstance(sample.value, float) else f"{int(sample.value)}"
    return f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
