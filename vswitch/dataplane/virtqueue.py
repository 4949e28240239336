"""Split virtqueues, from the device's side (virtio 1.2, 2.7).

All that is read here a guest may change at any time, and may be wrong: each number is read once, and checked.
"""

import threading
from typing import Final, final

from librt.strings import BytesWriter, read_i16_le, read_i32_le, read_i64_le, write_i32_le
from librt.vecs import vec
from mypy_extensions import i32, i64

from vswitch.dataplane.guest_memory import GuestMemory

RING_MAX: Final = 1024  # entries; QEMU's VIRTQUEUE_MAX_SIZE, which is also how many parts a buffer has at most

_DESCRIPTOR: Final = 16
_NEXT: Final = 1
_WRITABLE: Final = 2
_INDIRECT: Final = 4
_NO_INTERRUPT: Final = 1
_NO_NOTIFY: Final = 1
_ENTRIES_AT: Final = 4  # after flags and index
_WORD: Final = 0xFFFF
_HALF: Final = 0xFFFF_FFFF

_LOCK: Final = threading.Lock()


class RingError(Exception):
    """What a driver has done that none does; the text says what."""


def fence() -> None:
    """What was written before is seen before what is read after: a lock's atomic operations see to that."""
    _LOCK.acquire()
    _LOCK.release()
    _LOCK.acquire()
    _LOCK.release()


class RingPlace:
    """Where a ring's three parts are, as addresses of the front end's, and how many entries it has."""

    def __init__(self, size: int, descriptors: int, available: int, used: int) -> None:
        self.size = size
        self.descriptors = descriptors
        self.available = available
        self.used = used


def _locate(memory: GuestMemory, address: i64, size: i64, align: i64, what: str) -> i64:
    """The region that a part of a ring is in. Raises RingError."""
    region = memory.find_user(address, size)
    if region < 0:
        raise RingError(f"{what} outside of the guest's memory")
    if memory.place_user(region, address) % align != 0:
        raise RingError(f"{what} at an address that is no multiple of {align}")
    return region


