"""`vswitch demo`: two tiny guests on a new switch find and ping each other, and what they said is shown."""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from itertools import pairwise
from typing import TYPE_CHECKING

import click
import trio

from vswitch.cli import guests, process
from vswitch.cli import image as guest_images
from vswitch.cli.capturing.pcapng_text import TextCapture
from vswitch.cli.output import in_background, said, say
from vswitch.control import text
from vswitch.control.capture_requests import CaptureRequest
from vswitch.errors import RefusedError, printable

if TYPE_CHECKING:
    from vswitch.testing import Guest, GuestImage, Lan

NAMES = "abcdefgh"
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
PING_TIMEOUT_S = 60.0
NEXT = """\
Next: vswitch serve                            # and paste the lines it prints into your own guests
or, with pytest:
      async def test_two_guests(lan): ...      # see docs/testing.md"""


@click.command()
@click.option(
    "-n",
    "--guests",
    "count",
    metavar="N",
    type=click.IntRange(2, len(NAMES)),
    default=2,
    help="So many guests, each of which pings the next. [default: 2]",
)
def demo(count: int) -> None:
    """Boot two tiny guests, and show how they find each other.

    They are on a switch of their own. Takes QEMU and some seconds, and no root. Nothing is left behind but the guests'
    image in ~/.cache/vswitch.
    """
    guests.check_needs("vswitch demo")  # before an image is built for nothing
    from vswitch.testing.lan import Lan

    with guests.refusing():
        # Not in one of trio's threads: Ctrl-C ends apt-get, too, and what it has left is removed.
        image = guest_images.built(say)
        with in_background("vswitch: %(message)s", level=logging.WARNING):
            number = process.run(_demo, Lan(), image, count)
    if number is not None:
        sys.exit(128 + number)


async def _demo(lan: "Lan", image: "GuestImage", count: int) -> None:
    async with lan:
        await _show(lan, image, count)
    await said()


async def _show(lan: "Lan", image: "GuestImage", count: int) -> None:
    machines = await _boot(lan, image, count)
    unanswered = []
    for guest, other in pairwise(machines):
        command = f"ping -c 3 {other.ip}"
        say(f"{guest.name}$ {command}")
        result = await guest.run(command, timeout=PING_TIMEOUT_S)
        for line in (result.stdout + result.stderr).strip().splitlines():
            say(printable(line))
        if not result.ok:
            unanswered.append(f"{guest.name} got no answer from {other.name}")
    say("\nOn the wire, as each frame came in by a port and went out by others:")
    await _show_wire(lan)
    say("\nWhat the switch has learned:")
    await _show_stations(lan)
    if unanswered:
        raise RefusedError(f"{', '.join(unanswered)}: above is what passed")
    say(f"\n{NEXT}")


async def _boot(lan: "Lan", image: "GuestImage", count: int) -> "list[Guest]":
    """The guests, side by side."""
    addresses = dict(zip(NAMES, map(str, lan.network.hosts()), strict=False))
    names = NAMES[:count]
    listed = _listed([f"{name} ({addresses[name]})" for name in names])
    say(f"A switch, and {NUMBERS[count]} guests, {listed}, are booting ... ", end="")
    begun = time.monotonic()

    async def boot(name: str) -> None:
        await lan.guest(name, ip=addresses[name], image=image)

    try:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(boot, name)
    except Exception:
        say("")  # what follows begins a line of its own
        raise
    say(f"{time.monotonic() - begun:.1f} s\n")
    return [lan.guests[name] for name in names]


async def _show_wire(lan: "Lan") -> None:
    """Every frame: the guests send nothing unasked."""
    frames = TextCapture()
    async with aclosing(lan.switch.captures.recorded(CaptureRequest())) as blocks:
        async for data in blocks:
            for line in frames.feed(data):
                say(line)
    frames.finish()


async def _show_stations(lan: "Lan") -> None:
    """As `vswitch macs` does."""
    say(f"{'MAC':17}  VLAN  PORT  AGE")
    for station in await lan.switch.macs():
        say(f"{station.mac:17}  {station.vlan:4}  {station.port:4}  {text.age(station):>3}")


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
