"""The sockets where programs of this machine ask for guests' names. They outlive the network's processes, each of which
is lent them."""

import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from vswitch.endpoints import inet
from vswitch.endpoints.user.dns_place import Place
from vswitch.errors import RefusedError

_KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
_LISTEN = b'["listen"]'


@contextmanager
def bound(place: Place | None) -> Iterator[Sequence[socket.socket]]:
    """A socket of UDP and one of TCP, which listens; none if there is no place for them. Raises RefusedError."""
    with ExitStack() as closing:
        yield [] if place is None else [closing.enter_context(_bind(place, kind)) for kind in _KINDS]


async def lend(
    sockets: Sequence[socket.socket], say: Callable[[bytes, Sequence[socket.socket]], Awaitable[None]]
) -> None:
    """To a new process."""
    for sock in sockets:
        await say(_LISTEN, [sock])


def _bind(place: Place, kind: socket.SocketKind) -> socket.socket:
    try:
        sock = inet.bind_to(socket.AF_INET6 if place.is_of_ipv6 else socket.AF_INET, (place.host, place.port), kind)
    except OSError as error:
        raise RefusedError(f"dns_listen: cannot listen on {place}: {inet.reason(error)}") from None
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock
