"""What guests may reach outside: by rules alone, and by what names have led to."""

from collections.abc import Container
from contextlib import suppress
from ipaddress import IPv4Network, ip_address, ip_network

import dnslib  # type: ignore[import-untyped]
import pytest
from dnslib import RR
from hypothesis import given
from hypothesis import strategies as st

from tests.services.test_dhcp_server import SETTINGS
from vswitch.endpoints.user import egress as written
from vswitch.protocols import dns_records
from vswitch.services.user_network import denials, egress, settings
from vswitch.services.user_network.denials import Denial
from vswitch.services.user_network.egress import KEPT_MAX_S, KEPT_MIN_S, Egress
from vswitch.services.user_network.egress_rules import Rules, Wish
from vswitch.services.user_network.packet import ICMP, TCP, Packet

UDP, ICMP6 = 17, 58
A, B = b"\x52\x54\0\0\0\x0a", b"\x52\x54\0\0\0\x0b"
GUEST = ip_address("10.0.2.15").packed


def rules(text: str) -> tuple[settings.Rule, ...]:
    """As a URL has them."""
    read = map(written.read, filter(None, text.split(",")))
    return tuple(settings.Rule(**rule.told) for rule in read)


def wish(protocol: int, ip: str, port: int | None = None) -> Wish:
    return Wish(protocol, ip_address(ip).packed, port)


@pytest.mark.parametrize(
    ("allow", "deny", "passes", "stops"),
    [
        ("", "", [(TCP, "192.0.2.1", 25), (ICMP, "192.0.2.1")], []),
        ("192.0.2.1", "", [(TCP, "192.0.2.1", 1), (ICMP, "192.0.2.1"), (UDP, "192.0.2.1", 2)], [(TCP, "192.0.2.2", 1)]),
        ("192.0.2.0/24:443", "", [(TCP, "192.0.2.9", 443), (UDP, "192.0.2.9", 443)], [(ICMP, "192.0.2.9")]),
        ("192.0.2.0/24:443", "", [], [(TCP, "192.0.2.9", 444), (TCP, "2001:db8::1", 443)]),
        ("tcp:443", "", [(TCP, "2001:db8::1", 443)], [(UDP, "2001:db8::1", 443), (ICMP6, "2001:db8::1")]),
        ("[2001:db8::/32]:8000-8010", "", [(TCP, "2001:db8::1", 8010)], [(TCP, "2001:db8::1", 8011)]),
        ("icmp", "", [(ICMP, "192.0.2.1"), (ICMP6, "2001:db8::1")], [(TCP, "192.0.2.1", 1), (47, "192.0.2.1")]),
        ("", ":25", [(TCP, "192.0.2.1", 26), (ICMP, "192.0.2.1")], [(TCP, "192.0.2.1", 25), (UDP, "192.0.2.1", 25)]),
        ("", "tcp:25", [(UDP, "192.0.2.1", 25), (ICMP, "192.0.2.1")], [(TCP, "192.0.2.1", 25)]),
        ("10.0.0.0/8", "10.1.0.0/16", [(TCP, "10.2.0.1", 1)], [(TCP, "10.1.0.1", 1)]),
        ("", "*", [], [(TCP, "192.0.2.1", 1), (ICMP6, "2001:db8::1")]),
        ("example.com", "", [], [(TCP, "192.0.2.1", 1)]),
        # IPv4 in other clothes: 6to4, NAT64, Teredo
        ("*", "10.0.0.0/8", [(TCP, "2002:b00:1::", 1)], [(TCP, "2002:a00:1::", 1), (TCP, "64:ff9b::a00:1", 1)]),
        ("*", "10.0.0.0/8:25", [(TCP, "2001::f5ff:fffe", 1)], [(TCP, "2001:0:1:2:3:4:f5ff:fffe", 25)]),
        ("192.0.2.1", "", [], [(TCP, "64:ff9b::c000:201", 1), (TCP, "2002:c000:201::", 1)]),
    ],
)
def test_what_rules_say(
    allow: str, deny: str, passes: list[tuple[int, str, int]], stops: list[tuple[int, str, int]]
) -> None:
    told = Rules(rules(allow), rules(deny))
    assert [where for where in passes if told.judge(wish(*where)) is not None] == []
    assert [where for where in stops if told.judge(wish(*where)) is None] == []


