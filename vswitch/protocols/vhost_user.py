"""vhost-user, the back end's side: how QEMU hands over the rings of a guest's network card, and the memory they are in.

Facts from QEMU's docs/interop/vhost-user.rst and hw/virtio/vhost-user.c (7.2 to 10.0), and virtio 1.2, 2.7 and 5.1.
Numbers are in the machine's own byte order. Descriptors come with a message as ancillary data.

    message: u32 request, u32 flags, u32 size, payload of `size` bytes

A `Session` is one connection. It checks what the front end sends, and tells its `Backend`. What is not offered:

- LOG_SHMFD, dirty pages for a migration. QEMU then refuses to migrate: "Migration disabled: vhost-user backend lacks
  VHOST_USER_PROTOCOL_F_LOG_SHMFD feature."
- CONFIGURE_MEM_SLOTS. QEMU would then replace a region that has grown by removing and adding it, with rings running
  that are in neither meanwhile; a memory table changes at once.
- RESET_DEVICE. QEMU stops each ring, which is enough.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final, Protocol

from vswitch.dataplane.virtqueue import RING_MAX

# Features of the card, as virtio 1.2 numbers them (5.1.3, 6).
NET_CSUM: Final = 1 << 0
NET_GUEST_CSUM: Final = 1 << 1
NET_MTU: Final = 1 << 3  # here: SET_MTU is understood. The guest sees it only if QEMU has `host_mtu=`.
NET_GUEST_TSO4: Final = 1 << 7
NET_GUEST_TSO6: Final = 1 << 8
NET_GUEST_ECN: Final = 1 << 9
NET_HOST_TSO4: Final = 1 << 11
NET_HOST_TSO6: Final = 1 << 12
NET_HOST_ECN: Final = 1 << 13
NET_MRG_RXBUF: Final = 1 << 15
RING_INDIRECT_DESC: Final = 1 << 28
RING_EVENT_IDX: Final = 1 << 29
PROTOCOL_FEATURES: Final = 1 << 30  # vhost-user's own, in a bit that virtio leaves unused
VERSION_1: Final = 1 << 32

_NAMES: Final = {
    NET_CSUM: "csum",
    NET_GUEST_CSUM: "guest_csum",
    NET_MTU: "mtu",
    NET_GUEST_TSO4: "guest_tso4",
    NET_GUEST_TSO6: "guest_tso6",
    NET_GUEST_ECN: "guest_ecn",
    NET_HOST_TSO4: "host_tso4",
    NET_HOST_TSO6: "host_tso6",
    NET_HOST_ECN: "host_ecn",
    NET_MRG_RXBUF: "mrg_rxbuf",
    RING_INDIRECT_DESC: "indirect_desc",
    RING_EVENT_IDX: "event_idx",
    VERSION_1: "version_1",
}
# The same always: a guest keeps what it has negotiated when its QEMU connects again, which fails if some is missing.
FEATURES: Final = sum(_NAMES) | PROTOCOL_FEATURES

# Features of the protocol.
_MQ: Final = 1 << 0  # GET_QUEUE_NUM, which answers 1: the specification wants it of all back ends
_REPLY_ACK: Final = 1 << 3
_NET_MTU: Final = 1 << 4
_STATUS: Final = 1 << 16
_PROTOCOL_FEATURES_OFFERED: Final = _MQ | _REPLY_ACK | _NET_MTU | _STATUS

HEADER_SIZE: Final = 12
REGIONS_MAX: Final = 8
FDS_MAX: Final = REGIONS_MAX
RINGS: Final = 2  # ring 0 is what the guest receives by, ring 1 what it sends by
RING_SIZE_MAX: Final = RING_MAX
MTU_MIN: Final = 68  # virtio 1.2, 5.1.4.1
MTU_MAX: Final = 0xFFFF
_ADDRESS_END: Final = 1 << 63  # so that an address fits a signed integer; no machine has as much

_VERSION, _VERSION_MASK, _REPLY, _NEED_REPLY = 1, 3, 1 << 2, 1 << 3  # in flags
_NO_FD: Final = 1 << 8  # of a ring's descriptors; the ring's number is in the bits below
_RING_MASK: Final = 0xFF

_HEADER: Final = struct.Struct("=III")
_NOTHING: Final = struct.Struct("=")
_NUMBER: Final = struct.Struct("=Q")
_RING_STATE: Final = struct.Struct("=II")
_RING_ADDRESSES: Final = struct.Struct("=IIQQQQ")
_TABLE: Final = struct.Struct("=II")
_REGION: Final = struct.Struct("=QQQQ")

PAYLOAD_MAX: Final = _TABLE.size + REGIONS_MAX * _REGION.size


class ProtocolError(Exception):
    """The front end does what it must not; says what."""


class _Declined(ProtocolError):
    """A request that may be answered with no, if an answer is asked for."""


class Request(IntEnum):
    """What a front end may ask for."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    NET_SET_MTU = 20
    SET_STATUS = 39
    GET_STATUS = 40


