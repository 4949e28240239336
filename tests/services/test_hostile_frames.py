"""Whatever frames a guest sends: each is answered as it should be, or dropped and counted, and others are served."""

import socket
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import dnslib  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.namespaces import own_network
from tests.services import hostile
from tests.services.test_dhcp_server import SETTINGS
from tests.services.test_network import ALL, GATEWAY, discover, from_guest, library
from tests.services.test_network6 import to_all
from vswitch.protocols import inet6
from vswitch.services.user_network import nat, neighbors, network, slirp, tftp_server, upstream
from vswitch.services.user_network.folder import Folder
from vswitch.services.user_network.leases import PER_PORT_MAX
from vswitch.services.user_network.network import Network
from vswitch.services.user_network.settings import Found, Server
from vswitch.services.user_network.slirp import Library, Pool

assert library  # a fixture
GOOD = "02:aa:bb:cc:dd:ee"
GOOD6 = str(inet6.slaac(SETTINGS.network6, bytes.fromhex(GOOD.replace(":", ""))))
REASONS = {
    *("short", "protocol", "malformed", "crowded", "restricted", "host_access", "not_routed", "foreign_source"),
    *("fragments", "connections", "timeout"),
}


class Net:
    """A network; who is behind the ports `good` and `evil` is asked for and answered at once."""

    def __init__(self, library: Library, **more: Any) -> None:
        self.frames: list[bytes] = []
        self.complaints: list[str] = []
        self.now_s = 1000.0
        self._asked: list[tuple[str, str]] = []
        self.network = Network(
            msgspec.structs.replace(SETTINGS, servers=(Server(*hostile.SERVER),), **more.pop("settings")),
            library,
            send=self.frames.append,
            ask=lambda mac, name: self._asked.append((mac, name)),
            tell=lambda what: None,
            complain=self.complaints.append,
            **more,
        )
        self._pool = Pool(library)

    def put(self, frame: bytes) -> None:
        self.network.receive(frame, self.now_s)
        while self._asked:
            mac, name = self._asked.pop()
            self.network.found(Found(mac, "good" if mac == GOOD else "evil", name), self.now_s)

    def turn(self, later_s: float = 0.0) -> None:
        """Of the loop."""
        self.now_s += later_s
        self.network.tick(self.now_s)
        self.network.serve(self._pool.wait(self.network.nat.stacks, self.network.wanted, 0), self.now_s)

    def ask(self, packet: Packet) -> Packet:
        """The one answer."""
        self.frames.clear()
        self.put(bytes(packet))
        (answer,) = self.frames
        return Ether(answer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    path = tmp_path_factory.mktemp("tftp")
    (path / "boot").write_bytes(bytes(5000))
    return Folder(Path(path))


@contextmanager
def hit(library: Library, folder: Folder, **settings: Any) -> Iterator[Net]:
    """A network, and what has to be so when it was hit by whatever frames."""
    net = Net(library, folder=folder, settings=settings)
    try:
        yield net
        net.turn()
        assert net.complaints == []
        assert net.network.drops.keys() <= REASONS
        assert_bounded(net.network)
        assert_serves(net)
    finally:
        net.network.close()


def assert_bounded(served: Network) -> None:
    """No table is larger than it may be."""
    transfers = {} if served.gateway._tftp is None else served.gateway._tftp._transfers
    guests = served.nat._guests.values()
    tables: list[tuple[Sized, int]] = [
        (served._asked, network.ASKED_MAX),
        (served.neighbors._by_mac, neighbors.STATIONS_MAX),
        *((known, neighbors.EACH_MAX) for known in served.neighbors._by_mac.values()),
        (guests, nat.GUESTS_MAX),
        *((guest.ips6, nat.ADDRESSES_MAX) for guest in guests),
        *((guest.askers, nat.ASKERS_MAX) for guest in guests),
        *((guest.stack.opened, slirp.SOCKETS_MAX) for guest in guests),
        (served.nat._passing, nat.PASSING_MAX + 1),
        (served.leases._by_ip, PER_PORT_MAX + 1),  # as there are two ports
        (served.name_server.upstream._pending, upstream.PENDING_MAX),
        (transfers, tftp_server.TRANSFERS_MAX),
    ]
    for table, most in tables:
        assert len(table) <= most


def assert_serves(net: Net) -> None:
    """A guest that behaves finds the gateway, gets an address and a name, and is answered."""
    assert net.ask(Ether(src=GOOD, dst=ALL) / ARP(hwsrc=GOOD, psrc="10.0.2.15", pdst="10.0.2.2"))[ARP].hwsrc == GATEWAY
    ip = net.ask(discover(GOOD))[BOOTP].yiaddr
    assert net.ask(discover(GOOD, "request", ("requested_addr", ip), ("server_id", "10.0.2.2")))[BOOTP].yiaddr == ip
    assert net.ask(from_guest(GOOD, ip, "10.0.2.2", ICMP(id=7)))[ICMP].id == 7
    question = dnslib.DNSRecord.question("good.lan").pack()
    answer = net.ask(from_guest(GOOD, ip, "10.0.2.3", UDP(sport=5353, dport=53) / Raw(question)))
    assert str(dnslib.DNSRecord.parse(bytes(answer[UDP].payload)).rr[0].rdata) == ip
    group = str(inet6.solicited_node(IPv6Address("fec0::2")))
    found = net.ask(to_all(GOOD, GOOD6, group, ICMPv6ND_NS(tgt="fec0::2")))
    assert (found[IPv6].dst, found[ICMPv6ND_NA].lladdr) == (GOOD6, GATEWAY)


SAID = st.lists(hostile.frames() | st.floats(0, 300), min_size=1, max_size=40)  # frames, and time that passes


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SAID)
def test_no_frames_harm_a_network(library: Library, folder: Folder, said: list[bytes | float]) -> None:
    with hit(library, folder, restrict=True) as net:
        say(net, said)


