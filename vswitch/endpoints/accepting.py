"""Accepting connections: no faster than they can be seen to, and also when the system cannot give any for a while.

Peers wait in the listen queue until the data plane has seen to those that were accepted before, and to those that are
gone: however many come and go, there are few more ports than peers. The last few descriptors are not for peers, but
for the control side. The system gives a new descriptor the lowest number that is free: near the limit, few are left.
"""

import errno
import os
import resource

import trio

from vswitch.endpoints.endpoint import log
from vswitch.ports.ports import Ports
from vswitch.sparingly import Sparingly

PAUSE_S = 0.5
PERIOD_S = 60.0  # between two lines in the log about one shortage
RESERVED = 16  # descriptors that peers do not get; a quarter, where there are few
AT_A_TIME = 16  # peers that are accepted before the others get their turn: so many, or a sixteenth of the ports


class Acceptor:
    """The connections of a listener called `who`: with `ports`, peers that become such; else of the control side."""

    def __init__(self, listener: trio.socket.SocketType, who: str, ports: Ports | None = None) -> None:
        self._listener = listener
        self._who = who
        self._ports = ports
        self._credit = 0
        self._pauses = Sparingly(log, PERIOD_S)

    async def next(self) -> trio.socket.SocketType:
        """The next connection. Pauses, and says so, while there are no descriptors, or the system refuses."""
        while True:
            try:
                if self._ports is not None:
                    await self._wait_for_turn(self._ports)
                accepted, _ = await self._listener.accept()
            except OSError as error:
                if error.errno != errno.ECONNABORTED:
                    self._pauses.say("%s: accepting pauses: %s", self._who, error.strerror)
                    await trio.sleep(PAUSE_S)
            else:
                return accepted

    async def _wait_for_turn(self, ports: Ports) -> None:
        if self._credit <= 0:
            await ports.links.caught_up()
            self._credit = max(AT_A_TIME, len(ports) // 16)
        self._credit -= 1
        await trio.lowlevel.wait_readable(self._listener.fileno())
        _check_descriptors()


def _check_descriptors() -> None:
    """Raises OSError if too few are left for a peer."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.close(lowest)
    if lowest >= limit - min(RESERVED, limit // 4):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
