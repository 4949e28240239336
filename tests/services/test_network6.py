"""A user network's IPv6, frame by frame."""

import select
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import dnslib  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp6 import DUID_LL, DHCP6_InfoRequest, DHCP6_Reply, DHCP6OptClientId, DHCP6OptDNSServers
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.services.test_dhcp_server import SETTINGS
from tests.services.test_network import GATEWAY, A, B, Net, assert_checksums, knock, library
from vswitch.protocols import inet6
from vswitch.services.user_network import nat
from vswitch.services.user_network.folder import Folder
from vswitch.services.user_network.forwards import Served
from vswitch.services.user_network.neighbors import AGE_S
from vswitch.services.user_network.settings import Forward, Server
from vswitch.services.user_network.slirp import Library

assert library  # a fixture
ROUTER = str(inet6.link_local(SETTINGS.mac))
HOST, DNS = "fec0::2", "fec0::3"
A6, B6 = (str(inet6.slaac(IPv6Network("fec0::/64"), bytes.fromhex(mac.replace(":", "")))) for mac in (A, B))


def local(mac: str) -> str:
    return str(inet6.link_local(bytes.fromhex(mac.replace(":", ""))))


def from_guest(mac: str, ip: str, to: str, layers: Packet) -> Packet:
    return Ether(src=mac, dst=GATEWAY) / IPv6(src=ip, dst=to) / layers


def to_all(mac: str, ip: str, to: str, layers: Packet) -> Packet:
    group = inet6.multicast_mac(IPv6Address(to)).hex(":")
    return Ether(src=mac, dst=group) / IPv6(src=ip, dst=to, hlim=255) / layers


@pytest.fixture
def net(library: Library) -> Iterator[Net]:
    net = Net(library, host_access=True)
    yield net
    net.network.close()


@pytest.mark.parametrize("target", [HOST, DNS, ROUTER])
def test_the_gateway_and_the_name_server_are_found(net: Net, target: str) -> None:
    group = str(inet6.solicited_node(IPv6Address(target)))
    asked = to_all(A, A6, group, ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=A))
    (answer,) = net.put(asked)
    assert (answer.src, answer.dst, answer[IPv6].dst) == (GATEWAY, A, A6)
    said = answer[ICMPv6ND_NA]
    assert (said.tgt, said.R, said.S, said.lladdr) == (target, 1, 1, GATEWAY)
    assert net.put(to_all(A, A6, group, ICMPv6ND_NS(tgt="fec0::99"))) == []
    assert net.network.drops == {}


def test_who_asks_for_a_router_is_answered_alone_also_without_an_address(net: Net) -> None:
    for source in (local(A), "::"):
        (answer,) = net.put(to_all(A, source, "ff02::2", ICMPv6ND_RS()))
        assert (answer.src, answer.dst, answer[IPv6].src) == (GATEWAY, A, ROUTER)
        assert (answer[ICMPv6ND_RA].routerlifetime, answer[ICMPv6ND_RA].O, answer[ICMPv6ND_RA].M) == (1800, 1, 0)
        prefix = answer[ICMPv6NDOptPrefixInfo]
        assert (prefix.prefix, prefix.prefixlen, prefix.A, prefix.L) == ("fec0::", 64, 1, 1)
        assert (answer[ICMPv6NDOptMTU].mtu, answer[ICMPv6NDOptRDNSS].dns) == (SETTINGS.mtu, [DNS])


def test_the_router_makes_itself_known_in_time(net: Net) -> None:
    net.network.tick(1000.0)
    said, asked = net.sent
    assert (asked.dst, asked[IPv6].src, asked[ICMPv6EchoRequest].id) == ("33:33:00:00:00:01", HOST, 0)
    assert_checksums(asked)
    assert (said.dst, said[IPv6].dst, said[ICMPv6ND_RA].routerlifetime) == ("33:33:00:00:00:01", "ff02::1", 1800)
    assert net.network.due_s == 1200.0
    net.network.tick(1199.0)
    assert len(net.sent) == 2
    net.network.tick(1200.0)
    assert [ICMPv6ND_RA in packet for packet in net.sent[2:]] == [True], "it asks once"