def say(net: Net, said: list[bytes | float]) -> None:
    for what in said:
        if isinstance(what, float):
            net.turn(what)
        else:
            net.put(what)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """No other network, and no port of this machine's that somebody has, but for a name server."""
    with own_network(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        yield


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SAID)
@pytest.mark.usefixtures("alone")
def test_nor_one_that_lets_all_out(library: Library, folder: Folder, said: list[bytes | float]) -> None:
    with hit(library, folder, host_access=True, resolv_conf="nameserver 127.0.0.1") as net:
        say(net, said)


def test_what_is_valid_is_answered(library: Library, folder: Folder) -> None:
    """So the frames that are changed are such that get somewhere."""
    with hit(library, folder, restrict=True) as net:
        for frame in hostile.VALID:
            net.put(frame)
            net.turn()
        kinds = {packet.summary().split(" / ")[-1].split(" ")[0] for packet in map(Ether, net.frames)}
        assert len(net.frames) > 20, kinds


def test_no_number_of_stations_fills_more_than_there_is_room_for(
    library: Library, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one guest can say any number of MAC addresses, with each protocol that something is remembered of."""
    for module, name in (
        *((network, "ASKED_MAX"), (neighbors, "STATIONS_MAX"), (nat, "GUESTS_MAX"), (nat, "PASSING_MAX")),
        *((upstream, "PENDING_MAX"), (tftp_server, "TRANSFERS_MAX")),
    ):
        monkeypatch.setattr(module, name, 20)
    evil, own = bytes.fromhex(hostile.EVIL.replace(":", "")), IPv4Address(hostile.IP4).packed
    with hit(library, folder, restrict=True) as net:
        for number in range(150):
            mac, ip = b"\x52\x54\1\0" + number.to_bytes(2), (IPv4Address("10.0.2.50") + number).packed
            for frame in hostile.VALID:
                net.put(hostile.repaired(frame.replace(evil, mac).replace(own, ip)))
        assert len(list(net.network.nat.stacks)) == len(net.network.neighbors._by_mac) == 20, "they came so far"
        assert len(net.network.leases._by_ip) == PER_PORT_MAX
