"""A user network with a policy: what reaches the NAT, and what does not, whatever it looks like."""

import select
import socket
from ipaddress import ip_address
from typing import Any

import dnslib  # type: ignore[import-untyped]
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.services.test_egress import rules
from tests.services.test_network import GATEWAY, A, B, Net, assert_checksums, echo, from_guest, knock, library
from tests.services.test_network6 import A6
from tests.services.test_network6 import from_guest as from_guest6
from tests.services.test_network_dns import Client
from vswitch.services.user_network import upstream
from vswitch.services.user_network.denials import Denial
from vswitch.services.user_network.egress import KEPT_MIN_S
from vswitch.services.user_network.egress_rules import Rules
from vswitch.services.user_network.settings import Server
from vswitch.services.user_network.slirp import Library, Stack

assert library  # a fixture
IP4 = "10.0.2.15"


def network(library: Library, allow: str = "", deny: str = "", **settings: Any) -> Net:
    return Net(library, allow=rules(allow), deny=rules(deny), **settings)


def changed(net: Net, allow: str = "", deny: str = "") -> None:
    net.network.set_rules(Rules(rules(allow), rules(deny)))


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[Packet]:
    """What reaches the NAT, and goes no further."""
    found: list[Packet] = []

    def put(_: Stack, frame: bytes) -> None:
        if (packet := Ether(frame)).dst == GATEWAY:
            found.append(packet)

    monkeypatch.setattr(Stack, "put", put)
    return found


def syn(to: str, port: int, sport: int = 1000) -> Packet:
    make, source = (from_guest6, A6) if ":" in to else (from_guest, IP4)
    return make(A, source, to, TCP(flags="S", seq=7, sport=sport, dport=port))


@pytest.mark.parametrize(("to", "layer"), [("192.0.2.1", IP), ("2001:db8::1", IPv6)])
def test_a_connection_that_may_not_be_is_refused_at_once(
    library: Library, reached: list[Packet], to: str, layer: type[Packet]
) -> None:
    net = network(library, "192.0.2.1:443,[2001:db8::1]:443")
    assert net.put(syn(to, 443)) == []
    assert len(reached) == 1
    (refusal,) = net.put(syn(to, 80))
    assert (refusal.src, refusal.dst, refusal[layer].src) == (GATEWAY, A, to)
    assert (refusal[TCP].flags, refusal[TCP].ack, refusal[TCP].dport) == ("RA", 8, 1000)
    assert_checksums(refusal)
    assert len(reached) == 1
    assert net.network.drops == {"denied": 1}
    assert net.denials == [Denial(mac=A, protocol="tcp", ip=to, port=80)]


def test_what_is_no_connection_is_dropped(library: Library, reached: list[Packet]) -> None:
    net = network(library, deny="192.0.2.0/24,2001:db8::/32")
    for packet in (
        from_guest(A, IP4, "192.0.2.1", UDP(dport=53) / b"x"),
        from_guest(A, IP4, "192.0.2.1", ICMP()),
        from_guest6(A, A6, "2001:db8::1", UDP(dport=53) / b"x"),
        Ether(src=A, dst=GATEWAY) / IP(src=IP4, dst="192.0.2.1", proto=47) / b"x",
        Ether(src=A, dst=GATEWAY) / IP(src=IP4, dst="192.0.2.1", options=[b"\1\1\1\1"]) / UDP(dport=53) / b"x",
    ):
        assert net.put(packet) == []
    assert reached == []
    assert net.network.drops == {"denied": 5}
    for to in ("::ffff:192.0.2.1", "::192.0.2.1"):
        net.put(syn(to, 80))
    net.put(syn("2002:c000:201::", 80))
    assert reached == []
    assert net.network.drops == {"denied": 6, "not_routed": 2}


def test_fragments_are_judged_by_what_they_become(library: Library, reached: list[Packet]) -> None:
    net = network(library, "192.0.2.1:53")
    for port, protocol in ((53, 17), (54, 17), (54, 6)):
        header = IP(src=IP4, dst="192.0.2.1", proto=protocol, id=port)
        layers = TCP(dport=port) if protocol == 6 else UDP(dport=port)
        whole = bytes(layers / bytes(100))
        for at in reversed(range(0, len(whole), 16)):
            piece = header.copy()
            piece.frag, piece.flags = at // 8, "MF" if at + 16 < len(whole) else ""
            net.put(Ether(src=A, dst=GATEWAY) / piece / Raw(whole[at : at + 16]))
    (passed,) = reached
    assert (passed[UDP].dport, net.network.drops) == (53, {"denied": 2})