def test_a_restricted_network_has_no_router(library: Library) -> None:
    net = Net(library, restrict=True)
    (answer,) = net.put(to_all(A, local(A), "ff02::2", ICMPv6ND_RS()))
    assert answer[ICMPv6ND_RA].routerlifetime == 0
    assert net.put(from_guest(A, A6, "2001:db8::1", UDP(sport=1, dport=2))) == []
    assert net.network.drops == {"restricted": 1}


@pytest.mark.parametrize("address", [HOST, ROUTER])
def test_the_gateway_answers_pings(net: Net, address: str) -> None:
    source = A6 if address == HOST else local(A)
    (answer,) = net.put(from_guest(A, source, address, ICMPv6EchoRequest(id=7, data=b"x")))
    assert (answer.src, answer.dst, answer[IPv6].src, answer[IPv6].dst) == (GATEWAY, A, address, source)
    assert (answer[ICMPv6EchoReply].id, answer[ICMPv6EchoReply].data) == (7, b"x")


def test_who_asks_by_dhcpv6_is_told_the_name_server(net: Net) -> None:
    duid = DHCP6OptClientId(duid=DUID_LL(lladdr=A))
    asked = UDP(sport=546, dport=547) / DHCP6_InfoRequest(trid=5) / duid
    (answer,) = net.put(to_all(A, local(A), "ff02::1:2", asked))
    assert (answer.dst, answer[IPv6].src, answer[IPv6].dst, answer[UDP].dport) == (A, ROUTER, local(A), 546)
    assert answer[DHCP6_Reply].trid == 5
    assert answer[DHCP6OptDNSServers].dnsservers == [DNS]


def test_names_have_the_addresses_that_guests_gave_themselves(net: Net) -> None:
    net.lease(B, "db")
    net.put(to_all(B, "::", str(inet6.solicited_node(IPv6Address(B6))), ICMPv6ND_NS(tgt=B6)))
    question = dnslib.DNSRecord.question("db.lan", "AAAA").pack()
    (answer,) = net.put(from_guest(A, A6, DNS, UDP(sport=5353, dport=53) / Raw(question)))
    assert (answer.dst, answer[IPv6].src, answer[UDP].sport) == (A, DNS, 53)
    assert str(dnslib.DNSRecord.parse(bytes(answer[UDP].payload)).rr[0].rdata) == B6


def test_files_are_read_by_tftp(library: Library, tmp_path: Path) -> None:
    (tmp_path / "boot").write_bytes(b"kernel")
    net = Net(library, folder=Folder(tmp_path))
    (block,) = net.put(from_guest(A, A6, HOST, UDP(sport=7, dport=69) / Raw(b"\0\1boot\0octet\0")))
    assert (block.dst, block[IPv6].src, bytes(block[UDP].payload)) == (A, HOST, b"\0\3\0\1kernel")
    net.network.close()


def server6() -> socket.socket:
    return socket.create_server(("::1", 0), family=socket.AF_INET6)


def test_a_guest_reaches_a_server_of_this_machine(net: Net) -> None:
    with server6() as server:
        ports = {"sport": 1000, "dport": server.getsockname()[1]}
        net.put(from_guest(A, A6, HOST, TCP(flags="S", seq=1, window=9000, **ports)))
        answer = next(packet for packet in net.wait() if TCP in packet)
        assert (answer.src, answer.dst, answer[IPv6].src, answer[IPv6].dst) == (GATEWAY, A, HOST, A6)
        assert answer[TCP].flags == "SA"


@pytest.mark.parametrize(
    "address", [HOST, DNS, "::1", "::", "::ffff:127.0.0.1", "::7f00:1", "fe80::2", "fec0::99", "ff02::1"]
)
def test_without_host_access_it_does_not(library: Library, address: str) -> None:
    net = Net(library)
    with server6() as server, socket.create_server(("127.0.0.1", 0)) as other:
        for port in (server.getsockname()[1], other.getsockname()[1]):
            net.put(from_guest(A, A6, address, TCP(flags="S", sport=1000, dport=port)))
            net.poll()
        assert select.select([server, other], [], [], 0)[0] == []
    assert net.network.drops == {"host_access" if address in (HOST, DNS) else "not_routed": 2}
    net.network.close()


def test_what_hides_its_protocol_is_dropped(net: Net) -> None:
    net.put(from_guest(A, A6, HOST, IPv6ExtHdrHopByHop() / TCP(flags="S")))
    assert net.network.drops == {"protocol": 1}