ips = st.sampled_from(["10.0.0.1", "10.1.0.1", "192.0.2.1", "2001:db8::1", "2001:db9::1", "2002:a00:1::"])
where = st.sampled_from(["", "*", "10.0.0.0/8", "10.1.0.1", "0.0.0.0/0", "2001:db8::/32", "::/0", "192.0.2.0/25"])
ports = st.none() | st.tuples(st.integers(1, 4), st.integers(0, 2)).map(lambda pair: (pair[0], sum(pair)))
said = st.builds(
    lambda protocol, network, ports: settings.Rule(
        f"{protocol} {network} {ports}", protocol, network.strip("*"), "", None if protocol == "icmp" else ports
    ),
    st.sampled_from(["", "tcp", "udp", "icmp"]),
    where,
    ports,
)


def plainly(rule: settings.Rule, protocol: int, ip: str, port: int | None) -> bool:
    """Whether a rule is about a packet."""
    numbers = {"tcp": [6], "udp": [17], "icmp": [1, 58]}.get(rule.protocol)
    is_at = not rule.network or ip_address(ip) in ip_network(rule.network)
    is_port = rule.ports is None or (port is not None and rule.ports[0] <= port <= rule.ports[1])
    return (numbers is None or protocol in numbers) and is_at and is_port


@given(st.lists(said, max_size=4), st.lists(said, max_size=4), st.sampled_from([TCP, UDP, ICMP, ICMP6]), ips)
def test_any_rules_say_what_each_says(
    allow: list[settings.Rule], deny: list[settings.Rule], protocol: int, ip: str
) -> None:
    told = Rules(allow, deny)
    inner = ["10.0.0.1"] if ip == "2002:a00:1::" else []
    for port in range(8) if protocol in (TCP, UDP) else [None]:
        denied = any(plainly(rule, protocol, it, port) for rule in deny for it in [ip, *inner])
        allowed = not allow or any(plainly(rule, protocol, ip, port) for rule in allow)
        assert (told.judge(wish(protocol, ip, port)) is None) == (allowed and not denied)


class Outside:
    """A policy, with a name server that knows all."""

    def __init__(self, allow: str = "", deny: str = "", leases: Container[bytes] = ()) -> None:
        self.told: list[Denial] = []
        self.egress = Egress(SETTINGS, Rules(rules(allow), rules(deny)), self.told.append, leases.__contains__)

    def asks(self, name: str, *records: str, mac: bytes = A, now_s: float = 0.0) -> dnslib.DNSRecord | None:
        """What a guest is answered; None if it may not ask."""
        query = dnslib.DNSRecord.question(name)
        labels = dns_records.question(bytes(query.pack()))
        if not self.egress.may_ask(mac, labels, now_s):
            return None
        reply = query.reply()
        for record in records:
            reply.add_answer(*RR.fromZone(record))
        return dnslib.DNSRecord.parse(self.egress.answered(mac, labels, bytes(reply.pack()), now_s))

    def reaches(
        self, ip: str, port: int = 443, protocol: int = TCP, *, mac: bytes = A, now_s: float = 0.0, at: int = 34
    ) -> bool:
        packet = Packet(GUEST, ip_address(ip).packed, protocol, at)
        return self.egress.permits(mac, bytes(at) + b"\x10\0" + port.to_bytes(2), packet, now_s)


def test_a_name_opens_its_addresses_to_who_has_asked_as_long_as_the_answer_holds() -> None:
    outside = Outside("deb.debian.org:443")
    assert not outside.reaches("192.0.2.1")
    answer = outside.asks("DEB.debian.org", "deb.debian.org 3600 A 192.0.2.1", "deb.debian.org 5 AAAA 2001:db8::1")
    assert answer is not None
    assert [record.ttl for record in answer.rr] == [egress.TOLD_S, 5]
    for ip, end_s in (("192.0.2.1", 3600.0), ("2001:db8::1", KEPT_MIN_S)):
        assert outside.reaches(ip, now_s=end_s - 1)
        assert not outside.reaches(ip, now_s=end_s)
        assert not outside.reaches(ip, 80)
        assert not outside.reaches(ip, mac=B)


def test_an_answer_holds_no_longer_than_a_day() -> None:
    outside = Outside("example.com")
    outside.asks("example.com", "example.com 2000000000 A 192.0.2.1")
    assert outside.reaches("192.0.2.1", now_s=KEPT_MAX_S - 1)
    assert not outside.reaches("192.0.2.1", now_s=KEPT_MAX_S)


