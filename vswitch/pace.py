"""Long work in portions, so that others get their turn: forwarding above all."""

import time

import trio

WORK_S = 0.001


class Pace:
    """Between two portions, call `pause`."""

    def __init__(self) -> None:
        self._until_s = time.monotonic() + WORK_S

    async def pause(self) -> None:
        """Let others have their turn, if it is time."""
        if time.monotonic() >= self._until_s:
            await trio.lowlevel.checkpoint()
            self._until_s = time.monotonic() + WORK_S
