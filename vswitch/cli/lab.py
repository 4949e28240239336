"""`vswitch lab`: a LAN of guests by hand, as a topology file has it; and `vswitch console`, a guest's console."""

import json
import logging
import os
import select
import shlex
import signal
import socket
import sys
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vswitch.cli import daemon, guests, process, signals
from vswitch.cli import image as guest_images
from vswitch.cli.output import complain, in_background, said, say
from vswitch.control import client, operations
from vswitch.control.runtime import BY_HAND, CONSOLE, LAB, SSH
from vswitch.errors import InputError, RefusedError
from vswitch.testing import terminal
from vswitch.testing.boards import X86_64

if TYPE_CHECKING:
    from vswitch.testing.topology import Topology

ESCAPE = b"\x1d"  # Ctrl-], as in telnet
READ_BYTES = 1 << 16
END_TIMEOUT_S, END_POLL_S = 20.0, 0.05
QUIET_S = 3.0  # after the end of what is piped in
STDIN, STDOUT = 0, 1

which = click.option("--name", metavar="NAME", help="Which lab; not needed where only one runs.")


@click.group()
def lab() -> None:
    """Run a LAN of guests by hand.

    A topology file is a configuration file with a [[guest]] table for each guest: see docs/testing.md.
    """


@lab.command()
@click.argument("file", required=False, type=click.Path())
@click.option("-d", "--detach", is_flag=True, help="Go on in the background; return when the guests are up.")
def up(file: str | None, detach: bool) -> None:
    """Start the guests of a topology FILE, on a switch of their own.

    Without FILE: two guests, a and b. At a terminal there is a prompt for Python, with the guests by name, and it runs
    until that is left by Ctrl-D. Elsewhere it runs until Ctrl-C, or `vswitch lab down`.
    """
    guests.check_needs("vswitch lab")
    from vswitch.testing import lab as labs

    topology = labs.topology_of(file)
    with guests.refusing():
        _build_images(topology)
    if detach:
        daemon.detach(partial(_run, topology, say=lambda line: None, prompt=False), os.getcwd())
        say(f"lab {topology.name} is up; to look: vswitch console, vswitch ports; to end it: vswitch lab down")
        return
    number = _run(topology, lambda: None, say=say, prompt=terminal.is_attended())
    if number is not None:
        sys.exit(128 + number)


def _build_images(topology: "Topology") -> None:
    """Ahead: here Ctrl-C ends apt-get, too, and what it has left is removed."""
    from vswitch.testing.machine import image_modules

    for guest in topology.guests:
        if "image" not in guest.options and not guest.options.get("netboot"):
            modules = image_modules(guest.options.get("modules", ()), guest.options.get("share", ()))
            packages, arch = guest.options.get("packages", ()), guest.options.get("arch", X86_64)
            guest_images.built(complain, packages, modules, arch)


def _run(topology: "Topology", ready: Callable[[], None], *, say: Callable[[str], None], prompt: bool) -> int | None:
    """Answers the number of the signal that has ended it, if one has."""
    from vswitch.testing import lab as labs

    async def begun() -> None:
        await said()
        ready()

    with guests.refusing(), in_background("vswitch: %(message)s", level=logging.WARNING):
        return process.run(partial(labs.run, topology, say, begun, prompt=prompt))


@lab.command()
@which
def down(name: str | None) -> None:
    """End a lab that runs, with all its guests."""
    path = _find(name, mark=BY_HAND)
    pid = client.call(path, operations.STATUS).pid
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    over_s = time.monotonic() + END_TIMEOUT_S
    while path.exists():
        if time.monotonic() > over_s:
            raise RefusedError(f"lab {path.stem} does not end; its process is {pid}")
        time.sleep(END_POLL_S)


def _find(name: str | None, *, mark: str = "") -> Path:
    """The control socket of a lab, or of a test, unless a `mark` says which. Raises RefusedError."""
    labs = client.by_name(lambda path: (path.with_suffix(LAB) / mark).exists())
    if name is not None and name not in labs:
        there = f"; there are {', '.join(labs)}" if labs else ""
        raise RefusedError(f"no lab {name!r} is running{there}; start one with: vswitch lab up FILE")
    if not labs:
        raise RefusedError("no lab is running; start one with: vswitch lab up FILE")
    return labs[name] if name is not None else client.only_one(labs, "labs")


@click.command()
@click.argument("guest")
@which
def console(guest: str, name: str | None) -> None:
    """Sit at the console of a GUEST in a lab.

    Or in a test that stands still. Ctrl-] leaves it. Of the tiny guest it is a shell.
    """
    directory = _find(name).with_suffix(LAB)
    with _connected(directory / f"{guest}{CONSOLE}", guest) as stream:
        if os.isatty(STDIN):
            complain(f"The console of {guest}; Ctrl-] leaves it.")
            stream.sendall(b"\n")  # for a prompt
        with _raw_terminal():
            _join(stream)


lab.add_command(console)


@lab.command(context_settings={"allow_interspersed_args": False})
@click.argument("guest")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.option("-l", "--user", metavar="USER", default="root", show_default=True, help="Who to be in the guest.")
@which
def ssh(guest: str, words: tuple[str, ...], user: str, name: str | None) -> None:
    """Open an ssh session in a GUEST of a lab.

    The guest has to run an ssh server. WORDS are ssh's: options, and a command.
    """
    with _connected(_find(name).with_suffix(LAB) / f"{guest}{SSH}", guest) as stream:
        answer = json.loads(stream.makefile().readline() or '{"error": "the lab has ended"}')
    if "error" in answer:
        raise RefusedError(answer["error"])
    line = [*shlex.split(answer["command"]), "-l", user, *words]
    signals.as_usual()
    os.execvp(line[0], line)


@contextmanager
def _connected(path: Path, guest: str) -> Iterator[socket.socket]:
    there = sorted(one.stem for one in path.parent.glob(f"*{path.suffix}"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        try:
            stream.connect(str(path))
        except FileNotFoundError:
            raise InputError(f"there is no guest {guest!r}; there are {', '.join(there) or 'none'}") from None
        except OSError:
            raise RefusedError(f"guest {guest} is not running") from None
        yield stream


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys go to the guest as they are."""
    if not os.isatty(STDIN):
        yield
        return
    try:
        with terminal.kept():
            tty.setraw(STDIN)
            yield
    finally:
        complain("")


def _join(stream: socket.socket) -> None:
    """Passes on both ways until one end is over, or Ctrl-]."""
    reading = [STDIN, stream.fileno()]
    is_piped = not os.isatty(STDIN)
    while True:
        ready, _, _ = select.select(reading, [], [], None if STDIN in reading else QUIET_S)
        if stream.fileno() in ready:
            try:
                data = stream.recv(READ_BYTES)
            except ConnectionError:
                return
            if not data:
                return
            os.write(STDOUT, data)
        if STDIN in ready:
            typed = os.read(STDIN, READ_BYTES)
            keys, escape, _ = (typed, b"", b"") if is_piped else typed.partition(ESCAPE)
            stream.sendall(keys)
            if escape:
                return
            if not typed:
                reading.remove(STDIN)
        if not ready:
            return
