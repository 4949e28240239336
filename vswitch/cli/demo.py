"""`vswitch demo`: two tiny guests on a new switch find and ping each other, and what they said is shown.

With `--user` they do what a user network is for: have addresses by DHCP and names, reach this machine, and are reached.
"""

import logging
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import click
import trio

from vswitch.cli import guests, process, table
from vswitch.cli import image as guest_images
from vswitch.cli.capturing.pcapng_text import TextCapture
from vswitch.cli.looking.flows import COLUMNS as FLOW_COLUMNS
from vswitch.cli.looking.user_network import show_leases
from vswitch.cli.output import in_background, said, say
from vswitch.control import text
from vswitch.control.capture_requests import CaptureRequest
from vswitch.endpoints.url import NETWORK_DEFAULT
from vswitch.endpoints.user import forward as forwards
from vswitch.errors import RefusedError, printable

if TYPE_CHECKING:
    from vswitch.testing import Guest, GuestImage, Lan

NAMES = "abcdefgh"
SERVER = "web"  # with --user, the last of the guests
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
ANSWER_TIMEOUT_S = 60.0
NEXT = """\
Next: vswitch serve                            # and paste the lines it prints into your own guests
or, with pytest:
      async def test_two_guests(lan): ...      # see docs/testing.md"""
NEXT_USER = f"""\
Next: vswitch serve                            # has such a network; paste the lines it prints into your own guests
      vswitch leases                           # who has which address
      vswitch forward add tcp:127.0.0.1:8080-{SERVER}:80
      vswitch forwards                         # where each leads
      vswitch ssh root@{SERVER}                     # see docs/user-network.md"""


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
@click.option("--user", is_flag=True, help="On a user network: DHCP, names, NAT and a forward.")
def demo(count: int, user: bool) -> None:
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
            number = process.run(_demo, Lan(), image, count, user)
    if number is not None:
        sys.exit(128 + number)


async def _demo(lan: "Lan", image: "GuestImage", count: int, user: bool) -> None:
    async with lan:
        failed = await (_show_user_network if user else _show_lan)(lan, image, count)
        if failed:
            raise RefusedError(f"{', '.join(failed)}: above is what passed")
        say(f"\n{NEXT_USER if user else NEXT}")
    await said()


async def _show_lan(lan: "Lan", image: "GuestImage", count: int) -> list[str]:
    """Answers what has failed."""
    machines = await _boot(lan, image, NAMES[:count])
    failed = []
    for guest, other in pairwise(machines):
        failed += await _run(guest, f"ping -c 3 {other.ip}")
    say("\nOn the wire, as each frame came in by a port and went out by others:")
    await _show_wire(lan)
    say("\nWhat the switch has learned:")
    await _show_stations(lan)
    return failed


async def _show_user_network(lan: "Lan", image: "GuestImage", count: int) -> list[str]:
    """Answers what has failed."""
    await lan.switch.attach(f"user://{NETWORK_DEFAULT}?host_access=yes&ipv6=no")
    machines = await _boot(lan, image, [*NAMES[: count - 1], SERVER], ip="")
    failed = []
    for guest in machines:
        failed += await _run(guest, "udhcpc -n -q")
    for guest, other in pairwise(machines):
        failed += await _run(guest, f"ping -c 1 {other.name}.lan")
    failed += await _run(machines[0], f"nslookup {SERVER}.lan")
    async with _page("Hello from this machine\n") as port:
        failed += await _run(machines[0], f"wget -q -O - http://host.lan:{port}/")
    failed += await _run(machines[-1], f"echo Hello from {SERVER} >/tmp/index.html; httpd -h /tmp")
    failed += await _fetch_by_forward(lan)
    say("\nWhat passed, as `vswitch flows` says it. Guests reach each other without the user network, user1:")
    flows = await lan.switch.captures.flows()
    table.show(FLOW_COLUMNS, [text.flow_row(flow, time.time()) for flow in reversed(flows.flows)])
    say("\nWho has which address, as `vswitch leases` says it:")
    show_leases(lan.switch.user_networks.leases())
    return failed


async def _boot(lan: "Lan", image: "GuestImage", names: Sequence[str], **options: str) -> "tuple[Guest, ...]":
    """The guests, side by side."""
    hosts = lan.network.hosts()
    listed = _listed([name if "ip" in options else f"{name} ({next(hosts)})" for name in names])
    say(f"A switch, and {NUMBERS[len(names)]} guests, {listed}, are booting ... ", end="")
    begun = time.monotonic()
    try:
        machines = await lan.boot(*names, image=image, **options)
    except Exception:
        say("")  # what follows begins a line of its own
        raise
    say(f"{time.monotonic() - begun:.1f} s\n")
    return machines


async def _run(guest: "Guest", command: str) -> list[str]:
    """Shows what a guest does, and what that says; answers what has failed."""
    say(f"{guest.name}$ {command}")
    result = await guest.run(command, timeout=ANSWER_TIMEOUT_S)
    for line in (result.stdout + result.stderr).strip().splitlines():
        say(printable(line.expandtabs()))
    return [] if result.ok else [f"{guest.name}: no success with {command}"]


@asynccontextmanager
async def _page(content: str) -> AsyncIterator[int]:
    """Answers all requests to a port of this machine's loopback."""

    async def answer(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some()
            await stream.send_all(f"HTTP/1.0 200 OK\r\n\r\n{content}".encode())

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _fetch_by_forward(lan: "Lan") -> list[str]:
    """Shows the page of the guest that has one; answers what has failed."""
    info = await lan.switch.user_networks.forward(f"tcp::0-{SERVER}:80")
    say(f"\nFrom this machine, by the forward {info.forward}:")
    received = b""
    with trio.move_on_after(ANSWER_TIMEOUT_S), suppress(OSError, trio.BrokenResourceError):
        async with await trio.open_tcp_stream("127.0.0.1", forwards.read(info.forward).host_port) as stream:
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            async for data in stream:
                received += data
    page = received.partition(b"\r\n\r\n")[2].decode(errors="replace")
    for line in page.splitlines():
        say(printable(line))
    return [] if page else [f"this machine got no page from {SERVER}"]


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
