"""Tunnels: a datagram is a header and a frame. How headers look is known to protocols/vxlan.py and l2tpv3.py.

What has to be there in a header is compared as two words: to parse each one would cost more than to forward its
frame. A `TunnelSocket` has several peers, each a `TunnelLink` of its own, and tells them apart by address.

Frames of one length that leave for one peer, one after another, are one message, which the system cuts up
(UDP_SEGMENT, udp(7)), and what comes so may be handed over as one message, too (UDP_GRO): that takes a large part of
the cost of a datagram away. Headers and frames are sent from where they are. Flows are spread over a few sockets by a
hash, so that the network may spread datagrams by their source port (RFC 7348, 5); those of one flow keep their order,
as they leave by one socket.
"""

import errno
import socket
import struct
from typing import Final, final

from librt.strings import BytesWriter, read_i16_be, read_i32_be, read_i64_be, write_i32_be
from mypy_extensions import i32, i64

from vswitch.dataplane.bridge import Bridge
from vswitch.dataplane.datagram import COST, FrameLink, SharedSource, count_too_long, size_of
from vswitch.dataplane.drops import BAD_COOKIE, BAD_HEADER, OTHER_TUNNEL
from vswitch.dataplane.frame import (
    AT_DST,
    AT_TPID,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    FRAME_MAX,
    PREFIX,
    TCP,
    UDP,
    copy,
    frame_length,
)
from vswitch.dataplane.mmsg import (
    BURST,
    BYTES_AT,
    DONTWAIT,
    HEADER_SIZE,
    IOVEC,
    LITTLE_ENDIAN,
    NAME_SIZE,
    NAMED_RECEIVERS,
    Area,
    Slots,
    append_i64,
    last_errno,
    sendmmsg,
)
from vswitch.dataplane.port import Port
from vswitch.dataplane.run import Run

HEAD_MAX: Final = 96  # with what comes before it; together with the frame's addresses it fits the smallest slot
WANTED_MAX: Final = 16  # bytes of a header that are compared
MESSAGE_MAX: Final = 65000  # bytes of datagrams that are handed over as one message
JOINED_MOST: Final = 16  # datagrams at a time that the system may have joined
BYTES_OF_COST: Final = 8  # a message of 64 KB takes as long as eight small datagrams
NO_PORT: Final = b"\0\0"

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
CONTROL: Final = struct.Struct("@NiiH6x")  # struct cmsghdr, and the length of a segment
CONTROL_LEN: Final = struct.calcsize("@NiiH")

IP_AT: Final = AT_TPID + 2
IPV4_LEAST: Final = 14 + 20
IPV6_LEAST: Final = 14 + 40
HAS_SEQUENCE: Final = 0x4000_0000
SEQUENCE_MASK: Final = 0x00FF_FFFF
HASH_FACTOR: Final = 0x2545F4914F6CDD1D
HASH_MASK: Final = 0x7FFF_FFFF_FFFF_FFFF


@final
class Encapsulation:
    """What stands before each frame.

    `sent` is sent, with a sequence number (RFC 3931, 4.6.1) at `counter_at`, or none if that is negative. What comes in
    has a header of `size` bytes, which must have `wanted` at `wanted_at`, in the bits of the three masks: those that
    say what kind of packet it is, those of the tunnel's number, and those of a cookie.
    """

    def __init__(
        self,
        sent: bytes,
        counter_at: i64,
        size: i64,
        wanted_at: i64,
        wanted: bytes,
        kind: bytes,
        number: bytes,
        cookie: bytes,
    ) -> None:
        assert max(size, len(sent)) <= HEAD_MAX
        self.sent = sent
        self.counter_at = counter_at
        self.area = Area(sent)
        self.size = size
        self.wanted_at = wanted_at
        self._wanted = _words(wanted)
        self._kind = _words(kind)
        self._number = _words(number)
        self._cookie = _words(cookie)
        masks = (self._kind, self._number, self._cookie)
        self.want_0: i64 = self._wanted[0]
        self.want_1: i64 = self._wanted[1]
        self.mask_0: i64 = masks[0][0] | masks[1][0] | masks[2][0]
        self.mask_1: i64 = masks[0][1] | masks[1][1] | masks[2][1]

    def why(self, word_0: i64, word_1: i64) -> i64:
        """The reason to drop what does not have what is wanted."""
        other_0: i64 = word_0 ^ self.want_0
        other_1: i64 = word_1 ^ self.want_1
        if other_0 & self._kind[0] != 0 or other_1 & self._kind[1] != 0:
            return BAD_HEADER
        if other_0 & self._number[0] != 0 or other_1 & self._number[1] != 0:
            return OTHER_TUNNEL
        return BAD_COOKIE


