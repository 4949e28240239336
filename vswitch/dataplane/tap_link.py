"""TAP devices: one frame a read, one frame a write (Linux Documentation/networking/tuntap.rst).

A device with IFF_VNET_HDR has a header before each frame that says what is left to do for it (offload.py). To one that
`offloads`, segments that follow each other are written as one frame (joining.py). What is read goes through one buffer,
which all links share, since calls never overlap.
"""

import os
import struct
from typing import Final, Protocol, final

from mypy_extensions import i64

from vswitch.dataplane.bridge import RECEIVE_MIN, Bridge
from vswitch.dataplane.datagram import COST, FrameLink, count_too_long
from vswitch.dataplane.frame import FRAME_MAX, PREFIX, skip_frames
from vswitch.dataplane.joining import JOINER
from vswitch.dataplane.mmsg import BURST
from vswitch.dataplane.offload import HEADER_SIZE, header_of, unfinished_of
from vswitch.dataplane.port import Port

BATCH_MAX: Final = 512 * 1024
SLOT: Final = PREFIX + FRAME_MAX + 1  # one byte more tells that a frame is too long
BYTE_COST: Final = 8  # a frame of 64 KB takes as long as eight small ones
WHOLE: Final = bytes(HEADER_SIZE)  # a header that leaves nothing to do

_BUFFER: Final = bytearray(BATCH_MAX + SLOT)
_VIEW: Final = memoryview(_BUFFER)
_HEADER: Final = bytearray(HEADER_SIZE)
_LENGTH: Final = struct.Struct(">I")


class Device(Protocol):
    """An open TAP device; each frame has a header of HEADER_SIZE bytes before it if it `has_header`."""

    @property
    def has_header(self) -> bool: ...
    @property
    def offloads(self) -> bool: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


@final
class TapLink(FrameLink):
    """A TAP device of one port's own."""

    def __init__(self, device: Device, port: Port, bridge: Bridge) -> None:
        os.set_blocking(device.fileno(), False)
        super().__init__(device.fileno(), device.fileno(), port, bridge, lasting=True)
        self._device = device
        self._has_header = device.has_header
        self.takes_unfinished = device.has_header and device.offloads

    def receive(self, now: i64) -> i64:
        most = min(BATCH_MAX, max(RECEIVE_MIN, self.bridge.receive_max()))
        count: i64 = 0
        unfinished: i64 = 0  # of the frames since `start`
        start: i64 = 0
        at: i64 = 0
        while count < BURST and at < most:
            length = self._read(at + PREFIX)
            if length < 0:
                break
            count += 1
            if length > FRAME_MAX:
                count_too_long(self.port, length)
                continue
            left: i64 = 0
            if self._has_header:
                left = unfinished_of(bytes(_HEADER))
            if left != unfinished:
                self._ingress(start, at, unfinished, now)
                unfinished = left
                start = at
            _LENGTH.pack_into(_BUFFER, at, length)
            at += PREFIX + length
        self._ingress(start, at, unfinished, now)
        return count * COST + at // BYTE_COST

    def _read(self, at: i64) -> i64:
        """Read a frame to a place in the buffer; answers its length, or -1 if there is none."""
        space = _VIEW[at : at + FRAME_MAX + 1]
        try:
            if self._has_header:
                return os.readv(self.fd, [_HEADER, space]) - HEADER_SIZE
            return os.readv(self.fd, [space])
        except BlockingIOError:
            return -1
        except OSError as error:
            self.lost = error.strerror or "device lost"
            return -1

    def _ingress(self, start: i64, end: i64, unfinished: i64, now: i64) -> None:
        if start == end:
            return
        chunk = bytes(_VIEW[start:end])
        if unfinished == 0:
            self.bridge.ingress(self.port, chunk, 0, now)
        else:
            self.bridge.ingress_unfinished(self.port, chunk, unfinished, now)

    def _send(self, most: i64) -> i64:
        port = self.port
        run = port.waiting()[0]
        header = WHOLE if run.unfinished == 0 else header_of(run.unfinished)
        chunk = memoryview(run.chunk)
        at = run.start
        count: i64 = 0
        try:
            while at < run.end and count < most:
                joined: i64 = 1
                if self.takes_unfinished and run.unfinished == 0:
                    joined = JOINER.join(run.chunk, at, run.end, most - count)
                end = skip_frames(run.chunk, at, joined)
                frame = chunk[at + PREFIX : end]
                if joined > 1:
                    data = [chunk[start:after] for start, after in JOINER.data]
                    os.writev(self.fd, [header_of(JOINER.unfinished), JOINER.headers, *data])
                elif self._has_header:
                    os.writev(self.fd, [header, frame])
                else:
                    os.write(self.fd, frame)
                at = end
                count += joined
        except OSError as error:
            if count == 0:
                return self._refused(error.errno if error.errno is not None else 0)
        port.sent(at - run.start)
        return count

    def close(self) -> None:
        self._device.close()
