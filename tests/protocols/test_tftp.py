"""TFTP messages: scapy writes what we read, and reads what we write; anything else is nobody's message."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.tftp import (
    TFTP,
    TFTP_ACK,
    TFTP_DATA,
    TFTP_ERROR,
    TFTP_OACK,
    TFTP_RRQ,
    TFTP_WRQ,
    TFTP_Option,
    TFTP_Options,
)

from vswitch.protocols import tftp
from vswitch.protocols.tftp import Ack, Error, Request

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
texts = st.text("aZ \n\x7fé€😀")


def options_of(said: dict[str, str]) -> TFTP_Options:
    return TFTP_Options(options=[TFTP_Option(oname=name, value=value) for name, value in said.items()])


@given(words, st.dictionaries(words.map(str.lower), words, max_size=4))
def test_what_a_client_asks_is_read(name: str, said: dict[str, str]) -> None:
    options = {key.encode(): value.encode() for key, value in said.items()}
    read = bytes(TFTP() / TFTP_RRQ(filename=name, mode="Octet") / options_of(said))
    assert tftp.read(read) == Request(tftp.RRQ, name, b"octet", options)
    write = bytes(TFTP() / TFTP_WRQ(filename=name, mode="netascii") / options_of(said))
    assert tftp.read(write) == Request(tftp.WRQ, name, b"netascii", options)


@given(st.integers(0, 65535))
def test_an_acknowledgement_is_read(block: int) -> None:
    assert tftp.read(bytes(TFTP() / TFTP_ACK(block=block))) == Ack(block)


@given(st.integers(0, 65535), texts)
def test_an_error_is_read_and_written(code: int, text: str) -> None:
    assert tftp.read(bytes(TFTP() / TFTP_ERROR(errorcode=code, errormsg=text.encode()))) == Error(code, text)
    packet = TFTP(written := tftp.error(code, text))
    assert (packet[TFTP_ERROR].errorcode, packet[TFTP_ERROR].errormsg) == (code, text.encode())
    assert tftp.read(written) == Error(code, text)
    assert written.endswith(b"\0")


@given(st.integers(0, 1 << 40), st.binary())
def test_a_block_is_read_by_others_whatever_its_number(block: int, content: bytes) -> None:
    packet = TFTP(tftp.data(block, content))
    assert packet[TFTP_DATA].block == block % 65536
    assert bytes(packet[TFTP_DATA].payload) == content


@given(st.dictionaries(words, st.integers(0, 1 << 40), min_size=1, max_size=4))
def test_agreed_options_are_read_by_others(agreed: dict[str, int]) -> None:
    packet = TFTP(tftp.oack({name.encode(): value for name, value in agreed.items()}))
    assert packet.op == tftp.OACK
    assert TFTP_OACK in packet
    assert {option.oname.decode(): int(option.value) for option in packet[TFTP_Options].options} == agreed


def test_a_request_may_be_odd() -> None:
    """Names that are no UTF-8, options in capitals, twice, empty, or unknown, and zeros behind all."""
    read = tftp.read(b"\0\1b\xff/\xe4\0octet\0BLKSIZE\x001432\0blksize\x008\0tsize\0\0x\0y\0\0\0\0")
    assert read == Request(tftp.RRQ, "b\udcff/\udce4", b"octet", {b"blksize": b"1432", b"tsize": b"", b"x": b"y"})
    assert tftp.read(b"\0\1a\0octet\0\0") == Request(tftp.RRQ, "a", b"octet", {})
    longest = b"n" * tftp.NAME_MAX
    assert tftp.read(b"\0\1" + longest + b"\0octet\0") == Request(tftp.RRQ, longest.decode(), b"octet", {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\1",
        b"\0\1\0\0"[:3],
        b"\0\1name",
        b"\0\1name\0",
        b"\0\1name\0octet",
        b"\0\1name\0octet\0blksize\0",
        b"\0\1name\0octet\0blksize\x00512",
        b"\0\1name\0octet\0rest",
        b"\0\1" + b"n" * (tftp.NAME_MAX + 1) + b"\0octet\0",
        b"\0\1name\0octet\0" + b"x\0y\0" * tftp.REQUEST_MAX,
        b"\0\3\0\1content",
        b"\0\4\0",
        b"\0\6blksize\x00512\0",
        b"\0\7\0\0",
        b"\1\1name\0octet\0",
    ],
    ids=range(16),
)
def test_what_is_malformed_is_nobodys(data: bytes) -> None:
    assert tftp.read(data) is None


FIELDS = st.lists(st.binary(max_size=20), max_size=8).map(b"\0".join)


@given(st.binary(max_size=1500) | st.tuples(st.integers(0, 8), FIELDS).map(lambda two: bytes([0, two[0]]) + two[1]))
@example(b"\0\1\0\0")
@example(b"\0\5\0\0\xff")
def test_no_bytes_raise(data: bytes) -> None:
    tftp.read(data)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((b"0", 0), (b"0512", 512), (b"9" * 9, 999_999_999), (b"9" * 10, None), (b"9" * 5000, None)),
        *((b"", None), (b"-1", None), (b"+1", None), (b"1 ", None), (b"1_0", None), ("\u0661".encode(), None)),
    ],
    ids=range(11),
)
def test_a_number_is_nothing_but_a_few_digits(value: bytes, number: int | None) -> None:
    assert tftp.number(value) == number