@pytest.mark.parametrize("source", [HOST, DNS, "2001:db8::1", "::", "ff02::1"])
def test_an_address_that_is_not_its_own_is_dropped(net: Net, source: str) -> None:
    assert net.put(from_guest(A, source, HOST, ICMPv6EchoRequest())) == []
    assert net.network.drops == {"foreign_source": 1}


def test_a_forward_of_ipv6_leads_to_a_guest_that_is_named_once_its_address_is_known(net: Net) -> None:
    with server6() as listener:
        here = listener.getsockname()[:2]
        net.network.forwards.add(Forward(1, "web", 22), listener.dup(), 0.0)
        net.lease(A, "web")
        assert net.served == []
        net.put(to_all(A, local(A), "ff02::2", ICMPv6ND_RS()))
        assert net.served == [Served(1, A6, mac=A)]
        assert knock(net, here) == (A, A6)


def test_a_forward_of_ipv6_leads_to_an_address_and_is_answered(library: Library) -> None:
    net = Net(library)
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client,
    ):
        here.bind(("::1", 0))
        client.bind(("::1", 0))
        client.settimeout(20)
        net.network.forwards.add(Forward(1, B6, 99, udp=True), here.dup(), 0.0)
        net.put(from_guest(B, B6, HOST, ICMPv6EchoRequest()))
        client.sendto(b"knock", here.getsockname())
        knocked = next(packet for packet in net.wait() if UDP in packet)
        assert (knocked.dst, knocked[IPv6].src, knocked[IPv6].dst, knocked[UDP].dport) == (B, HOST, B6, 99)
        for port in (1, knocked[UDP].sport):
            net.put(from_guest(B, B6, HOST, UDP(sport=99, dport=port) / Raw(b"yes")))
        assert client.recv(100) == b"yes"
    assert net.network.drops == {"host_access": 1}
    net.network.close()


def test_an_address_that_another_has_is_not_learned_from_who_wants_it(net: Net) -> None:
    with server6() as listener:
        net.network.forwards.add(Forward(1, B6, 22), listener.dup(), 0.0)
        net.put(from_guest(B, B6, HOST, ICMPv6EchoRequest()))
        net.put(to_all(A, "::", str(inet6.solicited_node(IPv6Address(B6))), ICMPv6ND_NS(tgt=B6)))
        assert net.served == [Served(1, B6, mac=B)]
        assert knock(net, listener.getsockname()[:2]) == (B, B6)


def test_who_speaks_from_an_address_made_of_its_mac_address_has_the_other_one_so_too(net: Net) -> None:
    net.put(to_all(A, local(A), str(inet6.solicited_node(IPv6Address(HOST))), ICMPv6ND_NS(tgt=HOST)))
    assert [str(ip) for ip in net.network.neighbors.of(bytes.fromhex(A.replace(":", "")))] == [A6]
    net.put(to_all(B, local(A), str(inet6.solicited_node(IPv6Address(HOST))), ICMPv6ND_NS(tgt=HOST)))
    assert net.network.neighbors.of(bytes.fromhex(B.replace(":", ""))) == []


def test_the_address_that_a_guest_uses_comes_first(net: Net) -> None:
    net.lease(A, "web")
    net.put(to_all(A, local(A), "ff02::2", ICMPv6ND_RS()))
    net.put(from_guest(A, "fec0::77", HOST, ICMPv6EchoRequest()))
    assert [str(ip) for ip in net.network.neighbors.of(bytes.fromhex(A.replace(":", "")))] == ["fec0::77", A6]


def test_a_server_that_is_not_there_is_reached_and_answers(library: Library) -> None:
    net = Net(library, servers=(Server("fec0::100", 80),))
    group = str(inet6.solicited_node(IPv6Address("fec0::100")))
    (found,) = net.put(to_all(A, A6, group, ICMPv6ND_NS(tgt="fec0::100")))
    assert found[ICMPv6ND_NA].lladdr == GATEWAY
    ports: dict[str, Any] = {"sport": 1000, "dport": 80}
    net.put(from_guest(A, A6, "fec0::100", TCP(flags="S", seq=1, window=9000, **ports)))
    net.accept()
    ((_, connection),) = net.connected
    answer = next(packet for packet in net.wait() if TCP in packet)
    assert (answer.src, answer[IPv6].src, answer[IPv6].dst, answer[TCP].sport) == (GATEWAY, "fec0::100", A6, 80)
    assert_checksums(answer)
    said = TCP(flags="PA", seq=2, ack=answer[TCP].seq + 1, window=9000, **ports) / Raw(b"hello")
    net.put(from_guest(A, A6, "fec0::100", said))
    connection.settimeout(20)
    assert connection.recv(10) == b"hello"
    connection.close()
    net.network.close()


