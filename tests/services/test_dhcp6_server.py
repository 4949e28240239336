"""What the DHCPv6 server answers, to clients as scapy writes them."""

from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6_Advertise,
    DHCP6_Confirm,
    DHCP6_Decline,
    DHCP6_InfoRequest,
    DHCP6_Rebind,
    DHCP6_RelayForward,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptBootFileUrl,
    DHCP6OptClientArchType,
    DHCP6OptClientId,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIA_PD,
    DHCP6OptIA_TA,
    DHCP6OptOptReq,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.packet import Packet

from vswitch.protocols import dhcp6, inet6
from vswitch.services.user_network.dhcp6_server import ASSOCIATIONS_MAX, URL_MAX, Dhcp6Server

MAC = bytes.fromhex("52550a000202")
URL = "tftp://[fec0::2]/boot.efi"
CLIENT = DHCP6OptClientId(duid=DUID_LL(lladdr="52:54:00:12:34:56"))
OURS = DHCP6OptServerId(duid=DUID_LL(lladdr=MAC.hex(":")))
ANOTHERS = DHCP6OptServerId(duid=DUID_LL(lladdr="52:55:0a:00:02:03"))
IA = DHCP6OptIA_NA(iaid=7, T1=0, T2=0)
SERVER = Dhcp6Server(MAC, IPv6Address("fec0::3"), ("lan", "example.org"), URL)


def said(kind: type[Packet], *options: Packet) -> bytes:
    message: Any = kind(trid=0xABCDEF)
    for option in options:
        message /= option
    return bytes(message)


def hear(kind: type[Packet], *options: Packet, server: Dhcp6Server = SERVER) -> Packet | None:
    data = server.answer(said(kind, *options))
    if data is None:
        return None
    packet = (DHCP6_Advertise if data[0] == dhcp6.ADVERTISE else DHCP6_Reply)(data)
    assert packet.trid == 0xABCDEF
    assert packet[DHCP6OptServerId].duid == OURS.duid
    return packet


def answered(kind: type[Packet], *options: Packet, server: Dhcp6Server = SERVER) -> Packet:
    packet = hear(kind, *options, server=server)
    assert packet is not None
    return packet


def test_who_asks_for_information_gets_what_it_asks_for() -> None:
    packet = answered(DHCP6_InfoRequest, CLIENT, DHCP6OptOptReq(reqopts=[23, 24, 59]))
    assert packet.msgtype == dhcp6.REPLY
    assert packet[DHCP6OptClientId].duid == CLIENT.duid
    assert packet[DHCP6OptDNSServers].dnsservers == ["fec0::3"]
    assert packet[DHCP6OptDNSDomains].dnsdomains == ["lan.", "example.org."]
    assert packet[DHCP6OptBootFileUrl].optdata == URL.encode()
    only = answered(DHCP6_InfoRequest, CLIENT, OURS, DHCP6OptOptReq(reqopts=[23, 31]))
    assert DHCP6OptDNSServers in only
    assert DHCP6OptDNSDomains not in only
    assert DHCP6OptBootFileUrl not in only


def test_who_does_not_say_what_it_wants_gets_all() -> None:
    packet = answered(DHCP6_InfoRequest, DHCP6OptClientArchType(archtypes=[7]))
    assert DHCP6OptClientId not in packet, "there is none to echo"
    for layer in (DHCP6OptDNSServers, DHCP6OptDNSDomains, DHCP6OptBootFileUrl):
        assert layer in packet


def test_what_a_network_does_not_have_it_does_not_give() -> None:
    bare = Dhcp6Server(MAC, IPv6Address("fec0::3"))
    packet = answered(DHCP6_InfoRequest, DHCP6OptOptReq(reqopts=[23, 24, 59]), server=bare)
    assert DHCP6OptDNSServers in packet
    assert DHCP6OptDNSDomains not in packet
    assert DHCP6OptBootFileUrl not in packet


