"""A user network, frame by frame: who gets an answer, what is NATed, and what is dropped."""

import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import dnslib  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.needs import require
from tests.services.test_dhcp_server import SETTINGS
from vswitch.errors import RefusedError
from vswitch.protocols import inet
from vswitch.services.user_network import nat, slirp, upstream
from vswitch.services.user_network import network as networks
from vswitch.services.user_network.denials import Denial
from vswitch.services.user_network.folder import Folder
from vswitch.services.user_network.forwards import Served
from vswitch.services.user_network.leases import Lease
from vswitch.services.user_network.network import Network
from vswitch.services.user_network.other_servers import OtherServer
from vswitch.services.user_network.settings import Forward, Found, Server
from vswitch.services.user_network.slirp import Library, Pool

GATEWAY, ALL = SETTINGS.mac.hex(":"), "ff:ff:ff:ff:ff:ff"
A, B = "52:54:00:00:00:0a", "52:54:00:00:00:0b"


@pytest.fixture(scope="module")
def library() -> Library:
    try:
        return Library()
    except RefusedError as error:
        require(False, str(error))
        raise


class Net:
    """A network, what it sent, asked and told; stations are behind ports of their names."""

    def __init__(self, library: Library, folder: Folder | None = None, **settings: Any) -> None:
        self.sent: list[Packet] = []
        self.asked: list[str] = []
        self.names: dict[str, str] = {}  # that were asked for, by MAC address
        self.taken: set[str] = set()  # names of ports that have no lease yet
        self.leases: list[Lease] = []
        self.other_servers: list[tuple[str, str]] = []
        self.denials: list[Denial] = []
        self.served: list[Served] = []  # what leads somewhere, or cannot
        self.told_served: list[Served] = []
        self.connected: list[tuple[int, socket.socket]] = []
        self._forwards = 0
        self.complaints: list[str] = []
        self.network = Network(
            msgspec.structs.replace(SETTINGS, **settings),
            library,
            send=lambda frame: self.sent.append(Ether(frame)),
            ask=self._asked,
            tell=self._told,
            complain=self.complaints.append,
            folder=folder,
            hand_over=lambda number, connection: self.connected.append((number, connection.dup())),
        )
        self._pool = Pool(library)

    def _asked(self, mac: str, name: str) -> None:
        self.asked.append(mac)
        self.names[mac] = name

    def _told(self, what: Lease | Served | OtherServer | Denial) -> None:
        if isinstance(what, OtherServer):
            self.other_servers.append((str(what.ip), what.mac))
            return
        if isinstance(what, Denial):
            self.denials.append(what)
            return
        if isinstance(what, Lease):
            self.leases.append(what)
            return
        self.told_served.append(what)
        if what.ip or what.problem:
            self.served.append(what)

    def forward(self, guest: str, port: int, *, udp: bool = False) -> tuple[str, int]:
        """Where on this machine it is."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as sock:
            sock.bind(("127.0.0.1", 0))
            self._forwards += 1
            self.network.forwards.add(Forward(self._forwards, guest, port, udp), sock.dup(), 0.0)
            host, port = sock.getsockname()
            return host, port

    def put(self, packet: Packet, now_s: float = 0.0) -> list[Packet]:
        """What comes back at once."""
        self.sent.clear()
        self.network.receive(bytes(packet), now_s)
        return list(self.sent)

    def answer(self, mac: str, port: str, now_s: float = 0.0) -> list[Packet]:
        self.sent.clear()
        found = Found(mac, port, self.names.get(mac, ""), self.names.get(mac) in self.taken)
        self.network.found(found, now_s)
        return list(self.sent)

    def lease(self, mac: str, name: str, now_s: float = 0.0) -> str:
        """The address that a station takes."""
        (offer,) = self.dhcp(mac, name, "discover", now_s=now_s)
        wanted = ("requested_addr", offer[BOOTP].yiaddr)
        (ack,) = self.dhcp(mac, name, "request", wanted, ("hostname", name.encode()), now_s=now_s)
        assert isinstance(ack, Packet)
        return str(ack[BOOTP].yiaddr)

    def dhcp(self, mac: str, port: str, kind: str, *options: Any, now_s: float = 0.0) -> list[Packet]:
        assert self.put(discover(mac, kind, *options), now_s) == []
        assert self.asked.pop() == mac
        return self.answer(mac, port, now_s)

    def accept(self) -> None:
        """Takes in who has connected to a server."""
        while not (ready := self._pool.wait(self.network.nat.stacks, self.network.guest_forwards.wanted, 10_000)):
            pass
        self.network.serve(ready, 0.0)

    def poll(self) -> None:
        """What there is to do now."""
        self._pool.wait(self.network.nat.stacks, {}, 0)

    def step(self) -> None:
        """Waits until there is something to do, and does it."""
        while not (ready := self._pool.wait(self.network.nat.stacks, self.network.wanted, 10_000)):
            pass
        self.network.serve(ready, 0.0)

    def wait(self) -> list[Packet]:
        """What comes from outside."""
        self.sent.clear()
        while not self.sent:
            self.turn()
        return list(self.sent)

    def turn(self) -> None:
        """One of the loop's."""
        self.network.serve(self._pool.wait(self.network.nat.stacks, self.network.wanted, 10_000), 0.0)


