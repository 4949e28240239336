"""Who gets which address, for how long, and who does not."""

from collections.abc import Iterable
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from vswitch.services.user_network.leases import OFFER_S, PER_PORT_MAX, Lease, Leases

LEASE_S = 1000.0
FIRST = IPv4Address("10.0.2.15")


def pool(count: int) -> list[IPv4Address]:
    return [FIRST + number for number in range(count)]


def take(leases: Leases, mac: str, now_s: float = 0.0, port: str = "", wanted: IPv4Address | None = None) -> str:
    """The address that a station gets, if any."""
    lease = leases.offer(mac, port or mac, now_s, wanted)
    if lease is None:
        return ""
    leases.take(lease, now_s)
    return str(lease.ip)


def taken(leases: Leases, macs: Iterable[str], now_s: float = 0.0, port: str = "") -> list[str]:
    return [take(leases, mac, now_s, port) for mac in macs]


def test_each_has_an_address_of_its_own_until_there_is_none() -> None:
    leases = Leases(pool(3), LEASE_S)
    assert taken(leases, "abcd") == ["10.0.2.15", "10.0.2.16", "10.0.2.17", ""]
    assert taken(leases, "cab") == ["10.0.2.17", "10.0.2.15", "10.0.2.16"], "the same again"


def test_of_those_that_are_over_the_oldest_goes_first_and_the_others_wait_for_their_stations() -> None:
    leases = Leases(pool(3), LEASE_S)
    taken(leases, "abc")
    take(leases, "a", 500.0)
    assert take(leases, "d", LEASE_S) == "10.0.2.16"
    assert take(leases, "c", LEASE_S) == "10.0.2.17"
    assert leases.of("b") is None
    assert take(leases, "b", LEASE_S) == ""
    assert take(leases, "b", 500.0 + LEASE_S) == "10.0.2.15"


def test_an_offer_is_kept_for_a_while() -> None:
    leases = Leases(pool(1), LEASE_S)
    assert leases.offer("a", "a", 0.0) is not None
    assert take(leases, "b", OFFER_S - 1) == ""
    assert take(leases, "b", OFFER_S) == str(FIRST)


def test_a_wish_is_granted_if_nobody_has_that_address() -> None:
    leases = Leases(pool(10), LEASE_S)
    assert take(leases, "a", wanted=FIRST + 5) == str(FIRST + 5)
    assert take(leases, "b", wanted=FIRST + 5) == str(FIRST)
    assert take(leases, "c", wanted=FIRST - 1) == str(FIRST + 1)


def test_what_is_declined_is_nobodys() -> None:
    leases = Leases(pool(2), LEASE_S)
    taken(leases, "ab")
    leases.decline("b", FIRST + 1, 1.0)
    assert taken(leases, "bd", 2.0) == ["", ""]
    assert take(leases, "b", 1.0 + LEASE_S) != ""


def test_a_port_has_no_more_than_its_share() -> None:
    leases = Leases(pool(200), LEASE_S)
    got = taken(leases, (f"forged{number}" for number in range(150)), port="evil")
    assert sum(address != "" for address in got) == PER_PORT_MAX
    assert take(leases, "good") != ""
    assert take(leases, "forged3", 1.0, "evil") == str(FIRST + 3), "what it has it keeps"
    assert take(leases, "late", LEASE_S + 2, "evil") != "", "when the others are over"


def test_nor_by_coming_back_for_what_it_was_offered_before() -> None:
    leases = Leases(pool(200), LEASE_S)
    now_s = 0.0
    for start in range(0, 200, PER_PORT_MAX):
        for number in range(start, start + PER_PORT_MAX):
            leases.offer(f"forged{number}", "evil", now_s)
        now_s += OFFER_S
    got = taken(leases, (f"forged{number}" for number in range(200)), now_s, "evil")
    assert sum(address != "" for address in got) == PER_PORT_MAX
    assert take(leases, "good", now_s) != ""


def test_of_two_that_are_said_to_have_an_address_the_later_has_it() -> None:
    known = [Lease(mac=mac, ip=FIRST, port=mac, until_s=100.0) for mac in "ab"]
    leases = Leases(pool(3), LEASE_S, known=known)
    assert (take(leases, "b"), take(leases, "a")) == (str(FIRST), str(FIRST + 1))


def test_nor_does_it_by_saying_that_others_are_in_use() -> None:
    leases = Leases(pool(200), LEASE_S)
    for _ in range(150):
        lease = leases.offer("evil", "evil", 0.0)
        if lease is not None:
            leases.decline("evil", lease.ip, 0.0)
    assert take(leases, "evil") == ""
    assert sum(take(leases, f"good{number}") != "" for number in range(200)) == 200 - PER_PORT_MAX


def test_reserved_addresses_are_theirs_only() -> None:
    leases = Leases(pool(2), LEASE_S, {"a": FIRST, "web": FIRST + 7})
    assert take(leases, "b") == str(FIRST + 1)
    assert take(leases, "c") == ""
    assert take(leases, "a") == str(FIRST)
    assert take(leases, "any", port="web") == str(FIRST + 7)
    assert take(leases, "more", port="web") == "", "that port's is taken"
    assert take(leases, "more", 2 * LEASE_S, port="web") == str(FIRST + 7)


def test_what_was_given_before_is_known() -> None:
    before = Lease(mac="a", ip=FIRST + 3, port="a", name="web", until_s=100.0)
    leases = Leases(pool(10), LEASE_S, known=[before])
    assert take(leases, "a") == str(FIRST + 3)
    assert leases.named("web", 50.0) == before
    assert leases.named("web", 2 * LEASE_S) is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["offer", "take", "release", "decline", "wait"]))))
def test_no_two_have_the_same_address(done: list[tuple[str, str]]) -> None:
    leases = Leases(pool(4), LEASE_S)
    now_s = 0.0
    held: dict[str, tuple[IPv4Address, float]] = {}
    for mac, what in done:
        if what == "wait":
            now_s += LEASE_S / 3
        elif what in ("offer", "take"):
            lease = leases.offer(mac, mac, now_s)
            if lease is not None and what == "take":
                leases.take(lease, now_s)
                held[mac] = lease.ip, now_s + LEASE_S
        elif mac in held:
            ip, _ = held.pop(mac)
            leases.decline(mac, ip, now_s)
        current = [ip for ip, until_s in held.values() if until_s > now_s]
        assert len(current) == len(set(current))


def test_a_reserved_address_is_taken_from_who_had_it() -> None:
    before = Lease(mac="a", ip=FIRST, port="a", until_s=10.0)
    leases = Leases(pool(3), LEASE_S, {"web": FIRST}, [before])
    assert take(leases, "a", 0.0) == "10.0.2.16"
    assert take(leases, "b", 20.0, "web") == "10.0.2.15"


def test_an_address_that_is_not_given_any_more_is_not_kept() -> None:
    before = Lease(mac="a", ip=FIRST, port="a", until_s=10.0)
    assert take(Leases(pool(3)[1:], LEASE_S, {}, [before]), "a", 0.0) == "10.0.2.16"
