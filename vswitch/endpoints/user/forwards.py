"""The forwards of a user network. Their sockets are here and outlive its processes, each of which is lent them."""

import itertools
import json
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated

import msgspec
import trio

from vswitch.endpoints import inet, unix_socket
from vswitch.endpoints.user.forward import MOST, Forward
from vswitch.errors import InputError, RefusedError, printable


class Served(msgspec.Struct):
    """As the child tells it: where a forward leads, and the MAC address of that guest, or why it cannot."""

    number: int
    ip: Annotated[str, msgspec.Meta(max_length=45, pattern="^[0-9a-f:.]*$")]
    problem: Annotated[str, msgspec.Meta(max_length=200)]
    mac: Annotated[str, msgspec.Meta(pattern="^(([0-9a-f]{2}:){5}[0-9a-f]{2})?$")]


class Known:
    """A forward, its socket, and where it leads: an address, and whose that is, or none yet."""

    def __init__(self, forward: Forward) -> None:
        self._closing = ExitStack()
        self.sock = self._closing.enter_context(_open(forward))
        self.wanted = self.forward = forward
        if forward.kind != "unix":
            self.forward = msgspec.structs.replace(forward, host_port=self.sock.getsockname()[1])
        self.ip, self.mac, self.problem = "", "", ""
        self.settled, self.gone = trio.Event(), trio.Event()

    def become(self, forward: Forward) -> "Known":
        """The same socket, which leads to another guest."""
        self.wanted = self.forward = forward
        self.ip, self.mac, self.problem = "", "", ""
        self.settled = trio.Event()
        return self

    def close(self) -> None:
        self._closing.close()


class Forwards:
    def __init__(self) -> None:
        self._known: dict[int, Known] = {}  # by the number that the child knows it by
        self._going: dict[int, Known] = {}  # those that the child has still
        self._numbers = itertools.count(1)
        self._changed = trio.Event()

    @property
    def known(self) -> list[Known]:
        return list(self._known.values())

    @property
    def written(self) -> tuple[Forward, ...]:
        """As a configuration has them, with port 0 where that was asked for."""
        return tuple(known.wanted for known in self._known.values())

    @property
    def guests(self) -> list[str]:
        """The MAC addresses of those they lead to."""
        return [known.mac for known in self._known.values() if known.mac]

    def add(self, forward: Forward) -> Known:
        """From now on nobody else gets its port. Raises InputError and RefusedError."""
        for known in self._known.values():
            if known.forward.here == forward.here:
                raise InputError(f"{forward.here} leads to {known.forward.guest or 'the first guest'} already")
        if len(self._known) >= MOST:
            raise RefusedError(f"there are {MOST} forwards already; remove some")
        found = self._known[next(self._numbers)] = Known(forward)
        self._note()
        return found

    def remove(self, known: Known) -> None:
        """It is `gone` when the process has let go of its socket, too."""
        number = next(number for number, each in self._known.items() if each is known)
        self._going[number] = self._known.pop(number)
        known.close()
        self._note()

    def become(self, wanted: Iterable[Forward]) -> None:
        """Add and remove. Raises as `add` does, when all others are as they should be."""
        new = list(wanted)
        for number, known in list(self._known.items()):
            same = next((forward for forward in new if forward.here == known.forward.here), None)
            if known.wanted in new:
                new.remove(known.wanted)
            elif same is not None:
                new.remove(same)
                self._known[next(self._numbers)] = self._known.pop(number).become(same)
                self._note()
            else:
                self.remove(known)
        problems = []
        for forward in new:
            try:
                self.add(forward)
            except (InputError, RefusedError) as error:
                problems.append(str(error))
        if problems:
            raise RefusedError("; ".join(problems))

    def served(self, said: Served) -> None:
        known = self._known.get(said.number)
        if known is None:
            if said.number in self._going:
                self._going.pop(said.number).gone.set()
        else:
            known.ip, known.mac, known.problem = said.ip, said.mac, printable(said.problem)
            known.settled.set()

    async def keep_told(self, say: Callable[[bytes, Sequence[socket.socket]], Awaitable[None]]) -> None:
        """Lend a new process the sockets, and go on."""
        told: set[int] = set()
        for known in self._known.values():
            known.ip, known.mac, known.problem = "", "", ""
        for gone in self._going.values():
            gone.gone.set()
        self._going.clear()
        while True:
            changed = self._changed
            for number in told - self._known.keys():
                await say(json.dumps(["unforward", number]).encode(), [])
            for number in self._known.keys() - told:
                if new := self._known.get(number):
                    forward = new.forward
                    word = ["forward", number, forward.guest, forward.guest_port, forward.kind == "udp"]
                    with new.sock.dup() as lent:  # it may be closed meanwhile
                        await say(json.dumps(word).encode(), [lent])
            told = set(self._known)
            await changed.wait()

    def close(self) -> None:
        for known in self._known.values():
            known.close()
        self._known.clear()

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@contextmanager
def _open(forward: Forward) -> Iterator[socket.socket]:
    """A socket, bound, which listens once it leads somewhere; one at a path does so at once. Raises RefusedError."""
    if forward.kind == "unix":
        with unix_socket.bind(forward.host) as sock:
            yield sock
        return
    kind = socket.SOCK_DGRAM if forward.kind == "udp" else socket.SOCK_STREAM
    try:
        sock = inet.bind_to(
            socket.AF_INET6 if forward.is_of_ipv6 else socket.AF_INET, (forward.host, forward.host_port), kind
        )
    except OSError as error:
        raise RefusedError(f"cannot listen on {forward.here}: {inet.reason(error)}") from None
    # Until it listens, another user could bind the same port beside one that may be reused.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    with sock:
        yield sock
