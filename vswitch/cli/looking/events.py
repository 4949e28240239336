"""`vswitch events`: what happened on a running switch, and what is wrong with its LAN."""

import time
from collections.abc import Iterable, Iterator

import click

from vswitch.cli.options import names_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.model import EventsRequest
from vswitch.errors import InputError
from vswitch.ports.event import KINDS, Event
from vswitch.values import instead

DATA = b"data: "


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--code", "codes", metavar="CODE", multiple=True, help="Only events of this code; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --follow, an object a line.")
@names_switch
def events(follow: bool, codes: tuple[str, ...], as_json: bool, name: str | None) -> None:
    """Say what happened, and what is wrong.

    Guests with one MAC address, loops, drops, guests that are silent: each event has a code, and says what to do.
    """
    for code in codes:
        if code not in KINDS:
            raise InputError(f"there is no event {code!r}; {instead(code, KINDS)}")
    path, request = client.find(name), EventsRequest(code=codes)
    if follow:
        for line in _data(client.Stream(path, operations.FOLLOW_EVENTS, request)):
            say(line.decode() if as_json else _line(client.read(path, Event, line)))
        return
    body = client.ask(path, operations.EVENTS, request)
    if as_json:
        say(body.decode())
        return
    for event in client.decode(path, operations.EVENTS, body):
        say(_line(event))


def _data(stream: Iterable[bytes]) -> Iterator[bytes]:
    """What server-sent events carry."""
    rest = b""
    for portion in stream:
        *lines, rest = (rest + portion).split(b"\n")
        yield from (line.removeprefix(DATA) for line in lines if line.startswith(DATA))


def _line(event: Event) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(event.time_s))
    more = f" (and {event.repeats} more before)" if event.repeats else ""
    return f"{when} {event.code}: {event.text}{more}"
