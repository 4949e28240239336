"""`vswitch plug`: standard input and output as a port, so that whatever carries bytes joins two LANs."""

import errno
import fcntl
import os
import queue
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import click

from vswitch.cli.joining.port import plug as plug_in
from vswitch.cli.options import names_switch
from vswitch.errors import InputError, RefusedError

STDIN, STDOUT = 0, 1
PIECE = 1 << 18
PIPE_SIZE = 1 << 20  # what /proc/sys/fs/pipe-max-size lets everybody have
FRAME_MAX = 69_632  # QEMU's NET_BUFSIZE
GONE = "it was detached, the switch has ended, or what came in were no frames"


@click.command()
@click.argument("parameters", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--port", metavar="NAME", help="What the port is called.")
@click.option("--vde", is_flag=True, help="Frames as vde_plug has them: each after its length in two bytes.")
@names_switch
def plug(parameters: tuple[str, ...], port: str | None, vde: bool, name: str | None) -> None:
    """Make standard input and output a port of a running switch.

    Each frame comes after its length in four bytes, as QEMU has it. So this joins the LANs of two machines, and either
    end may be something else that speaks it:

    \b
      mkfifo back; vswitch plug <back | ssh HOST vswitch plug >back

    Parameters are those of a URL: vlan=10. The port goes when standard input ends.
    """
    if os.isatty(STDIN) or os.isatty(STDOUT):
        raise InputError(
            "plug: standard input and output carry frames, and a terminal has none; see vswitch plug --help"
        )
    for end in (STDIN, STDOUT):
        os.set_blocking(end, True)  # whoever made it may have wanted something else
        with suppress(OSError):  # not a pipe, or not as large
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    called, cable = plug_in(name, port, parameters)
    click.echo(f"{called} is plugged in", err=True)
    up, down = (_to_switch_vde, _from_switch_vde) if vde else (_to_switch, _from_switch)
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    with cable:
        for way, if_broken in ((up, GONE), (down, "")):  # or nobody reads standard output any more
            work = partial(_carry, way, cable, if_broken, ended)
            threading.Thread(target=work, daemon=True).start()
        why = ended.get()
    if why:
        raise RefusedError(f"{called} is gone: {why}")


def _carry(
    way: Callable[[socket.socket], str], cable: socket.socket, if_broken: str, ended: "queue.SimpleQueue[str]"
) -> None:
    """One way to its end; then says why it has come: nothing, if that is as it should be."""
    try:
        ended.put(way(cable))
    except BrokenPipeError:
        ended.put(if_broken)
    except ConnectionResetError:
        ended.put(GONE)
    except OSError as error:
        ended.put(error.strerror or str(error))


def _to_switch(cable: socket.socket) -> str:
    _move(STDIN, cable.fileno())
    return ""


def _from_switch(cable: socket.socket) -> str:
    _move(cable.fileno(), STDOUT)
    return GONE


def _move(source: int, target: int) -> None:
    """All bytes there are; between a pipe and a socket the kernel carries them (splice(2))."""
    while True:
        try:
            # It must not wait inside: the pipe is locked meanwhile, also for who has its other end.
            if not os.splice(source, target, PIECE, flags=os.SPLICE_F_NONBLOCK):
                return
        except BlockingIOError:
            _wait(source, select.POLLIN)
            _wait(target, select.POLLOUT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break  # neither is a pipe
    while data := os.read(source, PIECE):
        _write(target, data)


def _wait(descriptor: int, event: int) -> None:
    waiting = select.poll()
    waiting.register(descriptor, event)
    waiting.poll()


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _to_switch_vde(cable: socket.socket) -> str:
    for frame in _frames(STDIN, 2):
        cable.sendall(len(frame).to_bytes(4) + frame)
    return ""


def _from_switch_vde(cable: socket.socket) -> str:
    for frame in _frames(cable.fileno(), 4):
        if len(frame) < 1 << 16:
            _write(STDOUT, len(frame).to_bytes(2) + frame)
    return GONE


def _frames(source: int, prefix: int) -> Iterator[bytes]:
    """Each comes after its length in `prefix` bytes; one that is cut is none."""
    data = b""
    while piece := os.read(source, PIECE):
        data += piece
        at = 0
        while len(data) >= at + prefix:
            size = int.from_bytes(data[at : at + prefix])
            if size > FRAME_MAX:
                return
            if len(data) < at + prefix + size:
                break
            yield data[at + prefix : at + prefix + size]
            at += prefix + size
        data = data[at:]