@pytest.fixture
def net(library: Library) -> Iterator[Net]:
    net = Net(library, host_access=True)
    yield net
    net.network.close()


def discover(mac: str, kind: str = "discover", *options: Any) -> Packet:
    said = DHCP(options=[("message-type", kind), *options, "end"])
    chaddr = bytes.fromhex(mac.replace(":", ""))
    packet = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP(chaddr=chaddr, xid=1) / said
    return Ether(src=mac, dst=ALL) / packet


def from_guest(mac: str, ip: str, to: str, layers: Packet) -> Packet:
    return Ether(src=mac, dst=GATEWAY) / IP(src=ip, dst=to) / layers


@contextmanager
def echo() -> Iterator[tuple[socket.socket, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        yield sock, sock.getsockname()[1]


def test_the_gateway_and_the_name_server_are_found_and_nobody_else(net: Net) -> None:
    for address in ("10.0.2.2", "10.0.2.3"):
        (answer,) = net.put(Ether(src=A, dst=ALL) / ARP(op=1, hwsrc=A, psrc="10.0.2.15", pdst=address))
        assert (answer.src, answer.dst, answer[ARP].op, answer[ARP].hwsrc) == (GATEWAY, A, 2, GATEWAY)
        assert (answer[ARP].psrc, answer[ARP].pdst) == (address, "10.0.2.15")
    assert net.put(Ether(src=A, dst=ALL) / ARP(op=1, hwsrc=A, psrc="10.0.2.15", pdst="10.0.2.16")) == []


def test_a_lease_is_told_with_its_port_and_name(net: Net) -> None:
    assert (net.lease(A, "web"), net.lease(B, "db")) == ("10.0.2.15", "10.0.2.16")
    assert [(lease.mac, str(lease.ip), lease.port, lease.name) for lease in net.leases] == [
        (A, "10.0.2.15", "web", "web"),
        (B, "10.0.2.16", "db", "db"),
    ]


def test_where_the_switch_knows_no_port_there_is_no_answer(net: Net) -> None:
    assert net.dhcp(A, "", "discover") == []
    assert net.answer(B, "lab") == [], "nor where nobody has asked"


def test_many_that_ask_at_once_are_asked_for_once_each_and_no_more_than_can_be_kept(net: Net) -> None:
    for _ in range(3):
        net.put(discover(A))
    assert net.asked == [A]
    for number in range(networks.ASKED_MAX + 10):
        net.put(discover(f"52:54:00:01:{number >> 8:02x}:{number & 255:02x}"))
    assert net.network.drops == {"crowded": 11}


def test_what_the_switch_does_not_answer_in_time_is_asked_again_and_leaves_room_for_others(net: Net) -> None:
    for number in range(networks.ASKED_MAX):
        net.put(discover(f"52:54:00:01:{number >> 8:02x}:{number & 255:02x}"))
    first, second = net.asked[:2]
    net.put(discover(first), networks.ASKED_S - 1)
    assert len(net.asked) == networks.ASKED_MAX
    net.put(discover(second), networks.ASKED_S)
    assert net.asked[-1] == second
    net.put(discover(A), networks.ASKED_S)
    assert net.asked[-1] == A
    assert len(net.answer(A, "lab", networks.ASKED_S)) == 1


def test_who_says_another_mac_than_its_own_is_not_heard(net: Net) -> None:
    packet = discover(A)
    packet.src = B
    net.put(packet)
    assert net.asked == []
    assert net.network.drops == {"malformed": 1}


def test_names_are_answered(net: Net) -> None:
    net.lease(B, "db")
    question = dnslib.DNSRecord.question("db.lan").pack()
    query = from_guest(A, "10.0.2.15", "10.0.2.3", UDP(sport=5353, dport=53) / Raw(question))
    (answer,) = net.put(query)
    assert (answer.src, answer.dst, answer[IP].src, answer[UDP].sport) == (GATEWAY, A, "10.0.2.3", 53)
    assert str(dnslib.DNSRecord.parse(bytes(answer[UDP].payload)).rr[0].rdata) == "10.0.2.15"


def test_other_names_are_asked_of_this_machines_servers(monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
    with echo() as (server, port):
        monkeypatch.setattr(upstream, "PORT", port)
        net = Net(library, resolv_conf="nameserver 127.0.0.1\n")
        question = dnslib.DNSRecord.question("example.com").pack()
        query = from_guest(A, "10.0.2.15", "10.0.2.3", UDP(sport=5353, dport=53) / Raw(question))
        assert net.put(query) == []
        asked, where = server.recvfrom(1000)
        assert asked[2:] == question[2:]
        with echo() as (stranger, _):
            stranger.sendto(asked + b"forged", where)
        server.sendto(asked + b"answer", where)
        (answer,) = net.wait()
        assert bytes(answer[UDP].payload) == question + b"answer"
        for _ in range(upstream.PENDING_EACH_MAX + 3):
            net.put(query, 1.0)
        from_other = query.copy()
        from_other.src = B
        net.put(from_other, 1.0)
        assert net.network.drops == {"crowded": 3}
        net.put(query, 1.0 + upstream.TIMEOUT_S)
        assert net.network.drops == {"crowded": 3}


def test_a_guest_reaches_a_server_of_this_machine_and_is_answered(net: Net) -> None:
    with echo() as (server, port):
        net.put(from_guest(A, "10.0.2.15", "10.0.2.2", UDP(sport=1000, dport=port) / Raw(b"hello")))
        data, client = server.recvfrom(1000)
        assert data == b"hello"
        server.sendto(b"back", client)
        (answer,) = net.wait()
        assert (answer.src, answer.dst, answer[IP].dst, answer[UDP].dport) == (GATEWAY, A, "10.0.2.15", 1000)
        assert bytes(answer[UDP].payload) == b"back"


@pytest.mark.parametrize("address", ["10.0.2.2", "10.0.2.3", "127.0.0.1", "127.1.2.3", "0.0.0.0", "255.255.255.255"])
def test_without_host_access_it_does_not(library: Library, address: str) -> None:
    net = Net(library)
    with echo() as (server, port):
        net.put(from_guest(A, "10.0.2.15", address, UDP(sport=1000, dport=port) / Raw(b"hello")))
        assert select.select([server], [], [], 0)[0] == []
    assert net.network.drops.total() == 1


@pytest.mark.parametrize("flags", ["S", "SU", "SF", ""])
def test_without_host_access_no_segment_opens_a_connection(library: Library, flags: str) -> None:
    net = Net(library)
    with socket.create_server(("127.0.0.1", 0)) as server:
        net.put(from_guest(A, "10.0.2.15", "10.0.2.2", TCP(flags=flags, dport=server.getsockname()[1])))
        net.poll()
        assert select.select([server], [], [], 0)[0] == []
        whole: Packet = IP(src="10.0.2.15", dst="10.0.2.2") / TCP(flags=flags, dport=server.getsockname()[1])
        for fragment in whole.fragment(8):
            net.put(Ether(src=A, dst=GATEWAY) / fragment)
        net.poll()
        assert select.select([server], [], [], 0)[0] == []
    assert net.network.drops == ({"host_access": 2} if "S" in flags else {})
    net.network.close()


@pytest.mark.parametrize(("order", "size"), [(1, 1000), (-1, 1000), (1, 13_000)])
def test_fragments_reach_a_server_as_one_packet(net: Net, order: int, size: int) -> None:
    """Also when the last one comes first: libslirp 4.7 crashes at that."""
    with echo() as (server, port):
        said = Raw(b"hello" * size)
        packet: Packet = IP(src="10.0.2.15", dst="10.0.2.2", id=9) / UDP(sport=1000, dport=port) / said
        for fragment in packet.fragment(1400)[::order]:
            net.put(Ether(src=A, dst=GATEWAY) / fragment)
        assert server.recv(1 << 16) == bytes(said)
    assert net.network.drops == {}


def test_a_guest_has_no_more_connections_than_it_may(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slirp, "SOCKETS_MAX", 5)
    with echo() as (_, port):
        for number in range(20):
            net.put(from_guest(A, "10.0.2.15", "10.0.2.2", UDP(sport=1000 + number, dport=port) / Raw(b"x")))
            net.poll()
        assert net.network.drops == {"connections": 15}
        net.put(from_guest(B, "10.0.2.16", "10.0.2.2", UDP(sport=1000, dport=port) / Raw(b"x")))
        assert net.network.drops == {"connections": 15}, "others go on"


def test_a_fault_of_ours_costs_one_frame(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr(inet, "read_arp", fail)
    assert net.put(Ether(src=A, dst=ALL) / ARP(op=1, hwsrc=A, psrc="10.0.2.15", pdst="10.0.2.2")) == []
    assert net.network.drops == {"failed": 1}
    assert net.complaints == ["a frame was dropped: RuntimeError: oops"]


def test_files_of_a_folder_are_read_by_tftp_and_asked_for_again_in_time(library: Library, tmp_path: Path) -> None:
    (tmp_path / "boot").write_bytes(b"x" * 600)
    net = Net(library, folder=Folder(tmp_path), ipv6=False)
    (block,) = net.put(from_guest(A, "10.0.2.15", "10.0.2.2", UDP(sport=7, dport=69) / Raw(b"\0\1/boot\0octet\0")), 1.0)
    assert (block.dst, block[IP].src, block[IP].dst, block[UDP].dport) == (A, "10.0.2.2", "10.0.2.15", 7)
    assert bytes(block[UDP].payload) == b"\0\3\0\1" + b"x" * 512
    assert net.network.due_s == 2.0
    net.sent.clear()
    net.network.tick(2.0)
    assert net.sent == [block]
    ack = UDP(sport=7, dport=block[UDP].sport) / Raw(b"\0\4\0\1")
    (last,) = net.put(from_guest(A, "10.0.2.15", "10.0.2.2", ack), 2.0)
    assert bytes(last[UDP].payload) == b"\0\3\0\2" + b"x" * 88
    net.put(from_guest(A, "10.0.2.15", "10.0.2.2", UDP(sport=7, dport=block[UDP].sport) / Raw(b"\0\4\0\2")), 2.0)
    assert net.network.due_s is None
    net.put(from_guest(A, "10.0.2.15", "10.0.2.2", UDP(sport=7, dport=69) / Raw(b"nonsense")), 2.0)
    assert net.network.drops == {"malformed": 1}
    net.network.close()


def test_the_gateway_answers_pings_of_one_and_of_many(net: Net) -> None:
    for number in range(40):
        mac, ip = f"52:54:00:02:00:{number:02x}", f"10.0.2.{20 + number}"
        (answer,) = net.put(from_guest(mac, ip, "10.0.2.2", ICMP() / Raw(b"x" * 8)))
        assert (answer.dst, answer[IP].src, answer[IP].dst, answer[ICMP].type) == (mac, "10.0.2.2", ip, 0)


@pytest.mark.parametrize("source", ["10.0.2.2", "10.0.2.3", "192.168.0.1", "10.0.2.15"])
def test_an_address_that_is_anothers_is_dropped(net: Net, source: str) -> None:
    net.lease(B, "db")  # 10.0.2.15
    assert net.put(from_guest(A, source, "10.0.2.2", ICMP())) == []
    assert net.network.drops == {"foreign_source": 1}


def test_a_restricted_network_reaches_nobody_beyond_it(library: Library) -> None:
    net = Net(library, restrict=True)
    assert net.put(from_guest(A, "10.0.2.15", "192.0.2.1", ICMP())) == []
    question = dnslib.DNSRecord.question("example.com").pack()
    (answer,) = net.put(from_guest(A, "10.0.2.15", "10.0.2.3", UDP(sport=5353, dport=53) / Raw(question)))
    assert dnslib.DNSRecord.parse(bytes(answer[UDP].payload)).header.rcode == dnslib.RCODE.NXDOMAIN
    assert net.network.drops == {"restricted": 1}
    assert len(net.put(from_guest(A, "10.0.2.15", "10.0.2.2", ICMP()))) == 1


def test_where_the_internet_is_made_up_guests_have_a_way_to_it_and_no_further(library: Library) -> None:
    net = Net(library, internet=False)
    assert net.put(from_guest(A, "10.0.2.15", "192.0.2.1", ICMP())) == []
    assert net.network.drops == {"restricted": 1}
    net.network.invent(64, Server("192.0.2.1", 80))
    net.network.names.invented["example.com"] = [IPv4Address("192.0.2.1")]
    question = dnslib.DNSRecord.question("Example.com").pack()
    (answer,) = net.put(from_guest(A, "10.0.2.15", "10.0.2.3", UDP(sport=5353, dport=53) / Raw(question)))
    assert [str(rr.rdata) for rr in dnslib.DNSRecord.parse(bytes(answer[UDP].payload)).rr] == ["192.0.2.1"]
    net.put(from_guest(A, "10.0.2.15", "192.0.2.1", TCP(sport=1000, dport=80, flags="S", seq=1, window=9000)))
    net.accept()
    assert [number for number, _ in net.connected] == [64]


def test_no_more_stations_are_served_than_there_may_be(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat, "GUESTS_MAX", 3)
    for number in range(10):
        net.put(from_guest(f"52:54:00:02:00:{number:02x}", f"10.0.2.{20 + number}", "10.0.2.2", ICMP()))
    assert len(list(net.network.nat.stacks)) == 3


def test_what_is_flooded_is_not_for_us(net: Net) -> None:
    packet = from_guest(A, "10.0.2.15", "10.0.2.2", ICMP())
    packet.dst = B
    assert net.put(packet) == []
    assert net.network.drops == {}


frames = st.binary(max_size=80) | st.builds(
    lambda kind, tail: bytes.fromhex("52550a000202 52540000000a") + kind + tail,
    st.sampled_from([b"\x08\x00", b"\x08\x06", b"\x86\xdd"]),
    st.binary(max_size=80)
    | st.binary(max_size=300).map(lambda payload: bytes(IP(src="10.0.2.15", dst="10.0.2.3") / UDP(dport=53) / payload))
    | st.binary(max_size=300).map(lambda payload: bytes(IP(dst="255.255.255.255") / UDP(dport=67) / payload)),
)


@given(frames)
def test_no_frame_raises(library: Library, frame: bytes) -> None:
    net = Net(library, restrict=True)
    net.network.receive(frame, 0.0)
    net.network.close()


def test_a_forward_leads_to_whom_it_names(net: Net) -> None:
    here = net.forward("db", 99, udp=True)
    net.lease(A, "web")
    ip = net.lease(B, "db")
    assert net.served == [Served(1, ip, mac=B)]
    with echo() as (client, _):
        client.sendto(b"knock", here)
        packet = next(packet for packet in net.wait() if UDP in packet)
        assert (packet.dst, packet[IP].src, packet[IP].dst, packet[UDP].dport) == (B, "10.0.2.2", ip, 99)
        net.put(from_guest(B, ip, "10.0.2.2", UDP(sport=99, dport=packet[UDP].sport) / Raw(b"yes")))
        assert client.recv(100) == b"yes"


def test_a_forward_leads_to_who_is_there_already(net: Net) -> None:
    ip = net.lease(A, "web")
    for guest in ("web", ip, ""):
        assert knock(net, net.forward(guest, 22)) == (A, ip)


def test_a_forward_leads_to_an_address_that_a_guest_gave_itself(net: Net) -> None:
    here = net.forward("10.0.2.77", 22)
    net.put(from_guest(A, "10.0.2.77", "10.0.2.2", ICMP()))
    assert knock(net, here) == (A, "10.0.2.77")


def test_a_forward_follows_a_name(net: Net) -> None:
    here = net.forward("web", 22)
    first = net.lease(A, "web")
    assert knock(net, here) == (A, first)
    net.lease(B, "web")
    assert knock(net, here) == (A, first), "not while the one that had it first has it still"
    over = SETTINGS.lease_s + 1
    second = net.lease(B, "web", over)
    assert second != first
    assert knock(net, here) == (B, second)
    assert net.served == [Served(1, first, mac=A), Served(1, second, mac=B)]


def test_who_is_forwarded_to_is_not_dropped_for_others(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    here = net.forward("web", 22)
    ip = net.lease(A, "web")
    monkeypatch.setattr(nat, "GUESTS_MAX", 2)
    for number in range(5):
        net.put(from_guest(f"52:54:00:02:00:{number:02x}", f"10.0.2.{20 + number}", "10.0.2.2", ICMP()))
    assert knock(net, here) == (A, ip)


def test_a_forward_that_is_removed_leaves_nothing(net: Net) -> None:
    here = net.forward("web", 22)
    ip = net.lease(A, "web")
    assert knock(net, here) == (A, ip)
    net.network.forwards.remove(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(here)
    again = net.forward("web", 22)
    assert knock(net, again) == (A, ip)


def test_a_unix_socket_leads_to_a_guest(net: Net, tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        net.network.forwards.add(Forward(1, "web", 80), listener.dup(), 0.0)
    ip = net.lease(A, "web")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        syn = next(packet for packet in net.wait() if TCP in packet)
        assert (syn.dst, syn[IP].src, syn[IP].dst, syn[TCP].dport) == (A, "10.0.2.2", ip, 80)
        ports = {"sport": 80, "dport": syn[TCP].sport}
        net.put(from_guest(A, ip, "10.0.2.2", TCP(flags="SA", seq=1, ack=syn[TCP].seq + 1, window=9000, **ports)))
        net.put(
            from_guest(A, ip, "10.0.2.2", TCP(flags="PA", seq=2, ack=syn[TCP].seq + 1, window=9000, **ports) / b"hi")
        )
        net.poll()
        assert client.recv(10) == b"hi"


def test_without_host_access_a_guest_answers_who_has_come_and_nobody_else(library: Library) -> None:
    net = Net(library)
    here = net.forward("db", 99, udp=True)
    ip = net.lease(B, "db")
    with echo() as (client, there), echo() as (other, elsewhere):
        client.sendto(b"knock", here)
        knocked = next(packet for packet in net.wait() if UDP in packet)
        assert knocked[UDP].sport == there
        for port in (there, elsewhere):
            net.put(from_guest(B, ip, "10.0.2.2", UDP(sport=99, dport=port) / Raw(b"yes")))
            net.put(from_guest(B, ip, "10.0.2.2", UDP(sport=98, dport=port) / Raw(b"no")))
        assert client.recv(100) == b"yes"
        assert select.select([client, other], [], [], 0)[0] == []
        assert net.network.drops == {"host_access": 3}
    net.network.close()


def knock(net: Net, here: tuple[str, int]) -> tuple[str, str]:
    """Who is asked for a connection when somebody connects to a port of this machine."""
    with socket.create_connection(here) as sock:
        own = sock.getsockname()[1]
        while True:
            for packet in net.wait():
                if TCP in packet and packet[TCP].sport == own:
                    return packet.dst, packet.payload.dst


def test_a_connection_that_passes_unasked_does_so_for_one_station_and_a_moment(net: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports: dict[str, Any] = {"sport": 1000, "dport": server.getsockname()[1]}
        net.put(from_guest(A, "10.0.2.15", "10.0.2.2", TCP(flags="S", seq=1, window=9000, **ports)))
        answer = next(packet for packet in net.wait() if TCP in packet)
        said = TCP(flags="PA", seq=2, ack=answer[TCP].seq + 1, window=9000, **ports) / Raw(b"x")
        passes = net.network.nat.pass_on
        assert passes(bytes(from_guest(A, "10.0.2.15", "10.0.2.2", said)))
        for packet in (
            from_guest(B, "10.0.2.15", "10.0.2.2", said),
            from_guest(A, "10.0.2.16", "10.0.2.2", said),
            from_guest(A, "10.0.2.15", "10.0.2.2", TCP(flags="S", **ports)),
            Ether(src=A, dst=GATEWAY) / IP(src="10.0.2.15", dst="10.0.2.2", flags="MF") / said,
            Ether(src=A, dst=GATEWAY) / IP(src="10.0.2.15", dst="10.0.2.2", options=[b"\1\1\1\1"]) / said,
        ):
            assert not passes(bytes(packet))
        net.network.tick(nat.PASSING_S)
        assert not passes(bytes(from_guest(A, "10.0.2.15", "10.0.2.2", said)))


def test_who_has_come_is_answered_for_a_while_only(library: Library) -> None:
    net = Net(library)
    here = net.forward("db", 99, udp=True)
    ip = net.lease(B, "db")
    with echo() as (client, port):
        client.sendto(b"knock", here)
        knocked = next(packet for packet in net.wait() if UDP in packet)
        answer = from_guest(B, ip, "10.0.2.2", UDP(sport=99, dport=port) / Raw(b"yes"))
        net.put(answer, nat.ASKED_S)
        assert client.recv(100) == b"yes"
        net.put(answer, nat.ASKED_S + 1)
        assert net.network.drops == {"host_access": 1}
        client.sendto(b"knock", here)
        while not any(UDP in packet and packet[UDP].sport == knocked[UDP].sport for packet in net.wait()):
            pass
        net.network.forwards.remove(1)
        net.put(answer, nat.ASKED_S + 2)
        assert net.network.drops == {"host_access": 2}, "nor when the forward is gone"
    net.network.close()


def test_who_comes_by_udp_is_at_the_gateway_also_when_the_guest_has_sent_elsewhere(library: Library) -> None:
    net = Net(library)
    here = net.forward("db", 99, udp=True)
    ip = net.lease(B, "db")
    net.put(from_guest(B, ip, "192.0.2.77", UDP(sport=99, dport=1) / Raw(b"x")))
    with echo() as (client, port):
        client.sendto(b"knock", here)
        knocked = next(packet for packet in net.wait() if UDP in packet)
        assert (knocked[IP].src, knocked[UDP].sport) == ("10.0.2.2", port)
        assert_checksums(knocked)
        net.put(from_guest(B, ip, "10.0.2.2", UDP(sport=99, dport=port) / Raw(b"yes")))
        assert client.recv(100) == b"yes"
    net.network.close()


def test_all_guests_together_have_no_more_connections_than_memory_has_room_for(library: Library) -> None:
    library = Library()  # one that counts what is of this test
    net = Net(library, host_access=True)
    library.sockets_many, library.sockets_limit = 40, 60
    with socket.create_server(("127.0.0.1", 0)) as server:
        for guest in range(10):
            for sport in range(1000, 1050):
                mac, ip = f"52:54:00:02:00:{guest:02x}", f"10.0.2.{20 + guest}"
                segment = TCP(flags="S", sport=sport, dport=server.getsockname()[1])
                net.network.receive(bytes(from_guest(mac, ip, "10.0.2.2", segment)), 0.0)
        assert library.sockets == 60
        assert net.network.drops == {"connections": 440}
        net.network.close()
        assert library.sockets == 0


def test_a_forward_takes_in_no_more_than_its_guest_may_have(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slirp, "SOCKETS_MAX", 5)
    here = net.forward("web", 22)
    net.lease(A, "web")
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(here))
            net.poll()
        (nat_stack,) = net.network.nat.stacks
        assert len(nat_stack.opened) == 5


def test_a_forward_that_fails_leaves_no_listener(net: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as connected, socket.create_connection(connected.getsockname()) as sock:
        net.network.forwards.add(Forward(1, "", 22), sock.dup(), 0.0)  # which cannot listen
        for _ in range(5):
            net.lease(A, "web")
    (nat_stack,) = net.network.nat.stacks
    assert nat_stack.descriptors() == set()


def test_a_name_is_not_given_that_a_port_of_another_has(net: Net) -> None:
    here = net.forward("web", 22)
    net.taken = {"web"}
    (offer,) = net.dhcp(A, "evil", "discover", ("hostname", b"web"))
    net.dhcp(A, "evil", "request", ("requested_addr", offer[BOOTP].yiaddr), ("hostname", b"web"))
    assert [lease.name for lease in net.leases] == ["evil"]
    net.taken = set()
    ip = net.lease(B, "web")
    assert knock(net, here) == (B, ip)


def test_who_changes_its_name_before_the_switch_has_answered_is_asked_for_again(net: Net) -> None:
    net.put(discover(A, "discover", ("hostname", b"one")))
    net.put(discover(A, "discover", ("hostname", b"two")))
    assert net.asked == [A, A]
    net.network.found(Found(A, "lab", "one"), 0.0)
    assert net.sent == []
    net.network.found(Found(A, "lab", "two"), 0.0)
    assert len(net.sent) == 1


def test_a_ports_name_leads_to_who_is_behind_it_whatever_others_are_called(net: Net) -> None:
    here = net.forward("web", 22)
    first = net.lease(A, "evil", 0.0)
    (offer,) = net.dhcp(A, "evil", "discover")
    net.dhcp(A, "evil", "request", ("requested_addr", offer[BOOTP].yiaddr), ("hostname", b"web"))
    assert knock(net, here) == (A, first)
    ip = net.lease(B, "web")
    assert knock(net, here) == (B, ip)
    assert net.network.names.addresses("web", 0.0) == [IPv4Address(ip)]


def test_a_forward_by_name_ends_when_its_guest_has_another_name(net: Net) -> None:
    net.forward("web", 22)
    (offer,) = net.dhcp(A, "lab", "discover")
    for name in (b"web", b"db"):
        net.dhcp(A, "lab", "request", ("requested_addr", offer[BOOTP].yiaddr), ("hostname", name))
    assert [served.ip for served in net.told_served] == ["", offer[BOOTP].yiaddr, ""]


def test_an_address_that_a_guest_uses_is_not_taken_by_another(net: Net) -> None:
    here = net.forward("10.0.2.77", 22)
    net.put(from_guest(A, "10.0.2.77", "10.0.2.2", ICMP()))
    net.put(from_guest(B, "10.0.2.77", "10.0.2.2", ICMP()), 1.0)
    assert knock(net, here) == (A, "10.0.2.77")
    net.put(from_guest(B, "10.0.2.77", "10.0.2.2", ICMP()), nat.HEARD_S + 1)
    net.put(from_guest(B, "10.0.2.76", "10.0.2.2", ICMP()), nat.HEARD_S + 1)
    net.put(from_guest(B, "10.0.2.77", "10.0.2.2", ICMP()), nat.HEARD_S + 1)
    assert knock(net, here) == (B, "10.0.2.77"), "unless that one is silent"


def test_a_forward_to_an_address_that_is_known_leads_there(net: Net) -> None:
    net.put(from_guest(A, "10.0.2.77", "10.0.2.2", ICMP()))
    assert knock(net, net.forward("10.0.2.77", 22)) == (A, "10.0.2.77")


def test_who_has_an_address_that_another_declined_is_not_locked_out(net: Net) -> None:
    ip = net.lease(A, "lab")
    net.dhcp(A, "lab", "decline", ("requested_addr", ip), ("server_id", "10.0.2.2"))
    assert len(net.put(from_guest(B, ip, "10.0.2.2", ICMP()))) == 1


def test_a_server_that_is_not_there_is_reached_and_answers(library: Library) -> None:
    net = Net(library, servers=(Server("10.0.2.200", 7), Server("10.0.2.100", 80)))
    (found,) = net.put(Ether(src=A, dst=ALL) / ARP(op=1, hwsrc=A, psrc="10.0.2.15", pdst="10.0.2.100"))
    assert found[ARP].hwsrc == GATEWAY
    ports: dict[str, Any] = {"sport": 1000, "dport": 80}
    net.put(from_guest(A, "10.0.2.15", "10.0.2.100", TCP(flags="S", seq=1, window=9000, **ports)))
    net.accept()
    ((number, connection),) = net.connected
    assert number == 1
    answer = next(packet for packet in net.wait() if TCP in packet)
    assert (answer.src, answer[IP].src, answer[IP].dst) == (GATEWAY, "10.0.2.100", "10.0.2.15")
    assert (answer[TCP].flags, answer[TCP].sport, answer[TCP].dport) == ("SA", 80, 1000)
    assert_checksums(answer)
    said = TCP(flags="PA", seq=2, ack=answer[TCP].seq + 1, window=9000, **ports) / Raw(b"hello")
    net.put(from_guest(A, "10.0.2.15", "10.0.2.100", said))
    connection.settimeout(20)
    assert connection.recv(10) == b"hello"
    net.put(from_guest(A, "10.0.2.15", "10.0.2.100", TCP(flags="S", sport=1001, dport=81)))
    net.put(from_guest(A, "10.0.2.15", "10.0.2.100", ICMP()))
    assert net.network.drops == {"not_routed": 2}
    net.put(from_guest(B, "10.0.2.100", "10.0.2.2", ICMP()))
    assert net.network.drops["foreign_source"] == 1, "nobody takes its address"
    connection.close()
    net.network.close()


def test_who_is_no_guest_is_not_let_into_a_server(library: Library) -> None:
    net = Net(library, servers=(Server("10.0.2.100", 80),))
    net.put(from_guest(A, "10.0.2.15", "10.0.2.2", ICMP()))
    with (
        socket.socket(fileno=os.dup(min(net.network.guest_forwards.wanted))) as listener,
        socket.create_connection(listener.getsockname()) as stranger,
    ):
        net.accept()
        stranger.settimeout(20)
        assert stranger.recv(1) == b""
    assert net.connected == []
    net.network.close()


def assert_checksums(packet: Packet) -> None:
    """They are those that scapy works out."""
    again = packet.copy()
    for layer in (IP, IPv6, TCP, UDP):
        for name in ("chksum", "len", "plen"):
            if layer in again and name in again[layer].fields:
                del again[layer].fields[name]
    assert bytes(again.__class__(bytes(again)))[:74] == bytes(packet)[:74]


def test_what_cannot_be_forwarded_is_told(net: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as connected, socket.create_connection(connected.getsockname()) as sock:
        net.network.forwards.add(Forward(1, "", 22), sock.dup(), 0.0)  # which cannot listen
        net.lease(A, "web")
    assert net.served == [Served(1, problem="Invalid argument")]


def test_what_was_not_acknowledged_is_sent_again_though_the_host_has_hung_up(net: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = {"sport": 1000, "dport": server.getsockname()[1]}
        net.put(from_guest(A, "10.0.2.15", "10.0.2.2", TCP(flags="S", seq=1, window=9000, **ports)))
        answer = next(packet for packet in net.wait() if TCP in packet)
        ack = TCP(flags="A", seq=2, ack=answer[TCP].seq + 1, window=9000, **ports)
        net.put(from_guest(A, "10.0.2.15", "10.0.2.2", ack))
        connection, _ = server.accept()
        connection.sendall(b"last words")
        connection.close()
    times_said = 0
    while times_said < 2:
        times_said += sum(bytes(packet[TCP].payload).startswith(b"last") for packet in net.wait() if TCP in packet)


def test_after_a_long_silence_an_answer_still_comes(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    later_ns = 0
    real = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: real() + later_ns)
    with echo() as (server, port):
        for sport in (1000, 1001):
            net.put(from_guest(A, "10.0.2.15", "10.0.2.2", UDP(sport=sport, dport=port) / Raw(b"hello")))
            _, client = server.recvfrom(1000)
            for _ in range(3):
                net.poll()
            server.sendto(b"back", client)
            assert [packet[UDP].dport for packet in net.wait()] == [sport]
            later_ns += 600 * 10**9
            for _ in range(3):
                net.poll()  # its socket is closed
            later_ns += 600 * 10**9
