"""DNS for programs of this machine: a network's own zones, and nothing else."""

import dnslib  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.services.test_dhcp_server import SETTINGS
from tests.services.test_names import QUERY, WEB6, names
from vswitch.services.user_network.zones import Zones

ZONE6 = "0." * 13 + "c.e.f.ip6.arpa"


def ask(name: str, kind: str = "A", **settings: object) -> tuple[str, list[str]]:
    zones = Zones(msgspec.structs.replace(SETTINGS, **settings), names())
    record = dnslib.DNSRecord.parse(zones.answer(dnslib.DNSRecord.question(name, kind).pack(), 50.0))
    assert record.header.qr
    assert record.header.aa == (record.header.rcode != dnslib.RCODE.REFUSED)
    return dnslib.RCODE[record.header.rcode], [str(answer.rdata) for answer in record.rr]


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("web.lan", "A", ("NOERROR", ["10.0.2.15"])),
        ("Web.LAN.", "AAAA", ("NOERROR", ["fec0::15"])),
        ("host.lan", "A", ("NOERROR", ["10.0.2.2"])),
        ("web.lan", "TXT", ("NOERROR", [])),
        ("lan", "SOA", ("NOERROR", [])),
        ("nobody.lan", "A", ("NXDOMAIN", [])),
        ("a.web.lan", "A", ("NXDOMAIN", [])),
        ("web", "A", ("REFUSED", [])),
        ("host", "A", ("REFUSED", [])),
        (".", "NS", ("REFUSED", [])),
        ("example.com", "A", ("REFUSED", [])),
        ("web.lan.example.com", "A", ("REFUSED", [])),
        ("weblan", "A", ("REFUSED", [])),
        ("15.2.0.10.in-addr.arpa", "PTR", ("NOERROR", ["web.lan."])),
        ("99.2.0.10.in-addr.arpa", "PTR", ("NXDOMAIN", [])),
        ("2.0.10.in-addr.arpa", "NS", ("NOERROR", [])),
        ("15.3.0.10.in-addr.arpa", "PTR", ("REFUSED", [])),
        ("0.10.in-addr.arpa", "PTR", ("REFUSED", [])),
        ("1.15.2.0.10.in-addr.arpa", "PTR", ("REFUSED", [])),
        ("in-addr.arpa", "PTR", ("REFUSED", [])),
        (WEB6.reverse_pointer, "PTR", ("NOERROR", ["web.lan."])),
        ((WEB6 + 9).reverse_pointer, "PTR", ("NXDOMAIN", [])),
        (ZONE6, "NS", ("NOERROR", [])),
        (ZONE6.partition(".")[2], "NS", ("REFUSED", [])),
        ("0." * 33 + "ip6.arpa", "PTR", ("REFUSED", [])),
        ("x.ip6.arpa", "PTR", ("REFUSED", [])),
    ],
)
def test_own_zones_are_answered_and_all_else_is_refused(name: str, kind: str, answer: tuple[str, list[str]]) -> None:
    assert ask(name, kind) == answer


def test_what_a_network_is_without_is_not_its_own() -> None:
    assert ask("15.2.0.10.in-addr.arpa", "PTR", ipv4=False) == ("REFUSED", [])
    assert ask(WEB6.reverse_pointer, "PTR", ipv6=False) == ("REFUSED", [])


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: QUERY[:12] + tail))
def test_what_is_malformed_raises_one_error(query: bytes) -> None:
    try:
        answer = Zones(SETTINGS, names()).answer(query, 0.0)
    except ValueError:
        return
    assert answer[:2] == query[:2]
