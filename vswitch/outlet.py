"""Writing where somebody may have stopped reading: a terminal after Ctrl-S, a pipe, a disk that hangs.

A process that forwards never waits for its log or its output. A thread does, which takes what there is from a bounded
queue; it writes and does nothing else, and so does not keep the interpreter from others.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable

QUEUE_MAX = 1000  # texts


class Outlet:
    """A descriptor, and the thread that writes to it. `error` is why it takes nothing any more."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queue: queue.Queue[bytes | Callable[[], None]] = queue.Queue(QUEUE_MAX)
        self.error: OSError | None = None
        threading.Thread(target=self._write_all, name=f"writes to descriptor {fd}", daemon=True).start()

    def put(self, text: str) -> bool:
        """Have a text written. Paths come out as the bytes they are. Answers whether there was room for it."""
        return self._put(text.encode(errors="surrogateescape"))

    def flush(self, timeout_s: float) -> None:
        """Wait until all is written, but no longer than that."""
        written = threading.Event()
        if self._put(written.set):
            written.wait(timeout_s)

    async def flushed(self) -> None:
        """Return when all is written. Raises OSError if that cannot be done."""
        import trio  # which takes longer than all else that a short command does

        written = threading.Event()
        while not self._put(written.set):  # noqa: ASYNC110 (a thread makes room)
            await trio.sleep(0.1)
        await trio.to_thread.run_sync(written.wait, abandon_on_cancel=True)
        if self.error is not None:
            raise self.error

    def _put(self, item: bytes | Callable[[], None]) -> bool:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            return False
        return True

    def _write_all(self) -> None:
        while True:
            item = self._queue.get()
            if callable(item):
                item()
                continue
            while item and self.error is None:
                try:
                    item = item[os.write(self._fd, item) :]
                except OSError as error:
                    self.error = error


class OutletLog(logging.Handler):
    """Log lines for an outlet. Where there is no room for some, the next one says how many."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet
        self._lost = 0

    @property
    def _says_lost(self) -> bool:
        """Whether the formatter does so itself."""
        return getattr(self.formatter, "says_lost", False)

    def emit(self, record: logging.LogRecord) -> None:
        record.lost = self._lost
        lost = f" ({self._lost} lines before this one are lost)" if self._lost and not self._says_lost else ""
        if self._outlet.put(f"{self.format(record)}{lost}\n"):
            self._lost = 0
        else:
            self._lost += 1
