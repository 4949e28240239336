"""Questions and answers of DNS, as dnslib writes them."""

from ipaddress import ip_address

import dnslib  # type: ignore[import-untyped]
import pytest
from dnslib import RR
from hypothesis import given
from hypothesis import strategies as st

from vswitch.protocols import dns_records

NAME = (b"www", b"example", b"com")


def query(name: str = "www.Example.com", kind: str = "A") -> bytes:
    return bytes(dnslib.DNSRecord.question(name, kind).pack())


def response(*records: str, name: str = "www.example.com") -> bytes:
    reply = dnslib.DNSRecord.parse(query(name)).reply()
    for record in records:
        reply.add_answer(*RR.fromZone(record))
    reply.add_ar(dnslib.EDNS0(udp_len=1232))
    return bytes(reply.pack())


def test_what_a_question_is_about() -> None:
    assert dns_records.question(query()) == NAME
    assert dns_records.question(query(".")) == ()


def test_addresses_and_aliases_are_read() -> None:
    found = dns_records.answers(
        response(
            "www.example.com 60 CNAME Map.cdn.example",
            "map.cdn.example 70 A 192.0.2.1",
            "map.cdn.example 80 AAAA 2001:db8::1",
            'www.example.com 90 TXT "text"',
        ),
        NAME,
    )
    alias = (b"map", b"cdn", b"example")
    assert [(answer.owner, answer.ttl_s, answer.name) for answer in found] == [
        (NAME, 60, alias),
        (alias, 70, None),
        (alias, 80, None),
        (NAME, 90, None),
    ]
    assert [str(ip_address(answer.ip)) for answer in found if answer.ip] == ["192.0.2.1", "2001:db8::1"]


def test_answers_hold_no_longer_than_they_are_to_and_nothing_else_changes() -> None:
    before = response("www.example.com 3600 A 192.0.2.1", "www.example.com 5 A 192.0.2.2")
    after = dns_records.shortened(before, dns_records.answers(before, NAME), 60)
    assert after[:2] == before[:2]
    assert after[2:] == response("www.example.com 60 A 192.0.2.1", "www.example.com 5 A 192.0.2.2")[2:]


def test_what_is_in_a_name_is_written_without_harm() -> None:
    assert dns_records.written((b"a.b", b"\x1b[0m", b"x-_y")) == r"a\046b.\027\0910m.x-_y"
    assert dns_records.written(()) == "."


HEADER = bytes.fromhex("000001000001000000000000")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        HEADER,
        HEADER + b"\3www",
        HEADER + b"\0\0\1\0",
        HEADER + b"\xc0\x0c\0\1\0\1",  # to itself
        HEADER + b"\1a\xc0\x0c\0\1\0\1",
        HEADER + b"\xc0\x05\0\1\0\1",  # into the header, where there is a root
        HEADER + b"\x40" + bytes(64) + b"\0\0\1\0\1",
        HEADER + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",  # 257 bytes
        HEADER[:5] + b"\2" + HEADER[6:] + b"\1a\0\0\1\0\1" * 2,
    ],
)
def test_a_question_that_others_might_read_otherwise_is_malformed(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"question|name|cut short|lead back"):
        dns_records.question(message)


def test_an_answer_to_another_question_is_malformed() -> None:
    with pytest.raises(ValueError, match="another question"):
        dns_records.answers(response("www.example.com 60 A 192.0.2.1"), (b"other",))


labels = st.lists(st.from_regex(r"[a-z0-9]{1,10}", fullmatch=True), min_size=1, max_size=6).map(".".join)


@given(labels, st.lists(st.tuples(labels, st.integers(0, 2**31 - 1), st.ip_addresses()), max_size=8))
def test_what_dnslib_writes_is_read(name: str, records: list[tuple[str, int, object]]) -> None:
    reply = dnslib.DNSRecord.parse(query(name)).reply()
    for owner, ttl_s, ip in records:
        kind = "AAAA" if ":" in str(ip) else "A"
        reply.add_answer(RR(owner, getattr(dnslib.QTYPE, kind), ttl=ttl_s, rdata=getattr(dnslib, kind)(str(ip))))
    found = dns_records.answers(bytes(reply.pack()), tuple(name.encode().split(b".")))
    assert [(dns_records.written(it.owner), it.ttl_s, ip_address(it.ip)) for it in found] == records


@given(st.binary(max_size=60), st.integers(0, 400))
def test_whatever_comes_is_read_or_malformed(tail: bytes, cut: int) -> None:
    whole = response("www.example.com 60 CNAME map.example", "map.example 60 A 192.0.2.1")
    for message in (tail, HEADER + tail, whole[:cut] + tail, whole[:cut] + tail + whole[cut + len(tail) :]):
        try:
            found = dns_records.answers(message, NAME)
        except ValueError:
            continue
        assert len(dns_records.shortened(message, found, 60)) == len(message)
