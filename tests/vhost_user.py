"""vhost-user as tests speak it: a front end that sends messages, and a backend that writes down what it is told."""

import struct
from collections.abc import Sequence

from vswitch.protocols.vhost_user import (
    FDS_MAX,
    FEATURES,
    HEADER_SIZE,
    Backend,
    ProtocolError,
    Region,
    Request,
    Session,
)

VERSION, REPLY, NEED_REPLY = 1, 4, 8
OFFERED = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 16  # MQ, REPLY_ACK, NET_MTU, STATUS
NO_FD = 0x100
MEGABYTE = 1 << 20
MEMORY = Region(0, MEGABYTE, 0x7F00_0000_0000, 0)
MORE = Region(MEGABYTE, MEGABYTE, 0x7F80_0000_0000, MEGABYTE)
ENABLED = [("enable_ring", 0, True), ("enable_ring", 1, True)]


class Guest(Backend):
    """A backend that writes down what it is told, and checks what it may rely on."""

    def __init__(self, refuses: str = "") -> None:
        self.calls: list[tuple[object, ...]] = []
        self.taken: list[int] = []
        self.running = {0: False, 1: False}
        self.known: set[tuple[str, int]] = set()
        self._refuses = refuses

    def _note(self, *call: object) -> None:
        if call[0] == self._refuses:
            raise ProtocolError("not here")
        self.calls.append(call)

    def _of_stopped_ring(self, what: str, ring: int) -> None:
        assert not self.running[ring]
        self.known.add((what, ring))

    def set_features(self, features: int) -> None:
        assert features & ~FEATURES == 0
        self._note("set_features", features)

    def set_memory(self, regions: Sequence[Region], fds: Sequence[int]) -> None:
        assert 1 <= len(regions) == len(fds) <= FDS_MAX
        for region in regions:
            assert region.size > 0
            for address in (region.guest_address, region.user_address, region.mmap_offset):
                assert 0 <= address < address + region.size <= 1 << 63
            others = [other for other in regions if other is not region]
            assert not any(
                other.guest_address <= region.guest_address < other.guest_address + other.size for other in others
            )
        self._note("set_memory", *regions)
        self.taken += fds

    def set_ring_size(self, ring: int, entries: int) -> None:
        assert entries in [1 << bits for bits in range(11)]
        self._note("set_ring_size", ring, entries)
        self._of_stopped_ring("size", ring)

    def set_ring_addresses(self, ring: int, descriptors: int, available: int, used: int) -> None:
        assert descriptors % 16 == available % 2 == used % 4 == 0
        assert max(descriptors, available, used) < 1 << 63
        self._note("set_ring_addresses", ring, descriptors, available, used)
        self._of_stopped_ring("addresses", ring)

    def set_ring_base(self, ring: int, index: int) -> None:
        assert 0 <= index <= 0xFFFF
        self._note("set_ring_base", ring, index)
        assert not self.running[ring]

    def stop_ring(self, ring: int) -> int:
        self._note("stop_ring", ring)
        self.running[ring] = False
        return 0x1234 + ring

    def set_kick(self, ring: int, fd: int | None) -> None:
        assert self.known >= {("size", ring), ("addresses", ring)}
        self._take("set_kick", ring, fd)
        self.running[ring] = True

    def set_call(self, ring: int, fd: int | None) -> None:
        self._take("set_call", ring, fd)

    def set_error(self, ring: int, fd: int | None) -> None:
        self._take("set_error", ring, fd)

    def _take(self, call: str, ring: int, fd: int | None) -> None:
        assert ring in self.running
        self._note(call, ring, fd is not None)
        self.taken += [fd] if fd is not None else []

    def enable_ring(self, ring: int, enabled: bool) -> None:
        assert ring in self.running
        self._note("enable_ring", ring, enabled)

    def set_mtu(self, mtu: int) -> None:
        self._note("set_mtu", mtu)

    def set_status(self, status: int) -> None:
        assert 0 <= status <= 0xFF
        self._note("set_status", status)


class Connection:
    """A session, and the front end that speaks to it. Each descriptor it hands over has a number of its own."""

    def __init__(self, guest: Guest | None = None, mtu: int | None = None) -> None:
        self.guest = Guest() if guest is None else guest
        self.session = Session(self.guest, mtu=mtu)
        self._fds = iter(range(100, 100_000))

    def send(self, request: int, payload: bytes = b"", fds: int = 0, flags: int = VERSION) -> bytes:
        """The reply to a message. Raises ProtocolError, and AssertionError if descriptors get lost."""
        header = struct.pack("=III", request, flags, len(payload))
        handed = [next(self._fds) for _ in range(fds)]
        before = list(self.guest.taken)
        try:
            reply = self.session.receive(header, payload, handed)
        except ProtocolError:
            assert self.guest.taken == before
            raise
        assert self.guest.taken == before + handed
        return reply

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        """The payload of the reply."""
        return read_reply(request, self.send(request, payload))

    def start(self, ring: int = 0) -> None:
        """Everything that a ring needs, up to its start."""
        self.send(Request.SET_VRING_NUM, state(ring, 256))
        self.send(Request.SET_VRING_ADDR, addresses(ring))
        self.send(Request.SET_VRING_KICK, number(ring), fds=1)


def read_reply(request: int, reply: bytes) -> bytes:
    assert struct.unpack_from("=III", reply) == (request, VERSION | REPLY, len(reply) - HEADER_SIZE)
    return reply[HEADER_SIZE:]


def number(value: int) -> bytes:
    return struct.pack("=Q", value)


def state(ring: int, value: int) -> bytes:
    return struct.pack("=II", ring, value)


def addresses(
    ring: int, descriptors: int = 0x1000, available: int = 0x2000, used: int = 0x3000, flags: int = 0
) -> bytes:
    return struct.pack("=IIQQQQ", ring, flags, descriptors, used, available, 0xF000)


def table(*regions: Region, count: int | None = None) -> bytes:
    head = struct.pack("=II", len(regions) if count is None else count, 0)
    return head + b"".join(
        struct.pack("=QQQQ", region.guest_address, region.size, region.user_address, region.mmap_offset)
        for region in regions
    )
