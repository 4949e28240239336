"""Which process a peer is, for people.

The kernel says at once who is behind a unix socket. Of an internet one it says the inode, by sock_diag; who has that
open is found by a look at all descriptors of this user's processes (proc(5)), which takes long on a large machine. So
that is not done when a peer comes, but when somebody asks for the ports: once for each peer, in a thread, and for a
moment only. A peer that is not found is known by its address alone.
"""

import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import trio

from vswitch.dataplane.datagram import PeerLink
from vswitch.dataplane.link import Link, StreamLink
from vswitch.endpoints import inet
from vswitch.endpoints.sock_diag import Address, SockDiag, plain_address
from vswitch.endpoints.unix_socket import process_text
from vswitch.errors import RefusedError
from vswitch.ports.port import SwitchPort

SEARCH_S = 1.0


class _Ends(NamedTuple):
    """What joins the switch to an address of this machine."""

    kind: socket.SocketKind
    family: int
    here: Address
    there: Address


class PeerProcesses:
    """Finds the processes of a switch's loopback peers."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(1)  # whatever holds up those that write files

    async def find(self, ports: Iterable[SwitchPort]) -> None:
        """Have ports say which process their peer is, as far as that can be told."""
        sought = {}
        for port in ports:
            if port.link is not None and port.process is None:
                port.process = ""
                if ends := _ends(port.link):
                    sought[port] = port.link, ends
        if not sought:
            return
        search = partial(_search, [ends for _, ends in sought.values()], time.monotonic() + SEARCH_S)
        found = await trio.to_thread.run_sync(search, abandon_on_cancel=True, limiter=self._threads)
        for port, (link, ends) in sought.items():
            if port.link is link:
                port.process = found.get(ends, "")


def _ends(link: Link) -> _Ends | None:
    """Those of a link, if its peer is on this machine and has an internet socket."""
    with suppress(OSError):  # it is gone
        if isinstance(link, PeerLink):
            sock, there = link.shared.sock, link.address
        elif isinstance(link, StreamLink) and link.sock.family != socket.AF_UNIX:
            sock, there = link.sock, link.sock.getpeername()
        else:
            return None
        if sock.family != socket.AF_UNIX and inet.is_loopback(there[0]):
            return _Ends(sock.type, sock.family, sock.getsockname()[:2], there[:2])
    return None


def _search(sought: Iterable[_Ends], until_s: float) -> dict[_Ends, str]:
    """The processes at the other ends, those that are found in time."""
    wanted: dict[str, _Ends] = {}
    with suppress(OSError, RefusedError), SockDiag() as sock_diag:
        for ends in sought:
            if ends.kind == socket.SOCK_DGRAM:
                peer = sock_diag.sender(plain_address(ends.there), plain_address(ends.here))
            else:
                peer = sock_diag.peer(ends.family, ends.here, ends.there)
            if peer is not None:
                wanted[f"socket:[{peer.inode}]"] = ends
            if time.monotonic() > until_s:
                break
    found: dict[_Ends, str] = {}
    for pid, file in _open_files() if wanted else ():
        ends_of = wanted.get(file)
        if ends_of is not None and ends_of not in found and (process := process_text(pid)) is not None:
            found[ends_of] = process
        if len(found) == len(wanted) or time.monotonic() > until_s:
            break
    return found


def _open_files() -> Iterator[tuple[int, str]]:
    """What processes have open, those that we may look into: number, and a text as of a symbolic link."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        directory = f"/proc/{pid}/fd"
        with suppress(OSError):  # it is another user's, or has ended
            for descriptor in os.listdir(directory):
                with suppress(OSError):
                    yield int(pid), os.readlink(f"{directory}/{descriptor}")
