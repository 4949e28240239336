"""A user network's name server by TCP: guests connect to it, whatever the version of IP."""

from collections.abc import Callable, Iterator
from typing import Any

import dnslib  # type: ignore[import-untyped]
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.services.dns_server import TC, dns_server
from tests.services.test_network import GATEWAY, A, B, Net, assert_checksums, library
from tests.services.test_network6 import A6, DNS
from vswitch.protocols import dns
from vswitch.services.user_network import dns_streams, upstream
from vswitch.services.user_network.slirp import Library

assert library  # a fixture


class Client:
    """A guest's connection to the name server, by hand."""

    def __init__(
        self, net: Net, mac: str = A, ip: str = "10.0.2.15", *, to: str = "10.0.2.3", port: int = 1000
    ) -> None:
        self._net, self._mac, self._ip = net, mac, ip
        network = IPv6(src=ip, dst=to) if ":" in ip else IP(src=ip, dst=to)
        self._below = Ether(src=mac, dst=GATEWAY) / network
        self._ports: dict[str, Any] = {"sport": port, "dport": 53}
        self._seq, self._ack = 1, 0
        self._framing = dns.Framing()

    def send(self, flags: str, data: bytes = b"") -> None:
        segment = TCP(flags=flags, seq=self._seq, ack=self._ack, window=60_000, **self._ports) / Raw(data)
        self._net.network.receive(bytes(self._below / segment), 0.0)
        self._seq += len(data) + ("S" in flags) + ("F" in flags)

    def connect(self) -> "Client":
        self.send("S")
        answer = self._segment()
        assert answer[TCP].flags == "SA"
        assert_checksums(answer)
        self._ack = answer[TCP].seq + 1
        self.send("A")
        return self

    def ask(self, name: str, kind: str = "A") -> dnslib.DNSRecord:
        """What the answer is."""
        self.send("PA", dns.framed(dnslib.DNSRecord.question(name, kind).pack()))
        return self.answer()

    def answer(self) -> dnslib.DNSRecord:
        while not (found := self._framing.feed(self._hear())):
            pass
        return dnslib.DNSRecord.parse(found[0])

    def is_ended(self) -> bool:
        """Whether nothing comes but the end."""
        return self._hear() == b""

    def _hear(self) -> bytes:
        while True:
            segment = self._segment()
            data = bytes(segment[TCP].payload)[: _size(segment)]
            if segment[TCP].seq != self._ack:
                continue
            self._ack += len(data)
            if data:
                self.send("A")
            if data or segment[TCP].flags & "FR":
                return data

    def _segment(self) -> Packet:
        """The next one for it; those for others stay."""
        sent = self._net.sent
        while True:
            for number, packet in enumerate(sent):
                if TCP in packet and packet[TCP].dport == self._ports["sport"] and packet.dst == self._mac:
                    return sent.pop(number)
            self._net.turn()


def _size(packet: Packet) -> int:
    """Of what a segment carries, without what pads its frame."""
    size: int = packet[IPv6].plen if IPv6 in packet else packet[IP].len - 20
    return size - int(packet[TCP].dataofs) * 4


@pytest.fixture
def make(library: Library) -> Iterator[Callable[..., Net]]:
    nets: list[Net] = []

    def make(**settings: Any) -> Net:
        nets.append(Net(library, **settings))
        return nets[-1]

    yield make
    for net in nets:
        net.network.close()


@pytest.mark.parametrize("restrict", [False, True])
@pytest.mark.parametrize(("ip", "server"), [("10.0.2.15", "10.0.2.3"), (A6, DNS)])
def test_own_names_are_answered_by_tcp(make: Callable[..., Net], ip: str, server: str, restrict: bool) -> None:
    net = make(restrict=restrict)
    net.lease(A, "web")
    client = Client(net, ip=ip, to=server).connect()
    assert [str(answer.rdata) for answer in client.ask("web.lan").rr] == ["10.0.2.15"]
    assert client.ask("nobody.lan").header.rcode == dnslib.RCODE.NXDOMAIN
    assert client.ask("2.2.0.10.in-addr.arpa", "PTR").rr[0].rdata.label == "host.lan"
    client.send("FA")
    assert client.is_ended()
    assert net.network.drops == {}


def test_a_restricted_network_has_no_other_names(make: Callable[..., Net]) -> None:
    net = make(restrict=True)
    client = Client(net).connect()
    assert client.ask("example.com").header.rcode == dnslib.RCODE.NXDOMAIN
    assert net.network.drops == {}


def test_a_long_answer_comes_whole(make: Callable[..., Net], monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = dnslib.DNSBuffer()
    dnslib.RR("example.com", dnslib.QTYPE.TXT, rdata=dnslib.TXT([b"x" * 255] * 200), ttl=1).pack(buffer)
    with dns_server() as server:
        monkeypatch.setattr(upstream, "PORT", server.port)
        net = make(resolv_conf="nameserver 127.0.0.1\n")
        client = Client(net).connect()
        client.send("PA", dns.framed(dnslib.DNSRecord.question("example.com", "TXT").pack()))
        net.step()
        server.answer(TC)
        net.step()
        with server.accept() as connection:
            query = connection.recv(5000)[2:]
            header = query[:2] + b"\x80\0\0\1\0\1" + bytes(4)
            connection.sendall(dns.framed(header + query[12:] + bytes(buffer.data)))
            (answer,) = client.answer().rr
    assert len(b"".join(answer.rdata.data)) == 200 * 255


def test_nonsense_ends_the_connection(make: Callable[..., Net]) -> None:
    net = make()
    client = Client(net).connect()
    client.send("PA", b"GET / HTTP/1.0\r\n\r\n")
    assert client.is_ended()
    assert net.network.drops == {"malformed": 1}
    client = Client(net, port=1001).connect()
    client.send("PA", dns.framed(b"\0\7\1\0\0\1" + bytes(6) + b"\x64lan"))
    assert client.answer().header.rcode == dnslib.RCODE.FORMERR


def test_a_guest_that_has_many_connections_loses_its_own_and_nobody_elses(
    make: Callable[..., Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_streams, "EACH_MAX", 2)
    net = make()
    other = Client(net, B, "10.0.2.16").connect()
    mine = [Client(net, port=1000 + number).connect() for number in range(3)]
    assert mine[0].is_ended()
    for client in (other, *mine[1:]):
        assert len(client.ask("host.lan").rr) == 1
    assert net.network.drops == {"crowded": 1}


def test_no_other_port_of_the_name_server_is_there(make: Callable[..., Net]) -> None:
    net = make(host_access=True)
    for port in (22, 54):
        segment = TCP(flags="S", seq=1, sport=1000, dport=port)
        net.put(Ether(src=A, dst=GATEWAY) / IP(src="10.0.2.15", dst="10.0.2.3") / segment)
    assert net.network.drops == {"host_access": 2}


def test_a_fault_of_ours_costs_what_has_come(make: Callable[..., Net], monkeypatch: pytest.MonkeyPatch) -> None:
    net = make()
    client = Client(net).connect()

    def fail(*_: object) -> None:
        raise RuntimeError("oops")

    with monkeypatch.context() as patch:
        patch.setattr(net.network.names, "answer", fail)
        client.send("PA", dns.framed(dnslib.DNSRecord.question("host.lan").pack()))
        net.step()
    assert net.complaints == ["what has come was dropped: RuntimeError: oops"]
    assert len(client.ask("host.lan").rr) == 1
