"""Datagram links: one frame a datagram, without any framing (QEMU net/dgram.c, net/socket.c, net/vde.c).

A `DatagramLink` has a socket whose other end the kernel keeps fixed. A `SharedSocket` has several peers, each
a `PeerLink` of its own, and tells them apart by address. Datagrams with a header before the frame: tunnel.py.

Datagrams are received in batches: what is there becomes one chunk, in which runs form as in a stream's. They
are sent in bursts, so that a long queue does not keep the processor from others.
"""

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Any, Final, final

from librt.strings import BytesWriter, write_i32_be
from mypy_extensions import i32, i64

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.drops import TOO_LONG, UNREACHABLE
from vswitch.dataplane.frame import FRAME_MAX, PREFIX, frame_length
from vswitch.dataplane.link import Link, Source
from vswitch.dataplane.mmsg import BURST, RECEIVERS, SENDER, Slots, last_errno
from vswitch.dataplane.port import Port
from vswitch.dataplane.run import Run

COST: Final = 8192  # a datagram takes about as long as so many bytes of a stream
STRANGERS_MAX: Final = 64  # datagrams of unknown peers that wait for the control side

ERRORS_MAX: Final = 32  # in a row: a link that has nothing else is lost, lasting or not

FULL: Final = -1  # what became of frames, if they were not sent
GONE: Final = -2


class FrameLink(Link):
    """A link that sends each frame by itself.

    One that is `lasting` outlives a peer that is not there: to UDP that is a matter of the moment. Any other is lost
    when the system refuses a frame.
    """

    def __init__(self, fd: i64, room_fd: i64, port: Port, bridge: Bridge, lasting: bool) -> None:
        super().__init__(fd, room_fd, port, bridge)
        self.lasting = lasting

    def flush(self) -> i64:
        port = self.port
        left: i64 = BURST
        while port.queued_frames > 0:
            if left <= 0:
                port.block()
                break
            outcome = self._send(left)
            left -= max(1, outcome)
            if outcome == FULL:
                port.block()
                break
            if outcome == GONE:
                break
        return (BURST - left) * COST

    def _send(self, most: i64) -> i64:
        """Send up to `most` frames from the head of the queue.

        Answers how many, 0 if the first was dropped or is to be tried again, FULL, or GONE with `lost` set.
        """
        raise NotImplementedError

    def _refused(self, error: int) -> i64:
        """What `_send` answers when the system refuses the first frame, with an errno."""
        if error in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
            return FULL
        if error == errno.EMSGSIZE:
            self.port.drop_head(TOO_LONG)
        elif self.lasting:
            self.port.drop_head(UNREACHABLE)
        else:
            self.lost = os.strerror(error)
            return GONE
        return 0


class SingleLink(FrameLink):
    """A link that sends one frame a system call."""

    def _send(self, most: i64) -> i64:
        run = self.port.waiting()[0]
        end = run.start + PREFIX + frame_length(run.chunk, run.start)
        try:
            self._send_frame(run.chunk[run.start + PREFIX : end])
        except OSError as error:
            return self._refused(error.errno if error.errno is not None else 0)
        self.port.sent(end - run.start)
        return 1

    def _send_frame(self, frame: bytes) -> None:
        """Send one frame. Raises OSError."""
        raise NotImplementedError


