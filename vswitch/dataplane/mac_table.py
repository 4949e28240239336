"""The MAC table (FDB): which port a station was last heard on, per VLAN.

One flat vector of native integers, open addressing with linear probing, at most half full: two
integers a slot, so a look-up touches one cache line. A key is `vlan << 48 | mac`, never 0, which marks
an empty slot. A value packs the time last seen, whether the entry is pinned to its port, and the port.
Deleting shifts the rest of the cluster back, so there are no tombstones.

Complications, and why they are here:

- The hash is keyed (random odd factors, then Fibonacci hashing): a guest that picks its source addresses
  must not be able to build one long cluster. Every product stays below 2**63, so compiled and interpreted
  code agree.
- Fair eviction: a full table makes room at the cost of the port that holds most entries, so that one
  port flooding source addresses evicts its own and not its neighbours'. The victim is the next entry of
  that port after a hand that sweeps round the table: few steps when one port holds much, and about four
  for each port when a full table is shared evenly.
- Ageing (IEEE 802.1Q 8.8.3) is exact on look-up; `expire` only gives the room back.
- A pinned entry does not move: it was learned on a sticky port, is held, or is static. A static one (IEEE 802.1Q
  8.8.1) is one that was last seen in a future that never comes: it does not age, and is not evicted.
"""

from typing import Final, final

from librt.vecs import append, vec
from mypy_extensions import i64

PORT_MASK: Final = 0x7FFFF
PINNED: Final = 0x80000
TIME_SHIFT: Final = 20
STATIC: Final = 1 << 42  # the time a static entry was last seen, in milliseconds
VLAN_SHIFT: Final = 48
KEY_MAC_MASK: Final = 0xFFFF_FFFF_FFFF

NO_PORT: Final = -1
ALL_SLOTS: Final = 1 << 40
MOVES_KEPT: Final = 256  # a power of two


def mac_key(vlan: i64, mac: i64) -> i64:
    """The table key of `mac` (48 bits) in `vlan` (1 … 4094)."""
    return vlan << VLAN_SHIFT | mac