def test_what_a_name_leads_to_is_opened_and_what_else_is_in_the_answer_is_not() -> None:
    outside = Outside("deb.debian.org")
    outside.asks(
        "deb.debian.org",
        "deb.debian.org 60 CNAME debian.map.example",
        "debian.map.example 60 CNAME edge.example",
        "edge.example 60 A 192.0.2.1",
        "other.example 60 A 192.0.2.2",
    )
    assert outside.reaches("192.0.2.1")
    assert not outside.reaches("192.0.2.2")
    assert outside.asks("edge.example", "edge.example 60 A 192.0.2.3") is not None, "resolvers may go on from there"
    assert outside.reaches("192.0.2.3")
    assert outside.asks("edge.example", mac=B) is None
    assert outside.asks("edge.example", now_s=KEPT_MIN_S) is None


def test_an_alias_does_not_keep_itself_open() -> None:
    outside = Outside("deb.debian.org")
    outside.asks("deb.debian.org", "deb.debian.org 60 CNAME edge.example", "edge.example 60 A 192.0.2.1")
    records = "edge.example 9999 CNAME edge.example", "edge.example 9999 A 192.0.2.1"
    assert outside.asks("edge.example", *records, now_s=KEPT_MIN_S - 1) is not None
    assert outside.reaches("192.0.2.1", now_s=KEPT_MIN_S - 1)
    assert outside.asks("edge.example", now_s=KEPT_MIN_S) is None
    assert not outside.reaches("192.0.2.1", now_s=KEPT_MIN_S)


def test_aliases_that_lead_in_a_circle_have_an_end() -> None:
    outside = Outside("a.example")
    assert outside.asks("a.example", "a.example 60 CNAME b.example", "b.example 60 CNAME a.example") is not None


@pytest.mark.parametrize(
    ("rule", "means", "others"),
    [
        ("debian.org", ["debian.org", "DEBIAN.org"], ["deb.debian.org", "org", "xdebian.org", "debian.org.evil.com"]),
        ("*.debian.org", ["deb.debian.org", "a.b.debian.org"], ["debian.org", "evildebian.org", "org", "."]),
    ],
)
def test_which_names_a_rule_is_about(rule: str, means: list[str], others: list[str]) -> None:
    allowing, denying = Outside(rule), Outside(deny=rule)
    for name in means + others:
        assert (allowing.asks(name) is not None) == (name in means)
        assert (denying.asks(name) is None) == (name in means)


def test_a_label_with_a_dot_in_it_is_no_two_labels() -> None:
    outside = Outside("deb.debian.org")
    assert not outside.egress.may_ask(A, (b"deb.debian", b"org"), 0.0)
    assert outside.told[0].name == r"deb\046debian.org"


def test_any_name_may_be_asked_where_addresses_are_allowed_for_themselves() -> None:
    outside = Outside("192.0.2.0/24,deb.debian.org")
    assert outside.asks("example.com", "example.com 60 A 192.0.2.1", "example.com 60 A 203.0.113.1") is not None
    assert outside.reaches("192.0.2.1")
    assert not outside.reaches("203.0.113.1")
    assert (outside.told[0].name, outside.told[0].ip) == ("example.com", "203.0.113.1")


def test_what_a_denied_name_is_an_alias_for_is_not_said_either() -> None:
    outside = Outside("*.example.com", deny="tracker.example")
    records = "a.example.com 60 CNAME tracker.example", "tracker.example 60 A 192.0.2.1"
    answer = outside.asks("a.example.com", *records)
    assert answer is not None
    assert (answer.header.rcode, answer.rr) == (dnslib.RCODE.NXDOMAIN, [])
    assert not outside.reaches("192.0.2.1")


def test_a_name_may_be_denied_for_a_port() -> None:
    outside = Outside(deny="mail.example:25,mx.example:25")
    outside.asks("mail.example", "mail.example 60 A 192.0.2.1")
    outside.asks("smtp.example", "smtp.example 60 CNAME mx.example", "mx.example 60 A 192.0.2.3")
    assert outside.reaches("192.0.2.1", 443)
    assert not outside.reaches("192.0.2.1", 25)
    assert not outside.reaches("192.0.2.3", 25), "by an alias, too"
    assert outside.reaches("192.0.2.2", 25)


@pytest.mark.parametrize("ip", ["10.0.2.2", "10.0.2.99"])
def test_no_name_opens_what_is_in_the_network(ip: str) -> None:
    outside = Outside("example.com")
    outside.asks("example.com", f"example.com 60 A {ip}")
    assert not outside.reaches(ip)
    assert ip_address(ip) in IPv4Network(SETTINGS.network)


