"""The MAC table against a plain dictionary, and its promises under attack."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.dataplane.plumbing import SEED
from tests.frames import mac
from vswitch.dataplane.mac_table import MOVES_KEPT, NO_PORT, PINNED, MacTable, mac_key

AGEING_MS = 1000
CAPACITY = 24  # the smallest table has 64 slots for it: clusters and wrap-around are common

ports = st.integers(0, 5)
stations = st.builds(mac_key, st.sampled_from([1, 2, 4094]), st.integers(1, 20).map(mac))


FOREVER = 1 << 60


class AgainstDictionary(RuleBasedStateMachine):
    """Never full: then the table and a dictionary are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.table = MacTable(64, AGEING_MS, SEED)
        self.model: dict[int, tuple[int, int]] = {}
        self.now = 0
        self.moves: list[tuple[int, int, int]] = []
        self.static: set[int] = set()
        self.sticky: set[int] = set()

    @rule(key=stations, port=ports, sticky=st.booleans())
    def learn(self, key: int, port: int, sticky: bool) -> None:
        old = self.alive().get(key)
        moves = old is not None and old != port
        stays = key in self.static or (moves and key in self.sticky)
        assert self.table.learn(key, port | PINNED if sticky else port, self.now) == (not moves or not stays)
        if stays:
            return
        if old is not None and moves:
            self.moves.append((key, old, port))
        is_refreshed = key in self.model and self.model[key][0] == port
        self.model[key] = (port, self.now)
        if sticky:
            self.sticky.add(key)
        elif not is_refreshed:
            self.sticky.discard(key)

    @rule(key=stations, port=ports)
    def hold(self, key: int, port: int) -> None:
        self.table.hold(key, port, self.now)
        if key not in self.static:
            self.model[key] = (port, self.now)
            self.sticky.add(key)

    @rule(key=stations)
    def release(self, key: int) -> None:
        self.table.release(key)
        self.sticky.discard(key)

    @rule(key=stations, port=ports)
    def pin(self, key: int, port: int) -> None:
        assert self.table.pin(key, port)
        self.model[key] = (port, FOREVER)
        self.static.add(key)

    @rule(key=stations)
    def forget(self, key: int) -> None:
        self.table.forget(key)
        self.model.pop(key, None)
        self.static.discard(key)

    @rule(key=stations)
    def lookup(self, key: int) -> None:
        assert self.table.lookup(key, self.now) == self.alive().get(key, NO_PORT)

    @rule(ms=st.integers(0, AGEING_MS + 10))
    def wait(self, ms: int) -> None:
        self.now += ms

    @rule(port=ports)
    def forget_port(self, port: int) -> None:
        self.table.forget_port(port)
        self.model = {key: entry for key, entry in self.model.items() if entry[0] != port or key in self.static}

    @rule()
    def expire(self) -> None:
        self.table.expire(self.now)
        self.model = {key: entry for key, entry in self.model.items() if key in self.alive()}
        assert self.table.count == len(self.model)

    @precondition(lambda self: self.model)
    @invariant()
    def entries_agree(self) -> None:
        found = {mac_key(vlan, mac): (port, age) for vlan, mac, port, age in self.table.entries(self.now)}
        ages = {key: (port, self.now - self.model[key][1]) for key, port in self.alive().items()}
        assert found == {key: (port, age) if age >= 0 else (port, found[key][1]) for key, (port, age) in ages.items()}
        assert {key for key in found if found[key][1] < 0} == self.static
        held = [self.table.held(port) for port in range(6)]
        assert sum(held) + len(self.static) == self.table.count
        assert self.table.live(self.now) == len(found)
        assert self.table.moves == len(self.moves)
        assert self.table.moved(0) == self.moves
        assert self.table.moved(max(self.table.moves - 1, 0)) == self.moves[-1:]

    def alive(self) -> dict[int, int]:
        return {key: port for key, (port, seen) in self.model.items() if self.now - seen < AGEING_MS}


TestAgainstDictionary = AgainstDictionary.TestCase


