"""Whether the process of a user network still lives: it is asked now and then, and has to say something.

A machine may be busy, and this process itself may have stood still: only several questions in a row that each had their
time tell that it hangs.
"""

from collections.abc import Awaitable, Callable

import trio

ASK_S = 5.0
SILENT_MAX = 6  # questions without a word
HANGS = f"it hangs: not a word for {ASK_S * SILENT_MAX:g} s"
_HELLO = b'["hello"]'


class Watchdog:
    """`say` says something to the process. When it hangs, `hung` is cancelled."""

    def __init__(self, say: Callable[[bytes], Awaitable[None]]) -> None:
        self._say = say
        self.hung = trio.CancelScope()
        self._has_spoken = False

    def heard(self) -> None:
        """It has said something."""
        self._has_spoken = True

    async def watch(self) -> None:
        """Until it hangs."""
        silent = 0
        while silent < SILENT_MAX:
            self._has_spoken = False
            with trio.move_on_after(ASK_S):  # saying it takes as long as nothing is read
                await self._say(_HELLO)
                await trio.sleep_forever()
            silent = 0 if self._has_spoken else silent + 1
        self.hung.cancel()