@final
class DatagramLink(FrameLink):
    """A datagram socket of one port's own. The kernel takes in what comes from its peer, and nothing else.

    `out` is another socket to send by.
    """

    def __init__(
        self, sock: socket.socket, port: Port, bridge: Bridge, out: socket.socket | None = None, lasting: bool = False
    ) -> None:
        self._sock = sock
        self._out = out if out is not None else sock
        sock.setblocking(False)
        self._out.setblocking(False)
        super().__init__(sock.fileno(), self._out.fileno(), port, bridge, lasting)
        self.patient = sock.family == socket.AF_UNIX
        self._slots = Slots(RECEIVERS)
        self._errors: i64 = 0  # since something came

    def receive(self, now: i64) -> i64:
        receiver = self._slots.receiver
        most = min(BURST, max(1, self.bridge.receive_max() // receiver.slot_size))
        count = receiver.receive(self.fd, most)
        if count < 0:
            return self._failed(last_errno())
        self._errors = 0
        batch = BytesWriter()
        longest: i64 = 0
        number: i64 = 0
        while number < count:
            length = receiver.length(number)
            if length > longest:
                longest = length
            if length <= FRAME_MAX:
                write_i32_be(batch, i32(length))
                receiver.copy(number, length, batch)
            else:
                count_too_long(self.port, length)
            number += 1
        self._slots.adapt(longest)
        if len(batch) > 0:
            self.bridge.ingress(self.port, batch.getvalue(), 0, now)
        return count * COST

    def _failed(self, error: int) -> i64:
        """Nothing could be received; answers how long that took."""
        if error == errno.EAGAIN:
            return 0
        self._errors += 1
        if not self.lasting or self._errors > ERRORS_MAX:  # else it is the answer to an earlier frame
            self.lost = os.strerror(error)
        return COST

    def _send(self, most: i64) -> i64:
        port = self.port
        sent = SENDER.send(self.room_fd, port.waiting(), most)
        if sent > 0:
            port.sent(port.queued_bytes if sent == port.queued_frames else size_of(port.waiting(), sent))
            return sent
        error = last_errno()
        if error == errno.ECONNREFUSED and self.lasting:
            return 0  # that was the answer to an earlier frame
        return self._refused(error)

    def close(self) -> None:
        self._sock.close()
        self._out.close()


class SharedSource(Source):
    """A datagram socket that several peers send to, each of them a port.

    What others send waits in `strangers` for the control side, which is told by an entry in `callers`.
    """

    def __init__(self, sock: socket.socket, bridge: Bridge, callers: list["SharedSource"]) -> None:
        sock.setblocking(False)
        super().__init__(sock.fileno(), bridge)
        self.sock = sock
        self.strangers: list[tuple[Any, bytes]] = []
        self._callers = callers

    def set_aside(self, address: Any, frame: bytes) -> None:
        """Keep what a stranger has sent, or count it."""
        if len(self.strangers) >= STRANGERS_MAX:
            self.bridge.stranger(len(frame))
            return
        if len(self.strangers) == 0:
            self._callers.append(self)
        self.strangers.append((address, frame))

    def inject(self, port: Port, frame: bytes, now: i64) -> None:
        """Take in a frame of a stranger that has got a port."""
        batch = BytesWriter()
        _append(batch, frame, port)
        if len(batch) > 0:
            self.bridge.ingress(port, batch.getvalue(), 0, now)


@final
class SharedSocket(SharedSource):
    """One in which a datagram is a frame, and a peer is known by its address: `peers`."""

    def __init__(self, sock: socket.socket, bridge: Bridge, callers: list[SharedSource]) -> None:
        super().__init__(sock, bridge, callers)
        self.peers: dict[Any, PeerLink] = {}
        self._recvfrom: Callable[[int], tuple[bytes, Any]] = sock.recvfrom

    def receive(self, now: i64) -> i64:
        batch = BytesWriter()
        size_max = self.bridge.receive_max()
        sender: PeerLink | None = None  # of what is in the batch
        count: i64 = 0
        while count < BURST and len(batch) < size_max:
            count += 1
            try:
                frame, address = self._recvfrom(FRAME_MAX + 1)
            except BlockingIOError:
                break
            except OSError:
                continue  # of an earlier frame that could not be delivered
            peer = self.peers.get(address)
            if peer is not sender:
                if sender is not None and len(batch) > 0:
                    self.bridge.ingress(sender.port, batch.getvalue(), 0, now)
                    batch = BytesWriter()
                sender = peer
            if peer is not None:
                _append(batch, frame, peer.port)
            else:
                self.set_aside(address, frame)
        if sender is not None and len(batch) > 0:
            self.bridge.ingress(sender.port, batch.getvalue(), 0, now)
        return count * COST


@final
class PeerLink(SingleLink):
    """One peer of a shared socket.

    What waits in a unix peer's queue is charged to the socket that sent it: one shared by all would let a peer that
    does not read hold up the others. So `out`, connected to the peer, sends. Where frames must come from the shared
    socket's own address, that one sends; it is writable though the peer's queue is full, since it has no fixed peer,
    and `room`, connected to the peer when that has happened, never sends and tells when there is room.
    """

    def __init__(
        self,
        shared: SharedSocket,
        address: Any,
        port: Port,
        out: socket.socket | None = None,
        room: socket.socket | None = None,
        lasting: bool = False,
    ) -> None:
        self.shared = shared
        self.address = address
        self._out = out
        self._room = room
        super().__init__(-1, shared.fd if out is None else out.fileno(), port, shared.bridge, lasting)
        self._sendto: Callable[[bytes, Any], int] = shared.sock.sendto
        self._send_out: Callable[[bytes], int] | None = None if out is None else out.send
        shared.peers[address] = self

    def receive(self, now: i64) -> i64:
        return 0

    def _send_frame(self, frame: bytes) -> None:
        try:
            if self._send_out is None:
                self._sendto(frame, self.address)
            else:
                self._send_out(frame)
        except BlockingIOError:
            self._await_room()
            raise
        except ConnectionRefusedError:
            if self._out is None or self._send_out is None:
                raise
            self._out.connect(self.address)  # the peer has closed its socket; there may be another at its address
            self._send_out(frame)

    def _await_room(self) -> None:
        """Find out what is full, the peer's queue or the shared socket: that is what to wait for."""
        if self._room is None:
            return
        self.room_fd = self.shared.fd
        try:
            self._room.connect(self.address)
        except OSError:
            return  # it takes frames from us only, or the next attempt to send will say why not
        poll = select.poll()
        poll.register(self._room, select.POLLOUT)
        if len(poll.poll(0)) == 0:
            self.room_fd = self._room.fileno()

    def close(self) -> None:
        for own in (self._out, self._room):
            if own is not None:
                own.close()
        if self.shared.peers.get(self.address) is self:
            del self.shared.peers[self.address]


def _append(batch: BytesWriter, frame: bytes, port: Port) -> None:
    """Add a frame to a chunk, or count it as too long."""
    length: i64 = len(frame)
    if length > FRAME_MAX:
        count_too_long(port, length)
        return
    write_i32_be(batch, i32(length))
    batch.write(frame)


def count_too_long(port: Port, length: i64) -> None:
    """Count a frame that came in and is too long."""
    port.rx_frames += 1
    port.rx_bytes += length
    port.drop(TOO_LONG, 1)


def size_of(runs: list[Run], frames: i64) -> i64:
    """How long the first frames of a queue are, with their prefixes."""
    size: i64 = 0
    for run in runs:
        at = run.start
        while at < run.end and frames > 0:
            at += PREFIX + frame_length(run.chunk, at)
            frames -= 1
        size += at - run.start
        if frames == 0:
            break
    return size
