"""user://: a network behind one port, in a process of its own."""

import os
import signal
import socket
from pathlib import Path

import dnslib  # type: ignore[import-untyped]
import pytest
import trio
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from tests.endpoints.user_guest import ALL, GATEWAY, Guest, child_of, restarted
from tests.peers import TIMEOUT_S, Peer, until
from vswitch import InputError, RefusedError, VSwitch
from vswitch.endpoints.url import parse
from vswitch.endpoints.user import child

pytestmark = pytest.mark.usefixtures("libslirp")


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


async def test_a_process_that_says_nonsense_is_replaced(
    switch: VSwitch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be in the hands of a guest."""
    (tmp_path / "nonsense.py").write_text(NONSENSE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(child, "PROGRAM", "nonsense")
    await switch.attach("user://10.0.2.0/24?name=net")
    said = "net: the process of this network has ended: it says what nobody understands; it is started again"
    await until(lambda: caplog.messages.count(said) > 2)
    assert "net: \\x1b[31mred" in caplog.messages
    assert switch.failures.total == 0


NONSENSE = """
import socket, sys, time
words = socket.socket(fileno=int(sys.argv[2]))
for word in (b'["ready", []]', b'["Problem", "\\\\u001b[31mred"]'):
    words.send(word)
socket.send_fds(words, [b'["Where", "nobody"]'], [0, 1, 2])
time.sleep(60)
"""


async def test_a_hundred_guests_have_leases_and_traffic_at_once(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net&host_access=yes")
    guests = [
        await Guest.plugged_into(switch, f"guest{number}", f"52:54:00:00:01:{number:02x}") for number in range(100)
    ]
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

        async def use(guest: Guest) -> None:
            await guest.lease()
            await guest.ping("10.0.2.2")
            datagram = UDP(sport=1000, dport=port) / Raw(guest.ip.encode())
            await guest.send(Ether(src=guest.mac, dst=GATEWAY) / IP(src=guest.ip, dst="10.0.2.2") / datagram)

        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(use, guest)
        with trio.fail_after(TIMEOUT_S):
            heard = {(await server.recv(100)).decode() for _ in guests}
    assert heard == {guest.ip for guest in guests}
    assert len(heard) == 100


async def test_each_vlan_may_have_one(switch: VSwitch) -> None:
    for number, vlan in ((2, 10), (3, 20)):
        await switch.attach(f"user://10.0.{number}.0/24?vlan={vlan}")
        guest = Guest(await Peer.plugged_into(switch, name=f"guest{vlan}", vlan=vlan), f"52:54:00:00:00:{vlan}")
        assert await guest.lease() == f"10.0.{number}.15"
        await guest.ping(f"10.0.{number}.2", f"52:55:0a:00:{number:02}:02")
    assert [lease.network for lease in switch.user_networks.leases()] == ["user1", "user2"]


async def test_when_it_is_detached_nothing_is_left(switch: VSwitch, caplog: pytest.LogCaptureFixture) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    assert child_of(os.getpid()) is not None
    with caplog.at_level("INFO"):
        await switch.attachments.detach("net")
    assert "net down: removed" in caplog.messages
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
        (
            "user://10.0.2.0/24?hostfwd=tcp:0.0.0.0:2222-:22",
            "hostfwd: tcp:0.0.0.0:2222: anyone on the network could connect; add insecure=yes",
        ),
        ("user://10.0.2.0/24?hostfwd=tcp::70000-:22", "port 70000 is out of range"),
        ("user://10.0.2.0/24?hostfwd=unix:web.sock-web:80", "is no forward"),
        ("user://10.0.2.0/24?hostfwd=unix:run/web.sock-web:80", "'run/web.sock' is no absolute path"),
        ("user://10.0.2.0/24?hostfwd=tcp::2222-a:22,tcp::2222-b:22", "tcp:127.0.0.1:2222 leads to several"),
        ("user://10.0.2.0/24?hostfwd=tcp::2222-a:0", "port 0 is out of range; 1 to 65535"),
        ("user://10.0.2.0/24?leases=", "leases: needs a file"),
        ("user://127.0.0.0/24", "no guest can have such addresses"),
        ("user://224.0.0.0/24", "no guest can have such addresses"),
        ("user://0.0.0.0/24", "no guest can have such addresses"),
        ("user://10.0.2.0/24?reserve=web@10.0.2.255", "reserve: 10.0.2.255 is no guest's address"),
        ("user://10.0.2.0/24?ipv6=no&hostfwd=tcp:[::1]:22-a:22", "of a version that there is not"),
        ("user://10.0.2.0/24?smbserver=10.0.2.9", "smbserver goes with smb; add one, or leave it out"),
        ("user://10.0.2.0/24?smb=/srv&smbserver=10.0.2.2", "smbserver: 10.0.2.2 is no free address"),
        ("user://10.0.2.0/24?smb=/srv/%25S", "'/srv/%S' cannot be shared"),
        ("user://10.0.2.0/24?mtu=1000", "mtu: IPv6 takes 1280 at least; add ipv6=no"),
        ("user://10.0.2.0/24?ipv4=no&ipv6=no", "a network of neither version has no guests"),
        ("user://10.0.2.0/24?ipv6-net=fec0::/48", "in a network of 64 bits, like fec0::/64"),
        ("user://10.0.2.0/24?ipv6-net=fec0::1/64", "has host bits set"),
        ("user://10.0.2.0/24?ipv6-host=fd00::1", "ipv6-host: fd00::1 is no station's address in fec0::/64"),
        ("user://10.0.2.0/24?ipv6-dns=fec0::2", "ipv6-dns: fec0::2 is the gateway already"),
        ("user://10.0.2.0/24?hostfwd=tcp:[::1]:22-10.0.2.15:22", "::1 leads to addresses of its own kind"),
        ("user://10.0.2.0/24?hostfwd=tcp:127.0.0.1:22-[fec0::15]:22", "127.0.0.1 leads to addresses of its own kind"),
        ("user://10.0.2.0/24?hostfwd=tcp:[x]:22-:22", "'[x]' is not an IP address of this machine"),
        ("user://10.0.2.0/24?hostfwd=tcp:[::]:22-:22", "tcp:[::]:22: anyone on the network could connect"),
        ("user://10.0.2.0/24?hostname=a.b", "hostname: 'a.b' cannot be a host's name"),
        ("user://10.0.2.0/24?bootfile=%0a", "bootfile: needs 1 to 255 bytes that can be printed"),
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


@pytest.mark.parametrize(
    ("forward", "written"),
    [
        ("tcp:[::1]:2222-web:22", "tcp:[::1]:2222-web:22"),
        ("udp::53-[fec0::15]:53", "udp:[::1]:53-[fec0::15]:53"),
        ("tcp:[0:0::1]:2222-my-web:22", "tcp:[::1]:2222-my-web:22"),
        ("unix:/run/my-lab/web.sock-my-web:80", "unix:/run/my-lab/web.sock-my-web:80"),
    ],
)
def test_a_forward_may_be_of_ipv6_or_from_a_path(forward: str, written: str) -> None:
    config = parse(f"user://?hostfwd={forward}")
    assert [str(item) for item in config.user.hostfwd] == [written]
    assert parse(config.full_url) == config


def test_names_with_dashes_and_lists_are_read_back() -> None:
    options = "ipv6-net=fd00::/64&ipv6-host=fd00::1&tftp=/srv&bootfile=a&tftp-server-name=b&dnssearch=c.d,e.f&ipv4=no"
    config = parse(f"user://?{options}")
    assert parse(config.full_url) == config
