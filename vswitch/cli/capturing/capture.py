"""`vswitch capture`: what passes through a running switch, into a file, a pipe or as text."""

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec

from vswitch import units
from vswitch.cli import signals
from vswitch.cli.capturing.pcapng_text import TextCapture
from vswitch.cli.names import Chosen, choose, complete_port, complete_switch
from vswitch.cli.output import complain, give_up, say
from vswitch.control import capture_requests, client, operations
from vswitch.control.capture_requests import SNAPLEN_MAX
from vswitch.control.operations import Operation
from vswitch.edges.capture_file import CaptureFile, read_rotation
from vswitch.errors import InputError, RefusedError, printable


@click.command()
@click.argument("words", metavar="[PORT]... [FILTER]", nargs=-1, shell_complete=complete_port)
@click.option(
    "-w",
    "--write",
    "file",
    metavar="FILE",
    type=click.Path(),
    help="Write pcapng to a file, or with - to standard output.",
)
@click.option("--text", is_flag=True, help="Print one line a frame. [default, without -w]")
@click.option("--drops", is_flag=True, help="Only frames that were dropped; the comment says why.")
@click.option("-s", "--snaplen", metavar="BYTES", type=int, default=SNAPLEN_MAX, help="Keep so much of each frame.")
@click.option("-c", "--count", metavar="N", type=int, default=0, help="End after N frames.")
@click.option("--duration", metavar="TIME", help="End after so long, like 60s.")
@click.option("--rotate", metavar="LIMIT", multiple=True, help="Begin a new file after 100MB, 60s or 10000frames.")
@click.option("--keep", metavar="N", type=int, help="Keep the last N files.")
@click.option("--lossless", is_flag=True, help="Have forwarding wait rather than miss a frame.")
@click.option("--name", metavar="NAME", shell_complete=complete_switch, help="Which switch, if several are running.")
def capture(
    words: tuple[str, ...],
    file: str | None,
    text: bool,
    drops: bool,
    snaplen: int,
    count: int,
    duration: str | None,
    rotate: tuple[str, ...],
    keep: int | None,
    lossless: bool,
    name: str | None,
) -> None:
    """Show what passes through a switch, or write it to a file.

    That is at all ports, or at those named, what a FILTER in the pcap language lets pass.

    Live in Wireshark: vswitch capture -w - | wireshark -k -i -
    """
    if text and file is not None:
        raise InputError("--text prints to standard output, -w writes pcapng; choose one")
    if (rotate or keep is not None) and file in (None, "-"):
        raise InputError("--rotate and --keep are for files; add -w FILE")
    if rotate or keep is not None:
        read_rotation(rotate, keep)
    path = client.find(name)
    chosen = choose(path, words)
    request = capture_requests.CaptureRequest(
        ports=chosen.ports,
        filter=chosen.filter,
        drops=drops,
        snaplen=snaplen,
        count=count,
        duration_s=None if duration is None else units.duration(duration),
        lossless=lossless,
    )
    if file is None:
        _print(_open(path, operations.CAPTURE, chosen, request))
    elif file == "-":
        _pipe(_open(path, operations.CAPTURE, chosen, request))
    else:
        wanted = capture_requests.FileRequest(path=_told(file), rotate=rotate, keep=keep)
        stream = _open(path, operations.CAPTURE_TO_FILES, chosen, request, wanted)
        _write(stream, _row_of(file) if rotate else file)


@click.command()
@click.argument("file", metavar="FILE", type=click.Path())
@click.argument("words", metavar="[PORT]... [FILTER]", nargs=-1, shell_complete=complete_port)
@click.option("--drops", is_flag=True, help="Only frames that were dropped; the comment says why.")
@click.option("-s", "--snaplen", metavar="BYTES", type=int, default=SNAPLEN_MAX, help="Keep so much of each frame.")
@click.option("--name", metavar="NAME", shell_complete=complete_switch, help="Which switch, if several are running.")
def dump(file: str, words: tuple[str, ...], drops: bool, snaplen: int, name: str | None) -> None:
    """Write what a switch has recorded to a pcapng file.

    It records if it was started with serve --record. With - for FILE, it goes to standard output.
    """
    path = client.find(name)
    chosen = choose(path, words)
    request = capture_requests.CaptureRequest(ports=chosen.ports, filter=chosen.filter, drops=drops, snaplen=snaplen)
    stream = _open(path, operations.RECORDING, chosen, request)
    if file == "-":
        _pipe(stream)
        return
    into = CaptureFile(file, b"", lambda: b"", time.time())
    try:
        for blocks in _whole_blocks(stream):
            into.write(blocks, 1, time.time())
    except client.SwitchEnded as error:
        raise RefusedError(f"{error}; what had come until then is in {file}") from None
    finally:
        into.close()


def _whole_blocks(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The same, cut between pcapng blocks: type and length, 32 bits each, little-endian."""
    rest = b""
    for data in stream:
        rest += data
        at = 0
        while len(rest) >= at + 8 and at + int.from_bytes(rest[at + 4 : at + 8], "little") <= len(rest):
            at += int.from_bytes(rest[at + 4 : at + 8], "little")
        if at:
            yield rest[:at]
        rest = rest[at:]


def _open(
    path: Path,
    operation: Operation[Any],
    chosen: Chosen,
    request: capture_requests.CaptureRequest,
    file: capture_requests.FileRequest | None = None,
) -> client.Stream:
    try:
        return client.Stream(path, operation, request, file)
    except InputError as error:
        raise chosen.explain(error) from None


def _print(stream: client.Stream) -> None:
    shown = TextCapture()
    with ending(stream):
        for data in stream:
            for line in shown.feed(data):
                say(line)
        shown.finish()


def _pipe(stream: client.Stream) -> None:
    if sys.stdout.isatty():
        raise InputError("-w -: pcapng is not for a terminal; pipe it into wireshark -k -i -, or leave -w out")
    with ending(stream):
        for data in stream:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _row_of(file: str) -> str:
    """The files that a rotating capture makes of this name, as a shell finds them."""
    start, end = os.path.splitext(file)
    return f"{start}_*{end}"


def _write(stream: client.Stream, file: str) -> None:
    with ending(stream):
        complain(f"capturing to {printable(file)}; Ctrl-C ends it")
        try:
            last = b"".join(stream).strip()
        except client.SwitchEnded as error:
            raise RefusedError(f"{error}; what passed until then is in {file}") from None
    if not last:  # it ended when we were told to
        return
    summary = msgspec.json.decode(last, type=capture_requests.CaptureSummary)
    if summary.stopped is not None:
        raise RefusedError(summary.stopped)
    missed = f", {summary.missed:,} missed" if summary.missed else ""
    complain(f"{summary.frames:,} frames captured{missed}")


def _told(file: str) -> str:
    """A file's whole path, as the switch is told it. Raises InputError."""
    try:
        return os.fsencode(os.path.join(os.getcwd(), file)).decode()
    except UnicodeDecodeError:
        raise InputError(f"-w {file}: the path is not UTF-8, in which the switch is told it; use -w - > FILE") from None


@contextmanager
def ending(stream: client.Stream) -> Iterator[None]:
    """A signal ends the capture, and what is on the way still comes; a second one ends this at once."""
    before = {}

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stream.end()

    for number in signals.ending():
        before[number] = signal.signal(number, end)
    try:
        yield
    except BrokenPipeError:  # whoever reads it has seen enough
        give_up()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
