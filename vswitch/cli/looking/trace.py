"""`vswitch trace`: what a running switch would do with a frame, and why."""

import click
import msgspec

from vswitch.cli.capturing.frame_text import describe
from vswitch.cli.looking import frame_argument
from vswitch.cli.names import complete_port
from vswitch.cli.options import asks_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.control.model import TraceRequest
from vswitch.errors import InputError

FRAME_MAX = 30000  # bytes, whose hex a request has room for


@click.command()
@click.argument("port", shell_complete=complete_port)
@click.argument("frame", nargs=-1, required=True)
@asks_switch
def trace(port: str, frame: tuple[str, ...], name: str | None, as_json: bool) -> None:
    """Say what would become of a frame that came in by a port.

    FRAME is hex, @FILE.pcap (or @FILE.pcap:3), or words, in quotes: '52:54:00:00:00:01 > broadcast vlan 10 arp'.
    Nothing is sent, learned or counted.
    """
    data = frame_argument.read(" ".join(frame))
    if len(data) > FRAME_MAX:
        raise InputError(f"the frame has {len(data):,} bytes; {FRAME_MAX:,} at most can be traced")
    found = client.call(client.find(name), operations.TRACE, body=TraceRequest(port=port, frame=data.hex()))
    if as_json:
        say(msgspec.json.encode(found).decode())
        return
    say(describe(data, len(data)))
    for step in found.steps:
        say(f"  {step.step:<9}  {step.text}")
    reached = [one.port for one in found.egress if one.reason is None and not one.mirror]
    say(f"forwarded to {', '.join(reached)}" if found.forwarded else f"dropped: {found.reason}")
