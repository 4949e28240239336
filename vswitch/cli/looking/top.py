"""`vswitch top`: what passes at each port, second by second."""

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import click

from vswitch import units
from vswitch.cli import table
from vswitch.cli.looking.show import link
from vswitch.cli.options import names_switch
from vswitch.cli.table import Column
from vswitch.control import client, operations
from vswitch.control.model import PortInfo
from vswitch.errors import InputError

COLUMNS = (
    Column("PORT"),
    Column("LINK", 4),
    Column("RX BIT/S", right=True),
    Column("RX FRAMES/S", 2, right=True),
    Column("TX BIT/S", right=True),
    Column("TX FRAMES/S", 2, right=True),
    Column("QUEUED", 1, right=True),
    Column("DROPS/S", 1, right=True),
    Column("MACS", 3, right=True),
    Column("MAIN REASON", 5),
)
INTERVAL_MIN_S, INTERVAL_MAX_S = 0.1, 3600.0
LINES_AROUND = 4  # of a terminal that are not ports


class Rates(NamedTuple):
    """A port, and what it did a second since it was looked at last."""

    port: PortInfo
    rx_frames: float
    rx_bits: float
    tx_frames: float
    tx_bits: float
    drops: float
    main_reason: str


class Order(NamedTuple):
    """A way to sort, and the key to press for it."""

    key: str
    by: Callable[[Rates], Any]


ORDERS = {
    "name": Order("n", lambda rates: ()),  # as they came
    "rx": Order("r", lambda rates: -rates.rx_bits),
    "tx": Order("t", lambda rates: -rates.tx_bits),
    "queue": Order("u", lambda rates: -rates.port.queued_bytes),
    "drops": Order("d", lambda rates: -rates.drops),
    "macs": Order("m", lambda rates: -rates.port.macs),
}
KEYS = {order.key: name for name, order in ORDERS.items()}


@click.command()
@click.option("--sort", type=click.Choice(list(ORDERS)), default="name", help="What to sort by at first.")
@click.option("--interval", metavar="TIME", default="1s", help="How long to count. [default: 1s]")
@click.option("--count", metavar="N", type=click.IntRange(1), help="Look N times. [default: until q; 1 in a pipe]")
@names_switch
def top(sort: str, interval: str, count: int | None, name: str | None) -> None:
    """Show what passes at each port, live.

    Keys: n, r, t, u, d, m sort by name, RX, TX, queue, drops, MACs; q quits.
    """
    try:
        interval_s = units.duration(interval)
    except InputError as error:
        raise InputError(f"--interval: {error}") from None
    if not INTERVAL_MIN_S <= interval_s <= INTERVAL_MAX_S:
        raise InputError(f"--interval: {interval} is out of range; {INTERVAL_MIN_S:g}s to {INTERVAL_MAX_S:g}s")
    looks = _looks(client.find(name), interval_s)
    first = next(looks)
    if table.is_terminal():
        _live(first, looks, sort, count, interval_s)
        return
    for _ in range(count or 1):
        time.sleep(interval_s)
        table.show(COLUMNS, _rows(next(looks), sort))


def _looks(path: Path, interval_s: float) -> Iterator[list[Rates]]:
    """What each look at a switch shows, the first nothing: there is no time before it."""
    before: Sequence[PortInfo] = ()
    before_s = time.monotonic() - interval_s
    while True:
        now, now_s = client.call(path, operations.PORTS), time.monotonic()
        yield rates(before, now, now_s - before_s)
        before, before_s = now, now_s


def rates(before: Sequence[PortInfo], now: Sequence[PortInfo], seconds: float) -> list[Rates]:
    """What each port did, a second; a port that is new did nothing yet."""
    known = {port.name: port for port in before}
    found = []
    for port in now:
        old = known.get(port.name, port)
        if old.rx_frames > port.rx_frames or old.tx_frames > port.tx_frames:  # another one of that name
            old = port
        drops = {reason: frames - old.drops.get(reason, 0) for reason, frames in port.drops.items()}
        per_s = 1 / max(seconds, 1e-3)
        found.append(
            Rates(
                port,
                (port.rx_frames - old.rx_frames) * per_s,
                (port.rx_bytes - old.rx_bytes) * 8 * per_s,
                (port.tx_frames - old.tx_frames) * per_s,
                (port.tx_bytes - old.tx_bytes) * 8 * per_s,
                sum(drops.values()) * per_s,
                max(drops, key=lambda reason: drops[reason]) if any(drops.values()) else "-",
            )
        )
    return found


def _rows(found: list[Rates], sort: str) -> list[tuple[str, ...]]:
    return [
        (
            it.port.name,
            link(it.port),
            short(it.rx_bits),
            short(it.rx_frames),
            short(it.tx_bits),
            short(it.tx_frames),
            short(it.port.queued_frames),
            short(it.drops),
            f"{it.port.macs:,}",
            it.main_reason,
        )
        for it in sorted(found, key=ORDERS[sort].by)
    ]


def short(number: float) -> str:
    """A number in three digits or so: 0, 950, 1.2k, 34M."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 999.5 or unit == "T":
            return f"{number:.1f}{unit}" if unit and number < 9.95 else f"{number:.0f}{unit}"
        number /= 1000
    raise AssertionError


def _live(found: list[Rates], looks: Iterator[list[Rates]], sort: str, count: int | None, interval_s: float) -> None:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    with _keys() as read_key, Live(console=console, screen=True, auto_refresh=False) as live:
        shown = 0
        due_s = time.monotonic() + interval_s
        while True:
            if time.monotonic() >= due_s:
                found = next(looks)
                shown += 1
                due_s = time.monotonic() + interval_s
            size = shutil.get_terminal_size()
            room = max(1, size.lines - LINES_AROUND)
            drawn, _ = table.made(COLUMNS, _rows(found, sort)[:room], size.columns)
            more = f", {len(found) - room} more" if len(found) > room else ""
            keys = " ".join(f"{order.key}:{name}" for name, order in ORDERS.items())
            foot = Text(f"{len(found)} ports{more}, by {sort}   {keys} q:quit"[: size.columns])
            live.update(Group(drawn, Text(), foot), refresh=True)
            if count is not None and shown >= count:
                return
            key = read_key(max(0.0, due_s - time.monotonic()))
            if key == "q":
                return
            sort = KEYS.get(key, sort)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that answers the key pressed within some seconds, or nothing."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield _no_key
        return
    fd = sys.stdin.fileno()
    try:
        before = termios.tcgetattr(fd)
        tty.setcbreak(fd)
    except termios.error:  # the terminal is gone
        yield _no_key
        return

    def read_key(seconds: float) -> str:
        ready, _, _ = select.select([fd], [], [], seconds)
        if ready and (pressed := os.read(fd, 1)):
            return pressed.decode(errors="replace")
        return _no_key(seconds if ready else 0.0)  # its end is always ready

    try:
        with _ended_by_signals():
            yield read_key
    finally:
        with suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have signals end a block as errors do, so that it leaves the terminal as it was."""

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
