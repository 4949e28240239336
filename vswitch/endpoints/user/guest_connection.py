"""Connections of guests to servers that are programs, sockets or ports of this machine."""

import os
import shlex
import signal
import socket
import subprocess
from contextlib import suppress

import trio

from vswitch.endpoints.endpoint import log
from vswitch.endpoints.user.guest_forward import GuestForward
from vswitch.errors import printable

CONNECT_S = 10.0
PIECE = 1 << 16


async def serve(forward: GuestForward, who: str, sock: socket.socket) -> None:
    """One connection of a guest's, to its end."""
    try:
        if forward.kind == "cmd":
            await _run(shlex.split(forward.target), sock)
        else:
            await _join(sock, forward)
    except trio.TooSlowError:
        log.warning("%s: guestfwd: %s does not answer", who, printable(forward.target))
    except OSError as error:
        log.warning("%s: guestfwd: %s: %s", who, printable(forward.target), error.strerror or error)
    finally:
        sock.close()


async def _run(command: list[str], sock: socket.socket) -> None:
    """It ends with the network, and all that it has started in its session."""
    sock.setblocking(True)  # which is what programs expect
    process = await trio.lowlevel.open_process(
        command, stdin=sock.fileno(), stdout=sock.fileno(), stderr=subprocess.DEVNULL, start_new_session=True
    )
    sock.close()
    try:
        await process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


async def _join(sock: socket.socket, forward: GuestForward) -> None:
    sock.setblocking(False)
    here = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    with trio.fail_after(CONNECT_S):
        there = await _connect(forward)
    async with here, there, trio.open_nursery() as nursery:
        nursery.start_soon(_pump, there, here, nursery.cancel_scope)
        await _pump(here, there, nursery.cancel_scope)


async def _connect(forward: GuestForward) -> trio.SocketStream:
    if forward.kind == "unix":
        return await trio.open_unix_socket(forward.target)
    host, _, port = forward.target.rpartition(":")
    return await trio.open_tcp_stream(host.strip("[]"), int(port))


async def _pump(source: trio.SocketStream, target: trio.SocketStream, both: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some(PIECE):
            await target.send_all(data)
        await target.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        both.cancel()