@dataclass(frozen=True)
class Region:
    """A region of the guest's memory: where the guest and the front end have it, and where it is in its file."""

    guest_address: int
    size: int
    user_address: int
    mmap_offset: int


class Backend(Protocol):
    """What a session tells its owner. Each method may raise ProtocolError.

    A method that takes descriptors owns all of them once it has returned, and none if it raises.
    """

    def set_features(self, features: int) -> None:
        """A subset of FEATURES. They change only while no ring runs."""

    def set_memory(self, regions: Sequence[Region], fds: Sequence[int]) -> None:
        """All of the guest's memory, 1 to REGIONS_MAX regions with a descriptor each, in place of what was before.

        Rings may be running: they go on where they are, at the same user addresses. Guest addresses do not overlap.
        User addresses may, as a machine can have the same memory in two places.
        """

    def set_ring_size(self, ring: int, entries: int) -> None:
        """A power of two up to RING_SIZE_MAX. The ring does not run."""

    def set_ring_addresses(self, ring: int, descriptors: int, available: int, used: int) -> None:
        """User addresses, aligned as virtio asks for (1.2, 2.7), in a region or not. The ring does not run."""

    def set_ring_base(self, ring: int, index: int) -> None:
        """The next entry of the available ring, modulo 2^16. The ring does not run."""

    def stop_ring(self, ring: int) -> int:
        """Stops the ring, if it runs, and answers the next entry of the available ring."""

    def set_kick(self, ring: int, fd: int | None) -> None:
        """Starts the ring, which has a size and addresses. If it runs already, only the descriptor is replaced."""

    def set_call(self, ring: int, fd: int | None) -> None:
        """At any time. None if the guest is not to be interrupted."""

    def set_error(self, ring: int, fd: int | None) -> None:
        """At any time."""

    def enable_ring(self, ring: int, enabled: bool) -> None:
        """At any time, mostly before the ring is started. Rings are disabled at first."""

    def set_mtu(self, mtu: int) -> None:
        """What the guest is told is the MTU."""

    def set_status(self, status: int) -> None:
        """The device's status (virtio 1.2, 2.1). 0 is no reset: QEMU 7.2 says so before it stops the rings."""


@dataclass
class _Ring:
    """What decides which requests a ring may have next."""

    has_size: bool = False
    has_addresses: bool = False
    running: bool = False


def feature_names(features: int) -> list[str]:
    """The names of virtio features, as virtio has them; PROTOCOL_FEATURES is none of them."""
    return [name for bit, name in _NAMES.items() if features & bit]


def payload_size(header: bytes) -> int:
    """How many bytes follow a header of HEADER_SIZE bytes. Raises ProtocolError."""
    return _parse(header)[2]


