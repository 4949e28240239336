"""The management socket of a VDE switch: the console, for whoever may connect to a unix socket.

As in vde_switch (consmgmt.c), what a client sends in one go is a command, with or without a newline (vdeterm sends
none); here each further line of it is one, too. A client that does not read is not read from. When there are
too many clients, the one that has been silent longest makes room.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress

import trio

from vswitch.endpoints import unix_socket
from vswitch.endpoints.accepting import Acceptor
from vswitch.endpoints.vde import directory
from vswitch.endpoints.vde.console import BANNER, END_OF_SESSION, PROMPT, Console
from vswitch.endpoints.vde.managed import Managed
from vswitch.supervision import contain, keep_running

CLIENTS_MAX = 16
LINE_BYTES_MAX = 128
RECEIVE_BYTES = 4096


async def serve(managed: Managed, started: Callable[[], None]) -> None:
    """Answer on the socket that `mgmt` asks for until cancelled; then every client is disconnected.

    A socket whose path is removed is made again; sessions go on. Raises RefusedError before it has `started`.
    """
    path, failures = managed.config.mgmt, managed.ports.failures
    assert path is not None
    sessions: list[_Session] = []  # the one silent longest first

    async def accept(listener: trio.socket.SocketType) -> None:
        acceptor = Acceptor(listener, path)
        what = f"a console on {path}"
        while True:
            client = await acceptor.next()
            if len(sessions) >= CLIENTS_MAX:
                sessions[0].scope.cancel()
            nursery.start_soon(contain, failures, what, _Session(managed, client, sessions).run, name=what)

    async def keep_accepting(listener: trio.socket.SocketType) -> None:
        await keep_running(failures, f"accepting on {path}", accept, listener)

    async with trio.open_nursery() as nursery:
        mode, group = managed.config.mgmtmode, directory.group_id(managed.config, "mgmtgroup")
        await unix_socket.keep_bound(path, "the management socket", keep_accepting, started, mode=mode, group=group)


class Lines:
    """Cuts what comes in reads of RECEIVE_BYTES into commands. Keeps little, whatever comes."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, data: bytes) -> Iterator[bytes]:
        """The commands in what was read; b"" is the end of it all."""
        *lines, last = (self._rest + data).split(b"\n")
        cut_off = len(data) == RECEIVE_BYTES and len(last) <= LINE_BYTES_MAX
        self._rest = last if cut_off else b""
        yield from lines
        if last and not cut_off:
            yield last


class _Session:
    """One client. It is in `sessions` while it is there, and at the end of them when it has sent something."""

    def __init__(self, managed: Managed, client: trio.socket.SocketType, sessions: list["_Session"]) -> None:
        self.scope = trio.CancelScope()
        self._console = Console(managed)
        self._client = client
        self._sessions = sessions
        sessions.append(self)

    async def run(self) -> None:
        try:
            with self._client, self.scope, suppress(trio.BrokenResourceError):  # it is gone
                await self._converse(trio.SocketStream(self._client))
        finally:
            self._sessions.remove(self)

    async def _converse(self, stream: trio.SocketStream) -> None:
        lines = Lines()
        await stream.send_all(BANNER + PROMPT)
        while data := await stream.receive_some(RECEIVE_BYTES):
            self._sessions.remove(self)
            self._sessions.append(self)
            for line in lines.cut(data):
                if not await self._answer(stream, line):
                    return
        for line in lines.cut(b""):
            await self._answer(stream, line)

    async def _answer(self, stream: trio.SocketStream, line: bytes) -> bool:
        """Send the reply to one line. Answers whether the session goes on."""
        await self._console.prepare(line)
        for portion in self._console.answer(line):
            await stream.send_all(portion)  # which lets others run, even if there is nothing to send
        # A `shutdown` cancels this task; what is sent next is sent before that.
        await stream.send_all(END_OF_SESSION if self._console.ended else PROMPT)
        return not self._console.ended