@final
class Virtqueue:
    """A ring whose driver makes buffers available, and gets them back used.

    `take` adds the next buffer to those in hand: buffer `n` of `buffers` has the descriptor `heads[n]` and room for
    `capacities[n]` bytes. The parts of all of them: part `n` of `parts` is at `at[n]` in the mapping of region
    `regions[n]`, `lengths[n]` bytes. Methods raise RingError.
    """

    def __init__(self, memory: GuestMemory, place: RingPlace, taken: i64, *, event_index: bool) -> None:
        self.memory = memory
        self.size: i64 = place.size
        self.taken = taken  # the index that the next buffer to take is made available with, modulo 65,536
        self._shown = taken  # the driver's index when it was last looked at
        self.buffers: i64 = 0
        self.heads: vec[i64] = vec[i64]([0] * RING_MAX)
        self.capacities: vec[i64] = vec[i64]([0] * RING_MAX)
        self.capacity: i64 = 0  # of all of them
        self.parts: i64 = 0
        self.regions: vec[i64] = vec[i64]([0] * RING_MAX)
        self.at: vec[i64] = vec[i64]([0] * RING_MAX)
        self.lengths: vec[i64] = vec[i64]([0] * RING_MAX)
        self._event_index = event_index
        size: i64 = place.size
        table = _locate(memory, place.descriptors, _DESCRIPTOR * size, 16, "descriptors")
        available = _locate(memory, place.available, _ENTRIES_AT + 2 * size + 2, 2, "available ring")
        used = _locate(memory, place.used, _ENTRIES_AT + 8 * size + 2, 4, "used ring")
        self._table = memory.contents[table]
        self._table_at = memory.place_user(table, place.descriptors)
        self._available = memory.contents[available]
        self._available_at = memory.place_user(available, place.available)
        self._used = memory.views[used]
        self._used_at = memory.place_user(used, place.used)
        self._used_index = i64(read_i16_le(memory.contents[used], memory.place_user(used, place.used) + 2)) & _WORD
        self._given = BytesWriter()  # used entries that the driver has not been shown yet

    def available(self) -> i64:
        """How many buffers the driver has made available, and nobody has taken."""
        self._shown = i64(read_i16_le(self._available, self._available_at + 2)) & _WORD
        count = (self._shown - self.taken) & _WORD
        if count > self.size:
            raise RingError(f"{count} buffers made available in a ring of {self.size}")
        return count

    def take(self, writable: bool) -> None:
        """Take the next buffer, of those that are available, in hand."""
        at = self._available_at + _ENTRIES_AT + 2 * (self.taken % self.size)
        head = i64(read_i16_le(self._available, at)) & _WORD
        before = self.capacity
        self._walk(self._table, self._table_at, self.size, head, writable, False)
        self.taken = (self.taken + 1) & _WORD
        self.heads[self.buffers] = head
        self.capacities[self.buffers] = self.capacity - before
        self.buffers += 1

    def put_back(self) -> None:
        """What is in hand was not taken after all."""
        self.taken = (self.taken - self.buffers) & _WORD
        self._let_go()

    def give(self, written: i64) -> None:
        """What is in hand is used: so many bytes were written to it. The driver sees that after `publish`."""
        number: i64 = 0
        while number < self.buffers:
            size = min(written, self.capacities[number])
            write_i32_le(self._given, i32(self.heads[number]))
            write_i32_le(self._given, i32(size))
            written -= size
            number += 1
        self._let_go()

    def _let_go(self) -> None:
        self.buffers = 0
        self.parts = 0
        self.capacity = 0

    def _walk(self, table: bytes, table_at: i64, entries: i64, at: i64, writable: bool, indirect: bool) -> None:
        for _ in range(entries):  # so a chain that bites its tail ends
            if at >= entries:
                raise RingError(f"descriptor {at} in a table of {entries}")
            place = table_at + _DESCRIPTOR * at
            address = read_i64_le(table, place)
            size = i64(read_i32_le(table, place + 8)) & _HALF
            flags = i64(read_i16_le(table, place + 12))
            at = i64(read_i16_le(table, place + 14)) & _WORD
            if flags & _INDIRECT != 0:
                self._walk_indirect(address, size, flags, writable, indirect)
            else:
                self._add(address, size, flags & _WRITABLE != 0, writable)
            if flags & _NEXT == 0:
                return
        raise RingError(f"a chain of more than {entries} descriptors")

    def _walk_indirect(self, address: i64, size: i64, flags: i64, writable: bool, indirect: bool) -> None:
        if indirect or flags & _NEXT != 0:
            raise RingError("an indirect descriptor within a chain")
        if size == 0 or size % _DESCRIPTOR != 0 or size > _DESCRIPTOR * RING_MAX:
            raise RingError(f"an indirect table of {size} bytes")
        region = self.memory.find(address, size)
        if region < 0:
            raise RingError("an indirect table outside of the guest's memory")
        place = self.memory.place(region, address)
        self._walk(self.memory.contents[region], place, size // _DESCRIPTOR, 0, writable, True)

    def _add(self, address: i64, size: i64, is_writable: bool, writable: bool) -> None:
        if is_writable != writable:
            raise RingError("a buffer to write to" if is_writable else "a buffer to read from")
        region = self.memory.find(address, size)
        if region < 0:
            raise RingError("a buffer outside of the guest's memory")
        if self.parts >= RING_MAX:
            raise RingError(f"a buffer of more than {RING_MAX} parts")
        self.regions[self.parts] = region
        self.at[self.parts] = self.memory.place(region, address)
        self.lengths[self.parts] = size
        self.parts += 1
        self.capacity += size

    def publish(self) -> bool:
        """Show the driver what was given; answers whether it wants to be told."""
        count: i64 = len(self._given) // 8
        if count == 0:
            return False
        given = self._given.getvalue()
        self._given.truncate(0)
        entries = self._used_at + _ENTRIES_AT
        first = self._used_index % self.size
        fits = min(count, self.size - first)
        self._write(entries + 8 * first, given[: 8 * fits])
        if fits < count:
            self._write(entries, given[8 * fits :])
        before = self._used_index
        self._used_index = (before + count) & _WORD
        fence()
        self._write_word(self._used_at + 2, self._used_index)
        fence()
        if not self._event_index:
            return i64(read_i16_le(self._available, self._available_at)) & _NO_INTERRUPT == 0
        event = i64(read_i16_le(self._available, self._available_at + _ENTRIES_AT + 2 * self.size))
        return (self._used_index - event - 1) & _WORD < count

    def want_notice(self) -> None:
        """From now on the driver is to notify when it makes more available than `available` has found. What it has
        done meanwhile is to be looked at after this."""
        if self._event_index:
            self._write_word(self._used_at + _ENTRIES_AT + 8 * self.size, self._shown)
        else:
            self._write_word(self._used_at, 0)
        fence()

    def want_no_notice(self) -> None:
        """There is no need to; with event indices, it does not."""
        if not self._event_index:
            self._write_word(self._used_at, _NO_NOTIFY)

    def _write_word(self, at: i64, word: i64) -> None:
        self._write(at, int(word).to_bytes(2, "little"))

    def _write(self, at: i64, content: bytes) -> None:
        self._used[at : at + len(content)] = content
