"""The back end of one card: what its front end has said, and the port's link as long as both rings run."""

import os
from collections.abc import Callable, Sequence

from vswitch.dataplane.guest_memory import GuestMemory, can_shrink
from vswitch.dataplane.offload import HEADER_SIZE
from vswitch.dataplane.vhost_link import HEADER_SIZE_LEGACY, RingEnd, VhostLink
from vswitch.dataplane.virtqueue import RingError, RingPlace, Virtqueue
from vswitch.endpoints.endpoint import log
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports
from vswitch.protocols import vhost_user
from vswitch.protocols.vhost_user import ProtocolError, Region

EVENTFD = "anon_inode:[eventfd]"
UNFINISHED = (
    vhost_user.NET_GUEST_CSUM | vhost_user.NET_GUEST_TSO4 | vhost_user.NET_GUEST_TSO6 | vhost_user.NET_GUEST_ECN
)


class Ring:
    """What was said of one ring. The descriptors belong to it."""

    def __init__(self) -> None:
        self.size = 0
        self.addresses: tuple[int, int, int] | None = None
        self.base = 0
        self.enabled = False
        self.kick = -1
        self.call = -1
        self.error = -1

    @property
    def can_run(self) -> bool:
        return self.enabled and self.size > 0 and self.addresses is not None and self.kick >= 0

    def end(self, memory: GuestMemory, *, event_index: bool) -> RingEnd:
        """Raises RingError."""
        assert self.addresses is not None
        place = RingPlace(self.size, *self.addresses)
        return RingEnd(Virtqueue(memory, place, self.base, event_index=event_index), self.kick, self.call)

    def close(self) -> None:
        for fd in (self.kick, self.call, self.error):
            if fd >= 0:
                os.close(fd)
        self.kick = self.call = self.error = -1


