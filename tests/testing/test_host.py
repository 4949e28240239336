"""Hosts made of scapy packets, two at the ends of a socketpair, or at a switch. Time passes when nothing else does."""

import functools
import json
import random
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Interface, IPv6Address
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    IPv6,
)
from scapy.layers.l2 import ARP, LLC, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet
from trio.testing import MockClock

import vswitch
from vswitch.errors import InputError
from vswitch.testing.host import BROADCAST, FRAME_MAX, FramingError, HostUnreachable, ScapyHost
from vswitch.testing.packets import link_local

MAC_A, MAC_B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
A, B = "10.0.0.1", "10.0.0.2"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked up on the machine this runs on."""

    def looked_up(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"looked up {arguments}")

    for place in ("scapy.route.Route.route", "scapy.route6.Route6.route", "scapy.layers.l2.getmacbyip"):
        monkeypatch.setattr(place, looked_up)
    monkeypatch.setattr("scapy.layers.inet6.getmacbyip6", looked_up)
    monkeypatch.setattr("scapy.layers.inet.getmacbyip", looked_up)


def streams() -> tuple[trio.SocketStream, trio.SocketStream]:
    a, b = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    return a, b


def host_a(stream: trio.SocketStream, address: str | None = f"{A}/24", seed: int = 1, **options: Any) -> ScapyHost:
    interface = IPv4Interface(address) if address else None
    return ScapyHost("a", MAC_A, interface, stream, random.Random(seed), **options)


def host_b(stream: trio.SocketStream, address: str | None = f"{B}/24", **options: Any) -> ScapyHost:
    interface = IPv4Interface(address) if address else None
    return ScapyHost("b", MAC_B, interface, stream, random.Random(2), **options)


@asynccontextmanager
async def running(*hosts: ScapyHost) -> AsyncGenerator[None, None]:
    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(host.run)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def pair(**options: Any) -> AsyncGenerator[tuple[ScapyHost, ScapyHost], None]:
    """Two hosts on a cable."""
    ends = streams()
    a, b = host_a(ends[0], **options), host_b(ends[1])
    async with ends[0], ends[1], running(a, b):
        yield a, b


@asynccontextmanager
async def probed(address: str | None = f"{A}/24", **options: Any) -> AsyncGenerator[tuple[ScapyHost, "Probe"], None]:
    """Host a, and the bare other end of its cable."""
    ends = streams()
    a = host_a(ends[0], address, **options)
    async with ends[0], ends[1], running(a):
        yield a, Probe(ends[1])


class Probe:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, *frames: Packet | bytes) -> None:
        await self.stream.send_all(b"".join(framed(bytes(frame)) for frame in frames))

    async def next(self) -> bytes:
        size = 0
        while len(self._buffer) < 4 or len(self._buffer) < 4 + (size := int.from_bytes(self._buffer[:4])):
            data = await self.stream.receive_some()
            assert data
            self._buffer += data
        frame, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
        return frame

    async def nothing(self) -> bool:
        with trio.move_on_after(10):
            await self.next()
            return False
        return True


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4) + frame


def run_mocked(test: Callable[..., Any], *arguments: Any) -> None:
    trio.run(functools.partial(test, *arguments), clock=MockClock(autojump_threshold=0))


# -- who answers what ----------------------------------------------------------------------------------------------


async def test_ping_between_two(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        assert await a.ping(B)
        assert await b.ping(A, count=3)
        assert await a.ping(b.ip6)
        assert a.neighbours == {B: MAC_B, b.ip6: MAC_B}
        await trio.sleep(1)
        assert len(a.received) + len(b.received) == 14, "no reply is replied to"


async def test_ping_through_a_switch(autojump_clock: MockClock) -> None:
    async with vswitch.VSwitch() as switch, trio.open_nursery() as nursery:
        hosts = []
        for make, name in ((host_a, "a"), (host_b, "b")):
            inner, outer = socket.socketpair()
            await switch.attach(inner, name=name)
            hosts.append(make(trio.SocketStream(trio.socket.from_stdlib_socket(outer))))
            nursery.start_soon(hosts[-1].run)
        a, b = hosts
        assert await a.ping(B)
        assert await b.ping(a.ip6)
        assert {station.mac for station in await switch.macs()} == {MAC_A, MAC_B}
        nursery.cancel_scope.cancel()


async def test_ping_nobody(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        began_s = trio.current_time()
        b.answers = False
        assert not await a.ping(B)
        assert trio.current_time() - began_s == pytest.approx(1.5)


async def test_says_nothing_of_its_own_accord(autojump_clock: MockClock) -> None:
    async with probed() as (_, probe):
        assert await probe.nothing()


async def test_answers_arp_for_itself_only_and_padded(autojump_clock: MockClock) -> None:
    async with probed() as (_, probe):
        for address in (B, A):
            request = ARP(hwsrc=MAC_B, psrc=B, pdst=address)
            await probe.send(Ether(src=MAC_B, dst=BROADCAST) / request)
        frame = await probe.next()
        reply = Ether(frame)[ARP]
        assert len(frame) == 60
        assert (reply.op, reply.psrc, reply.hwsrc, reply.pdst, reply.hwdst) == (2, A, MAC_A, B, MAC_B)
        assert await probe.nothing()


async def test_echo_replies_have_the_payload_without_padding(autojump_clock: MockClock) -> None:
    async with probed() as (_, probe):
        for payload in (b"", b"x", b"x" * 9000):
            echo = IP(src=B, dst=A) / ICMP(id=7, seq=9) / payload
            await probe.send(bytes(Ether(src=MAC_B, dst=MAC_A) / echo).ljust(60, b"\0"))
            ip = Ether(await probe.next())[IP]
            assert (ip.dst, ip[ICMP].type, ip[ICMP].id, ip[ICMP].seq) == (B, 0, 7, 9)
            assert ip.original[28 : ip.len] == payload


async def test_what_is_damaged_or_for_others_is_not_answered(autojump_clock: MockClock) -> None:
    async with probed() as (a, probe):
        ether, echo = Ether(src=MAC_B, dst=MAC_A), ICMP(id=7, seq=9) / b"data"
        await probe.send(
            ether / IP(src=B, dst=A) / ICMP(id=7, seq=9, chksum=1) / b"data",
            ether / IP(src=B, dst=A, chksum=1) / echo,
            ether / IP(src=B, dst=A, flags="MF") / echo,
            ether / IP(src=B, dst="10.0.0.3") / echo,
            Ether(src=MAC_B, dst=MAC_B) / IP(src=B, dst=A) / echo,
            Ether(src=MAC_B, dst=BROADCAST) / IP(src=B, dst=A) / echo,
            Ether(src=MAC_B, dst=MAC_A) / Dot1Q(vlan=5) / IP(src=B, dst=A) / echo,
            ether / IPv6(src=link_local(MAC_B), dst=a.ip6) / ICMPv6EchoRequest(cksum=1),
        )
        assert await probe.nothing()
        assert len(a.received) == 8


async def test_a_priority_tag_is_no_vlan(autojump_clock: MockClock) -> None:
    async with probed() as (_, probe):
        await probe.send(Ether(src=MAC_B, dst=BROADCAST) / Dot1Q(vlan=0, prio=5) / ARP(hwsrc=MAC_B, psrc=B, pdst=A))
        assert Ether(await probe.next())[ARP].op == 2


async def test_answers_neighbour_solicitations(autojump_clock: MockClock) -> None:
    async with probed() as (a, probe):
        tail = IPv6Address(a.ip6).packed[-3:]
        ether = Ether(src=MAC_B, dst="33:33:ff:" + tail.hex(":"))
        group = str(IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + tail))
        await probe.send(ether / IPv6(src=link_local(MAC_B), dst=group) / ICMPv6ND_NS(tgt=a.ip6))
        reply = Ether(await probe.next())
        assert (reply.dst, reply[ICMPv6ND_NA].tgt, reply[ICMPv6ND_NA].S) == (MAC_B, a.ip6, 1)
        await probe.send(ether / IPv6(src="::", dst=group) / ICMPv6ND_NS(tgt=a.ip6))
        reply = Ether(await probe.next())
        assert (reply[IPv6].dst, reply[ICMPv6ND_NA].S) == ("ff02::1", 0)
        await probe.send(ether / IPv6(src=link_local(MAC_B), dst=group, hlim=64) / ICMPv6ND_NS(tgt=a.ip6))
        await probe.send(ether / IPv6(src=link_local(MAC_B), dst=group) / ICMPv6ND_NS(tgt="fe80::1"))
        assert await probe.nothing()


async def test_answers_nothing_when_told(autojump_clock: MockClock) -> None:
    async with probed() as (a, probe):
        a.answers = False
        await probe.send(Ether(src=MAC_B, dst=BROADCAST) / ARP(hwsrc=MAC_B, psrc=B, pdst=A))
        assert await probe.nothing()


def test_link_local_addresses_are_made_of_the_mac_address() -> None:
    assert link_local("52:54:00:12:34:56") == "fe80::5054:ff:fe12:3456"


# -- sending -------------------------------------------------------------------------------------------------------


async def test_missing_addresses_are_filled_and_others_stay(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        sent: list[tuple[Packet, dict[str, str]]] = [
            (IP(dst=B) / UDP(dport=9), {"src": MAC_A, "dst": MAC_B}),
            (Ether(src=MAC_B) / IP(dst=B, src="1.2.3.4") / UDP(), {"src": MAC_B, "dst": MAC_B}),
            (IP(dst="255.255.255.255") / UDP(), {"dst": BROADCAST}),
            (IP(dst="10.0.0.255") / UDP(), {"dst": BROADCAST}),
            (IP(dst="239.255.1.2") / UDP(), {"dst": "01:00:5e:7f:01:02"}),
            (IPv6(dst="ff02::1:2") / UDP(), {"dst": "33:33:00:01:00:02"}),
            (IPv6(dst=b.ip6) / UDP(), {"src": MAC_A, "dst": MAC_B}),
            (ARP(pdst="10.0.0.9"), {"dst": BROADCAST}),
            (ARP(op=2, pdst=B), {"dst": MAC_B}),
            (ARP(op=2, hwdst="02:00:00:00:00:0c", pdst=B), {"dst": "02:00:00:00:00:0c"}),
            (Ether(dst=MAC_B) / IP(dst=A) / UDP(), {"dst": MAC_B}),
            (Ether(type=0x88B5) / b"experiment", {"src": MAC_A, "dst": BROADCAST}),
            (Dot3() / LLC() / STP(), {"src": MAC_A, "dst": "01:80:c2:00:00:00"}),
            (IP(dst=B) / UDP() / Ether() / IP() / UDP(), {"dst": MAC_B}),
        ]
        await a.ping(B)
        await a.ping(b.ip6)
        b.answers = False
        await trio.sleep(1)
        for packet, expected in sent:
            before = bytes(packet) if "src" in packet.fields and "dst" in packet.fields else None
            b.received.clear()
            await a.send(packet)
            frame = await b.recv()
            assert frame is not None
            assert {field: getattr(frame, field) for field in expected} == expected, packet
            assert len(frame.original) >= 60
            if IP in frame and "src" not in packet[IP].fields:
                assert frame[IP].src == A
            if ARP in frame:
                assert (frame[ARP].hwsrc, frame[ARP].psrc) == (MAC_A, A)
            assert before is None or before == bytes(packet)
            assert "src" not in packet.fields or packet.fields["src"] == MAC_B, "the test's own packet was changed"


async def test_a_host_without_an_address(autojump_clock: MockClock) -> None:
    async with pair(address=None) as (a, b):
        assert a.ip == ""
        await a.send(IP(dst="255.255.255.255") / UDP())
        frame = await b.recv("udp")
        assert frame is not None
        assert frame[IP].src == "0.0.0.0"
        await a.send(IP(dst=B) / UDP(dport=7))
        assert await b.recv("udp port 7") is not None
        assert await b.recv(f"arp src host 0.0.0.0 and arp dst host {B}") is not None


async def test_vlan_tags_are_kept_and_arp_is_within_them(autojump_clock: MockClock) -> None:
    async with probed() as (a, probe), trio.open_nursery() as nursery:
        for tags in (Dot1Q(vlan=7, prio=3), Dot1AD(vlan=9) / Dot1Q(vlan=7)):
            nursery.start_soon(a.send, Ether() / tags.copy() / IP(dst=B) / UDP())
            asked = Ether(await probe.next())
            assert asked[ARP].pdst == B
            assert [tag.vlan for tag in asked.iterpayloads() if isinstance(tag, Dot1Q)][-1] == 7
            assert asked.type == (0x8100 if type(tags) is Dot1Q else 0x88A8)
            head = Ether(src=MAC_B, dst=MAC_A) / tags.copy()
            await probe.send(head / ARP(op=2, hwsrc=MAC_B, psrc=B, hwdst=MAC_A, pdst=A))
            frame = Ether(await probe.next())
            assert frame.dst == MAC_B
            assert bytes(frame)[12:16] == bytes(asked)[12:16]
            assert UDP in frame
        assert a.neighbours == {}


async def test_off_the_network_it_goes_by_the_gateway(autojump_clock: MockClock) -> None:
    async with pair(gateway=B) as (a, b):
        await a.send(IP(dst="192.0.2.1") / UDP())
        frame = await b.recv("udp")
        assert frame is not None
        assert (frame.dst, frame[IP].dst) == (MAC_B, "192.0.2.1")
        assert await a.recv(timeout=0) is not None  # the ARP reply
        with pytest.raises(
            HostUnreachable, match=r"^host b: 192.0.2.1 is not in 10.0.0.0/24, and there is no gateway$"
        ):
            await b.send(IP(dst="192.0.2.1") / UDP())
        with pytest.raises(HostUnreachable, match="there is no gateway"):  # the test is wrong, not the network
            await b.sr1(IP(dst="192.0.2.1") / UDP())


async def test_nobody_answers_arp(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        began_s = trio.current_time()
        with pytest.raises(HostUnreachable, match=r"^host a: nobody answered 3 ARP requests for 10.0.0.9$"):
            await a.send(IP(dst="10.0.0.9") / ICMP())
        assert trio.current_time() - began_s == pytest.approx(1.5)
        assert len(b.received) == 3
        assert await a.sr1(IP(dst="10.0.0.9") / ICMP()) is None
        answered = await a.sr(IP(dst="10.0.0.9") / ICMP(), IP(dst=B) / ICMP())
        assert [reply[IP].src for _, reply in answered] == [B]
        with pytest.raises(HostUnreachable, match=r"^host a: nobody answered 3 neighbour solicitations for fe80::9$"):
            await a.send(IPv6(dst="fe80::9") / UDP())


async def test_a_list_of_ports_is_several_packets(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        await a.send(IP(dst=B) / TCP(dport=[80, 443]))
        ports = [packet[TCP].dport for packet in (await b.recv("tcp"), await b.recv("tcp")) if packet is not None]
        assert ports == [80, 443]


async def test_bytes_are_sent_as_they_are(autojump_clock: MockClock) -> None:
    async with probed() as (a, probe):
        await a.send(b"any", bytes(FRAME_MAX))
        assert await probe.next() == b"any"
        assert await probe.next() == bytes(FRAME_MAX)
        with pytest.raises(InputError, match=f"a frame of {FRAME_MAX + 1} bytes is too long"):
            await a.send(bytes(FRAME_MAX + 1))


async def test_what_is_no_frame_and_names_are_refused(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with probed() as (a, probe):
        with pytest.raises(InputError, match=r"UDP does not go right into a frame; put Ether\(\) before"):
            await a.send(UDP())
        with pytest.raises(InputError, match="'example' is no IPv4 address; write numbers, no name"):
            await a.ping("example")
        monkeypatch.setattr("scapy.base_classes.Net.name2addr", lambda name: "192.0.2.1")
        with pytest.raises(InputError, match="IP: dst: 'example' is a name; write an address"):
            await a.send(IP(dst="example") / UDP())
        assert await probe.nothing()
        for wrong in ({"gateway": "example"}, {"queue_frames": 0}):
            with pytest.raises(InputError):
                host_a(probe.stream, **wrong)
        with pytest.raises(InputError, match="host a: '02:00' is no MAC address"):
            ScapyHost("a", "02:00", None, probe.stream, random.Random(1))


async def test_a_send_that_is_cut_off_is_the_last(autojump_clock: MockClock) -> None:
    async with probed() as (a, probe):
        with trio.move_on_after(1) as scope:
            while True:
                await a.send(bytes(FRAME_MAX))
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError, match="cancelled in the middle of a frame"):
            await a.send(b"more")
        assert len(await probe.next()) == FRAME_MAX


async def test_answers_do_not_wait_for_a_peer_that_does_not_read(autojump_clock: MockClock) -> None:
    async with probed(queue_frames=10) as (a, probe):
        echo = IP(src=B, dst=A) / ICMP() / bytes(50000)
        for _ in range(100):
            await probe.send(Ether(src=MAC_B, dst=MAC_A) / echo)
        await trio.sleep(1)
        assert a.unanswered > 50
        assert a.dropped == 90


@given(seed=st.integers(0, 2**32))
@settings(max_examples=5)
def test_same_seed_same_bytes(seed: int) -> None:
    async def recorded() -> list[bytes]:
        async with probed(seed=seed) as (a, probe), trio.open_nursery() as nursery:
            await probe.send(Ether(src=MAC_B, dst=MAC_A) / ARP(op=2, hwsrc=MAC_B, psrc=B, hwdst=MAC_A, pdst=A))
            await trio.sleep(1)
            nursery.start_soon(functools.partial(a.ping, B, count=2))
            frames = [await probe.next() for _ in range(2)]
            nursery.cancel_scope.cancel()
        return frames

    async def twice() -> None:
        first, second = await recorded(), await recorded()
        assert first == second

    run_mocked(twice)


# -- asking --------------------------------------------------------------------------------------------------------


async def test_no_answer_is_none(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        await a.ping(B)
        b.answers = False
        began_s = trio.current_time()
        assert await a.sr1(IP(dst=B) / ICMP(), timeout=3600) is None
        assert trio.current_time() - began_s == pytest.approx(3600)
        assert not a._calls


async def test_an_echo_request_is_left_as_given(autojump_clock: MockClock) -> None:
    async with pair() as (a, _):
        reply = await a.sr1(IP(dst=B) / ICMP())
        assert reply is not None
        assert (reply[IP].src, reply[ICMP].id, reply[ICMP].seq) == (B, 0, 0)
        assert reply in a.received


async def test_port_unreachable_is_an_answer(autojump_clock: MockClock) -> None:
    async with pair() as (a, b), trio.open_nursery() as nursery:

        async def refuse() -> None:
            asked = await b.recv("udp port 7")
            assert asked is not None
            await b.send(IP(dst=asked[IP].src) / ICMP(type=3, code=3) / asked[IP].original[:28])

        nursery.start_soon(refuse)
        reply = await a.sr1(IP(dst=B) / UDP(sport=1234, dport=7) / b"hello")
        assert reply is not None
        assert (reply[ICMP].type, reply[ICMP].code) == (3, 3)


async def test_several_ask_at_once(autojump_clock: MockClock) -> None:
    async with pair() as (a, _):
        replies: dict[int, Packet | None] = {}

        async def ask(number: int) -> None:
            replies[number] = await a.sr1(IP(dst=B) / ICMP(id=number))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
        assert all(reply is not None and reply[ICMP].id == number for number, reply in replies.items())


async def test_sr_gives_pairs_and_returns_when_all_are_answered(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        pairs = await a.sr(IP(dst=B) / ICMP(id=[1, 2, 3]), IPv6(dst=b.ip6) / ICMPv6EchoRequest(id=4), timeout=60)
        assert [sent[ICMP].id for sent, _ in pairs[:3]] == [reply[ICMP].id for _, reply in pairs[:3]] == [1, 2, 3]
        assert ICMPv6EchoReply in pairs[3][1]
        assert trio.current_time() < 1
        pairs = await a.sr(IP(dst=B) / ICMP(), IP(dst=B) / UDP(), timeout=60)
        assert len(pairs) == 1
        assert trio.current_time() >= 60


# -- waiting for packets -------------------------------------------------------------------------------------------


async def test_recv_by_filter_and_by_function(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        await a.send(*(IP(dst=B) / UDP(dport=port) for port in (5, 6, 7)))
        seven = await b.recv("udp dst port 7")
        six = await b.recv(lambda packet: UDP in packet and packet[UDP].dport == 6)
        assert seven is not None
        assert six is not None
        assert (seven[UDP].dport, six[UDP].dport) == (7, 6)
        assert await b.recv("udp port 7", timeout=5) is None, "it has been taken"
        rest = [await b.recv(), await b.recv()]
        assert [packet is not None and packet.haslayer(ARP) for packet in rest] == [1, 0]
        assert not b.received


async def test_recv_gives_each_packet_to_one(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        got: list[int] = []

        async def take() -> None:
            packet = await b.recv("udp", timeout=10)
            assert packet is not None
            got.append(packet[UDP].dport)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(take)
            await trio.sleep(1)
            await a.send(*(IP(dst=B) / UDP(dport=port) for port in (5, 6, 7)))
        assert sorted(got) == [5, 6, 7]
        assert not b._waiters


async def test_recv_tells_what_is_wrong(autojump_clock: MockClock) -> None:
    async with pair() as (a, b), trio.open_nursery() as nursery:
        with pytest.raises(InputError, match="filter 'udp prt 7'"):
            await b.recv("udp prt 7")

        async def later() -> None:
            await trio.sleep(1)
            await a.send(ARP(pdst=B))

        nursery.start_soon(later)
        with pytest.raises(ZeroDivisionError):
            await b.recv(lambda packet: 1 // 0 == 0)
        assert await b.recv(lambda packet: packet[UDP].dport == 1) is None, "an ARP frame has no UDP"
        assert len(b.received) == 1
        assert await a.recv("arp", timeout=5) is not None, "b runs on"


async def test_packets_have_the_time_they_came_at(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        await trio.sleep(1000)
        now_s = trio.current_time()
        await a.send(ARP(pdst=B))
        packet = await b.recv()
        assert packet is not None
        assert float(packet.time) == now_s


async def test_the_oldest_are_pushed_out_and_counted(autojump_clock: MockClock) -> None:
    async with probed(queue_frames=3) as (a, probe):
        await probe.send(*(bytes([number]) * 60 for number in range(10)))
        await trio.sleep(1)
        assert [packet.original[0] for packet in a.received] == [7, 8, 9]
        assert a.dropped == 7


# -- the stream ----------------------------------------------------------------------------------------------------


class Pieces:
    """A stream that reads in pieces of given sizes, and forgets what is written."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = data
        self._sizes = sizes

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        size = self._sizes.pop() if self._sizes else 1 << 20
        piece, self._data = self._data[:size], self._data[size:]
        return piece


