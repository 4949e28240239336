"""Multicast endpoints: a group of QEMU `socket,mcast=` or `dgram` peers is one port (QEMU net/socket.c).

Every member of a group gets what any of them sends, its own datagrams included, and QEMU's members all send from
the group's port, so that local ones look alike. We send from a socket of its own, and the kernel filters out what
comes from there. The group does its own flooding: what came in by it is not sent to it.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial

import trio

from vswitch.dataplane.datagram import DatagramLink
from vswitch.endpoints import inet
from vswitch.endpoints.comeback import serve_again
from vswitch.endpoints.datagram.addresses import departures
from vswitch.endpoints.datagram.memberships import MARK, strays
from vswitch.endpoints.endpoint import Endpoint, log
from vswitch.endpoints.socket_filter import leave_out
from vswitch.errors import InputError, RefusedError
from vswitch.ports.port import SwitchPort
from vswitch.sparingly import Sparingly
from vswitch.supervision import keep_running

RECEIVE_BUFFER = 1 << 20
SWITCHES_NOTICED = 8  # on one group
STRAYS_S = 10.0  # how often to look for guests that have joined on another interface

_IP_MULTICAST_ALL = 49


class Presence:
    """A switch's mark on a group that the other switches of this machine can see."""

    def __init__(self, sock: socket.socket | None, others: int) -> None:
        self.sock = sock  # gets a datagram for each switch that joins later
        self.others = others


class Multicast(Endpoint):
    """mcast://: one port, up as long as its interface is there."""

    async def run(self, started: Callable[[], None]) -> None:
        port = self.ports.add(self.name, self.name, self.config)
        try:
            await serve_again(self.name, self.url, partial(self._serve, port), started)
        finally:
            self.ports.remove(port)

    async def _serve(self, port: SwitchPort, started: Callable[[], None]) -> None:
        """Be in the group until the interface goes, and the membership with it. Raises InputError, RefusedError."""
        group = f"{self.config.host}:{self.config.port}"
        with contextlib.ExitStack() as stack:
            gone = stack.enter_context(departures())
            here = self._address()
            try:
                receiving, sending = _join(stack, self.config.host, self.config.port, here)
            except OSError as error:
                raise RefusedError(f"cannot join {self.url}: {inet.reason(error)}") from None
            who = "any user of this machine" if inet.is_loopback(here) else "anyone on the network"
            log.warning("%s: %s may join %s", self.name, who, self.url)
            presence = stack.enter_context(_presence(f"{group}/{here}"))
            stack.callback(self.ports.links.unplug, port, "removed")
            async with trio.open_nursery() as nursery:
                link = DatagramLink(receiving, port.port, self.ports.bridge, out=sending, lasting=True)
                self.ports.links.plug(
                    port, link, f"group {group}", nursery.cancel_scope.cancel, is_guest=False, is_uplink=True
                )
                failures, others = self.ports.failures, f"noticing others on {self.url}"
                missed = f"noticing who is not on {self.url}"
                nursery.start_soon(keep_running, failures, others, self._notice_others, presence, name=others)
                nursery.start_soon(keep_running, failures, missed, self._notice_strays, here, name=missed)
                started()
                await gone(here)
                nursery.cancel_scope.cancel()
            self.ports.links.unplug(port, f"the interface with {here} is gone")

    def _address(self) -> str:
        """The address of the interface. Raises InputError, RefusedError."""
        here = inet.interface_address(self.config.iface)
        if here is None:
            raise RefusedError(f"{self.url}: there is no interface {self.config.iface} with an IPv4 address")
        if not inet.is_loopback(here) and not self.config.insecure:
            raise InputError(
                f"{self.url}: anyone on the network could join; add insecure=yes if that is meant, or use "
                "iface=127.0.0.1"
            )
        return here

    async def _notice_others(self, presence: Presence) -> None:
        """Say when another switch is on the group. Two that also meet elsewhere forward in circles."""
        noticed = Sparingly(log)
        message = "%s: another switch is on %s too; make sure that the two are not connected in another way"
        if presence.others:
            noticed.say(message, self.name, self.url)
        if presence.sock is None:
            await trio.sleep_forever()
        else:
            sock = trio.socket.from_stdlib_socket(presence.sock)
            while True:
                await sock.recv(1)
                noticed.say(message, self.name, self.url)

    async def _notice_strays(self, here: str) -> None:
        """Say it, once, when a guest has joined on another interface."""
        while not (found := strays(self.config.host, self.config.port, here)):  # noqa: ASYNC110 (nothing tells)
            await trio.sleep(STRAYS_S)
        log.warning(
            "%s: somebody on this machine is in the group on %s, not on %s, and cannot be heard; give QEMU "
            "mcast=%s:%s,localaddr=%s",
            *(self.name, " and ".join(found), here, self.config.host, self.config.port, here),
        )


@contextlib.contextmanager
def _presence(group: str) -> Iterator[Presence]:
    """Leave a mark, an abstract unix socket, and tell those who have left theirs before."""
    mine: socket.socket | None = None
    others = 0
    with contextlib.ExitStack() as stack:
        for number in range(SWITCHES_NOTICED):
            name = f"\0{MARK}/{group}/{number}"
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            if mine is None:
                with contextlib.suppress(OSError):  # somebody has it
                    sock.bind(name)
                    mine = sock
                    continue
            try:
                sock.sendto(b"!", name)
                others += 1
            except BlockingIOError:
                others += 1  # it has been told often enough
            except OSError:
                pass  # nobody
        yield Presence(mine, others)


def _join(stack: contextlib.ExitStack, group: str, port: int, here: str) -> tuple[socket.socket, socket.socket]:
    """A socket that receives what others send to the group, and one that sends to it. Raises OSError."""
    receiving, sending = (
        stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) for _ in range(2)
    )
    interface = socket.inet_aton(here)
    sending.bind((here, 0))
    sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
    sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    sending.connect((group, port))
    receiving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    leave_out(receiving, *sending.getsockname())
    receiving.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    receiving.bind((group, port))
    receiving.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + interface)
    return receiving, sending
