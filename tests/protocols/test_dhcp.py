"""DHCP messages: scapy writes what we read, and reads what we write; anything else is nobody's message."""

from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.packet import Packet

from vswitch.protocols import dhcp

MAC = bytes.fromhex("525400123456")
SERVER, OURS = IPv4Address("10.0.2.2"), IPv4Address("10.0.2.15")


def asked(*options: object, **fields: Any) -> bytes:
    return bytes(BOOTP(chaddr=MAC, xid=7, **fields) / DHCP(options=[*options, "end"]))


def read(data: bytes) -> dhcp.Message:
    message = dhcp.read(data)
    assert message is not None
    return message


def test_what_a_client_asks_is_read() -> None:
    message = read(
        asked(("message-type", "request"), ("requested_addr", str(OURS)), ("server_id", str(SERVER)), ciaddr="10.0.2.9")
    )
    assert (message.kind, message.xid, message.mac, message.broadcast) == (dhcp.REQUEST, 7, MAC, False)
    assert (message.wanted, message.server, message.ciaddr) == (OURS, SERVER, IPv4Address("10.0.2.9"))
    assert read(asked(("message-type", "discover"), flags=0x8000)).broadcast
    assert read(asked()).kind == 0, "BOOTP"


def test_an_option_in_pieces_is_joined_and_may_be_where_names_of_files_are() -> None:
    joined = read(asked(("message-type", 1), ("hostname", b"web"), ("hostname", b"-1")))
    assert joined.options[dhcp.HOST_NAME] == b"web-1"
    data = bytearray(asked(("message-type", 1), (52, b"\x03")))
    data[44:50] = bytes([dhcp.HOST_NAME, 1, 0x61, dhcp.END, 0, 0])  # sname
    data[108:113] = bytes([dhcp.DOMAIN_NAME, 1, 0x62, dhcp.END, 0])  # file
    options = read(bytes(data)).options
    assert (options[dhcp.HOST_NAME], options[dhcp.DOMAIN_NAME]) == (b"a", b"b")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        asked(("message-type", 1), op=2),
        asked(("message-type", 1), htype=6),
        asked(("message-type", 1), hlen=16),
        asked(("message-type", 1))[:239],
        asked(("message-type", 1)).replace(bytes.fromhex("63825363"), bytes(4)),
        bytes(BOOTP(chaddr=MAC)) + bytes.fromhex("63825363350501"),
    ],
    ids=range(7),
)
def test_what_is_malformed_is_nobodys(data: bytes) -> None:
    assert dhcp.read(data) is None


WITH_COOKIE = bytes(BOOTP(chaddr=MAC)) + bytes.fromhex("63825363")
OPTIONS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=20)))


@given(
    st.binary(max_size=600)
    | st.binary(max_size=200).map(lambda tail: WITH_COOKIE + tail)
    | OPTIONS.map(lambda said: WITH_COOKIE + b"".join(bytes([code, len(value)]) + value for code, value in said))
)
@example(WITH_COOKIE + bytes([dhcp.OVERLOAD, 0]))
def test_no_bytes_raise(data: bytes) -> None:
    dhcp.read(data)
    dhcp.answering_server(bytes([2]) + data[1:])


@pytest.mark.parametrize(
    ("kind", "says", "found"),
    [
        ("offer", str(SERVER), SERVER),
        ("ack", str(SERVER), SERVER),
        ("nak", str(SERVER), SERVER),
        ("offer", None, None),
        ("request", str(SERVER), None),
    ],
)
def test_a_server_is_known_from_its_answers(kind: str, says: str | None, found: IPv4Address | None) -> None:
    said = [("message-type", kind), *([("server_id", says)] if says else [])]
    assert dhcp.answering_server(asked(*said, op=2)) == found
    assert dhcp.answering_server(asked(*said)) is None, "it is a client's"


def options_of(data: bytes) -> tuple[Packet, dict[str, object]]:
    packet = BOOTP(data)
    return packet, {option[0]: option[1] for option in packet[DHCP].options if isinstance(option, tuple)}


def test_what_is_answered_is_read_by_others() -> None:
    request = read(asked(("message-type", "request"), flags=0x8000, giaddr="10.0.9.1"))
    long = b"x" * 300
    data = dhcp.reply(request, dhcp.ACK, OURS, SERVER, {dhcp.SERVER_ID: SERVER.packed, dhcp.DOMAIN_NAME: long})
    packet, options = options_of(data)
    assert (packet.op, packet.xid, packet.flags.value, packet.chaddr[:6]) == (2, 7, 0x8000, MAC)
    assert (packet.yiaddr, packet.siaddr, packet.giaddr) == (str(OURS), str(SERVER), "10.0.9.1")
    assert (options["message-type"], options["server_id"]) == (dhcp.ACK, str(SERVER))
    assert data.count(b"x" * 255) == 1
    assert data.count(bytes([dhcp.DOMAIN_NAME, 45]) + b"x" * 45) == 1
    refused, _ = options_of(dhcp.reply(request, dhcp.NAK, IPv4Address(0), SERVER, {}))
    assert (refused.yiaddr, refused.siaddr, refused.ciaddr) == ("0.0.0.0",) * 3
    assert len(bytes(refused)) >= dhcp.SIZE_MIN