def test_without_ipv6_nothing_of_it_is_heard_and_without_ipv4_nothing_of_that(library: Library) -> None:
    net = Net(library, ipv6=False)
    assert net.put(to_all(A, local(A), "ff02::2", ICMPv6ND_RS())) == []
    assert net.network.due_s is None
    net.network.close()
    net = Net(library, ipv4=False)
    assert net.put(Ether(src=A, dst=GATEWAY, type=0x0800) / Raw(bytes(40))) == []
    assert len(net.put(to_all(A, local(A), "ff02::2", ICMPv6ND_RS()))) == 1
    net.network.close()


frames = st.builds(
    lambda group, kind, target, tail: (
        (b"\x33\x33\0\0\0\1" if group else SETTINGS.mac)
        + bytes.fromhex("52540000000a86dd60000000")
        + len(tail).to_bytes(2)
        + bytes([kind, 255])
        + IPv6Address(A6).packed
        + IPv6Address(target).packed
        + tail
    ),
    st.booleans(),
    st.sampled_from([6, 17, 58, 0, 44]) | st.integers(0, 255),
    st.sampled_from([HOST, DNS, ROUTER, "ff02::1", "ff02::1:2", "2001:db8::1"]),
    st.binary(max_size=100)
    | st.builds(lambda kind, rest: bytes([kind]) + rest, st.integers(128, 137), st.binary(max_size=80))
    | st.builds(
        lambda port, rest: b"\2\x22" + port.to_bytes(2) + rest, st.sampled_from([53, 69, 547]), st.binary(max_size=80)
    ),
)


def test_a_network_that_is_started_again_asks_and_its_forwards_lead_to_who_answers(library: Library) -> None:
    before = Net(library)
    before.lease(A, "web")
    net = Net(library, leases=tuple(before.leases))
    before.network.close()
    with server6() as listener:
        net.network.forwards.add(Forward(1, "web", 22), listener.dup(), 1.0)
        net.network.tick(1.0)
        asked = net.sent[1]
        assert (asked.dst, asked[IPv6].src, asked[IPv6].dst) == ("33:33:00:00:00:01", HOST, "ff02::1")
        assert net.served == []
        net.put(from_guest(A, "fec0::77", HOST, ICMPv6EchoReply(id=asked[ICMPv6EchoRequest].id)), 1.0)
        assert net.served == [Served(1, "fec0::77", mac=A)]
        assert knock(net, listener.getsockname()[:2]) == (A, "fec0::77")
    assert net.network.drops == {}
    net.network.close()


def test_an_address_that_a_guest_uses_is_remembered_and_one_that_it_does_not_is_forgotten(net: Net) -> None:
    net.lease(A, "web")
    net.put(to_all(A, local(A), "ff02::2", ICMPv6ND_RS()))  # so it has A6, too
    now_s = 0.0
    while now_s <= AGE_S:
        net.put(from_guest(A, "fec0::77", HOST, ICMPv6EchoRequest()), now_s)
        net.network.tick(now_s)
        now_s += nat.TOLD_S
    assert net.network.names.addresses("web", 1.0) == [IPv4Address("10.0.2.15"), IPv6Address("fec0::77")]


@pytest.mark.parametrize("address", [HOST, DNS, "fec0::100"])
def test_an_address_of_ours_is_no_guests(library: Library, address: str) -> None:
    net = Net(library, servers=(Server("fec0::100", 80),))
    net.lease(A, "web")
    group = str(inet6.solicited_node(IPv6Address(ROUTER)))
    net.put(to_all(A, address, group, ICMPv6ND_NS(tgt=ROUTER)))
    net.put(to_all(A, "::", str(inet6.solicited_node(IPv6Address(address))), ICMPv6ND_NS(tgt=address)))
    assert net.network.names.addresses("web", 1.0) == [IPv4Address("10.0.2.15")]
    net.network.close()


@given(frames)
def test_no_frame_raises(library: Library, frame: bytes) -> None:
    net = Net(library, restrict=True)
    net.network.receive(frame, 0.0)
    assert net.complaints == []
    net.network.close()
