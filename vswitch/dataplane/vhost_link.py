"""Frames through the rings of a guest's virtio-net card (virtio 1.2, 5.1.6), which vhost-user shares.

Each frame has a header before it that says what is left to do for it (offload.py). It is copied once out of the guest's
memory, and once into it. The driver is asked for notices only while there is nothing to do.
"""

import os
import select
from typing import Final, final

from librt.strings import BytesWriter, write_i32_be
from mypy_extensions import i32, i64

from vswitch.dataplane.bridge import RECEIVE_MIN, Bridge
from vswitch.dataplane.datagram import count_too_long
from vswitch.dataplane.drops import TOO_LONG
from vswitch.dataplane.frame import FRAME_MAX, PREFIX, copy, frame_length
from vswitch.dataplane.link import Link
from vswitch.dataplane.offload import header_of, unfinished_of
from vswitch.dataplane.port import Port
from vswitch.dataplane.run import Run
from vswitch.dataplane.virtqueue import RingError, Virtqueue

HEADER_SIZE_LEGACY: Final = 10  # without num_buffers, before virtio 1.0
COST: Final = 512  # a frame takes about as long as so many bytes more of a stream
FLUSH_MAX: Final = 512 * 1024
LARGE: Final = 4096

_ONE: Final = (1).to_bytes(8, "little")
_COUNT_AT: Final = 10  # num_buffers
_WHOLE: Final = bytes(_COUNT_AT) + b"\x01\x00"  # a header of a frame for which nothing is left to do, in one buffer


class RingEnd:
    """A ring, and the eventfds by which its driver is told, and tells; `call` is -1 where it is not to be told."""

    def __init__(self, queue: Virtqueue, kick: i64, call: i64) -> None:
        self.queue = queue
        self.kick = kick
        self.call = call

    def settle(self) -> i64:
        """Have the driver notify; answers how many buffers are available all the same. Raises RingError."""
        self.queue.want_notice()
        _drain(self.kick)
        return self.queue.available()

    def publish(self) -> None:
        if self.queue.publish() and self.call >= 0:
            _signal(self.call)

    def come_back(self) -> None:
        """There is more to do: have the loop find that out."""
        _signal(self.kick)


def _signal(fd: i64) -> None:
    try:
        os.write(fd, _ONE)
    except OSError:
        return  # it is signalled already, or no eventfd


def _drain(fd: i64) -> None:
    try:
        os.read(fd, 8)
    except OSError:
        return  # it was not signalled, or is no eventfd


