"""DNS messages as TCP carries them, and responses without records."""

from itertools import pairwise

import dnslib  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.protocols import dns

messages = st.lists(st.binary(min_size=dns.HEADER, max_size=300), max_size=5)


@given(messages, st.lists(st.integers(0, 1500), max_size=20))
def test_messages_come_out_of_a_stream_however_it_is_cut(said: list[bytes], cuts: list[int]) -> None:
    stream, framing, heard = b"".join(map(dns.framed, said)), dns.Framing(300), list[bytes]()
    edges = [0, *sorted(cuts), len(stream)]
    for begin, end in pairwise(edges):
        heard += framing.feed(stream[begin:end])
    assert heard == said


@pytest.mark.parametrize("size", [0, dns.HEADER - 1, 301, 65535])
def test_a_length_that_none_has_is_refused_at_once(size: int) -> None:
    with pytest.raises(ValueError, match=f"a message of {size} bytes"):
        dns.Framing(300).feed(size.to_bytes(2))


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_no_stream_does_more_than_be_refused(stream: bytes, piece: int) -> None:
    framing = dns.Framing(300)
    try:
        for at in range(0, len(stream), piece):
            assert all(dns.HEADER <= len(message) <= 300 for message in framing.feed(stream[at : at + piece]))
    except ValueError:
        pass


def test_a_long_answer_is_cut_and_says_so() -> None:
    asked = dnslib.DNSRecord(dnslib.DNSHeader(id=7), q=dnslib.DNSQuestion("example.com"))
    reply = asked.reply()
    reply.add_answer(*dnslib.RR.fromZone("example.com 60 A 1.2.3.4"))
    whole = bytes(reply.pack())
    cut = dns.truncated(whole)
    read = dnslib.DNSRecord.parse(cut)
    assert (read.header.id, read.header.tc, read.header.qr, read.rr) == (7, 1, 1, [])
    assert str(read.q.qname) == "example.com."
    assert (dns.is_truncated(cut), dns.is_truncated(whole), dns.is_truncated(b"")) == (True, False, False)


def test_a_failure_says_what_was_asked_and_why_not() -> None:
    asked = dnslib.DNSRecord(dnslib.DNSHeader(id=7, rd=1), q=dnslib.DNSQuestion("example.com", dnslib.QTYPE.AAAA))
    read = dnslib.DNSRecord.parse(dns.failure(bytes(asked.pack()), dns.REFUSED))
    assert (read.header.id, read.header.qr, read.header.rd, read.header.rcode) == (7, 1, 1, dnslib.RCODE.REFUSED)
    assert (str(read.q.qname), read.q.qtype) == ("example.com.", dnslib.QTYPE.AAAA)


@given(st.binary(min_size=dns.HEADER, max_size=100), st.sampled_from([dns.FORMERR, dns.SERVFAIL, dns.REFUSED]))
def test_whatever_was_asked_a_failure_can_be_read(query: bytes, code: int) -> None:
    response = dns.failure(query, code)
    assert dns.HEADER <= len(response) <= max(len(query), dns.HEADER)
    assert response[:2] == query[:2]
    assert (response[2] & 0x80, response[3] & 15, response[5]) == (0x80, code, len(response) > dns.HEADER)