@pytest.mark.parametrize("protocol", [UDP, ICMP])
def test_what_goes_on_passes_when_the_answer_holds_no_more(protocol: int) -> None:
    outside = Outside("example.com")
    outside.asks("example.com", "example.com 60 A 192.0.2.1")
    now_s = 0.0
    while now_s < 3 * KEPT_MIN_S:
        assert outside.reaches("192.0.2.1", protocol=protocol, now_s=now_s)
        assert outside.reaches("192.0.2.1", now_s=now_s) == (now_s < KEPT_MIN_S), "nothing new begins"
        now_s += egress.FLOW_S - 1
    assert not outside.reaches("192.0.2.1", protocol=protocol, now_s=now_s + egress.FLOW_S)


def test_a_datagram_too_short_for_its_ports_does_not_pass() -> None:
    short = Packet(GUEST, ip_address("192.0.2.1").packed, UDP, 34)
    assert not Outside("192.0.2.1").egress.permits(A, bytes(37), short, 0.0)
    assert Outside("192.0.2.1").egress.permits(A, bytes(38), short, 0.0)


def test_a_guest_that_knows_much_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "KNOWN_EACH_MAX", 6)
    monkeypatch.setattr(egress, "KNOWN_MAX", 8)
    outside = Outside("*.example")
    for mac, count in ((B, 3), (A, 100)):
        for number in range(count):
            outside.asks("www.example", f"www.example 60 A 192.0.2.{number}", mac=mac)
    assert all(outside.reaches(f"192.0.2.{number}", mac=B) for number in range(3))
    assert [number for number in range(100) if outside.reaches(f"192.0.2.{number}")] == [95, 96, 97, 98, 99]


def test_whoever_has_a_lease_keeps_what_it_knows_whoever_else_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "GUESTS_MAX", 3)
    monkeypatch.setattr(egress, "KNOWN_MAX", 4)
    outside = Outside("*.example", leases=(A,))
    for number in range(4):
        outside.asks("www.example", f"www.example 60 A 192.0.2.{number}")
    for number in range(20):
        mac = bytes([2, 0, 0, 0, 1, number])
        assert outside.asks("other.test", mac=mac) is None
        outside.asks("www.example", "www.example 60 A 192.0.2.9", "www.example 60 A 192.0.2.10", mac=mac)
    assert all(outside.reaches(f"192.0.2.{number}") for number in range(4))


def test_no_more_guests_and_flows_are_kept_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "GUESTS_MAX", 3)
    outside = Outside(deny=":25")
    for number in range(10):
        for port in range(100, 100 + 2 * egress.FLOWS_EACH_MAX):
            outside.reaches("192.0.2.1", port, UDP, mac=bytes([number] * 6))
    assert [len(guest.flows) for guest in outside.egress._guests.values()] == 3 * [egress.FLOWS_EACH_MAX]


def test_each_thing_is_told_once_a_minute_and_how_often_it_was_tried() -> None:
    outside = Outside("deb.debian.org", deny="tcp:25")
    for now_s in range(61):
        outside.reaches("192.0.2.1", 25, now_s=now_s)
    outside.asks("example.com", now_s=61.0)
    assert outside.told == [
        Denial(mac=A.hex(":"), protocol="tcp", ip="192.0.2.1", port=25, rule="tcp:25"),
        Denial(mac=A.hex(":"), protocol="tcp", ip="192.0.2.1", port=25, rule="tcp:25", more=59),
        Denial(mac=A.hex(":"), protocol="dns", name="example.com"),
    ]


def test_a_guest_that_tries_everything_is_told_of_a_few_times_and_others_as_ever() -> None:
    outside = Outside("192.0.2.1")
    for port in range(1, 1000):
        outside.reaches("192.0.2.2", port)
    assert len(outside.told) == denials.BURST
    outside.reaches("192.0.2.2", mac=B)
    assert outside.told[-1].mac == B.hex(":")
    outside.reaches("192.0.2.2", 1, UDP, now_s=denials.REST_S)
    assert outside.told[-1].more == 999 - denials.BURST


def test_many_guests_that_try_everything_are_told_of_as_one() -> None:
    outside = Outside("192.0.2.1")
    for number in range(2 * denials.GUESTS_MAX):
        outside.reaches("192.0.2.2", mac=number.to_bytes(6))
    assert len(outside.told) == denials.ALL_BURST


@given(st.lists(st.binary(max_size=63), min_size=1, max_size=3), st.binary(max_size=80))
def test_no_name_and_no_answer_do_harm(labels: list[bytes], tail: bytes) -> None:
    outside = Outside("*.example,:443", deny="bad.example")
    name = tuple(label.lower() for label in labels)
    outside.egress.may_ask(A, name, 0.0)
    query = bytes(10) + b"".join(bytes([len(label)]) + label for label in labels)
    with suppress(ValueError):
        outside.egress.answered(A, name, query + tail, 0.0)