@final
class VhostLink(Link):
    """The two rings of a card, which are running. `mergeable`: a frame may go on in the next buffer."""

    def __init__(
        self,
        to_guest: RingEnd,
        from_guest: RingEnd,
        port: Port,
        bridge: Bridge,
        *,
        header_size: i64,
        mergeable: bool,
        takes_unfinished: bool,
    ) -> None:
        super().__init__(from_guest.kick, to_guest.kick, port, bridge)
        self.room_event = select.EPOLLIN
        self.takes_unfinished = takes_unfinished
        self._to_guest = to_guest
        self._from_guest = from_guest
        self._header_size = header_size
        self._mergeable = mergeable
        self._batch = BytesWriter()  # frames that came in, after `_large`
        self._large: list[bytes] = []
        self._part: i64 = 0  # where the next bytes for the guest go: a part of what is in hand, and how far in it
        self._within: i64 = 0
        from_guest.come_back()  # it may have sent before there was somebody to notify

    def receive(self, now: i64) -> i64:
        try:
            return self._receive(now)
        except RingError as error:
            self.lost = f"the guest's ring is broken: {error}"
            return 0

    def _receive(self, now: i64) -> i64:
        queue = self._from_guest.queue
        count = queue.available()
        if count == 0:
            count = self._from_guest.settle()
            if count == 0:
                return 0
        queue.want_no_notice()
        most = min(FLUSH_MAX, max(RECEIVE_MIN, self.bridge.receive_max()))
        work: i64 = 0
        unfinished: i64 = 0  # of the frames in the batch
        number: i64 = 0
        while number < count and work < most:
            queue.take(False)
            left = self._left_to_do()
            if left != unfinished:
                self._ingress(unfinished, now)
                unfinished = left
            work += COST + queue.capacity
            self._take_frame()
            queue.give(0)
            number += 1
        self._ingress(unfinished, now)
        self._from_guest.publish()
        if number < count or self._from_guest.settle() > 0:
            self._from_guest.come_back()
        return work

    def _left_to_do(self) -> i64:
        """What the header of the frame in hand says. Raises RingError."""
        queue = self._from_guest.queue
        if queue.capacity < self._header_size:
            raise RingError("a frame without its header")
        content = queue.memory.contents[queue.regions[0]]
        at = queue.at[0]
        if queue.lengths[0] < self._header_size:
            return unfinished_of(self._gathered_header())
        if content[at] == 0 and content[at + 1] == 0:
            return 0
        return unfinished_of(content[at : at + HEADER_SIZE_LEGACY])

    def _gathered_header(self) -> bytes:
        queue = self._from_guest.queue
        header = BytesWriter()
        part: i64 = 0
        while len(header) < self._header_size:
            content = queue.memory.contents[queue.regions[part]]
            header.write(content[queue.at[part] : queue.at[part] + queue.lengths[part]])
            part += 1
        return header.getvalue()

    def _take_frame(self) -> None:
        """Add the frame in hand to the batch, with its prefix."""
        queue = self._from_guest.queue
        length = queue.capacity - self._header_size
        if length > FRAME_MAX:
            count_too_long(self.port, length)
            return
        write_i32_be(self._batch, i32(length))
        skip = self._header_size
        part: i64 = 0
        while part < queue.parts:
            size = queue.lengths[part]
            if size > skip:
                at = queue.at[part]
                self._take(queue.memory.contents[queue.regions[part]], at + skip, at + size)
                skip = 0
            else:
                skip -= size
            part += 1

    def _take(self, content: bytes, start: i64, end: i64) -> None:
        """Add content[start:end] to the batch; of what is large, one copy less is made."""
        if end - start < LARGE:
            copy(self._batch, content, start, end)
            return
        self._large.append(self._batch.getvalue())
        self._large.append(content[start:end])
        self._batch.truncate(0)

    def _ingress(self, unfinished: i64, now: i64) -> None:
        chunk = self._batch.getvalue()
        self._batch.truncate(0)
        if len(self._large) > 0:
            self._large.append(chunk)
            chunk = b"".join(self._large)
            self._large = []
        if len(chunk) == 0:
            return
        if unfinished == 0:
            self.bridge.ingress(self.port, chunk, 0, now)
        else:
            self.bridge.ingress_unfinished(self.port, chunk, unfinished, now)

    def flush(self) -> i64:
        try:
            return self._flush()
        except RingError as error:
            self.lost = f"the guest's ring is broken: {error}"
            return 0

    def _flush(self) -> i64:
        port = self.port
        work: i64 = 0
        self._to_guest.queue.want_no_notice()
        room = self._to_guest.queue.available()
        while port.queued_frames > 0:
            if work >= FLUSH_MAX:
                port.block()
                self._to_guest.come_back()
                break
            run = port.waiting()[0]
            done = self._send(run, room, FLUSH_MAX - work)
            if done > 0:
                work += done
                port.sent(done)
            elif port.queued_frames > 0 and port.waiting()[0] is run:  # else it was dropped
                now_room = self._to_guest.settle()
                if now_room == room:
                    port.block()
                    break
            room = self._to_guest.queue.available()
        self._to_guest.publish()
        return work

    def _send(self, run: Run, room: i64, most: i64) -> i64:
        """Send frames from a run's start, the queue's head; answers how many bytes that was, prefixes included.

        None if the first was dropped, as no room is enough, or has to wait for room.
        """
        queue = self._to_guest.queue
        header = _WHOLE if run.unfinished == 0 else header_of(run.unfinished)[:_COUNT_AT] + _WHOLE[_COUNT_AT:]
        header = header[: self._header_size]
        at = run.start
        while at < run.end and at - run.start < most:
            end = at + PREFIX + frame_length(run.chunk, at)
            needed = self._header_size + end - at - PREFIX
            while queue.capacity < needed and queue.buffers < room and (self._mergeable or queue.buffers == 0):
                queue.take(True)
            if queue.capacity < needed:
                never = queue.buffers == queue.size or (queue.buffers > 0 and not self._mergeable)
                queue.put_back()
                if never and at == run.start:
                    self.port.drop_head(TOO_LONG)
                break
            room -= queue.buffers
            self._write(header, run.chunk, at + PREFIX, end)
            queue.give(needed)
            at = end
        return at - run.start

    def _write(self, header: bytes, chunk: bytes, start: i64, end: i64) -> None:
        """Write a header, and the frame at chunk[start:end], to the buffers in hand."""
        queue = self._to_guest.queue
        if queue.parts == 1:
            content = header + chunk[start:end]
            at = queue.at[0]
            queue.memory.views[queue.regions[0]][at : at + len(content)] = content
            return
        if queue.buffers > 1:
            header = header[:_COUNT_AT] + int(queue.buffers).to_bytes(2, "little")
        self._part = 0
        self._within = 0
        self._put(header, 0, self._header_size)
        self._put(chunk, start, end)

    def _put(self, content: bytes, start: i64, end: i64) -> None:
        """Write content[start:end] after what was put before."""
        queue = self._to_guest.queue
        while start < end:
            fits = min(end - start, queue.lengths[self._part] - self._within)
            at = queue.at[self._part] + self._within
            queue.memory.views[queue.regions[self._part]][at : at + fits] = content[start : start + fits]
            start += fits
            self._within += fits
            if self._within == queue.lengths[self._part]:
                self._part += 1
                self._within = 0

    def close(self) -> None:
        """The eventfds and the memory are whoever's that has made the rings."""
