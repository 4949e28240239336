"""A guest's virtio-net card as its driver has it: memory that is shared, and two split rings (virtio 1.2, 2.7)."""

import fcntl
import mmap
import os
import struct
from collections.abc import Sequence

NEXT, WRITABLE, INDIRECT = 1, 2, 4
F_ADD_SEALS, SEALS = 1033, 0x2 | 0x4  # neither shrinks nor grows
GUEST_BASE = 0x1_0000_0000
USER_BASE = 0x7F00_0000_0000
HEADER = 12
BUFFER = 2048
ALIGNMENT = 64


class Memory:
    """A memfd that a guest has at GUEST_BASE, and its QEMU at USER_BASE."""

    def __init__(self, size: int = 4 << 20, *, sealed: bool = True) -> None:
        self.fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING if sealed else 0)
        self.size = size
        os.ftruncate(self.fd, size)
        if sealed:
            fcntl.fcntl(self.fd, F_ADD_SEALS, SEALS)
        self.map = mmap.mmap(self.fd, size)
        self._end = 4096
        self._free: dict[int, list[int]] = {}

    def reserve(self, size: int) -> int:
        """Where there is room."""
        size = -(-size // ALIGNMENT) * ALIGNMENT
        if self._free.get(size):
            return self._free[size].pop()
        at, self._end = self._end, self._end + size
        assert self._end <= self.size
        return at

    def release(self, at: int, size: int) -> None:
        self._free.setdefault(-(-size // ALIGNMENT) * ALIGNMENT, []).append(at)

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


class DriverRing:
    """One ring. A buffer is a list of parts: where each is in memory, and how long."""

    def __init__(self, memory: Memory, size: int = 256, *, event_index: bool = True, index: int = 0) -> None:
        self.memory = memory
        self.size = size
        self.event_index = event_index
        self.descriptors = memory.reserve(16 * size)
        self.available = memory.reserve(4 + 2 * size + 2)
        self.used = memory.reserve(4 + 8 * size + 2)
        self.kick = os.eventfd(0, os.EFD_NONBLOCK)
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        self.index = index  # of the next buffer that is made available
        self.seen = index  # of the next used one
        self._free = list(range(size))
        self._chains: dict[int, list[int]] = {}
        self.put16(self.available + 2, index)
        self.put16(self.used + 2, index)

    def put16(self, at: int, value: int) -> None:
        struct.pack_into("<H", self.memory.map, at, value & 0xFFFF)

    def get16(self, at: int) -> int:
        return int(struct.unpack_from("<H", self.memory.map, at)[0])

    def descriptor(self, number: int, address: int, size: int, flags: int, following: int) -> None:
        struct.pack_into("<QIHH", self.memory.map, self.descriptors + 16 * number, address, size, flags, following)

    def offer(self, parts: Sequence[tuple[int, int]], flags: int = 0, *, indirect: bool = False) -> int:
        """Make a buffer available; answers its first descriptor. The device sees it after `show`."""
        if indirect:
            table = self.memory.reserve(16 * len(parts))
            for number, (at, size) in enumerate(parts):
                more = NEXT if number < len(parts) - 1 else 0
                entry = (GUEST_BASE + at, size, flags | more, number + 1)
                struct.pack_into("<QIHH", self.memory.map, table + 16 * number, *entry)
            parts, flags = [(table, 16 * len(parts))], INDIRECT
        chain = [self._free.pop(0) for _ in parts]
        for number, (at, size), following in zip(chain, parts, [*chain[1:], 0], strict=True):
            more = NEXT if number != chain[-1] else 0
            self.descriptor(number, GUEST_BASE + at, size, flags | more, following)
        self._chains[chain[0]] = chain
        self.put16(self.available + 4 + 2 * (self.index % self.size), chain[0])
        self.index = (self.index + 1) & 0xFFFF
        return chain[0]

    def show(self) -> None:
        before = self.get16(self.available + 2)
        self.put16(self.available + 2, self.index)
        if self.wants_notice(before):
            os.eventfd_write(self.kick, 1)

    def wants_notice(self, before: int) -> bool:
        if not self.event_index:
            return not self.get16(self.used) & 1
        event = self.get16(self.used + 4 + 8 * self.size)
        return (self.index - event - 1) & 0xFFFF < (self.index - before) & 0xFFFF

    def take_used(self) -> list[tuple[int, int]]:
        """The descriptors that have come back, each with how much was written; asks to be told of the next."""
        found = []
        while self.seen != self.get16(self.used + 2):
            entry = self.used + 4 + 8 * (self.seen % self.size)
            head, written = struct.unpack_from("<II", self.memory.map, entry)
            self._free += self._chains.pop(head)
            found.append((head, written))
            self.seen = (self.seen + 1) & 0xFFFF
        if self.event_index:
            self.put16(self.available + 4 + 2 * self.size, self.seen)
        return found

    def forget(self) -> None:
        """Buffers that the device has not used are the driver's again, as after a reset."""
        for chain in self._chains.values():
            self._free += chain
        self._chains.clear()

    def was_called(self) -> bool:
        try:
            return os.eventfd_read(self.call) > 0
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self.kick)
        os.close(self.call)


class Card:
    """The two rings, and buffers for what comes."""

    def __init__(self, memory: Memory, size: int = 256, *, event_index: bool = True, index: int = 0) -> None:
        self.memory = memory
        self.receiving = DriverRing(memory, size, event_index=event_index, index=index)
        self.sending = DriverRing(memory, size, event_index=event_index, index=index)
        self._places: dict[int, list[tuple[int, int]]] = {}  # of what is received, by descriptor
        self._sent: dict[int, list[tuple[int, int]]] = {}

    def post(self, count: int, parts: Sequence[int] = (BUFFER,), *, indirect: bool = False) -> None:
        """Buffers to receive in, each of parts of such sizes."""
        for _ in range(count):
            places = [(self.memory.reserve(size), size) for size in parts]
            self._places[self.receiving.offer(places, WRITABLE, indirect=indirect)] = places
        self.receiving.show()

    def send(
        self, *frames: bytes, header: bytes = bytes(HEADER), cuts: Sequence[int] = (), indirect: bool = False
    ) -> None:
        """Frames after a header, each in as many parts as there are cuts, and one more."""
        for frame in frames:
            content = header + frame
            ends = [*(cut for cut in cuts if cut < len(content)), len(content)]
            parts = []
            for start, end in zip([0, *ends], ends, strict=False):
                at = self.memory.reserve(end - start)
                self.memory.map[at : at + end - start] = content[start:end]
                parts.append((at, end - start))
            self._sent[self.sending.offer(parts, indirect=indirect)] = parts
        self.sending.show()

    def take_back(self) -> int:
        """What was sent and is used; answers how many frames that is."""
        used = self.sending.take_used()
        for head, _ in used:
            for at, size in self._sent.pop(head):
                self.memory.release(at, size)
        return len(used)

    def received(self, header: int = HEADER) -> list[tuple[bytes, bytes]]:
        """Header and frame of all that has come, joined from as many buffers as the header says."""
        found = []
        used = iter(self.receiving.take_used())
        for head, written in used:
            content = self._read(head, written)
            count = struct.unpack_from("<H", content, 10)[0] if header == HEADER else 1
            for _ in range(count - 1):
                content += self._read(*next(used))
            found.append((content[:header], content[header:]))
        return found

    def frames(self) -> list[bytes]:
        return [frame for _, frame in self.received()]

    def _read(self, head: int, written: int) -> bytes:
        parts = self._places.pop(head)
        content = b"".join(self.memory.map[at : at + size] for at, size in parts)
        for at, size in parts:
            self.memory.release(at, size)
        assert written <= len(content)
        return content[:written]

    def close(self) -> None:
        self.receiving.close()
        self.sending.close()