def _words(text: bytes) -> tuple[int, int]:
    padded = text + bytes(WANTED_MAX - len(text))
    return int.from_bytes(padded[:8], "big", signed=True), int.from_bytes(padded[8:], "big", signed=True)


@final
class TunnelSocket(SharedSource):
    """A datagram socket of a tunnel. `peers` are links by the key of an address, and may be shared by several sockets.

    A key is a socket address (sockaddr_in without what is behind the address, or sockaddr_in6), with port 0 where peers
    send from any port (`any_port`).
    """

    def __init__(
        self,
        sock: socket.socket,
        bridge: Bridge,
        callers: list[SharedSource],
        encapsulation: Encapsulation,
        peers: dict[bytes, "TunnelLink"],
        any_port: bool,
    ) -> None:
        super().__init__(sock, bridge, callers)
        self.peers = peers
        self._encapsulation = encapsulation
        self._is_six = sock.family == socket.AF_INET6
        self._any_port = any_port
        self._slots = Slots(NAMED_RECEIVERS)

    def receive(self, now: i64) -> i64:
        receiver = self._slots.receiver
        most = min(BURST, max(1, self.bridge.receive_max() // receiver.slot_size))
        if self._slots.are_largest():  # each may be as long as a message
            most = min(most, JOINED_MOST)
        count = receiver.receive(self.fd, most)
        if count < 0:
            return 0 if last_errno() == errno.EAGAIN else COST
        names = receiver.names
        batch = BytesWriter()
        longest: i64 = 0
        total: i64 = 0
        sender: TunnelLink | None = None  # of what is in the batch
        last: i64 = -1  # whose name the next one's is compared with
        number: i64 = 0
        while number < count:
            if last < 0 or not self._is_same(names, last, number):
                if sender is not None and len(batch) > 0:
                    self.bridge.ingress(sender.port, batch.getvalue(), 0, now)
                    batch = BytesWriter()
                sender = self.peers.get(self._key(names, number))
                last = number
            length = receiver.length(number)
            longest = max(longest, length)
            total += length
            step = receiver.segment(number, length)
            at = receiver.open(number, length)
            end = at + length
            while True:  # an empty one is one, too
                size = min(step, end - at)
                self._take(receiver.data, at, size, sender, batch, number)
                at += size
                if at >= end:
                    break
            number += 1
        self._slots.adapt(longest)
        if sender is not None and len(batch) > 0:
            self.bridge.ingress(sender.port, batch.getvalue(), 0, now)
        return count * COST + total // BYTES_OF_COST

    def _take(
        self, data: bytes, at: i64, length: i64, sender: "TunnelLink | None", batch: BytesWriter, number: i64
    ) -> None:
        """Add the frame of a datagram to a batch, or refuse it; `number` is that of its sender's name."""
        head = self._encapsulation
        word_0 = read_i64_be(data, at + head.wanted_at)
        word_1 = read_i64_be(data, at + head.wanted_at + 8)
        size = length - head.size
        if size < 0:
            self._refuse(sender, length, BAD_HEADER)
        elif (word_0 ^ head.want_0) & head.mask_0 != 0 or (word_1 ^ head.want_1) & head.mask_1 != 0:
            self._refuse(sender, length, head.why(word_0, word_1))
        elif size > FRAME_MAX:
            self._refuse_long(sender, size)
        elif sender is not None:
            write_i32_be(batch, i32(size))
            copy(batch, data, at + head.size, at + length)
        else:
            name = self._name(self._slots.receiver.names, number)
            self.set_aside(name, data[at + head.size : at + length])

    def _is_same(self, names: bytes, one: i64, other: i64) -> bool:
        """Whether two datagrams are of one peer."""
        here = one * NAME_SIZE
        there = other * NAME_SIZE
        differ: i64 = read_i64_be(names, here) ^ read_i64_be(names, there)
        if self._any_port:
            differ &= ~(0xFFFF << 32)
        if not self._is_six:
            return differ == 0
        at: i64 = 8
        while at < 24:
            differ |= read_i64_be(names, here + at) ^ read_i64_be(names, there + at)
            at += 8
        return differ == 0 and read_i32_be(names, here + 24) == read_i32_be(names, there + 24)

    def _name(self, names: bytes, number: i64) -> bytes:
        at = number * NAME_SIZE
        return names[at : at + (28 if self._is_six else 8)]

    def _key(self, names: bytes, number: i64) -> bytes:
        name = self._name(names, number)
        return name[:2] + NO_PORT + name[4:] if self._any_port else name

    def _refuse(self, sender: "TunnelLink | None", length: i64, reason: i64) -> None:
        """Count what has not the right header."""
        size: i64 = max(0, length - self._encapsulation.size)
        if sender is None:
            self.bridge.stranger(size)
            return
        sender.port.rx_frames += 1
        sender.port.rx_bytes += size
        sender.port.drop(reason, 1)

    def _refuse_long(self, sender: "TunnelLink | None", length: i64) -> None:
        if sender is None:
            self.bridge.stranger(length)
        else:
            count_too_long(sender.port, length)


@final
class TunnelLink(FrameLink):
    """One peer of a tunnel: `address` is the socket address that frames for it go to, by one of the sockets `outs`.

    The sockets are their maker's, and shared by all links.
    """

    def __init__(
        self,
        peers: dict[bytes, "TunnelLink"],
        key: bytes,
        address: bytes,
        outs: list[socket.socket],
        encapsulation: Encapsulation,
        port: Port,
        bridge: Bridge,
    ) -> None:
        super().__init__(-1, outs[0].fileno(), port, bridge, lasting=True)
        self.encapsulation = encapsulation
        self.name = Area(address)
        self.name_size: i64 = len(address)
        self.counter: i64 = 0  # frames that were sent
        self.segment_max: i64 = MESSAGE_MAX  # longer datagrams the system does not cut out of a message
        self.outs: list[int] = [out.fileno() for out in outs]
        self._peers = peers
        self._key = key
        peers[key] = self

    def receive(self, now: i64) -> i64:
        return 0

    def _send(self, most: i64) -> i64:
        port = self.port
        runs = port.waiting()
        sent = PACKER.send(self, runs, most)
        error = 0
        if sent < 0:
            error = last_errno()
            if PACKER.segmented and error in (errno.EMSGSIZE, errno.EINVAL, errno.EIO):
                self.segment_max = PACKER.first - 1  # too long for the path, or for what the system can do
                sent = PACKER.send(self, runs, most)
                error = last_errno()
        if sent < 0:
            return self._refused(error)
        self.counter += sent
        port.sent(port.queued_bytes if sent == port.queued_frames else size_of(runs, sent))
        return sent

    def close(self) -> None:
        if self._peers.get(self._key) is self:
            del self._peers[self._key]


@final
class Packer:
    """Sends bursts of frames with their headers."""

    def __init__(self) -> None:
        self.segmented = False  # whether the first message of the last call was to be cut up
        self.first: i64 = 0  # the length of its datagrams
        self._vectors = Area(2 * BURST * IOVEC.size)
        self._messages = Area(BURST * HEADER_SIZE)
        self._heads = Area(BURST * HEAD_MAX)
        self._controls = Area(BURST * CONTROL.size)
        self._counts: list[int] = []  # frames of each message

    def send(self, link: TunnelLink, runs: list[Run], most: i64) -> i64:
        """Send up to `most` frames of one socket's flows from the head of a queue; answers how many, or -1 with errno
        set."""
        head = link.encapsulation
        head_size: i64 = len(head.sent)
        head_at: i64 = head.area.address
        out: i64 = 0
        vectors = BytesWriter()
        heads = BytesWriter()
        messages = BytesWriter()
        controls = BytesWriter()
        self._counts.clear()
        count: i64 = 0
        first: i64 = 0  # frame of the current message
        segment: i64 = 0  # the length of its datagrams but the last
        size: i64 = 0  # of all of them
        open = False
        for run in runs:
            base: i64 = id(run.chunk) + BYTES_AT
            at = run.start
            while at < run.end and count < most:
                length = frame_length(run.chunk, at)
                if len(link.outs) > 1:
                    chosen = flow_hash(run.chunk, at, length) % len(link.outs)
                    if count > 0 and chosen != out:
                        most = count
                        break
                    out = chosen
                datagram = head_size + length
                if not open or datagram > segment or size + datagram > MESSAGE_MAX or segment > link.segment_max:
                    if count > 0:
                        self._close(messages, controls, link, first, count, segment)
                    first = count
                    segment = datagram
                    size = 0
                open = datagram == segment
                size += datagram
                if head.counter_at >= 0:
                    head_at = self._heads.address + count * head_size
                    _append_counted(heads, head, link.counter + count)
                append_i64(vectors, head_at)
                append_i64(vectors, head_size)
                append_i64(vectors, base + at + PREFIX)
                append_i64(vectors, length)
                at += PREFIX + length
                count += 1
            if count == most:
                break
        self._close(messages, controls, link, first, count, segment)
        self._vectors.write(vectors.getvalue())
        self._messages.write(messages.getvalue())
        self._controls.write(controls.getvalue())
        if head.counter_at >= 0:
            self._heads.write(heads.getvalue())
        return self._hand_over(link, out)

    def _hand_over(self, link: TunnelLink, out: i64) -> i64:
        fd = link.outs[out]
        link.room_fd = fd
        sent: i64 = sendmmsg(fd, self._messages.address, len(self._counts), DONTWAIT)
        if sent < 0:
            return sent
        frames: i64 = 0
        message: i64 = 0
        while message < sent:
            frames += self._counts[message]
            message += 1
        return frames

    def _close(
        self, messages: BytesWriter, controls: BytesWriter, link: TunnelLink, first: i64, end: i64, segment: i64
    ) -> None:
        """Append a message, a struct mmsghdr, of the frames from `first` to before `end`."""
        frames = end - first
        number: i64 = len(self._counts)
        if number == 0:
            self.segmented = frames > 1
            self.first = segment
        self._counts.append(frames)
        append_i64(messages, link.name.address)
        _append_u32(messages, link.name_size)
        append_i64(messages, self._vectors.address + 2 * first * 16)
        append_i64(messages, 2 * frames)
        if frames > 1:
            append_i64(messages, self._controls.address + number * 24)
            append_i64(messages, CONTROL_LEN)
            _append_control(controls, segment)
        else:
            append_i64(messages, 0)
            append_i64(messages, 0)
            _append_no_control(controls)
        append_i64(messages, 0)
        append_i64(messages, 0)


def _append_counted(heads: BytesWriter, head: Encapsulation, counter: i64) -> None:
    """Append a header with a sequence number."""
    at = head.counter_at
    heads.write(head.sent[:at])
    write_i32_be(heads, i32(HAS_SEQUENCE | counter & SEQUENCE_MASK))
    heads.write(head.sent[at + 4 :])


def _append_u32(target: BytesWriter, number: i64) -> None:
    """A number of 32 bits, and as many that do not matter."""
    append_i64(target, number if LITTLE_ENDIAN else number << 32)


def _append_control(target: BytesWriter, segment: i64) -> None:
    append_i64(target, CONTROL_LEN)
    if LITTLE_ENDIAN:
        append_i64(target, SOL_UDP | UDP_SEGMENT << 32)
        append_i64(target, segment)
    else:
        append_i64(target, SOL_UDP << 32 | UDP_SEGMENT)
        append_i64(target, segment << 48)


def _append_no_control(target: BytesWriter) -> None:
    append_i64(target, 0)
    append_i64(target, 0)
    append_i64(target, 0)


def flow_hash(chunk: bytes, at: i64, length: i64) -> i64:
    """A number that all frames of a flow have, from its addresses, and of IP its protocol and ports; not negative.

    `at` is where the frame's prefix starts. Fragments, as they have no ports, go by their addresses.
    """
    word = _mix(read_i64_be(chunk, at + AT_DST), read_i64_be(chunk, at + AT_DST + 4))
    kind = i64(read_i16_be(chunk, at + AT_TPID))
    ip = at + IP_AT
    protocol: i64 = -1
    ports: i64 = 0
    if kind == ETHERTYPE_IPV4 and length >= IPV4_LEAST:
        word = _mix(word, read_i64_be(chunk, ip + 12))
        if i64(read_i16_be(chunk, ip + 6)) & 0x3FFF == 0:
            protocol = i64(read_i16_be(chunk, ip + 8)) & 0xFF
            ports = 4 * ((i64(read_i16_be(chunk, ip)) >> 8) & 0xF)
    elif kind == ETHERTYPE_IPV6 and length >= IPV6_LEAST:
        word = _mix(_mix(word, read_i64_be(chunk, ip + 8)), read_i64_be(chunk, ip + 16))
        word = _mix(_mix(word, read_i64_be(chunk, ip + 24)), read_i64_be(chunk, ip + 32))
        protocol = (i64(read_i16_be(chunk, ip + 6)) >> 8) & 0xFF
        ports = 40
    if protocol in (TCP, UDP) and length >= 14 + ports + 4:
        word = _mix(word, i64(read_i32_be(chunk, ip + ports)) << 8 | protocol)
    return word >> 32


def _mix(word: i64, more: i64) -> i64:
    mixed: i64 = ((word ^ more) * HASH_FACTOR) & HASH_MASK  # wraps when it is compiled
    return mixed ^ mixed >> 29


PACKER: Final = Packer()
