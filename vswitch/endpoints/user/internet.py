"""An internet that is made up: names, and servers that are functions of this process."""

import itertools
import json
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

import trio

from vswitch.errors import RefusedError

SERVERS_MAX = 256
FIRST = 1 << 16  # their numbers are above those of servers that are written down
NAMES_MAX = 1024

Address = IPv4Address | IPv6Address
Handler = Callable[[trio.SocketStream], Awaitable[object]]


class Internet:
    """What is made up stays so as long as the network does."""

    def __init__(self) -> None:
        self._numbers = itertools.count(FIRST)
        self._handlers: dict[int, Handler] = {}
        self._places: dict[tuple[Address, int], int] = {}
        self._words: dict[tuple[object, ...], bytes] = {}  # what a process is to be told, in this order
        self.say: Callable[[bytes], None] = _nobody_hears  # a word to the process, at once

    def serve(self, ip: Address, port: int, handler: Handler) -> None:
        """Have a function take each connection to a TCP port; the last one that was given. Raises RefusedError."""
        if (ip, port) not in self._places:
            if len(self._places) >= SERVERS_MAX:
                raise RefusedError(f"there are {SERVERS_MAX} servers already")
            number = self._places[ip, port] = next(self._numbers)
            self._say((ip, port), ["serve", number, str(ip), port])
        self._handlers[self._places[ip, port]] = handler

    def name(self, name: str, ips: Iterable[Address]) -> None:
        """Have a name stand for addresses, or for none. Raises RefusedError."""
        if (name,) not in self._words and len(self._words) - len(self._places) >= NAMES_MAX:
            raise RefusedError(f"there are {NAMES_MAX} names already")
        self._words.pop((name,), None)
        self._say((name,), ["name", name.rstrip(".").lower(), [str(ip) for ip in ips]])

    def handler(self, number: int) -> Handler | None:
        return self._handlers.get(number)

    async def tell(self, say: Callable[[bytes], Awaitable[None]]) -> None:
        """Everything, to a new process."""
        for key in list(self._words):
            await say(self._words[key])

    def _say(self, key: tuple[object, ...], word: list[object]) -> None:
        self._words[key] = json.dumps(word).encode()
        self.say(self._words[key])


def _nobody_hears(word: bytes) -> None:
    pass


async def serve(handler: Handler, sock: socket.socket) -> None:
    """One connection of a guest's, to its end."""
    sock.setblocking(False)
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the guest has gone
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
            await handler(stream)