@final
class MacTable:
    """At most `capacity` entries, 32 to 64 bytes each; one not seen for `ageing` milliseconds is gone.

    `seed` keys the hash: 62 bits, random in production.
    """

    def __init__(self, capacity: i64, ageing: i64, seed: i64) -> None:
        bits: i64 = 4
        while (i64(1) << bits) < 2 * capacity:
            bits += 1
        self.capacity = capacity
        self.ageing = ageing
        self.count: i64 = 0
        self.moves: i64 = 0
        self._moved: vec[i64] = vec[i64]([0] * (2 * MOVES_KEPT))  # keys, and the ports they left and have
        self.evictions: i64 = 0
        self.expiries: i64 = 0
        self._shift: i64 = 32 - bits
        self._mask: i64 = (i64(1) << bits) - 1
        self._slots: vec[i64] = vec[i64]([0] * (2 << bits))
        self._factor_low: i64 = (seed & 0x7FFF_FFFF) | 1
        self._factor_high: i64 = ((seed >> 31) & 0x7FFF_FFFF) | 1
        self._hand: i64 = 0
        self._held: vec[i64] = vec[i64]()  # entries a port holds, by port index

    def extract(self, keys: list[int], now: i64) -> "MacTable":
        """A small table that knows of `keys` what this one does, and says the same of how much ports hold."""
        small = MacTable(2 * len(keys) + 2, self.ageing, 0)
        for key in keys:
            slot = self._probe(key)
            if self._slots[2 * slot] == key and self.lookup(key, now) != NO_PORT:
                place = small._probe(key)
                if small._slots[2 * place] != key:
                    small._slots[2 * place] = key
                    small._slots[2 * place + 1] = self._slots[2 * slot + 1]
                    small.count += 1
        small._held = self._held[:]
        return small

    def settle(self, port: i64, live: i64) -> None:
        """Have a port hold as many entries as have not aged out."""
        if port < len(self._held):
            self._held[port] = live

    def live_of(self, port: i64, now: i64) -> i64:
        """How many entries that were learned on a port have not aged out."""
        live: i64 = 0
        slot: i64 = 0
        while slot <= self._mask:
            if self._is_learned(slot, port) and now - (self._slots[2 * slot + 1] >> TIME_SHIFT) < self.ageing:
                live += 1
            slot += 1
        return live

    def learn(self, key: i64, place: i64, now: i64) -> bool:
        """`key` was heard at `now` on a port: add, refresh or move its entry.

        `place` is the port, with PINNED if the entry is not to move from there. Answers whether the station may be
        there: not if its entry is pinned to another port.
        """
        slots = self._slots
        slot = self._probe(key)
        heard = now << TIME_SHIFT | place
        if slots[2 * slot] == key:
            value = slots[2 * slot + 1]
            if (value ^ place) & PORT_MASK == 0:
                if value >> TIME_SHIFT <= now:  # a static entry stays as it is
                    slots[2 * slot + 1] = heard | (value & PINNED)
                return True
            if now - (value >> TIME_SHIFT) < self.ageing:
                if value & PINNED != 0:
                    return False
                self._note_move(key, value & PORT_MASK, place & PORT_MASK)
            self._held[value & PORT_MASK] -= 1
        else:
            if self.count >= self.capacity:
                if not self._evict():
                    return True
                slot = self._probe(key)  # the eviction may have moved the hole
            slots[2 * slot] = key
            self.count += 1
        self._hold(place & PORT_MASK)
        slots[2 * slot + 1] = heard
        return True

    def moved(self, since: i64) -> list[tuple[int, int, int]]:
        """(key, port left, port now) of the moves after the first `since`, the oldest first; of many, the last ones."""
        found: list[tuple[int, int, int]] = []
        number = max(since, self.moves - MOVES_KEPT)
        while number < self.moves:
            at = 2 * (number & (MOVES_KEPT - 1))
            ports = self._moved[at + 1]
            found.append((self._moved[at], ports >> TIME_SHIFT, ports & PORT_MASK))
            number += 1
        return found

    def pin(self, key: i64, port: i64) -> bool:
        """Make a static entry, in place of any other; answers whether there was room for it."""
        self.forget(key)
        if self.count >= self.capacity and not self._evict():
            return False
        slot = self._probe(key)
        self._slots[2 * slot] = key
        self._slots[2 * slot + 1] = STATIC << TIME_SHIFT | PINNED | port
        self.count += 1
        return True

    def hold(self, key: i64, port: i64, now: i64) -> None:
        """Have a station be behind `port`, as if it was just heard there, and not move until `release`; a static entry
        stays as it is."""
        if not self._is_static(self._probe(key)):
            if self.lookup(key, now) != port:
                self.forget(key)
            self.learn(key, port | PINNED, now)

    def release(self, key: i64) -> None:
        """Have a station that was held move as it likes."""
        slot = self._probe(key)
        if not self._is_static(slot):
            self._slots[2 * slot + 1] &= ~PINNED

    def forget(self, key: i64) -> None:
        """Drop one entry, if it is there."""
        slot = self._probe(key)
        if self._slots[2 * slot] == key:
            self._remove(slot)

    def lookup(self, key: i64, now: i64) -> i64:
        """The port `key` was last heard on, or NO_PORT."""
        slot = self._probe(key)
        value = self._slots[2 * slot + 1]
        if self._slots[2 * slot] != key or now - (value >> TIME_SHIFT) >= self.ageing:
            return NO_PORT
        return value & PORT_MASK

    def age(self, key: i64, now: i64) -> i64:
        """How long ago a station that is known was heard, in milliseconds; below zero for a static entry."""
        return now - (self._slots[2 * self._probe(key) + 1] >> TIME_SHIFT)

    def held(self, port: i64) -> i64:
        """How many entries were learned on `port`; some of them may have aged out."""
        if port >= len(self._held):
            return 0
        return self._held[port]

    def forget_port(self, port: i64) -> None:
        """Drop every entry that was learned on `port`: it went away."""
        if self.held(port) > 0:
            self._sweep(port, -1)

    def expire(self, now: i64) -> None:
        """Give back the room of entries that have aged out."""
        if self.count > 0:
            before = self.count
            self._sweep(NO_PORT, now - self.ageing)
            self.expiries += before - self.count

    def live(self, now: i64) -> i64:
        """How many entries have not aged out."""
        live: i64 = 0
        slot: i64 = 0
        while slot <= self._mask:
            if self._slots[2 * slot] != 0 and now - (self._slots[2 * slot + 1] >> TIME_SHIFT) < self.ageing:
                live += 1
            slot += 1
        return live

    def slots(self) -> i64:
        """How many slots there are for entries."""
        return self._mask + 1

    def entries(self, now: i64, start: i64 = 0, end: i64 = ALL_SLOTS) -> list[tuple[int, int, int, int]]:
        """(vlan, mac, port, age in ms) of every live entry in the slots from `start` to before `end`, in no order.

        The age of a static entry is negative.
        """
        found: list[tuple[int, int, int, int]] = []
        slot = start
        while slot < min(end, self._mask + 1):
            key = self._slots[2 * slot]
            value = self._slots[2 * slot + 1]
            age = now - (value >> TIME_SHIFT)
            if key != 0 and age < self.ageing:
                found.append((key >> VLAN_SHIFT, key & KEY_MAC_MASK, value & PORT_MASK, age))
            slot += 1
        return found

    def home(self, key: i64) -> i64:
        mixed = (key & 0x3FFF_FFFF) * self._factor_low + (key >> 30) * self._factor_high
        return (((mixed ^ (mixed >> 23)) & 0x7FFF_FFFF) * 0x9E37_79B1 >> self._shift) & self._mask

    def _probe(self, key: i64) -> i64:
        """The slot that has `key`, or the empty one where it would go."""
        slots = self._slots
        slot = self.home(key)
        while slots[2 * slot] != key and slots[2 * slot] != 0:
            slot = (slot + 1) & self._mask
        return slot

    def _note_move(self, key: i64, left: i64, now: i64) -> None:
        at = 2 * (self.moves & (MOVES_KEPT - 1))
        self._moved[at] = key
        self._moved[at + 1] = left << TIME_SHIFT | now
        self.moves += 1

    def _hold(self, port: i64) -> None:
        while port >= len(self._held):
            self._held = append(self._held, 0)
        self._held[port] += 1

    def _evict(self) -> bool:
        """Make room for one entry at the cost of the port that holds most; not if all entries are static."""
        fullest: i64 = 0
        port: i64 = 1
        while port < len(self._held):
            if self._held[port] > self._held[fullest]:
                fullest = port
            port += 1
        if self.held(fullest) == 0:
            return False
        while not self._is_learned(self._hand, fullest):
            self._hand = (self._hand + 1) & self._mask
        self._remove(self._hand)
        self.evictions += 1
        return True

    def _is_learned(self, slot: i64, port: i64) -> bool:
        """Whether a slot has an entry that was learned on `port`."""
        value = self._slots[2 * slot + 1]
        return self._slots[2 * slot] != 0 and value & PORT_MASK == port and not self._is_static(slot)

    def _is_static(self, slot: i64) -> bool:
        return self._slots[2 * slot + 1] >> TIME_SHIFT == STATIC

    def _sweep(self, port: i64, oldest: i64) -> None:
        """Remove the entries learned on `port`, and those last seen at or before `oldest`."""
        slot: i64 = 0
        while slot <= self._mask:
            aged = self._slots[2 * slot] != 0 and self._slots[2 * slot + 1] >> TIME_SHIFT <= oldest
            if aged or self._is_learned(slot, port):
                self._remove(slot)  # looks at the slot again: another entry may have moved in
            else:
                slot += 1

    def _remove(self, hole: i64) -> None:
        """Empty a slot, and shift back what probed past it."""
        slots = self._slots
        value = slots[2 * hole + 1]
        if not self._is_static(hole):
            self._held[value & PORT_MASK] -= 1
        self.count -= 1
        slot = hole
        while True:
            slot = (slot + 1) & self._mask
            key = slots[2 * slot]
            if key == 0:
                break
            distance = (slot - self.home(key)) & self._mask
            if distance >= ((slot - hole) & self._mask):
                slots[2 * hole] = key
                slots[2 * hole + 1] = slots[2 * slot + 1]
                hole = slot
        slots[2 * hole] = 0
        slots[2 * hole + 1] = 0