def host_of(data: bytes, sizes: list[int]) -> ScapyHost:
    return ScapyHost("a", MAC_A, IPv4Interface(f"{A}/24"), Pieces(data, sizes), random.Random(1))


@given(frames=st.lists(st.binary(min_size=14, max_size=100)), sizes=st.lists(st.integers(1, 50)))
@settings(max_examples=50)
def test_frames_come_in_any_pieces(frames: list[bytes], sizes: list[int]) -> None:
    host = host_of(b"".join(map(framed, frames)), sizes)
    run_mocked(host.run)
    assert [packet.original for packet in host.received] == frames
    assert host.undecodable == 0 or len(host.received) == len(frames)


MAC_FIELDS = st.sampled_from([bytes.fromhex(mac.replace(":", "")) for mac in (MAC_A, MAC_B, BROADCAST)])
TYPES = st.sampled_from([bytes.fromhex(kind) for kind in ("0800", "0806", "86dd", "8100", "88a8", "0026")])
STARTS = [
    b"",
    bytes(ARP(hwsrc=MAC_B, psrc=B, pdst=A))[:8],
    bytes(IP(src=B, dst=A) / ICMP()),
    bytes(IP(src=B, dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP() / DHCP(options=[("message-type", 1)])),
    bytes(IPv6(src=link_local(MAC_B), dst=link_local(MAC_A)) / ICMPv6ND_NS(tgt=link_local(MAC_A))),
    bytes(IPv6(src=link_local(MAC_B), dst="ff02::2") / ICMPv6ND_RS()),
]


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Nearly right frames, some bytes of which are changed, and any others."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    frame = bytearray(draw(MAC_FIELDS) + draw(MAC_FIELDS) + draw(TYPES))
    frame += draw(st.sampled_from(STARTS)) + draw(st.binary(max_size=60))
    for at, value in draw(st.lists(st.tuples(st.integers(14, len(frame)), st.integers(0, 255)), max_size=5)):
        frame[at : at + 1] = bytes([value])
    return bytes(frame[: draw(st.integers(0, 400))])


@given(frames=st.lists(hostile(), max_size=20))
@settings(max_examples=100)
def test_hostile_frames_raise_nothing(frames: list[bytes]) -> None:
    echo = bytes(Ether(src=MAC_B, dst=MAC_A) / IP(src=B, dst=A) / ICMP(id=77) / b"still there")
    host = host_of(b"".join(map(framed, [*frames, echo])), [])

    async def run() -> None:
        async with (
            host.dhcp_server("10.0.0.10-10.0.0.12"),
            host.router_advertisement("2001:db8::/64"),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(host.sr1, Ether(dst=MAC_B) / IP(dst=B) / ICMP())
            await trio.sleep(0.1)
            await host.run()

    run_mocked(run)
    assert host.received[-1].original == echo
    assert len(host.received) + host.undecodable >= len(frames) + 1


@pytest.mark.parametrize("frame", [b"", bytes(13), b"\xff" * 12 + b"\x81\x00\x00\x01" * 17000, bytes(FRAME_MAX)])
def test_odd_frames(frame: bytes) -> None:
    host = host_of(framed(frame), [])
    run_mocked(host.run)
    assert host.undecodable == (len(frame) < 14)


def test_a_length_that_cannot_be_ends_the_run() -> None:
    host = host_of(framed(bytes(60)) + (FRAME_MAX + 1).to_bytes(4), [])
    with pytest.raises(FramingError, match=r"^host a: a frame of 69633 bytes is announced; at most 69632$"):
        run_mocked(host.run)
    assert len(host.received) == 1


async def test_a_cable_pulled_ends_the_run(autojump_clock: MockClock) -> None:
    here, there = streams()
    async with here, trio.open_nursery() as nursery:
        host = host_a(here)
        nursery.start_soon(host.run)
        await there.send_all(b"\0")
        await trio.testing.wait_all_tasks_blocked()
        await there.aclose()
    assert not host.received


# -- DHCP ----------------------------------------------------------------------------------------------------------


def dhcp(kind: str, client: str = MAC_A, *options: tuple[str, Any], **bootp: Any) -> Packet:
    fields = {"chaddr": bytes.fromhex(client.replace(":", "")), "xid": 0x1234, "flags": 0x8000, **bootp}
    header = Ether(src=client) / IP(src=fields.get("ciaddr", "0.0.0.0"), dst="255.255.255.255")
    return header / UDP(sport=68, dport=67) / BOOTP(**fields) / DHCP(options=[("message-type", kind), *options, "end"])


def told(reply: Packet | None) -> dict[str, Any]:
    assert reply is not None, "no answer"
    return {option[0]: option[1] for option in reply[DHCP].options if isinstance(option, tuple)}


OFFERED, ACKED, REFUSED = 2, 5, 6


async def lease(client: ScapyHost, mac: str = MAC_A) -> str:
    offer = await client.sr1(dhcp("discover", mac))
    assert told(offer)["message-type"] == OFFERED
    assert offer is not None
    wanted = [("requested_addr", offer[BOOTP].yiaddr), ("server_id", told(offer)["server_id"])]
    ack = await client.sr1(dhcp("request", mac, *wanted))
    assert told(ack)["message-type"] == ACKED
    assert ack is not None
    assert ack[BOOTP].yiaddr == offer[BOOTP].yiaddr
    return str(ack[BOOTP].yiaddr)


async def test_an_address_by_dhcp(autojump_clock: MockClock) -> None:
    async with pair(address=None) as (a, b):
        pool = "10.0.0.100-10.0.0.150"
        options = [("domain", b"lan")]
        async with b.dhcp_server(pool, router="10.0.0.254", dns=["9.9.9.9"], lease_s=600, options=options) as server:
            offer = await a.sr1(dhcp("discover"))
            assert told(offer) == {
                "message-type": OFFERED,
                "server_id": B,
                "lease_time": 600,
                "subnet_mask": "255.255.255.0",
                "router": "10.0.0.254",
                "name_server": "9.9.9.9",
                "domain": b"lan",
            }
            assert server.leases == {}
            assert await lease(a) == "10.0.0.100"
            assert await lease(a) == "10.0.0.100"
            assert server.leases == {MAC_A: "10.0.0.100"}
            assert (server.offers, server.acks, server.naks, server.sent) == (3, 2, 0, 5)
        assert await a.sr1(dhcp("discover")) is None, "the server has ended"


async def test_dhcp_replies_go_where_they_are_expected(autojump_clock: MockClock) -> None:
    async with pair(address=None) as (a, b), b.dhcp_server(["10.0.0.7", B]):
        for bootp, mac, ip in (
            ({"flags": 0}, MAC_A, "10.0.0.7"),
            ({"flags": 0x8000}, BROADCAST, "255.255.255.255"),
            ({"giaddr": "10.9.0.1"}, MAC_A, "10.9.0.1"),
        ):
            offer = await a.sr1(dhcp("discover", **bootp))
            assert offer is not None
            assert (offer.dst, offer[IP].dst) == (mac, ip)


async def test_an_exhausted_pool(autojump_clock: MockClock) -> None:
    async with pair(address=None) as (a, b), b.dhcp_server("10.0.0.2-10.0.0.4", lease_s=600) as server:
        others = [f"02:00:00:00:01:{number:02x}" for number in range(3)]
        assert [await lease(a, mac) for mac in others[:2]] == ["10.0.0.3", "10.0.0.4"]  # .2 is the server's own
        assert await a.sr1(dhcp("discover", others[2])) is None
        assert server.exhausted == 1
        await a.send(dhcp("release", others[0]))
        assert await lease(a, others[2]) == "10.0.0.3"
        await trio.sleep(600)
        assert await lease(a, others[0]) == "10.0.0.3"
        assert server.leases == {others[0]: "10.0.0.3", others[1]: "10.0.0.4"}


async def test_requests_that_are_refused_or_for_another_server(autojump_clock: MockClock) -> None:
    async with pair(address=None) as (a, b), b.dhcp_server("10.0.0.3-10.0.0.4") as server:
        refused = await a.sr1(dhcp("request", MAC_A, ("requested_addr", "10.0.0.9")))
        assert told(refused)["message-type"] == REFUSED
        assert refused is not None
        assert refused.dst == BROADCAST
        other = await a.sr1(dhcp("request", MAC_A, ("requested_addr", "10.0.0.3"), ("server_id", "10.0.0.8")))
        assert other is None
        assert server.naks == 1
        address = await lease(a)
        renewed = await a.sr1(dhcp("request", MAC_A, ciaddr=address))
        assert told(renewed)["message-type"] == ACKED
        await a.send(dhcp("decline", MAC_A))
        assert await lease(a) != address
        inform = await a.sr1(dhcp("inform", ciaddr="10.0.0.77"))
        assert "lease_time" not in told(inform)


async def test_a_dhcp_server_that_cannot_be(autojump_clock: MockClock) -> None:
    async with pair(address=None) as (a, b):
        for host, options in (
            (a, {"pool": "10.0.0.1-10.0.0.2"}),
            (b, {"pool": "10.0.0.2-10.0.0.1"}),
            (b, {"pool": "example"}),
            (b, {"pool": [], "router": "example"}),
            (b, {"pool": [], "lease_s": 0}),
        ):
            with pytest.raises(InputError):
                async with host.dhcp_server(**options):
                    pass


# -- router advertisements -----------------------------------------------------------------------------------------


async def test_advertisements_at_once_each_interval_and_solicited(autojump_clock: MockClock) -> None:
    async with pair() as (a, b):
        async with b.router_advertisement(
            "2001:db8::/64", interval=10, lifetime_s=90, preference="high", mtu=1400, dns="2001:db8::53"
        ) as router:
            first = await a.recv("icmp6", timeout=0.1)
            assert first is not None
            assert (first.dst, first[IPv6].src, first[IPv6].dst) == ("33:33:00:00:00:01", b.ip6, "ff02::1")
            assert (first[ICMPv6ND_RA].routerlifetime, first[ICMPv6ND_RA].prf) == (90, 1)
            prefix = first[ICMPv6NDOptPrefixInfo]
            assert (prefix.prefix, prefix.prefixlen, prefix.L, prefix.A) == ("2001:db8::", 64, 1, 1)
            assert first[ICMPv6NDOptRDNSS].dns == ["2001:db8::53"]
            answer = await a.sr1(IPv6(dst="ff02::2", hlim=255) / ICMPv6ND_RS(), timeout=0.1)
            assert answer is not None
            assert ICMPv6ND_RA in answer
            assert (router.sent, router.solicited) == (2, 1)
            await trio.sleep(20.5)
            assert router.sent == 4
        a.received.clear()
        assert await a.recv(timeout=60) is None, "the router has ended"


async def test_an_error_of_the_test_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    async with probed() as (a, _):
        with pytest.raises(KeyError):
            async with a.router_advertisement("2001:db8::/64"):
                raise KeyError("of the test")


async def test_a_router_that_cannot_be(autojump_clock: MockClock) -> None:
    async with probed() as (a, _):
        for options in (
            {"prefix": "2001:db8::1/64"},
            {"prefix": "example"},
            {"prefix": "::/64", "lifetime_s": 65536},
            {"prefix": "::/64", "preference": "best"},
            {"prefix": "::/64", "dns": "example"},
            {"prefix": "::/64", "interval": 0},
        ):
            with pytest.raises(InputError):
                async with a.router_advertisement(**options):
                    pass


# -- what it is made of --------------------------------------------------------------------------------------------


def test_only_the_layers_that_are_needed_are_imported() -> None:
    program = "import json, sys, vswitch.testing.host; print(json.dumps(sorted(sys.modules)))"
    modules = set(json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout))
    assert "scapy.all" not in modules
    assert "scapy.libs.winpcapy" not in modules
    assert not {f"scapy.layers.{layer}" for layer in ("all", "dns", "tls", "http", "smb", "tuntap")} & modules