@given(st.lists(st.tuples(stations, ports), max_size=300), st.integers(0, 2**62 - 1))
def test_a_full_table_keeps_its_bound_and_its_newest_entry(learned: list[tuple[int, int]], seed: int) -> None:
    table = MacTable(CAPACITY, AGEING_MS, seed)
    for key, port in learned:
        table.learn(key, port, 0)
        assert table.lookup(key, 0) == port
        assert table.count <= CAPACITY
    assert len(table.entries(0)) == table.count


def test_a_flooding_port_evicts_its_own_entries_and_not_its_neighbours() -> None:
    table = MacTable(256, AGEING_MS, SEED)
    quiet = [mac_key(1, mac(number)) for number in range(100)]
    for key in quiet:
        table.learn(key, 1, 0)
    for number in range(10_000):
        table.learn(mac_key(1, mac(1000 + number)), 2, 0)
    assert [table.lookup(key, 0) for key in quiet] == [1] * 100
    assert table.count == 256
    assert table.evictions == 10_000 - 156


def test_two_flooding_ports_share_the_table() -> None:
    table = MacTable(256, AGEING_MS, SEED)
    for number in range(5_000):
        table.learn(mac_key(1, mac(number)), 1, 0)
        table.learn(mac_key(1, mac(100_000 + number)), 2, 0)
    held = [sum(entry[2] == port for entry in table.entries(0)) for port in (1, 2)]
    assert sum(held) == 256
    assert abs(held[0] - held[1]) <= 2


def test_an_entry_that_aged_out_is_not_a_move() -> None:
    table = MacTable(16, AGEING_MS, SEED)
    table.learn(mac_key(1, mac(1)), 1, 0)
    table.learn(mac_key(1, mac(1)), 2, AGEING_MS)
    table.learn(mac_key(1, mac(1)), 3, AGEING_MS + 1)
    assert table.moves == 1


def test_of_many_moves_the_last_ones_are_known() -> None:
    table = MacTable(16, AGEING_MS, SEED)
    for number in range(1001):
        table.learn(mac_key(1, mac(1)), number, 0)
    assert table.moves == 1000
    assert (
        table.moved(0) == table.moved(10) == [(mac_key(1, mac(1)), at, at + 1) for at in range(1000 - MOVES_KEPT, 1000)]
    )
    assert table.moved(998) == [(mac_key(1, mac(1)), 998, 999), (mac_key(1, mac(1)), 999, 1000)]
    assert table.moved(1000) == []


@pytest.mark.parametrize("seed", [random.Random(number).getrandbits(62) for number in range(20)])
def test_the_hash_spreads_consecutive_addresses(seed: int) -> None:
    """Addresses that differ in their last digits, as real ones do, must not form long clusters."""
    table = MacTable(4096, AGEING_MS, seed)
    homes = {table.home(mac_key(1, mac(number))) for number in range(4096)}
    assert len(homes) > 3000  # of 8,192 slots; random keys would take 3,223


def test_static_entries_are_not_evicted_and_leave_no_room_if_there_is_none() -> None:
    table = MacTable(16, AGEING_MS, SEED)
    static = [mac_key(1, mac(number)) for number in range(15)]
    assert all(table.pin(key, 1) for key in static)
    for number in range(100):
        assert table.learn(mac_key(1, mac(1000 + number)), 2, 0)
    assert table.held(2) == 1
    assert table.pin(mac_key(1, mac(15)), 1)
    assert not table.pin(mac_key(1, mac(16)), 1)
    assert table.learn(mac_key(1, mac(17)), 2, 0)
    assert table.lookup(mac_key(1, mac(17)), 0) == NO_PORT
    table.expire(10 * AGEING_MS)
    assert [table.lookup(key, 10 * AGEING_MS) for key in static] == [1] * 15


def test_a_table_entry_takes_64_bytes_at_most() -> None:
    """Sixteen bytes a slot, and at most four slots for an entry."""
    for capacity in (1 << 16, (1 << 16) + 1, 100_000):
        assert 16 * MacTable(capacity, AGEING_MS, SEED).slots() <= 64 * capacity
