"""DNS for a network's own names."""

from ipaddress import IPv4Address, IPv6Address

import dnslib  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.services.test_dhcp_server import SETTINGS
from vswitch.services.user_network.leases import Lease, Leases
from vswitch.services.user_network.names import Names, label
from vswitch.services.user_network.neighbors import Neighbors

QUERY = dnslib.DNSRecord(dnslib.DNSHeader(id=1), q=dnslib.DNSQuestion("a")).pack()
WEB, WEB6 = IPv4Address("10.0.2.15"), IPv6Address("fec0::15")


def names() -> Names:
    known = [
        Lease(mac="52:54:00:00:00:0a", ip=WEB, port="a", name="web", until_s=100.0),
        Lease(mac="52:54:00:00:00:0b", ip=WEB + 1, port="b", name="over", until_s=10.0),
        Lease(mac="52:54:00:00:00:0c", ip=WEB + 2, port="c", until_s=100.0),
    ]
    neighbors = Neighbors(SETTINGS.network6)
    neighbors.learn(bytes.fromhex("52540000000a"), WEB6, 0.0, is_used=True)
    neighbors.learn(bytes.fromhex("52540000000b"), WEB6 + 1, 0.0, is_used=True)
    return Names(SETTINGS, Leases([WEB, WEB + 1, WEB + 2], 1000.0, known=known), neighbors)


def ask(name: str, kind: str = "A", now_s: float = 50.0) -> tuple[str, list[str]] | None:
    """The code of the answer, and what it says; None if others are to be asked."""
    response = names().answer(dnslib.DNSRecord.question(name, kind).pack(), now_s)
    if response is None:
        return None
    record = dnslib.DNSRecord.parse(response)
    assert record.header.qr
    return dnslib.RCODE[record.header.rcode], [str(answer.rdata) for answer in record.rr]


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("web.lan", "A", ("NOERROR", ["10.0.2.15"])),
        ("WEB.LAN", "A", ("NOERROR", ["10.0.2.15"])),
        ("web", "A", ("NOERROR", ["10.0.2.15"])),
        ("host.lan", "A", ("NOERROR", ["10.0.2.2"])),
        ("web.lan", "AAAA", ("NOERROR", ["fec0::15"])),
        ("web.lan", "ANY", ("NOERROR", ["10.0.2.15", "fec0::15"])),
        ("host.lan", "AAAA", ("NOERROR", ["fec0::2"])),
        ("web.lan", "MX", ("NOERROR", [])),
        ("over.lan", "A", ("NXDOMAIN", [])),
        ("nobody.lan", "AAAA", ("NXDOMAIN", [])),
        ("a.web.lan", "A", ("NXDOMAIN", [])),
        ("nobody", "A", None),
        (".", "A", None),
        (".", "NS", None),
        ("example.com", "A", None),
        ("web.lan.example.com", "A", None),
        ("15.2.0.10.in-addr.arpa", "PTR", ("NOERROR", ["web.lan."])),
        ("2.2.0.10.in-addr.arpa", "PTR", ("NOERROR", ["host.lan."])),
        ("16.2.0.10.in-addr.arpa", "PTR", None),
        ("x.2.0.10.in-addr.arpa", "PTR", None),
        (WEB6.reverse_pointer, "PTR", ("NOERROR", ["web.lan."])),
        (SETTINGS.host6.reverse_pointer, "PTR", ("NOERROR", ["host.lan."])),
        ((WEB6 + 1).reverse_pointer, "PTR", None),
        ((WEB6 + 2).reverse_pointer, "PTR", None),
        ("5.1.ip6.arpa", "PTR", None),
        ("15." * 31 + "5.ip6.arpa", "PTR", None),
    ],
)
def test_own_names_are_answered_and_others_are_not(name: str, kind: str, answer: tuple[str, list[str]] | None) -> None:
    assert ask(name, kind) == answer


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: QUERY + tail))
def test_what_is_malformed_raises_one_error(query: bytes) -> None:
    try:
        answer = names().answer(query, 0.0)
    except ValueError:
        return
    assert answer is None or answer[:2] == query[:2]


HEADER = QUERY[:12]
LOOP = HEADER + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x32" + b"a" * 50 + b"\xc0\xc0\xbf" + bytes(4)


@pytest.mark.parametrize(
    "query",
    [
        HEADER + b"\x64" + b"a" * 100 + b"\x03lan\0\0\1\0\1",
        HEADER + (b"\x3f" + b"a" * 63) * 4 + b"\x03lan\0\0\1\0\1",
        LOOP,
        HEADER + b"\xc0\x0c\0\1\0\1",
    ],
    ids=["label", "name", "loop", "itself"],
)
def test_what_dnslib_trips_over_is_malformed_too(query: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        names().answer(query, 0.0)


@given(st.text() | st.binary())
def test_a_label_is_one_or_nothing(text: str | bytes) -> None:
    found = label(text)
    assert found == "" or (len(found) <= 63 and found == label(found) and found.isascii() and found.isprintable())
