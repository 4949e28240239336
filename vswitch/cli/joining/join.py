"""`vswitch join`: this machine's LAN and another's, by ssh."""

import shlex
import shutil
import socket
import subprocess
import time
from urllib.parse import urlsplit

import click

from vswitch.cli import signals
from vswitch.cli.joining.port import plug
from vswitch.cli.options import names_switch
from vswitch.errors import InputError, RefusedError, VSwitchError

EXAMPLE = "ssh://me@host"
RETRY_MIN_S, RETRY_MAX_S = 1.0, 30.0
HELD_S = 10.0  # a first connection that ends sooner is a mistake of whoever asked for it
STABLE_S = 60.0
ALIVE_S, MISSED_MAX = 5, 3  # a host that says nothing for so long, so many times, is gone
WHY = {  # the statuses of ssh, and of a shell (POSIX), that say so
    255: "no connection",
    127: "there is no vswitch; say where it is by --remote-program",
    126: "vswitch may not be run there",
}


@click.command()
@click.argument("url", metavar="ssh://[USER@]HOST[:PORT]")
@click.argument("parameters", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--port", metavar="NAME", help="What the port is called here.")
@click.option("--remote-name", metavar="NAME", help="Which switch there, if several are running.")
@click.option("--remote-program", metavar="PATH", default="vswitch", help="Where vswitch is there.")
@names_switch
def join(
    url: str,
    parameters: tuple[str, ...],
    port: str | None,
    remote_name: str | None,
    remote_program: str,
    name: str | None,
) -> None:
    """Join the LAN of another machine, by ssh.

    ssh carries the frames to `vswitch plug` there, until Ctrl-C. When a connection is lost that has held for a while,
    it is made again. Parameters are those of a URL, for the port here: vlan=10.
    """
    line = _command(url, remote_program, remote_name)
    signals.raised()  # which ends ssh, too
    pause_s, has_joined = RETRY_MIN_S, False
    while True:
        since_s = time.monotonic()
        try:
            _, cable = plug(name, port, parameters)
            status = _carry(line, cable)
            why = WHY.get(status, f"vswitch plug has ended there, with status {status}")
            if not has_joined and status > 0 and time.monotonic() - since_s < HELD_S:
                raise RefusedError(f"{url}: {why}")
        except VSwitchError as error:
            if not has_joined:
                raise
            why = str(error)  # the switch here may come back
        has_joined = True
        if time.monotonic() - since_s > STABLE_S:
            pause_s = RETRY_MIN_S
        click.echo(f"{url}: {why}; joining again in {pause_s:g} s", err=True)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, RETRY_MAX_S)


def _command(url: str, program: str, name: str | None) -> list[str]:
    """ssh's command line. Raises InputError and RefusedError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"{url}: {error}") from None
    if parts.scheme != "ssh" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.password:
        raise InputError(f"{url}: write it like {EXAMPLE}")
    if shutil.which("ssh") is None:
        raise RefusedError("ssh is missing; install it (Debian and Ubuntu: package openssh-client)")
    host = parts.netloc if port is None else parts.netloc.removesuffix(f":{port}")  # as it is spelled
    host = host.replace("[", "").replace("]", "")
    alive = [f"-oServerAliveInterval={ALIVE_S}", f"-oServerAliveCountMax={MISSED_MAX}"]
    remote = [program, "plug", *([] if name is None else ["--name", name])]
    return ["ssh", "-T", *alive, *([] if port is None else ["-p", str(port)]), "--", host, shlex.join(remote)]


def _carry(line: list[str], cable: socket.socket) -> int:
    """Until ssh ends; its status."""
    with cable:
        return subprocess.run(line, stdin=cable.fileno(), stdout=cable.fileno(), check=False).returncode