def test_who_solicits_an_address_hears_that_there_are_none() -> None:
    packet = answered(
        DHCP6_Solicit,
        CLIENT,
        IA,
        DHCP6OptIA_TA(iaid=8),
        DHCP6OptIA_PD(iaid=9, T1=0, T2=0),
        DHCP6OptOptReq(reqopts=[23]),
    )
    assert packet.msgtype == dhcp6.ADVERTISE
    assert packet[DHCP6OptClientId].duid == CLIENT.duid
    for layer, iaid, options, status in (
        (DHCP6OptIA_NA, 7, "ianaopts", dhcp6.NO_ADDRS_AVAIL),
        (DHCP6OptIA_TA, 8, "iataopts", dhcp6.NO_ADDRS_AVAIL),
        (DHCP6OptIA_PD, 9, "iapdopt", dhcp6.NO_PREFIX_AVAIL),
    ):
        assert packet[layer].iaid == iaid
        assert [option.statuscode for option in getattr(packet[layer], options)] == [status]
    assert packet[DHCP6OptDNSServers].dnsservers == ["fec0::3"]


@pytest.mark.parametrize(("kind", "status"), [(DHCP6_Request, dhcp6.NO_ADDRS_AVAIL), (DHCP6_Renew, dhcp6.NO_BINDING)])
def test_who_believes_to_have_an_address_of_ours_hears_that_it_has_none(kind: type[Packet], status: int) -> None:
    packet = answered(kind, CLIENT, OURS, IA)
    assert packet.msgtype == dhcp6.REPLY
    (option,) = packet[DHCP6OptIA_NA].ianaopts
    assert isinstance(option, DHCP6OptStatusCode)
    assert option.statuscode == status


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DHCP6_InfoRequest, [CLIENT, ANOTHERS]),
        (DHCP6_InfoRequest, [CLIENT, IA]),
        (DHCP6_Solicit, [IA]),
        (DHCP6_Solicit, [CLIENT, OURS, IA]),
        (DHCP6_Request, [OURS, IA]),
        (DHCP6_Request, [CLIENT, IA]),
        (DHCP6_Request, [CLIENT, ANOTHERS, IA]),
        (DHCP6_Renew, [CLIENT, IA]),
        (DHCP6_Renew, [CLIENT, ANOTHERS, IA]),
        (DHCP6_Confirm, [CLIENT, IA]),
        (DHCP6_Rebind, [CLIENT, IA]),
        (DHCP6_Release, [CLIENT, OURS, IA]),
        (DHCP6_Decline, [CLIENT, OURS, IA]),
        (DHCP6_Reply, [CLIENT, OURS]),
    ],
    ids=range(14),
)
def test_what_is_not_valid_or_may_be_anothers_gets_no_answer(kind: type[Packet], options: list[Packet]) -> None:
    assert hear(kind, *options) is None


def test_relays_get_no_answer() -> None:
    assert SERVER.answer(bytes(DHCP6_RelayForward() / CLIENT)) is None


def test_no_answer_is_longer_than_the_smallest_mtu() -> None:
    full = Dhcp6Server(MAC, IPv6Address("fec0::3"), ("example.org",) * 100, "x" * URL_MAX)
    long = bytes(DHCP6_Solicit()) + b"".join(
        code.to_bytes(2) + size.to_bytes(2) + bytes(size)
        for code, size in [(dhcp6.CLIENT_ID, dhcp6.DUID_MAX)] + [(dhcp6.IA_NA, 12)] * 50
    )
    answer = full.answer(long)
    assert answer is not None
    assert len(answer) <= inet6.MTU_MIN - inet6.UDP_OVERHEAD
    assert answer.count(bytes([0, 13, 0, 2, 0, dhcp6.NO_ADDRS_AVAIL])) == ASSOCIATIONS_MAX


def test_a_url_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 512 bytes"):
        Dhcp6Server(MAC, IPv6Address("fec0::3"), (), "x" * (URL_MAX + 1))


KINDS = st.sampled_from([DHCP6_Solicit, DHCP6_Request, DHCP6_Renew, DHCP6_InfoRequest])


@given(st.binary(max_size=100) | st.tuples(KINDS, st.binary(max_size=80)).map(lambda pair: said(pair[0]) + pair[1]))
def test_no_bytes_raise(payload: bytes) -> None:
    SERVER.answer(payload)
