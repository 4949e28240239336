"""user://: a network behind one port, in a process of its own."""

import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dnslib  # type: ignore[import-untyped]
import pytest
import trio
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.needs import require
from tests.peers import Peer, until
from vswitch import InputError, RefusedError, VSwitch
from vswitch.endpoints.url import parse
from vswitch.endpoints.user import endpoint
from vswitch.services.user_network.slirp import Library

GATEWAY = "52:55:0a:00:02:02"
ALL = "ff:ff:ff:ff:ff:ff"


@pytest.fixture(autouse=True)
def library() -> None:
    try:
        Library()
    except RefusedError as error:
        require(False, str(error))


@pytest.fixture
async def switch() -> AsyncIterator[VSwitch]:
    async with VSwitch() as switch:
        yield switch


class Guest:
    """A station with DHCP and ping."""

    def __init__(self, peer: Peer, mac: str) -> None:
        self.peer, self.mac = peer, mac
        self.ip = "0.0.0.0"

    @classmethod
    async def plugged_into(cls, switch: VSwitch, name: str, mac: str) -> "Guest":
        return cls(await Peer.plugged_into(switch, name=name), mac)

    async def send(self, packet: Packet) -> None:
        await self.peer.send(bytes(packet))

    async def receive(self, layer: type[Packet]) -> Packet:
        """The next frame with a layer."""
        while True:
            (frame,) = await self.peer.receive(1)
            if layer in (packet := Ether(frame)):
                return packet

    async def ask(self, kind: str, *options: Any) -> None:
        said = BOOTP(chaddr=self._chaddr) / DHCP(options=[("message-type", kind), *options, "end"])
        packet = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / said
        await self.send(Ether(src=self.mac, dst=ALL) / packet)

    async def dhcp(self, kind: str, *options: Any) -> Packet:
        await self.ask(kind, *options)
        while True:
            packet = await self.receive(BOOTP)
            if packet[BOOTP].op == 2 and packet[BOOTP].chaddr[:6] == self._chaddr:
                return packet

    @property
    def _chaddr(self) -> bytes:
        return bytes.fromhex(self.mac.replace(":", ""))

    async def lease(self) -> str:
        offer = await self.dhcp("discover")
        ack = await self.dhcp("request", ("requested_addr", offer[BOOTP].yiaddr))
        assert ("message-type", 5) in ack[DHCP].options
        self.ip = ack[BOOTP].yiaddr
        return self.ip

    async def ping(self, address: str, mac: str = GATEWAY) -> None:
        await self.send(Ether(src=self.mac, dst=mac) / IP(src=self.ip, dst=address) / ICMP(id=7))
        assert (await self.receive(ICMP))[IP].src == address


