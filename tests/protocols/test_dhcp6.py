"""DHCPv6 messages: scapy writes what we read, and reads what we write; anything else is nobody's message."""

from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp6 import (
    DHCP6,
    DUID_LL,
    DHCP6_Advertise,
    DHCP6_Confirm,
    DHCP6_Decline,
    DHCP6_InfoRequest,
    DHCP6_Rebind,
    DHCP6_Reconf,
    DHCP6_RelayForward,
    DHCP6_RelayReply,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIA_PD,
    DHCP6OptIA_TA,
    DHCP6OptIAAddress,
    DHCP6OptOptReq,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.packet import Packet, Raw

from vswitch.protocols import dhcp6

MAC, OTHER = bytes.fromhex("525400123456"), bytes.fromhex("52550a000202")
CLIENT, SERVER = DUID_LL(lladdr=MAC.hex(":")), DUID_LL(lladdr=OTHER.hex(":"))


def asked(*options: Packet, kind: type[Packet] = DHCP6_Solicit, xid: int = 0x010203) -> bytes:
    message: Any = kind(trid=xid)
    for option in options:
        message /= option
    return bytes(message)


def option(code: int, value: bytes) -> bytes:
    return code.to_bytes(2) + len(value).to_bytes(2) + value


def read(data: bytes) -> dhcp6.Message:
    message = dhcp6.read(data)
    assert message is not None
    return message


def test_what_a_client_asks_is_read() -> None:
    address = DHCP6OptIAAddress(addr="fec0::15")
    message = read(
        asked(
            DHCP6OptClientId(duid=CLIENT),
            DHCP6OptServerId(duid=SERVER),
            DHCP6OptOptReq(reqopts=[23, 59]),
            DHCP6OptIA_NA(iaid=7, T1=1, T2=2, ianaopts=[address]),
            DHCP6OptIA_TA(iaid=8),
            DHCP6OptIA_PD(iaid=9, T1=0, T2=0),
        )
    )
    assert (message.kind, message.xid) == (dhcp6.SOLICIT, b"\1\2\3")
    assert (message.client, message.server) == (bytes(CLIENT), bytes(SERVER))
    assert message.wanted == {dhcp6.DNS, dhcp6.BOOT_FILE_URL}
    assert message.associations == [
        (dhcp6.IA_NA, bytes([0, 0, 0, 7])),
        (dhcp6.IA_TA, bytes([0, 0, 0, 8])),
        (dhcp6.IA_PD, bytes([0, 0, 0, 9])),
    ]
    bare = read(asked())
    assert (bare.client, bare.server, bare.wanted, bare.associations, bare.options) == (None, None, None, [], ())


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (DHCP6_Solicit, dhcp6.SOLICIT),
        (DHCP6_Request, dhcp6.REQUEST),
        (DHCP6_Confirm, dhcp6.CONFIRM),
        (DHCP6_Renew, dhcp6.RENEW),
        (DHCP6_Rebind, dhcp6.REBIND),
        (DHCP6_Release, dhcp6.RELEASE),
        (DHCP6_Decline, dhcp6.DECLINE),
        (DHCP6_InfoRequest, dhcp6.INFORMATION_REQUEST),
    ],
)
def test_each_kind_of_client_message_is_read(layer: type[Packet], kind: int) -> None:
    assert read(asked(kind=layer)).kind == kind


RELAYED = bytes(DHCP6_RelayForward(hopcount=0) / DHCP6OptClientId(duid=CLIENT))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        asked()[:3],
        asked(kind=DHCP6_Advertise),
        asked(kind=DHCP6_Reply),
        asked(kind=DHCP6_Reconf),
        RELAYED,
        bytes(DHCP6_RelayReply()),
        b"\0" + asked()[1:],
        asked() + b"\0",
        asked(DHCP6OptClientId(duid=CLIENT))[:-1],
        asked() + option(dhcp6.CLIENT_ID, b"\0\4"),
        asked() + option(dhcp6.CLIENT_ID, bytes(dhcp6.DUID_MAX + 1)),
        asked() + option(dhcp6.SERVER_ID, b""),
        asked() + option(dhcp6.OPTION_REQUEST, b"\0\x17\0"),
        asked() + option(dhcp6.IA_NA, bytes(11)),
        asked() + option(dhcp6.IA_TA, bytes(3)),
        asked() + option(dhcp6.IA_PD, bytes(11)),
        asked() + option(99, b"") * (dhcp6.OPTIONS_MAX + 1),
    ],
    ids=range(18),
)
def test_what_is_malformed_or_no_clients_is_nobodys(data: bytes) -> None:
    assert dhcp6.read(data) is None