def test_segments_that_open_nothing_go_on_and_open_nothing(library: Library) -> None:
    net = network(library, "192.0.2.1", host_access=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for flags in ("S", "SU", "SF", "A", "PA", "SA", "", "F"):
            net.put(from_guest(A, IP4, "10.0.2.2", TCP(flags=flags, sport=1000, dport=port)))
            net.poll()
        assert select.select([server], [], [], 0)[0] == []
        assert net.network.drops == {"denied": 3}
    net.network.close()


def test_a_service_of_this_machine_is_reached_if_a_rule_names_the_gateway(library: Library) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port, closed = server.getsockname()[1], other.getsockname()[1]
        net = network(library, f"10.0.2.2:{port}", host_access=True)
        (refusal,) = net.put(syn("10.0.2.2", closed))
        assert refusal[TCP].flags == "RA"
        net.put(syn("10.0.2.2", port))
        answer = next(packet for packet in net.wait() if TCP in packet)
        assert answer[TCP].flags == "SA"
        said = TCP(flags="PA", seq=8, ack=answer[TCP].seq + 1, window=9000, sport=1000, dport=port) / b"hello"
        connection, _ = server.accept()
        with connection:
            for now_s in (0.5, 2.0):
                net.put(from_guest(A, IP4, "10.0.2.2", said), now_s)
                said[TCP].seq += 5
            net.poll()
            assert connection.recv(100) == b"hellohello"
    net.network.close()


def test_a_connection_lives_on_when_its_name_is_forgotten(library: Library, reached: list[Packet]) -> None:
    net = network(library, "deb.debian.org:443")
    labels = (b"deb", b"debian", b"org")
    reply = dnslib.DNSRecord.question("deb.debian.org").reply()
    reply.add_answer(*dnslib.RR.fromZone("deb.debian.org 60 A 192.0.2.1"))
    egress = net.network.nat.egress
    assert egress is not None
    egress.answered(bytes.fromhex(A.replace(":", "")), labels, bytes(reply.pack()), 0.0)
    net.put(syn("192.0.2.1", 443), 0.0)
    late_s = KEPT_MIN_S + 1
    for now_s in (late_s, late_s + 0.1):
        net.put(from_guest(A, IP4, "192.0.2.1", TCP(flags="PA", sport=1000, dport=443) / b"x"), now_s)
    assert len(reached) == 3
    assert not net.network.nat.pass_on(bytes(syn("192.0.2.1", 443)))
    (refusal,) = net.put(syn("192.0.2.1", 443, 1001), late_s)
    assert refusal[TCP].flags == "RA"


def test_what_is_in_the_network_needs_no_rule(library: Library) -> None:
    net = network(library, "192.0.2.1", servers=(Server("10.0.2.100", 80),))
    here = net.forward("web", 22)
    ip = net.lease(A, "web")
    assert len(net.put(from_guest(A, ip, "10.0.2.2", ICMP()))) == 1
    question = UDP(sport=5, dport=53) / Raw(dnslib.DNSRecord.question("web.lan").pack())
    assert len(net.put(from_guest(A, ip, "10.0.2.3", question))) == 1
    assert knock(net, here) == (A, ip)
    net.put(from_guest(A, ip, "10.0.2.100", TCP(flags="S", seq=1, window=9000, sport=1000, dport=80)))
    net.accept()
    assert len(net.connected) == 1
    assert (net.denials, net.network.drops) == ([], {})
    net.connected[0][1].close()
    net.network.close()


def test_who_comes_by_a_forward_is_answered_and_who_comes_otherwise_is_not(library: Library) -> None:
    """A socket of the NAT's takes what anybody sends: that is no leave to answer."""
    with echo() as (server, allowed), echo() as (client, port), echo() as (stranger, strangers):
        net = network(library, f"10.0.2.2:{allowed}", host_access=True)
        here = net.forward("db", 99, udp=True)
        ip = net.lease(B, "db")
        client.sendto(b"knock", here)
        assert any(UDP in packet for packet in net.wait())
        net.put(from_guest(B, ip, "10.0.2.2", UDP(sport=99, dport=port) / Raw(b"yes")))
        assert client.recv(100) == b"yes"
        net.put(from_guest(B, ip, "10.0.2.2", UDP(sport=98, dport=allowed) / Raw(b"hello")))
        _, its_socket = server.recvfrom(100)
        stranger.sendto(b"call me", ("127.0.0.1", its_socket[1]))
        assert any(UDP in packet and packet[UDP].sport == strangers for packet in net.wait())
        net.put(from_guest(B, ip, "10.0.2.2", UDP(sport=98, dport=strangers) / Raw(b"no")))
        assert select.select([stranger], [], [], 0)[0] == []
        assert net.network.drops == {"denied": 1}
    net.network.close()


def test_names_are_asked_of_this_machines_servers_if_they_may_be(
    monkeypatch: pytest.MonkeyPatch, library: Library
) -> None:
    def asked(name: str) -> Packet:
        question = dnslib.DNSRecord.question(name).pack()
        return from_guest(A, IP4, "10.0.2.3", UDP(sport=5353, dport=53) / Raw(question))

    def said(packet: Packet) -> dnslib.DNSRecord:
        return dnslib.DNSRecord.parse(bytes(packet[UDP].payload))

    with echo() as (server, port):
        monkeypatch.setattr(upstream, "PORT", port)
        net = network(library, "deb.debian.org:443", resolv_conf="nameserver 127.0.0.1\n")
        (answer,) = net.put(asked("example.com"))
        assert said(answer).header.rcode == dnslib.RCODE.NXDOMAIN
        assert net.network.drops == {"denied": 1}
        assert net.denials == [Denial(mac=A, protocol="dns", name="example.com")]
        for records in (["deb.debian.org 3600 A 192.0.2.1"], []):
            assert net.put(asked("deb.debian.org")) == []
            query, where = server.recvfrom(1000)
            reply = dnslib.DNSRecord.parse(query).reply()
            for record in records:
                reply.add_answer(*dnslib.RR.fromZone(record))
            server.sendto(bytes(reply.pack()), where)
            (answer,) = net.wait()
            assert len(said(answer).rr) == len(records)
        assert [packet[TCP].flags for packet in net.put(syn("192.0.2.1", 80))] == ["RA"]
        assert net.denials[-1] == Denial(mac=A, protocol="tcp", ip="192.0.2.1", port=80, name="deb.debian.org")
        monkeypatch.setattr(Stack, "put", lambda *_: None)
        assert net.put(syn("192.0.2.1", 443)) == []
        assert net.network.drops == {"denied": 2}
        net.put(asked("deb.debian.org"))
        query, where = server.recvfrom(1000)
        server.sendto(query[:2] + b"nonsense", where)
        (answer,) = net.wait()
        assert said(answer).header.rcode == dnslib.RCODE.SERVFAIL
        assert net.network.drops == {"denied": 2, "malformed": 1}
    net.network.close()


def test_names_that_are_asked_by_tcp_are_no_way_round(library: Library) -> None:
    net = network(library, "deb.debian.org")
    assert Client(net).connect().ask("example.com").header.rcode == dnslib.RCODE.NXDOMAIN
    assert net.network.drops == {"denied": 1}
    net.network.close()


def test_an_internet_that_is_made_up_is_outside_too(library: Library) -> None:
    net = network(library, "made.example:80", internet=False)
    for number, name in enumerate(("made.example", "other.example")):
        ip = f"192.0.2.{number}"
        net.network.invent(number, Server(ip, 80))
        net.network.names.invented[name] = [ip_address(ip)]
    client = Client(net).connect()
    assert [packet[TCP].flags for packet in net.put(syn("192.0.2.0", 80))] == ["RA"]
    assert [str(record.rdata) for record in client.ask("made.example").rr] == ["192.0.2.0"]
    assert client.ask("other.example").rr == []
    net.put(syn("192.0.2.0", 80))
    while not net.connected:
        net.turn()
    assert [packet[TCP].flags for packet in net.put(syn("192.0.2.1", 80))] == ["RA"]
    assert [number for number, _ in net.connected] == [0]
    net.connected[0][1].close()
    net.network.close()


def test_without_a_policy_nothing_is_judged(library: Library, reached: list[Packet]) -> None:
    net = Net(library)
    net.put(syn("192.0.2.1", 25))
    assert len(reached) == 1
    assert net.network.nat.egress is None


def test_rules_change_while_names_stay_known(library: Library, reached: list[Packet]) -> None:
    net = network(library, "deb.debian.org:443")
    reply = dnslib.DNSRecord.question("deb.debian.org").reply()
    reply.add_answer(*dnslib.RR.fromZone("deb.debian.org 60 A 192.0.2.1"))
    egress = net.network.nat.egress
    assert egress is not None
    egress.answered(bytes.fromhex(A.replace(":", "")), (b"deb", b"debian", b"org"), bytes(reply.pack()), 0.0)
    quic = from_guest(A, IP4, "192.0.2.1", UDP(sport=1000, dport=443) / b"x")
    net.put(quic)
    assert [packet[TCP].flags for packet in net.put(syn("192.0.2.1", 80))] == ["RA"]
    changed(net, "deb.debian.org:80")
    assert net.put(syn("192.0.2.1", 80)) == []
    net.put(quic)
    assert len(reached) == 2
    changed(net)
    net.put(quic)
    assert len(reached) == 3
    changed(net, deny="192.0.2.1")
    net.put(quic)
    assert len(reached) == 3