def child_of(parent: int) -> int | None:
    """The process of a user network."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and endpoint.PROGRAM.encode() in (path.parent / "cmdline").read_bytes():
                return int(path.parent.name)
        except OSError:
            continue
    return None


@asynccontextmanager
async def restarted(switch: VSwitch, number: signal.Signals) -> AsyncIterator[None]:
    """Its process ends, and another one is there in the end."""
    before = child_of(os.getpid())
    assert before is not None
    os.kill(before, number)
    yield
    await until(lambda: child_of(os.getpid()) not in (None, before))
    await until(lambda: next(port for port in switch.ports() if port.name == "net").up)


async def test_guests_get_addresses_and_reach_the_gateway(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    a, b = (
        await Guest.plugged_into(switch, "a", "52:54:00:00:00:0a"),
        await Guest.plugged_into(switch, "b", "52:54:00:00:00:0b"),
    )
    assert (await a.lease(), await b.lease()) == ("10.0.2.15", "10.0.2.16")
    await a.ping("10.0.2.2")
    await b.ping("10.0.2.2")
    (port,) = [port for port in switch.ports() if port.name == "net"]
    assert (port.peer, port.up) == ("user network", True)


async def test_its_process_has_all_that_it_needs_though_it_can_read_no_file(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    a = await Guest.plugged_into(switch, "a", "52:54:00:00:00:0a")
    await a.lease()
    process = child_of(os.getpid())
    for number, (name, kind) in enumerate(QUESTIONS):
        question = dnslib.DNSRecord(
            dnslib.DNSHeader(id=number), q=dnslib.DNSQuestion(name, getattr(dnslib.QTYPE, kind))
        )
        packet = IP(src=a.ip, dst="10.0.2.3") / UDP(sport=5353, dport=53) / question.pack()
        await a.send(Ether(src=a.mac, dst=GATEWAY) / packet)
    answered: set[int] = set()
    while len(answered) < len(QUESTIONS):
        packet = await a.receive(UDP)
        if packet[UDP].sport == 53:
            answered.add(dnslib.DNSRecord.parse(bytes(packet[UDP].payload)).header.id)
    assert child_of(os.getpid()) == process


QUESTIONS = [
    (name, kind)
    for name in ("a.lan", "no.lan", "2.2.0.10.in-addr.arpa", "host", "x" * 63 + ".lan")
    for kind in ("A", "AAAA", "PTR", "ANY", "SRV", "TXT", "SOA", "HTTPS")
]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_when_its_process_dies_another_one_knows_the_leases(
    switch: VSwitch, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    await switch.attach("user://10.0.2.0/24?name=net&dhcpstart=10.0.2.100&reserve=b@10.0.2.7")
    a, b = (
        await Guest.plugged_into(switch, "a", "52:54:00:00:00:0a"),
        await Guest.plugged_into(switch, "b", "52:54:00:00:00:0b"),
    )
    assert await a.lease() == "10.0.2.100"
    async with restarted(switch, number):
        await a.send(Ether(src=a.mac, dst=ALL) / ARP(pdst="10.0.2.101"))
        await b.receive(ARP)  # the others go on
    assert await b.lease() == "10.0.2.7", "reserved"
    assert await a.lease() == "10.0.2.100"
    await a.ping("10.0.2.2")
    assert f"net: the process of this network has ended: {number.name}; it is started again" in caplog.messages


async def test_another_ports_lease_cannot_be_had_while_that_port_is_up(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    a = await Guest.plugged_into(switch, "a", "52:54:00:00:00:0a")
    assert await a.lease() == "10.0.2.15"
    thief = await Guest.plugged_into(switch, "thief", a.mac)
    await thief.ask("discover")
    await until(lambda: "turned_away" in [event.code for event in switch.events.kept()])
    a.peer.close()
    await until(lambda: not next(port for port in switch.ports() if port.name == "a").up)
    assert await thief.lease() == "10.0.2.15"


async def test_a_forward_leads_to_the_first_guest(switch: VSwitch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    await switch.attach(f"user://10.0.2.0/24?name=net&hostfwd=tcp::{port}-:22")
    a = await Guest.plugged_into(switch, "a", "52:54:00:00:00:0a")
    await a.lease()
    for _ in range(2):
        async with await trio.open_tcp_stream("127.0.0.1", port):
            syn = await a.receive(TCP)
            assert (syn[IP].dst, syn[TCP].dport, syn[TCP].flags) == (a.ip, 22, "S")
        async with restarted(switch, signal.SIGKILL):
            pass


async def test_a_process_that_says_nonsense_is_replaced(
    switch: VSwitch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be in the hands of a guest."""
    (tmp_path / "nonsense.py").write_text(NONSENSE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(endpoint, "PROGRAM", "nonsense")
    await switch.attach("user://10.0.2.0/24?name=net")
    said = "net: the process of this network has ended: it says what nobody understands; it is started again"
    await until(lambda: caplog.messages.count(said) > 2)
    assert "net: \\x1b[31mred" in caplog.messages


NONSENSE = """
import socket, sys, time
words = socket.socket(fileno=int(sys.argv[2]))
for word in (b'["ready", []]', b'["Problem", "\\\\u001b[31mred"]', b'["Where", "nobody"]'):
    words.send(word)
time.sleep(60)
"""


async def test_when_it_is_detached_nothing_is_left(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    assert child_of(os.getpid()) is not None
    await switch.attachments.detach("net")
    assert child_of(os.getpid()) is None
    assert switch.ports() == []


async def test_what_it_lacks_is_said(switch: VSwitch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import cffi\ndef dlopen(*_): raise OSError\ncffi.FFI.dlopen = dlopen\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RefusedError, match=r"^user://10\.0\.2\.0/24: the library libslirp is missing; install it \("):
        await switch.attach("user://10.0.2.0/24")
    assert switch.ports() == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("user://10.0.2.0", "a network has 20 to 27 bits"),
        ("user://10.0.2.1/24", "has host bits set"),
        ("user://lan", "write a network like user://10.0.2.0/24"),
        ("user://10.0.2.0/24?host=10.0.3.2", "host: 10.0.3.2 is no station's address in 10.0.2.0/24"),
        ("user://10.0.2.0/24?dns=10.0.2.255", "dns: 10.0.2.255 is no station's address"),
        ("user://10.0.2.0/24?dns=10.0.2.2", "dns: 10.0.2.2 is the gateway already"),
        ("user://10.0.2.0/24?mtu=100", "mtu: '100' is not a number from 576 to 65520"),
        ("user://10.0.2.0/24?mac=33:33:00:00:00:01", "mac: 33:33:00:00:00:01 is not one station's address"),
        ("user://10.0.2.0/24?domainname=a..b", "domainname: 'a..b' cannot be a domain's name"),
        ("user://10.0.2.0/24?reserve=web", "'' is not an IPv4 address; write it like 10.0.2.2"),
        ("user://10.0.2.0/24?reserve=web@10.0.2.3", "reserve: 10.0.2.3 is no guest's address"),
        ("user://10.0.2.0/24?reserve=web@10.0.3.3", "reserve: 10.0.3.3 is no guest's address"),
        ("user://10.0.2.0/24?reserve=a@10.0.2.9,b@10.0.2.9", "10.0.2.9 is reserved twice"),
        ("user://10.0.2.0/24?hostfwd=tcp:2222-:22", "is no forward; write it like tcp:127.0.0.1:2222-web:22"),
        ("user://10.0.2.0/24?hostfwd=tcp:0.0.0.0:2222-:22", "0.0.0.0 is beyond loopback"),
        ("user://10.0.2.0/24?hostfwd=tcp::70000-:22", "port 70000 is out of range"),
        ("user://10.0.2.0/24?hostfwd=udp::5353-:53", "goes with host_access=yes"),
    ],
)
def test_what_is_wrong_is_said(url: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(url)
    assert said in str(caught.value)


def test_what_is_written_is_read_back() -> None:
    config = parse(
        "user://10.1.0.0/20?host=10.1.0.1&dns=10.1.0.9&dhcpstart=10.1.1.0&mac=52:54:00:00:00:01&domainname=Lab.Example"
        "&mtu=9000&dhcp=no&restrict&host_access&hostfwd=tcp:127.0.0.2:2222-web:22,udp::53-:53&hostfwd=tcp::80-:80&reserve=web@10.1.0.50,52:54:00:00:00:0A@10.1.0.51"
    )
    assert parse(config.full_url) == config
    assert [str(forward) for forward in config.user.hostfwd] == [
        "tcp:127.0.0.2:2222-web:22",
        "udp:127.0.0.1:53-:53",
        "tcp:127.0.0.1:80-:80",
    ]
    assert [str(item) for item in config.user.reserve] == ["web@10.1.0.50", "52:54:00:00:00:0a@10.1.0.51"]
    assert parse("user://").url == "user://10.0.2.0/24"
