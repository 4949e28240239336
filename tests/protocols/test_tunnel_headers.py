"""VXLAN's and L2TPv3's headers, byte by byte as RFC 7348 and RFC 3931 have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.protocols import l2tpv3, vxlan
from vswitch.protocols.l2tpv3 import Session

FRAME = bytes(range(64))
COOKIES = st.sampled_from([b"", b"\x8b\xad\xf0\x0d", b"\x01\x02\x03\x04\x05\x06\x07\x08"])
NUMBERS = st.integers(1, l2tpv3.SESSION_MAX)
SESSIONS = st.builds(
    Session,
    tx=NUMBERS,
    rx=NUMBERS,
    tx_cookie=COOKIES,
    rx_cookie=COOKIES,
    sequence=st.booleans(),
    offset=st.integers(0, l2tpv3.OFFSET_MAX),
    udp=st.booleans(),
)


def other_end(session: Session) -> Session:
    return session._replace(tx=session.rx, rx=session.tx, tx_cookie=session.rx_cookie, rx_cookie=session.tx_cookie)


def test_a_vxlan_header_is_flags_and_a_number() -> None:
    assert vxlan.header(0x123456) == bytes.fromhex("08000000 123456 00")
    assert vxlan.parse(bytes.fromhex("08000000 123456 00") + FRAME) == (0x123456, FRAME)


@given(st.integers(0, vxlan.VNI_MAX), st.binary(max_size=100))
def test_what_has_a_vxlan_header_is_read_back(vni: int, frame: bytes) -> None:
    assert vxlan.parse(vxlan.header(vni) + frame) == (vni, frame)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "08000000 123456",  # cut
        "00000000 123456 00",  # no VNI
        "0c000000 123456 00",  # VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe)
        "88008000 123456 00",  # Linux's group policy
        "08000000 123456 01",
        "08000001 123456 00",
    ],
)
def test_what_is_no_plain_vxlan_is_not_read(header: str) -> None:
    assert vxlan.parse(bytes.fromhex(header) + (FRAME if len(header) > 15 else b"")) is None


@pytest.mark.parametrize(
    ("session", "number", "header"),
    [
        (Session(1, 2), None, "00030000 00000001"),
        (Session(1, 2, udp=False), None, "00000001"),
        (Session(0xFFFFFFFF, 2, tx_cookie=b"\x8b\xad\xf0\x0d"), None, "00030000 ffffffff 8badf00d"),
        (Session(1, 2, tx_cookie=bytes(7) + b"\1"), None, "00030000 00000001 0000000000000001"),
        (Session(1, 2, sequence=True), None, "00030000 00000001 00000000"),
        (Session(1, 2, sequence=True), 0x1000005, "00030000 00000001 40000005"),
        (Session(1, 2, offset=3), None, "00030000 00000001 000000"),
        (Session(1, 2, tx_cookie=b"\1\2\3\4", sequence=True, offset=1, udp=False), 0, "00000001 01020304 40000000 00"),
    ],
)
def test_an_l2tpv3_header_has_what_both_ends_are_told(session: Session, number: int | None, header: str) -> None:
    assert l2tpv3.header(session, number) == bytes.fromhex(header)
    assert session.overhead == len(bytes.fromhex(header))


@given(SESSIONS, st.binary(max_size=100), st.one_of(st.none(), st.integers(0, 2**40)))
def test_what_one_end_of_a_session_sends_the_other_reads(session: Session, frame: bytes, number: int | None) -> None:
    assert l2tpv3.parse(other_end(session), l2tpv3.header(session, number) + frame) == frame


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        ("", "bad_header"),
        ("00030000 00000002 010203", "bad_header"),
        ("80030000 00000002 01020304", "bad_header"),  # a control message
        ("00020000 00000002 01020304", "bad_header"),  # L2TPv2
        ("00030000 00000001 01020304", "other_tunnel"),
        ("00030000 00000002 01020305", "bad_cookie"),
    ],
)
def test_what_is_of_no_such_session_is_dropped_with_a_reason(datagram: str, reason: str) -> None:
    session = Session(1, 2, rx_cookie=b"\1\2\3\4")
    assert (
        l2tpv3.parse(session, bytes.fromhex(datagram.replace(" ", "")[: len(datagram.replace(" ", "")) // 2 * 2]))
        == reason
    )


def test_what_is_reserved_in_l2tpv3_does_not_matter() -> None:
    assert l2tpv3.parse(Session(1, 2), bytes.fromhex("7ff3ffff 00000002") + FRAME) == FRAME
