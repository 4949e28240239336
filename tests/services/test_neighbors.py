"""Which IPv6 addresses guests have: learnt, bounded, and forgotten."""

from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.services.user_network import neighbors
from vswitch.services.user_network.neighbors import AGE_S, EACH_MAX, LOOK_S, Neighbors

NETWORK = IPv6Network("fec0::/64")
ONE = NETWORK.network_address + 1
A, B = b"aaaaaa", b"bbbbbb"


def test_what_is_not_used_any_more_is_forgotten() -> None:
    known = Neighbors(NETWORK)
    known.learn(A, ONE, 0.0, is_used=True)
    known.learn(A, ONE + 1, 0.0, is_used=False)
    known.learn(B, ONE + 2, 0.0, is_used=True)
    known.learn(A, ONE, AGE_S - 1, is_used=True)
    known.tick(AGE_S)
    assert (known.of(A), known.of(B), known.whose(ONE + 2)) == ([ONE], [], None)
    known.tick(2 * AGE_S)
    assert known.whose(ONE) is None


def test_it_looks_once_in_a_while() -> None:
    known = Neighbors(NETWORK)
    known.tick(AGE_S - 1)
    known.learn(A, ONE, 0.0, is_used=True)
    known.tick(AGE_S)
    assert known.of(A) == [ONE]
    known.tick(AGE_S + LOOK_S)
    assert known.of(A) == []


def test_the_one_that_is_used_comes_first_and_goes_last() -> None:
    known = Neighbors(NETWORK)
    for number in range(EACH_MAX + 1):
        known.learn(A, ONE + number, 0.0, is_used=True)
    assert known.of(A) == [ONE + number for number in range(EACH_MAX, 0, -1)]
    assert known.learn(A, ONE + 2, 1.0, is_used=True)
    assert not known.learn(A, ONE + 2, 1.0, is_used=True)
    assert known.of(A)[0] == ONE + 2


def test_what_another_has_is_not_had_by_wanting_it() -> None:
    known = Neighbors(NETWORK)
    known.learn(A, ONE, 0.0, is_used=True)
    assert not known.learn(B, ONE, 0.0, is_used=False)
    assert known.whose(ONE) == A


def test_who_says_many_mac_addresses_drives_out_none_that_has_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "STATIONS_MAX", 10)
    known = Neighbors(NETWORK, has_lease=lambda mac: mac in (A, B))
    known.learn(A, ONE, 0.0, is_used=True)
    for number in range(100):
        known.learn(number.to_bytes(6), ONE + 10 + number, 0.0, is_used=True)
    known.learn(B, ONE + 1, 0.0, is_used=True)
    assert (known.of(A), known.of(B)) == ([ONE], [ONE + 1])
    assert sum(known.whose(ONE + number) is not None for number in range(200)) == 10


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.booleans(), st.floats(0, 3 * AGE_S), st.booleans()))
)
def test_it_never_knows_more_than_it_may(said: list[tuple[int, int, bool, float, bool]]) -> None:
    known, now_s = Neighbors(NETWORK), 0.0
    for mac, ip, is_used, later_s, ticks in said:
        known.learn(mac.to_bytes(6), IPv6Address(int(ONE) + ip), now_s, is_used=is_used)
        now_s += later_s
        if ticks:
            known.tick(now_s)
        assert len(known.of(mac.to_bytes(6))) <= EACH_MAX
