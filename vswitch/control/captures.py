"""Captures of a running switch: the trio side of edges/capture.py, which writes the blocks.

A capture watches the switch's ports from when it is entered, and each port that comes later. What it has written is
taken in portions: as much as has come together while the last one was sent or written.
"""

import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Self

import trio

from vswitch.control.capture_requests import CaptureRequest, CaptureSummary, FileRequest
from vswitch.edges.capture import Budget, Capture, Piece
from vswitch.edges.capture_file import NONE, CaptureFile, CaptureStopped, Rotation, read_rotation
from vswitch.edges.packet_filter import PacketFilter
from vswitch.errors import InputError
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports
from vswitch.version import __version__

BUDGET_DEFAULT = 64 * 2**20  # bytes that all captures of a switch may hold together
BUDGET_MIN, BUDGET_MAX = 2**20, 2**36
FULL = 32 * 2**20  # where a lossless capture has forwarding wait
BUSY = 8 * 2**20  # where any has it wait for a moment, each millisecond
PATIENCE_S = 0.2  # but not for who has written nothing for so long
LOSSLESS_PATIENCE_S = 5.0
LAST_WRITES_S = 1.0  # what a capture gets to write its last when it is cut off


log = logging.getLogger("vswitch")


class LiveCapture:
    """One capture, which runs while its `async with` block does; made by `prepare`."""

    def __init__(
        self, ports: Ports, budget: Budget, request: CaptureRequest, matches: Callable[[bytes], bool] | None
    ) -> None:
        self.request = request
        self._ports = ports
        self._some = trio.Event()
        self._room = trio.Event()
        self._watching = False
        self._ended = False
        self._written = 0
        self._wrote_s = 0.0  # when there was more of it last
        self.done = trio.Event()
        self.stopped: str | None = None  # why it was over before its time
        self.sink = self._capture = Capture(
            f"vswitch {__version__}",
            budget,
            lossless=request.lossless,
            snaplen=request.snaplen,
            only_drops=request.drops,
            frames_max=request.count,
            matches=matches,
            filter_text=request.filter,
        )

    async def __aenter__(self) -> Self:
        self._capture.budget.captures.append(self._capture)
        self._ports.watchers.add(self, self._ports)
        self._watching = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_watching()
        self._capture.budget.captures.remove(self._capture)
        self._ports.swollen.set()

    def _stop_watching(self) -> None:
        if self._watching:
            self._watching = False
            self._ports.watchers.remove(self)
            self._ended = True  # nobody waits for it any more
            self._room.set()

    def summary(self) -> CaptureSummary:
        capture = self._capture
        return CaptureSummary(frames=int(capture.frames), missed=int(capture.missed()), stopped=self.stopped)

    def end(self) -> None:
        """Have it end with what is there."""
        self._ended = True
        self._some.set()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The whole capture as pcapng."""
        async with self:
            yield self._capture.header()
            async for interfaces, pieces in self._portions():
                if interfaces:
                    yield interfaces
                for piece in pieces:
                    yield piece.blocks
                    self._capture.wrote(piece)
        yield self._capture.trailer(time.time_ns())

    async def write(self, file: FileRequest, started: Callable[[], None]) -> None:
        """The whole capture into files. Raises InputError and RefusedError before it has started, CaptureStopped after.

        However it ends, cancelled too, what is captured is in the file, and the file is complete.
        """
        rotation = read_rotation(file.rotate, file.keep) if file.rotate or file.keep is not None else NONE
        stopped: CaptureStopped | None = None
        in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True)
        async with self:
            into = await in_thread(self._open, file, rotation)
            async with trio.open_nursery() as nursery:
                with trio.CancelScope(shield=True) as writing:
                    nursery.start_soon(self._end_soon, writing, name=f"the end of {into.path}")
                    try:
                        started()
                        async for interfaces, pieces in self._portions():
                            await in_thread(self._append, into, interfaces, pieces)
                        await in_thread(into.close)
                    except CaptureStopped as error:
                        stopped = error
                if writing.cancelled_caught:
                    log.warning("the capture to %s is cut off: its disk takes nothing", into.path)
                nursery.cancel_scope.cancel()
        if stopped is not None:
            raise stopped

    async def _end_soon(self, writing: trio.CancelScope) -> None:
        """When this is cancelled, the last is written, unless that takes too long."""
        try:
            await trio.sleep_forever()
        finally:
            self.end()
            writing.deadline = trio.current_time() + LAST_WRITES_S

    def _open(self, file: FileRequest, rotation: Rotation) -> CaptureFile:
        capture = self._capture
        return CaptureFile(
            file.path,
            capture.header(),
            lambda: capture.trailer(time.time_ns()),
            time.time(),
            rotation,
            file.floor,
            time.monotonic(),
        )

    def _append(self, file: CaptureFile, interfaces: bytes, pieces: list[Piece]) -> None:
        if interfaces:
            file.declare(interfaces)
        while pieces:  # and each is let go of
            piece = pieces.pop(0)
            file.write(piece.blocks, piece.frames, time.time(), time.monotonic())
            self._capture.wrote(piece)

    async def _portions(self) -> AsyncIterator[tuple[bytes, list[Piece]]]:
        """New interfaces, and pieces of the capture, until it is complete or ended and nothing is left of it."""
        capture = self._capture
        deadline = trio.current_time() + self.request.duration_s if self.request.duration_s is not None else math.inf
        while True:
            if self._ended or capture.is_complete() or trio.current_time() >= deadline:
                self._stop_watching()
            if pieces := capture.portion():
                yield capture.new_interfaces(), pieces
                self._room.set()
            elif self._watching:
                self._some = trio.Event()
                with trio.move_on_at(deadline):
                    await self._some.wait()
            else:
                break
        if interfaces := capture.new_interfaces():
            yield interfaces, []

    def told(self) -> None:
        if self._capture.held() > 0 or self._capture.is_complete():
            self._some.set()

    def port_added(self, port: SwitchPort) -> None:
        if not self.request.ports or port.is_one_of(self.request.ports):
            self._capture.add_interface(port.port.serial, port.name, port.url)

    def port_removed(self, port: SwitchPort) -> None:
        self._capture.remove_interface(port.port.serial)

    def failed(self, error: Exception) -> None:
        self.stopped = f"it has failed: {error!r}"
        self._stop_watching()
        self._some.set()

    async def wait_for_room(self, until_s: float) -> None:
        """Have forwarding wait: for a moment, or until it is written where nothing may be missing.

        Whoever writes may only lack the processor's time, which forwarding would take all of. Who writes nothing at all
        is not waited for: then what does not fit is missing, or a lossless capture ends.
        """
        capture = self._capture
        full = min(FULL, capture.budget.share())
        while self.request.lossless and capture.held() > full and not self._ended:
            self._room = trio.Event()
            with trio.move_on_after(LOSSLESS_PATIENCE_S) as patience:
                await self._room.wait()
            if patience.cancelled_caught and not self._has_written():
                self.stopped = f"nothing of it was taken for {LOSSLESS_PATIENCE_S:g} s"
                log.warning("a lossless capture has ended: %s", self.stopped)
                self._stop_watching()
                self._some.set()
        busy = min(BUSY, capture.budget.share() // 4)
        if self._has_written() or capture.held() <= busy:
            self._wrote_s = trio.current_time()
        if capture.held() > busy and trio.current_time() - self._wrote_s < PATIENCE_S:
            self._room = trio.Event()
            with trio.move_on_at(until_s):
                await self._room.wait()

    def _has_written(self) -> bool:
        """Whether more of it is written than when this was asked last."""
        before, self._written = self._written, self._capture.written
        return self._written > before


Matches = Callable[[bytes], bool]


async def prepare(ports: Ports, budget: Budget, request: CaptureRequest, matches: Matches | None = None) -> LiveCapture:
    """A capture that has not begun. Raises InputError for what is wrong, RefusedError for a filter without libpcap."""
    return LiveCapture(ports, budget, request, matches or await find_filter(request.filter))


def check_budget(size: int) -> int:
    """Raises InputError if it is out of range."""
    if not BUDGET_MIN <= size <= BUDGET_MAX:
        raise InputError(f"captures cannot share {size} bytes; 1MiB to 64GiB can be held")
    return size


async def find_filter(text: str) -> Matches | None:
    """Whether a frame passes a filter; None if there is none. Raises InputError, and RefusedError without libpcap."""
    if not text:
        return None
    compiled = await trio.to_thread.run_sync(PacketFilter, text, abandon_on_cancel=True)  # it may look names up
    return compiled.matches
