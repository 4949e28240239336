"""`vswitch status|ports|macs|vlans|failures`: what a running switch says, as a table, or as JSON for programs."""

from collections.abc import Callable
from typing import TypeVar

import click
import msgspec

from vswitch.cli import table
from vswitch.cli.options import asks_switch, names_switch
from vswitch.cli.output import say
from vswitch.cli.table import Column
from vswitch.control import client, model, operations, text
from vswitch.control.operations import Operation
from vswitch.errors import InputError

PORT_COLUMNS = (
    Column("PORT"),
    Column("LINK", 1),
    Column("PEER", 3),
    Column("VLAN", 2, right=True),
    Column("RX FRAMES", 4, right=True),
    Column("RX BYTES", 7, right=True),
    Column("TX FRAMES", 4, right=True),
    Column("TX BYTES", 7, right=True),
    Column("QUEUED", 6, right=True),
    Column("DROPPED", 5),
)
MAC_COLUMNS = (Column("MAC"), Column("VLAN", 2, right=True), Column("PORT", 1), Column("AGE", 3, right=True))
VLAN_COLUMNS = (Column("VLAN", right=True), Column("UNTAGGED", 1, wraps=True), Column("TAGGED", 2, wraps=True))
FAILURE_COLUMNS = (
    Column("REFERENCE"),
    Column("COUNT", 1),
    Column("WHAT", 2, wraps=True),
    Column("ERROR", 3, wraps=True),
)

INTERNALS = {
    "polls": "polls for what is ready",
    "frames_joined": "frames joined that reads had cut",
    "runs_rebuilt": "runs rebuilt for another tag",
    "runs_copied": "runs copied as a link was full",
    "segments_made": "segments made of small runs",
    "batches_bounded": "batches ended as much was queued",
    "sources_waited": "sources that waited for a port",
    "evictions": "stations evicted",
    "expiries": "stations expired",
    "queued_bytes": "bytes queued",
    "queued_bytes_peak": "bytes queued at most, of late",
}

T = TypeVar("T")


def lists(command: Callable[..., None]) -> Callable[..., None]:
    """The options every command has that prints a table of them."""
    return asks_switch(table.wide(command))


@click.command()
@click.option("--internals", is_flag=True, help="How often the data plane took its rare paths, when it is slow.")
@asks_switch
def status(name: str | None, as_json: bool, internals: bool) -> None:
    """Say how a switch is doing."""
    if internals:
        counted = ask(name, operations.INTERNALS, as_json)
        if counted is not None:
            rows = [(field, f"{count:,}") for field, count in msgspec.structs.asdict(counted).items()]
            table.show_facts([(INTERNALS[field], count) for field, count in rows])
        return
    shown = ask(name, operations.STATUS, as_json)
    if shown is None:
        return
    totals = shown.totals
    rows = [
        ("switch", f"{shown.name} (pid {shown.pid}, vswitch {shown.version})"),
        ("data plane", "compiled" if shown.compiled else "pure Python: slow; reinstall to compile it"),
        ("up for", span(shown.uptime_s)),
        ("ports", str(shown.ports)),
        ("stations", f"{shown.macs:,}"),
        ("moves", f"{shown.mac_moves:,}"),
        ("frames in", f"{totals.rx_frames:,}"),
        ("frames out", f"{totals.tx_frames:,}"),
        ("copies", f"{totals.copies:,}"),
        ("queued", f"{totals.queued_frames:,}"),
        ("dropped", drops(totals.drops)),
        *([("failures", f"{shown.failures:,}; see: vswitch failures")] if shown.failures else []),
    ]
    table.show_facts(rows)


@click.command()
@lists
def ports(name: str | None, as_json: bool, wide: bool) -> None:
    """List the ports, their peers and counters."""
    shown = ask(name, operations.PORTS, as_json)
    if shown is None:
        return
    rows = [
        (
            port.name,
            link(port),
            port.peer or "-",
            _vlan(port.vlan),
            f"{port.rx_frames:,}",
            f"{port.rx_bytes:,}",
            f"{port.tx_frames:,}",
            f"{port.tx_bytes:,}",
            f"{port.queued_frames:,}",
            drops(port.drops),
        )
        for port in shown
    ]
    table.show(PORT_COLUMNS, rows, wide)


@click.command()
@lists
def macs(name: str | None, as_json: bool, wide: bool) -> None:
    """List the stations in the MAC table."""
    shown = ask(name, operations.MACS, as_json)
    if shown is None:
        return
    rows = [(station.mac, str(station.vlan), station.port, text.age(station)) for station in shown]
    table.show(MAC_COLUMNS, rows, wide)


@click.command()
@lists
def vlans(name: str | None, as_json: bool, wide: bool) -> None:
    """List the VLANs of ports, and who is in them."""
    shown = ask(name, operations.VLANS, as_json)
    if shown is None:
        return
    rows = [(str(vlan.vlan), ", ".join(vlan.untagged) or "-", ", ".join(vlan.tagged) or "-") for vlan in shown]
    table.show(VLAN_COLUMNS, rows, wide)


@click.command()
@names_switch
def metrics(name: str | None) -> None:
    """Print the counters as Prometheus reads them."""
    say(client.ask(client.find(name), operations.METRICS).decode().removesuffix("\n"))


@click.command()
@lists
@click.argument("reference", required=False)
def failures(name: str | None, as_json: bool, wide: bool, reference: str | None) -> None:
    """List what has failed beside forwarding.

    With a REFERENCE, say all there is to know of that one.
    """
    shown = ask(name, operations.FAILURES, as_json)
    if shown is None:
        return
    if reference is None:
        rows = [(failure.reference, f"{failure.count:,}", failure.what, failure.error) for failure in shown]
        table.show(FAILURE_COLUMNS, rows, wide)
        return
    found = [failure for failure in shown if failure.reference == reference]
    if not found:
        there_are = ", ".join(failure.reference for failure in shown) or "none"
        raise InputError(f"there is no failure {reference!r}; there are {there_are}")
    say(f"{found[0].what} has failed, {found[0].count:,} times:\n\n{found[0].details.rstrip()}")


def ask(name: str | None, operation: Operation[T], as_json: bool) -> T | None:
    """What the switch answers, or None if it was printed as JSON already."""
    path = client.find(name)
    body = client.ask(path, operation)
    answer = client.decode(path, operation, body)
    if not as_json:
        return answer
    say(body.decode())
    return None


def link(port: model.PortInfo) -> str:
    """Whether a port takes part."""
    return "up" if port.state == "forwarding" else port.state


def drops(drops: dict[str, int]) -> str:
    return ", ".join(f"{frames:,} {reason}" for reason, frames in drops.items()) or "-"


def _vlan(vlan: model.Vlan) -> str:
    """A port's VLANs, as its URL has them."""
    if vlan.mode == "trunk":
        tagged = vlan.tagged if vlan.tagged == "all" else ",".join(map(str, vlan.tagged))
        native = [] if vlan.native is None else [f"native {vlan.native}"]
        return " ".join(["trunk", *filter(None, [tagged]), *native])
    return {"transparent": "-", "access": f"{vlan.access}", "qinq": f"qinq {vlan.access}"}[vlan.mode]


def span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}min" if hours else f"{minutes}min {rest:02}s" if minutes else f"{seconds:.1f}s"
