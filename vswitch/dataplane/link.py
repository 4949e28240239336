"""Links: bytes between one descriptor and one port.

A link receives chunks for the bridge and flushes its port's queue. It never waits: a full peer blocks
its own port and nobody else. A frame cut by a chunk's end is kept and joined, alone, with its rest.
"""

import errno
import select
import socket
from collections.abc import Callable
from typing import Final, final

from librt.strings import BytesWriter
from mypy_extensions import i64

from vswitch.dataplane.bridge import BROKEN, RECEIVE_MIN, Bridge
from vswitch.dataplane.frame import FRAME_MAX, PREFIX, frame_length
from vswitch.dataplane.port import Port

RECEIVE_MAX: Final = 512 * 1024
SHRINK_AFTER: Final = 32  # reads that fill less than a quarter

COPY_MAX: Final = 4096  # below this, a copy costs less than a memoryview
BUFFERS_MAX: Final = 256  # a sendmsg takes at most IOV_MAX (1024)


class Source:
    """What the loop reads: a descriptor that frames come in by."""

    def __init__(self, fd: i64, bridge: Bridge) -> None:
        self.fd = fd
        self.bridge = bridge
        self.lost: str | None = None  # why it cannot be used any more
        self.patient = False  # may wait a moment for a port that it presses: its peer is told by the system to wait
        self.waits_for: Port | None = None
        self.waits_until: i64 = 0

    def receive(self, now: i64) -> i64:
        """Take what is there, at most one chunk, to the bridge; answers how many bytes that was.

        What takes longer a byte than a stream says a larger number: the loop goes by it to share its time.
        """
        raise NotImplementedError


class Link(Source):
    """What the loop knows of a link. Its `fd` is -1 when it receives by another source."""

    def __init__(self, fd: i64, room_fd: i64, port: Port, bridge: Bridge) -> None:
        super().__init__(fd, bridge)
        self.room_fd = room_fd  # is writable when a full peer takes frames again
        self.room_event: i64 = select.EPOLLOUT  # or what else epoll tells of it then
        self.port = port
        self.takes_unfinished = False  # passes on what is left to do for frames (offload.py)

    def flush(self) -> i64:
        """Send the port's queue as far as the peer takes it; block the port when it is full.

        Answers how many bytes that was, as `receive` does. A stream's peer that takes nothing any more may
        still have said something: only `receive` finds a stream lost.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the descriptors that are the link's own."""
        raise NotImplementedError


@final
class StreamLink(Link):
    """QEMU's stream framing over a connected stream socket (QEMU net/stream.c)."""

    def __init__(self, sock: socket.socket, port: Port, bridge: Bridge) -> None:
        sock.setblocking(False)
        super().__init__(sock.fileno(), sock.fileno(), port, bridge)
        self.sock = sock
        self._recv: Callable[[int], bytes] = sock.recv
        self._send: Callable[[bytes | memoryview], int] = sock.send
        self._sendmsg: Callable[[list[bytes | memoryview]], int] = sock.sendmsg
        self._want: i64 = RECEIVE_MIN
        self._small_reads: i64 = 0
        self._deaf = False  # the peer takes nothing any more
        self._partial = BytesWriter()  # a frame cut by the chunk's end
        self._partial_size: i64 = 0  # bytes it will have with its prefix; 0 while that is not known

    def receive(self, now: i64) -> i64:
        try:
            chunk = self._recv(min(self._want, self.bridge.receive_max()))
        except BlockingIOError:
            return 0
        except OSError as error:
            self.lost = error.strerror or "connection lost"
            return 0
        size: i64 = len(chunk)
        if size == 0:
            self.lost = "closed by peer" if len(self._partial) == 0 else "closed by peer in the middle of a frame"
            return 0
        self._adapt(size)
        at: i64 = 0
        if len(self._partial) > 0:
            at = self._complete(chunk, now)
        if at >= 0:
            at = self.bridge.ingress(self.port, chunk, at, now)
        if at == BROKEN:
            self.lost = f"not a QEMU stream: a frame longer than {FRAME_MAX} bytes was announced"
        elif at < size:
            self._partial.write(chunk[at:] if at > 0 else chunk)
        return size

    def _adapt(self, size: i64) -> None:
        """Ask for as much as reads bring: an allocation far too large costs more than the read."""
        if size == self._want:
            self._small_reads = 0
            if self._want < RECEIVE_MAX:
                self._want *= 2
        elif 4 * size < self._want and self._want > RECEIVE_MIN:
            self._small_reads += 1
            if self._small_reads >= SHRINK_AFTER:
                self._small_reads = 0
                self._want >>= 1
        else:
            self._small_reads = 0

    def _complete(self, chunk: bytes, now: i64) -> i64:
        """Go on with the cut frame; answers where the next one starts in `chunk`, or BROKEN."""
        partial = self._partial
        size: i64 = len(chunk)
        at: i64 = 0
        if self._partial_size == 0:
            have: i64 = len(partial)
            if have < PREFIX:
                at = PREFIX - have if PREFIX - have < size else size
                partial.write(chunk[:at])
                if len(partial) < PREFIX:
                    return at
            self._partial_size = PREFIX + frame_length(partial.getvalue(), 0)
            if self._partial_size > PREFIX + FRAME_MAX:
                return BROKEN
        end: i64 = at + self._partial_size - len(partial)
        if end > size:
            partial.write(chunk[at:])
            return size
        partial.write(chunk[at:end])
        frame = partial.getvalue()
        self._partial = BytesWriter()
        self._partial_size = 0
        self.bridge.joined += 1
        self.bridge.ingress(self.port, frame, 0, now)
        return end

    def flush(self) -> i64:
        port = self.port
        flushed: i64 = 0
        while True:
            if self._deaf:
                port.clear()
            runs = port.waiting()
            if len(runs) == 0:
                return flushed
            total: i64 = 0
            sent: i64 = 0
            skip = port.head_sent
            try:
                if len(runs) == 1:
                    run = runs[0]
                    total = run.end - run.start - skip
                    sent = self._send(_view(run.chunk, run.start + skip, run.end))
                else:
                    buffers: list[bytes | memoryview] = []
                    for run in runs:
                        buffers.append(_view(run.chunk, run.start + skip, run.end))
                        total += run.end - run.start - skip
                        skip = 0
                        if len(buffers) == BUFFERS_MAX:
                            break
                    sent = self._sendmsg(buffers)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._deaf = error.errno not in (errno.ENOBUFS, errno.ENOMEM)
                if self._deaf:
                    continue
            port.sent(sent)
            flushed += sent
            if sent < total:
                port.block()
                return flushed

    def close(self) -> None:
        self.sock.close()


def _view(chunk: bytes, start: i64, end: i64) -> bytes | memoryview:
    """chunk[start:end] as something a socket sends."""
    if start == 0 and end == len(chunk):
        return chunk
    if end - start <= COPY_MAX:
        return chunk[start:end]
    return memoryview(chunk)[start:end]
