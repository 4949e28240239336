"""Accepting connections, also when the system cannot give any for a while."""

import errno

import trio

from vswitch.endpoints.endpoint import log

PAUSE_S = 0.5


async def accept(listener: trio.socket.SocketType, who: str) -> trio.socket.SocketType:
    """The next connection. Pauses, and says so once, while the system refuses: most likely descriptors are used up."""
    paused = False
    while True:
        try:
            accepted, _ = await listener.accept()
        except OSError as error:
            if error.errno != errno.ECONNABORTED:
                if not paused:
                    log.warning("%s: accepting pauses: %s", who, error.strerror)
                paused = True
                await trio.sleep(PAUSE_S)
        else:
            return accepted
