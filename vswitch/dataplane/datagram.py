"""Datagram links: one frame a datagram, without any framing (QEMU net/dgram.c, net/socket.c, net/vde.c).

A `DatagramLink` has a socket whose other end the kernel keeps fixed. A `SharedSocket` has several peers, each
a `PeerLink` of its own, and tells them apart by address.

Datagrams are received in batches: what is there becomes one chunk, in which runs form as in a stream's. They
are sent in bursts, so that a long queue does not keep the processor from others.
"""

import errno
import select
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol, final

from librt.strings import BytesWriter, write_i32_be
from mypy_extensions import i32, i64

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.frame import FRAME_MAX, PREFIX, frame_length
from vswitch.dataplane.link import Link, Source
from vswitch.dataplane.port import TOO_LONG, UNREACHABLE, Port

BURST: Final = 64  # datagrams that one source brings, or one link sends, before others get their turn
COST: Final = 8192  # a datagram takes about as long as so many bytes of a stream
STRANGERS_MAX: Final = 64  # datagrams of unknown peers that wait for the control side

ERRORS_MAX: Final = 32  # in one batch: a link that has nothing else is lost, lasting or not

SENT: Final = -1  # what became of a datagram, if not a drop reason
FULL: Final = -2
GONE: Final = -3


class Datagrams(Protocol):
    """A socket, or what works like one."""

    def fileno(self) -> int: ...
    def setblocking(self, blocking: bool, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def send(self, frame: bytes, /) -> int: ...
    def close(self) -> None: ...


class SendingLink(Link):
    """A link that sends each frame of its port's queue as one datagram.

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
            taken: i64 = 0
            outcome: i64 = SENT
            for run in port.waiting():
                at = run.start
                while at < run.end and left > 0:
                    after = at + PREFIX + frame_length(run.chunk, at)
                    outcome = self._send(run.chunk[at + PREFIX : after])
                    left -= 1
                    if outcome != SENT:
                        break
                    taken += after - at
                    at = after
                if outcome != SENT or left == 0:
                    break
            port.sent(taken)
            if outcome >= 0:
                port.drop_head(outcome)
            elif outcome == GONE:
                break
            if (outcome == FULL or left == 0) and port.queued_frames > 0:
                port.block()
                break
        return (BURST - left) * COST

    def _send(self, frame: bytes) -> i64:
        """Send one datagram; answers SENT, FULL, GONE (with `lost` set), or why the frame was dropped."""
        raise NotImplementedError

    def _refused(self, error: OSError) -> i64:
        """What `_send` answers to an error."""
        if error.errno == errno.EMSGSIZE:
            return TOO_LONG
        if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
            return FULL
        if self.lasting:
            return UNREACHABLE
        self.lost = error.strerror or "connection lost"
        return GONE


@final
class DatagramLink(SendingLink):
    """A datagram socket of one port's own. The kernel takes in what comes from its peer, and nothing else.

    `out` is another socket to send by.
    """

    def __init__(
        self, sock: Datagrams, port: Port, bridge: Bridge, out: Datagrams | None = None, lasting: bool = False
    ) -> None:
        self._sock = sock
        self._out = out if out is not None else sock
        sock.setblocking(False)
        self._out.setblocking(False)
        super().__init__(sock.fileno(), self._out.fileno(), port, bridge, lasting)
        self._recv: Callable[[int], bytes] = sock.recv
        self._send_datagram: Callable[[bytes], int] = self._out.send

    def receive(self, now: i64) -> i64:
        batch = BytesWriter()
        size_max = self.bridge.receive_max()
        count: i64 = 0
        errors: i64 = 0
        while count < BURST and len(batch) < size_max:
            try:
                frame = self._recv(FRAME_MAX + 1)
            except BlockingIOError:
                break
            except OSError as error:
                count += 1
                errors += 1
                if self.lasting and errors < ERRORS_MAX:
                    continue  # of an earlier frame that could not be delivered
                self.lost = error.strerror or "connection lost"
                break
            count += 1
            _append(batch, frame, self.port)
        if len(batch) > 0:
            self.bridge.ingress(self.port, batch.getvalue(), 0, now)
        return count * COST

    def _send(self, frame: bytes) -> i64:
        try:
            self._send_datagram(frame)
        except BlockingIOError:
            return FULL
        except OSError as error:
            if error.errno == errno.ECONNREFUSED and self.lasting:
                return self._send_again(frame)  # that was the answer to an earlier frame
            return self._refused(error)
        return SENT

    def _send_again(self, frame: bytes) -> i64:
        try:
            self._send_datagram(frame)
        except OSError as error:
            return self._refused(error)
        return SENT

    def close(self) -> None:
        self._sock.close()
        self._out.close()


@final
class SharedSocket(Source):
    """A datagram socket that several peers send to, each of them a port: `peers`, by address.

    What others send waits in `strangers` for the control side, which is told by an entry in `callers`.
    """

    def __init__(self, sock: socket.socket, bridge: Bridge, callers: list["SharedSocket"]) -> None:
        sock.setblocking(False)
        super().__init__(sock.fileno(), bridge)
        self.sock = sock
        self.peers: dict[Any, PeerLink] = {}
        self.strangers: list[tuple[Any, bytes]] = []
        self._callers = callers
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
            elif len(self.strangers) < STRANGERS_MAX:
                if len(self.strangers) == 0:
                    self._callers.append(self)
                self.strangers.append((address, frame))
            else:
                self.bridge.stranger(len(frame))
        if sender is not None and len(batch) > 0:
            self.bridge.ingress(sender.port, batch.getvalue(), 0, now)
        return count * COST

    def inject(self, port: Port, frame: bytes, now: i64) -> None:
        """Take in a frame of a stranger that has got a port."""
        batch = BytesWriter()
        _append(batch, frame, port)
        if len(batch) > 0:
            self.bridge.ingress(port, batch.getvalue(), 0, now)


@final
class PeerLink(SendingLink):
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
        self._shared = shared
        self._address = address
        self._out = out
        self._room = room
        super().__init__(-1, shared.fd if out is None else out.fileno(), port, shared.bridge, lasting)
        self._sendto: Callable[[bytes, Any], int] = shared.sock.sendto
        self._send_out: Callable[[bytes], int] | None = None if out is None else out.send
        shared.peers[address] = self

    def receive(self, now: i64) -> i64:
        return 0

    def _send(self, frame: bytes) -> i64:
        try:
            if self._send_out is not None:
                self._send_out(frame)
            else:
                self._sendto(frame, self._address)
        except BlockingIOError:
            self._await_room()
            return FULL
        except OSError as error:
            if error.errno == errno.ECONNREFUSED and self._out is not None:
                return self._send_to_successor(frame)
            return self._refused(error)
        return SENT

    def _send_to_successor(self, frame: bytes) -> i64:
        """The peer has closed its socket; there may be another at its address."""
        try:
            if self._out is not None and self._send_out is not None:
                self._out.connect(self._address)
                self._send_out(frame)
        except OSError as error:
            return self._refused(error)
        return SENT

    def _await_room(self) -> None:
        """Find out what is full, the peer's queue or the shared socket: that is what to wait for."""
        if self._room is None:
            return
        self.room_fd = self._shared.fd
        try:
            self._room.connect(self._address)
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
        if self._shared.peers.get(self._address) is self:
            del self._shared.peers[self._address]


def _append(batch: BytesWriter, frame: bytes, port: Port) -> None:
    """Add a frame to a chunk, or count it as too long."""
    length: i64 = len(frame)
    if length > FRAME_MAX:
        port.rx_frames += 1
        port.rx_bytes += length
        port.drop(TOO_LONG, 1)
        return
    write_i32_be(batch, i32(length))
    batch.write(frame)
