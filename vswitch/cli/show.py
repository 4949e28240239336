"""`vswitch status|ports|macs|vlans|failures`: what a running switch says, as a table, or as JSON for programs."""

import io
import shutil
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from vswitch.cli.output import say
from vswitch.control import client, model, runtime
from vswitch.errors import InputError

T = TypeVar("T")


def complete_name(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The switches that may be meant by --name."""
    names = {path.stem for path in runtime.control_sockets()}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def _asks(command: Callable[..., None]) -> Callable[..., None]:
    """The options every command has that asks a running switch."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    return click.option(
        "--name", metavar="NAME", shell_complete=complete_name, help="Which switch, if several are running."
    )(command)


@click.command()
@_asks
def status(name: str | None, as_json: bool) -> None:
    """Say how a switch is doing."""
    shown = _ask(name, "status", as_json, model.Status)
    if shown is None:
        return
    totals = shown.totals
    rows = [
        ("switch", f"{shown.name} (pid {shown.pid}, vswitch {shown.version})"),
        ("data plane", "compiled" if shown.compiled else "pure Python: slow; reinstall to compile it"),
        ("up for", _span(shown.uptime_s)),
        ("ports", str(shown.ports)),
        ("stations", f"{shown.macs:,}"),
        ("moves", f"{shown.mac_moves:,}"),
        ("frames in", f"{totals.rx_frames:,}"),
        ("frames out", f"{totals.tx_frames:,}"),
        ("copies", f"{totals.copies:,}"),
        ("queued", f"{totals.queued_frames:,}"),
        ("dropped", _drops(totals.drops)),
        *([("failures", f"{shown.failures:,}; see: vswitch failures")] if shown.failures else []),
    ]
    table(None, rows)


@click.command()
@_asks
def ports(name: str | None, as_json: bool) -> None:
    """List the ports, their peers and counters."""
    shown = _ask(name, "ports", as_json, list[model.PortInfo])
    if shown is None:
        return
    rows = [
        (
            port.name,
            "up" if port.up else "down",
            port.peer or "-",
            _vlan(port.vlan),
            f"{port.rx_frames:,}",
            f"{port.rx_bytes:,}",
            f"{port.tx_frames:,}",
            f"{port.tx_bytes:,}",
            f"{port.queued_frames:,}",
            _drops(port.drops),
        )
        for port in shown
    ]
    table(("PORT", "LINK", "PEER", "VLAN", "RX FRAMES", "RX BYTES", "TX FRAMES", "TX BYTES", "QUEUED", "DROPPED"), rows)


@click.command()
@_asks
def macs(name: str | None, as_json: bool) -> None:
    """List the stations in the MAC table."""
    shown = _ask(name, "macs", as_json, list[model.MacInfo])
    if shown is None:
        return
    rows = [
        (station.mac, str(station.vlan), station.port, "static" if station.age_s is None else f"{station.age_s:.0f}s")
        for station in shown
    ]
    table(("MAC", "VLAN", "PORT", "AGE"), rows)


@click.command()
@_asks
def vlans(name: str | None, as_json: bool) -> None:
    """List the VLANs that ports have of their own, and who is in them."""
    shown = _ask(name, "vlans", as_json, list[model.VlanInfo])
    if shown is None:
        return
    rows = [(str(vlan.vlan), ", ".join(vlan.untagged) or "-", ", ".join(vlan.tagged) or "-") for vlan in shown]
    table(("VLAN", "UNTAGGED", "TAGGED"), rows)


@click.command()
@_asks
@click.argument("reference", required=False)
def failures(name: str | None, as_json: bool, reference: str | None) -> None:
    """List what has failed beside forwarding, or all there is to know of one, by its reference."""
    shown = _ask(name, "failures", as_json, list[model.FailureInfo])
    if shown is None:
        return
    if reference is None:
        table(
            ("REFERENCE", "COUNT", "WHAT", "ERROR"),
            [(failure.reference, f"{failure.count:,}", failure.what, failure.error) for failure in shown],
        )
        return
    found = [failure for failure in shown if failure.reference == reference]
    if not found:
        there_are = ", ".join(failure.reference for failure in shown) or "none"
        raise InputError(f"there is no failure {reference!r}; there are {there_are}")
    say(f"{found[0].what} has failed, {found[0].count:,} times:\n\n{found[0].details.rstrip()}")


def _ask(name: str | None, resource: str, as_json: bool, kind: type[T]) -> T | None:
    """What the switch answers, or None if it was printed as JSON already."""
    path = client.find(name)
    body = client.get(path, resource)
    answer = client.decode(path, body, kind)
    if not as_json:
        return answer
    say(body.decode())
    return None


def table(heads: tuple[str, ...] | None, rows: list[Any]) -> None:
    """Print rows of cells, under their heads if they have any."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=heads is not None, header_style="bold", pad_edge=False)
    for column in range(len(heads or rows[0])):
        head = heads[column] if heads else ""
        numeric = head.startswith(("RX", "TX", "QUEUED", "AGE", "VLAN"))
        table.add_column(head, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else 10_000  # a pipe has no width to fold to
    printed = io.StringIO()
    Console(file=printed, force_terminal=terminal, width=width, highlight=False).print(table)
    say("\n".join(line.rstrip() for line in printed.getvalue().splitlines()))


def _drops(drops: dict[str, int]) -> str:
    return ", ".join(f"{frames:,} {reason}" for reason, frames in drops.items()) or "-"


def _vlan(vlan: model.Vlan) -> str:
    """A port's VLANs, as its URL has them."""
    if vlan.mode == "trunk":
        tagged = vlan.tagged if vlan.tagged == "all" else ",".join(map(str, vlan.tagged))
        native = [] if vlan.native is None else [f"native {vlan.native}"]
        return " ".join(["trunk", *filter(None, [tagged]), *native])
    return {"transparent": "-", "access": f"{vlan.access}", "qinq": f"qinq {vlan.access}"}[vlan.mode]


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}min" if hours else f"{minutes}min {rest:02}s" if minutes else f"{seconds:.1f}s"