def test_what_is_just_within_bounds_is_read() -> None:
    longest = asked() + option(dhcp6.CLIENT_ID, bytes(dhcp6.DUID_MAX))
    assert read(longest).client == bytes(dhcp6.DUID_MAX)
    assert len(read(asked() + option(99, b"") * dhcp6.OPTIONS_MAX).options) == dhcp6.OPTIONS_MAX


OPTIONS = st.lists(st.tuples(st.integers(0, 70), st.binary(max_size=40)), max_size=20)


@given(
    st.binary(max_size=300)
    | st.binary(max_size=100).map(lambda tail: asked() + tail)
    | OPTIONS.map(lambda said: asked() + b"".join(option(code, value) for code, value in said))
)
def test_no_bytes_raise(data: bytes) -> None:
    message = dhcp6.read(data)
    if message is not None:
        dhcp6.reply(message, dhcp6.REPLY, bytes(SERVER), [])
        assert (message.wanted is None) == (message.option(dhcp6.OPTION_REQUEST) is None)
        assert all(len(iaid) == 4 for _, iaid in message.associations)


@given(st.lists(st.tuples(st.integers(40, 65535), st.binary(max_size=40)), max_size=20))
def test_options_are_read_as_they_are_written(options: list[tuple[int, bytes]]) -> None:
    data = dhcp6.reply(read(asked()), dhcp6.SOLICIT, bytes(SERVER), options)
    assert read(data).options == ((dhcp6.SERVER_ID, bytes(SERVER)), *options)


def test_what_is_answered_is_read_by_others() -> None:
    request = read(asked(DHCP6OptClientId(duid=CLIENT)))
    dns = IPv6Address("fec0::3")
    data = dhcp6.reply(
        request,
        dhcp6.ADVERTISE,
        dhcp6.duid_ll(OTHER),
        [(dhcp6.DNS, dns.packed), dhcp6.refused(dhcp6.IA_NA, b"\0\0\0\7", dhcp6.NO_ADDRS_AVAIL)],
    )
    packet = DHCP6_Advertise(data)
    assert (packet.msgtype, packet.trid) == (dhcp6.ADVERTISE, 0x010203)
    assert packet[DHCP6OptClientId].duid == CLIENT
    assert packet[DHCP6OptServerId].duid == SERVER
    assert packet[DHCP6OptDNSServers].dnsservers == [str(dns)]
    refused = packet[DHCP6OptIA_NA]
    assert (refused.iaid, refused.T1, refused.T2) == (7, 0, 0)
    (status,) = refused.ianaopts
    assert isinstance(status, DHCP6OptStatusCode)
    assert status.statuscode == dhcp6.NO_ADDRS_AVAIL
    assert Raw not in packet
    assert DHCP6OptClientId not in DHCP6(dhcp6.reply(read(asked()), dhcp6.REPLY, bytes(SERVER), []))


@pytest.mark.parametrize(
    ("code", "layer", "options"),
    [
        (dhcp6.IA_NA, DHCP6OptIA_NA, "ianaopts"),
        (dhcp6.IA_TA, DHCP6OptIA_TA, "iataopts"),
        (dhcp6.IA_PD, DHCP6OptIA_PD, "iapdopt"),
    ],
)
def test_each_kind_of_association_is_refused_in_its_form(code: int, layer: type[Packet], options: str) -> None:
    written = dhcp6.refused(code, b"\0\0\0\7", dhcp6.NO_BINDING)
    said = layer(option(*written))
    assert said.iaid == 7
    assert [status.statuscode for status in getattr(said, options)] == [dhcp6.NO_BINDING]