class Device:
    """A card of a port: the `Backend` of a vhost-user session.

    `failed` is called when its rings turn out to be of no use, with what is wrong with them. `unsealed` says that its
    memory may be of a file that can shrink.
    """

    def __init__(
        self, ports: Ports, port: SwitchPort, peer: str, failed: Callable[[str], None], *, unsealed: bool
    ) -> None:
        self._ports = ports
        self._port = port
        self._peer = peer
        self._failed = failed
        self._unsealed = unsealed
        self._features = 0
        self._memory: GuestMemory | None = None
        self._rings = (Ring(), Ring())
        self._ends: tuple[RingEnd, RingEnd] | None = None  # while there is a link

    def set_features(self, features: int) -> None:
        self._stop("its driver starts anew")
        self._features = features
        self._start()

    def set_memory(self, regions: Sequence[Region], fds: Sequence[int]) -> None:
        self._stop("its memory changes")
        self._forget_memory()
        memory = GuestMemory()
        try:
            for region, fd in zip(regions, fds, strict=True):
                self._add(memory, region, fd)
        except ProtocolError:
            memory.close()
            raise
        for fd in fds:
            os.close(fd)
        self._memory = memory
        self._start()

    def _add(self, memory: GuestMemory, region: Region, fd: int) -> None:
        try:
            if os.fstat(fd).st_size < region.mmap_offset + region.size:
                raise ProtocolError("memory beyond the end of its file")
            if can_shrink(fd) and not self._unsealed:
                raise ProtocolError(
                    "its memory is of a file that can shrink, which would end the switch: use memory-backend-memfd, or "
                    "give the endpoint unsealed=yes"
                )
            memory.add(region.guest_address, region.user_address, region.size, fd, region.mmap_offset)
        except OSError as error:
            raise ProtocolError(f"its memory cannot be mapped: {error.strerror}") from None

    def set_ring_size(self, ring: int, entries: int) -> None:
        self._rings[ring].size = entries

    def set_ring_addresses(self, ring: int, descriptors: int, available: int, used: int) -> None:
        self._rings[ring].addresses = descriptors, available, used

    def set_ring_base(self, ring: int, index: int) -> None:
        self._rings[ring].base = index

    def stop_ring(self, ring: int) -> int:
        self._stop("its driver has stopped")
        self._rings[ring].close()
        return self._rings[ring].base

    def set_kick(self, ring: int, fd: int | None) -> None:
        if fd is None:
            raise ProtocolError("a ring that is to be polled; it has to have an eventfd")
        _check_eventfd(fd)
        self._stop("its eventfd changes")
        self._rings[ring].kick = _instead_of(self._rings[ring].kick, fd)
        self._start()

    def set_call(self, ring: int, fd: int | None) -> None:
        """QEMU gives a running ring another one when it masks its interrupt."""
        _check_eventfd(fd)
        self._rings[ring].call = _instead_of(self._rings[ring].call, fd)
        if self._ends is not None:
            self._ends[ring].call = self._rings[ring].call

    def set_error(self, ring: int, fd: int | None) -> None:
        _check_eventfd(fd)
        self._rings[ring].error = _instead_of(self._rings[ring].error, fd)

    def enable_ring(self, ring: int, enabled: bool) -> None:
        if not enabled:
            self._stop("it is switched off")
        self._rings[ring].enabled = enabled
        self._start()

    def set_mtu(self, mtu: int) -> None:
        """What the card tells its guest is what the guest keeps to; policies say what the port lets through."""

    def set_status(self, status: int) -> None:
        """Rings that run say enough."""

    def close(self, why: str) -> None:
        """The front end is gone: nothing is left of it."""
        self._stop(why)
        for ring in self._rings:
            ring.close()
        self._forget_memory()

    def _start(self) -> None:
        """Plug the card in, if there is all it takes."""
        if self._ends is not None or self._memory is None or not all(ring.can_run for ring in self._rings):
            return
        features = self._features
        event_index = bool(features & vhost_user.RING_EVENT_IDX)
        mergeable = bool(features & vhost_user.NET_MRG_RXBUF)
        try:
            to_guest, from_guest = (ring.end(self._memory, event_index=event_index) for ring in self._rings)
            link = VhostLink(
                to_guest,
                from_guest,
                self._port.port,
                self._ports.bridge,
                header_size=HEADER_SIZE if mergeable or features & vhost_user.VERSION_1 else HEADER_SIZE_LEGACY,
                mergeable=mergeable,
                takes_unfinished=features & UNFINISHED == UNFINISHED,
            )
            self._ports.links.plug(self._port, link, self._peer, self._lost)
        except RingError as error:
            self._failed(str(error))
            return
        except OSError as error:
            self._failed(f"its eventfd cannot be used: {error.strerror}")
            return
        self._ends = to_guest, from_guest
        self._port.virtio = vhost_user.feature_names(features)

    def _stop(self, why: str) -> None:
        """Take the card out, and keep where its rings were."""
        if self._ends is None:
            return
        self._ports.links.unplug(self._port, why)
        self._forget_ends()

    def _lost(self) -> None:
        self._forget_ends()
        self._failed("its rings are broken")

    def _forget_ends(self) -> None:
        if self._ends is not None:
            for ring, end in zip(self._rings, self._ends, strict=True):
                ring.base = end.queue.taken
        self._ends = None
        self._port.virtio = None

    def _forget_memory(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            try:
                memory.close()
            except BufferError as error:
                log.error("%s: %s", self._port.name, error)


def _check_eventfd(fd: int | None) -> None:
    """Nothing else is sure never to have us wait. Raises ProtocolError."""
    if fd is None:
        return
    if os.readlink(f"/proc/self/fd/{fd}") != EVENTFD:
        raise ProtocolError("what a ring is to notify by is no eventfd")
    os.set_blocking(fd, False)


def _instead_of(before: int, fd: int | None) -> int:
    """A ring's descriptor from now on; the one before is closed."""
    if before >= 0:
        os.close(before)
    return -1 if fd is None else fd