class Session:
    """One connection of a front end. `mtu` is the largest MTU that the front end may ask for."""

    def __init__(self, backend: Backend, *, mtu: int | None = None) -> None:
        self.features = 0
        self._backend = backend
        self._mtu_max = MTU_MAX if mtu is None else mtu
        self._has_reply_ack = False
        self._status = 0
        self._rings = [_Ring() for _ in range(RINGS)]

    def receive(self, header: bytes, payload: bytes, fds: Sequence[int]) -> bytes:
        """Handle a message; answer the reply to send, or b"".

        When this returns, the backend has taken all of `fds`. If it raises, the backend has taken none: all are the
        caller's to close, and the session is over.

        Raises ProtocolError.
        """
        request, flags, size = _parse(header)
        if size != len(payload):
            raise ProtocolError(f"a message of {len(payload)} bytes that says {size}")
        try:
            answer = self._handle(request, payload, fds)
        except _Declined:
            if fds or not self._wants_reply(flags):
                raise
            answer = _NUMBER.pack(1)
        if answer is None:
            if not self._wants_reply(flags):
                return b""
            answer = _NUMBER.pack(0)
        return _HEADER.pack(request, _VERSION | _REPLY, len(answer)) + answer

    def _wants_reply(self, flags: int) -> bool:
        return self._has_reply_ack and bool(flags & _NEED_REPLY)

    def _handle(self, request: int, payload: bytes, fds: Sequence[int]) -> bytes | None:
        """What a request is answered with; None if it has no answer of its own."""
        if request == Request.SET_MEM_TABLE:
            self._backend.set_memory(_regions(payload, len(fds)), fds)
            return None
        if request in _WITH_DESCRIPTOR:
            ring, fd = _ring_descriptor(request, payload, fds)
            _WITH_DESCRIPTOR[request](self, ring, fd)
            return None
        if request not in _WITHOUT_DESCRIPTOR:
            raise _Declined(f"request {request}, which is not offered")
        layout, handle = _WITHOUT_DESCRIPTOR[request]
        _check_fds(request, len(fds), 0)
        return handle(self, *_unpack(request, layout, payload))

    def _get_features(self) -> bytes:
        return _NUMBER.pack(FEATURES)

    def _set_features(self, features: int) -> None:
        _check_offered("features", features, FEATURES)
        if features != self.features and any(ring.running for ring in self._rings):
            raise ProtocolError("features that change while a ring runs")
        self._backend.set_features(features)
        self.features = features
        if not features & PROTOCOL_FEATURES:  # then there is no SET_VRING_ENABLE
            self._enable_all(True)

    def _get_protocol_features(self) -> bytes:
        return _NUMBER.pack(_PROTOCOL_FEATURES_OFFERED)

    def _set_protocol_features(self, features: int) -> None:
        _check_offered("protocol features", features, _PROTOCOL_FEATURES_OFFERED)
        self._has_reply_ack = bool(features & _REPLY_ACK)

    def _set_owner(self) -> None:
        """Nothing to do."""

    def _reset_owner(self) -> None:
        """Disable the rings and forget nothing, as the specification recommends."""
        self._enable_all(False)

    def _enable_all(self, enabled: bool) -> None:
        for ring in range(RINGS):
            self._backend.enable_ring(ring, enabled)

    def _get_queue_num(self) -> bytes:
        return _NUMBER.pack(RINGS // 2)

    def _set_mtu(self, mtu: int) -> None:
        if not MTU_MIN <= mtu <= self._mtu_max:
            raise _Declined(f"an MTU of {mtu}; {MTU_MIN} to {self._mtu_max} are possible")
        self._backend.set_mtu(mtu)

    def _get_status(self) -> bytes:
        return _NUMBER.pack(self._status)

    def _set_status(self, status: int) -> None:
        if status > 0xFF:
            raise ProtocolError(f"a device status of {status:#x}")
        self._backend.set_status(status)
        self._status = status

    def _set_ring_size(self, ring: int, entries: int) -> None:
        state = self._stopped(ring, "size")
        if not 0 < entries <= RING_SIZE_MAX or entries & (entries - 1):
            raise ProtocolError(f"a ring of {entries} entries; powers of two up to {RING_SIZE_MAX} are possible")
        self._backend.set_ring_size(ring, entries)
        state.has_size = True

    def _set_ring_addresses(
        self, ring: int, flags: int, descriptors: int, used: int, available: int, _log: int
    ) -> None:
        state = self._stopped(ring, "addresses")
        if flags:
            raise ProtocolError(f"a ring with flags {flags:#x}; none are offered")
        for what, address, alignment in (
            ("descriptors", descriptors, 16),
            ("used", used, 4),
            ("available", available, 2),
        ):
            if address % alignment or address >= _ADDRESS_END:
                raise ProtocolError(f"a ring with {what} at {address:#x}")
        self._backend.set_ring_addresses(ring, descriptors, available, used)
        state.has_addresses = True

    def _set_ring_base(self, ring: int, index: int) -> None:
        self._stopped(ring, "base")
        if index > 0xFFFF:
            raise ProtocolError(f"a ring that goes on at entry {index}; at most {0xFFFF}")
        self._backend.set_ring_base(ring, index)

    def _get_ring_base(self, ring: int, _: int) -> bytes:
        _check_ring(ring)
        index = self._backend.stop_ring(ring)
        self._rings[ring].running = False
        return _RING_STATE.pack(ring, index)

    def _enable_ring(self, ring: int, enabled: int) -> None:
        _check_ring(ring)
        if enabled > 1:
            raise ProtocolError(f"a ring enabled by {enabled}; 0 and 1 are possible")
        self._backend.enable_ring(ring, bool(enabled))

    def _set_kick(self, ring: int, fd: int | None) -> None:
        state = self._rings[ring]
        if not (state.has_size and state.has_addresses):
            raise ProtocolError(f"ring {ring} started before it has a size and addresses")
        self._backend.set_kick(ring, fd)
        state.running = True

    def _set_call(self, ring: int, fd: int | None) -> None:
        self._backend.set_call(ring, fd)

    def _set_error(self, ring: int, fd: int | None) -> None:
        self._backend.set_error(ring, fd)

    def _stopped(self, ring: int, what: str) -> _Ring:
        """The ring, of which something is to change. Raises ProtocolError if there is no such ring or it runs."""
        _check_ring(ring)
        if self._rings[ring].running:
            raise ProtocolError(f"the {what} of ring {ring} changed while it runs")
        return self._rings[ring]


# What comes before the handler is the payload's layout; its fields are the handler's arguments.
_WITHOUT_DESCRIPTOR: Final[dict[int, tuple[struct.Struct, Callable[..., bytes | None]]]] = {
    Request.GET_FEATURES: (_NOTHING, Session._get_features),
    Request.SET_FEATURES: (_NUMBER, Session._set_features),
    Request.SET_OWNER: (_NOTHING, Session._set_owner),
    Request.RESET_OWNER: (_NOTHING, Session._reset_owner),
    Request.SET_VRING_NUM: (_RING_STATE, Session._set_ring_size),
    Request.SET_VRING_ADDR: (_RING_ADDRESSES, Session._set_ring_addresses),
    Request.SET_VRING_BASE: (_RING_STATE, Session._set_ring_base),
    Request.GET_VRING_BASE: (_RING_STATE, Session._get_ring_base),
    Request.GET_PROTOCOL_FEATURES: (_NOTHING, Session._get_protocol_features),
    Request.SET_PROTOCOL_FEATURES: (_NUMBER, Session._set_protocol_features),
    Request.GET_QUEUE_NUM: (_NOTHING, Session._get_queue_num),
    Request.SET_VRING_ENABLE: (_RING_STATE, Session._enable_ring),
    Request.NET_SET_MTU: (_NUMBER, Session._set_mtu),
    Request.SET_STATUS: (_NUMBER, Session._set_status),
    Request.GET_STATUS: (_NOTHING, Session._get_status),
}
_WITH_DESCRIPTOR: Final[dict[int, Callable[[Session, int, int | None], None]]] = {
    Request.SET_VRING_KICK: Session._set_kick,
    Request.SET_VRING_CALL: Session._set_call,
    Request.SET_VRING_ERR: Session._set_error,
}


def _parse(header: bytes) -> tuple[int, int, int]:
    """Request, flags and size of the payload. Raises ProtocolError."""
    if len(header) != HEADER_SIZE:
        raise ProtocolError(f"a header of {len(header)} bytes")
    request, flags, size = _HEADER.unpack(header)
    if flags & _VERSION_MASK != _VERSION:
        raise ProtocolError(f"a message of version {flags & _VERSION_MASK}; only {_VERSION} is known")
    if flags & ~(_VERSION_MASK | _NEED_REPLY):
        raise ProtocolError(f"a message with flags {flags:#x}")
    if size > PAYLOAD_MAX:
        raise ProtocolError(f"a message of {size} bytes; at most {PAYLOAD_MAX}")
    return request, flags, size


def _regions(payload: bytes, fds: int) -> list[Region]:
    """The regions of a memory table. Raises ProtocolError."""
    if len(payload) < _TABLE.size:
        raise ProtocolError(f"a memory table of {len(payload)} bytes")
    count, _ = _TABLE.unpack_from(payload)
    if not 0 < count <= REGIONS_MAX:
        raise ProtocolError(f"a memory table of {count} regions; 1 to {REGIONS_MAX} are possible")
    if len(payload) != _TABLE.size + count * _REGION.size:
        raise ProtocolError(f"a memory table of {count} regions in {len(payload)} bytes")
    _check_fds(Request.SET_MEM_TABLE, fds, count)
    regions = [Region(*fields) for fields in _REGION.iter_unpack(payload[_TABLE.size :])]
    _check_regions(regions)
    return regions


def _check_regions(regions: Iterable[Region]) -> None:
    """Raises ProtocolError for a region that is empty, wraps, or overlaps another where the guest has it."""
    for region in regions:
        if not region.size:
            raise ProtocolError(f"an empty memory region at {region.guest_address:#x}")
        if max(region.guest_address, region.user_address, region.mmap_offset) + region.size > _ADDRESS_END:
            raise ProtocolError(f"a memory region of {region.size:#x} bytes beyond the last address")
    for lower, upper in pairwise(sorted(regions, key=lambda region: region.guest_address)):
        if lower.guest_address + lower.size > upper.guest_address:
            raise ProtocolError(f"memory regions that overlap at {upper.guest_address:#x}")


def _ring_descriptor(request: int, payload: bytes, fds: Sequence[int]) -> tuple[int, int | None]:
    """The ring that a descriptor is for, and the descriptor, if there is one. Raises ProtocolError."""
    (number,) = _unpack(request, _NUMBER, payload)
    if number & ~(_RING_MASK | _NO_FD):
        raise ProtocolError(f"ring number {number:#x}")
    ring = number & _RING_MASK
    _check_ring(ring)
    _check_fds(request, len(fds), 0 if number & _NO_FD else 1)
    return ring, fds[0] if fds else None


def _unpack(request: int, layout: struct.Struct, payload: bytes) -> tuple[Any, ...]:
    if len(payload) != layout.size:
        raise ProtocolError(f"{Request(request).name} of {len(payload)} bytes instead of {layout.size}")
    return layout.unpack(payload)


def _check_fds(request: int, count: int, right: int) -> None:
    if count != right:
        raise ProtocolError(f"{Request(request).name} with {count} descriptors instead of {right}")


def _check_offered(what: str, features: int, offered: int) -> None:
    if features & ~offered:
        raise ProtocolError(f"{what} {features & ~offered:#x}, which are not offered")


def _check_ring(ring: int) -> None:
    if ring >= RINGS:
        raise ProtocolError(f"ring {ring}; there are {RINGS}")
