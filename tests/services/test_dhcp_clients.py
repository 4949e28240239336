"""DHCP as real clients speak it, frame by frame: what Windows says, and how leases are renewed."""

from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.services.test_dhcp_server import SETTINGS
from tests.services.test_network import ALL, GATEWAY, A, B, Net, from_guest, library
from vswitch.protocols import dhcp
from vswitch.services.user_network.slirp import Library

assert library  # a fixture
CHADDR = bytes.fromhex(A.replace(":", ""))
NOBODY, EVERYBODY = "0.0.0.0", "255.255.255.255"
CLIENT_ID = (61, b"\1" + CHADDR)
WANTED = [1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252]
WINDOWS = [CLIENT_ID, ("hostname", b"DESKTOP-4F7K2"), ("vendor_class_id", b"MSFT 5.0"), (55, bytes(WANTED))]
UPDATE, OVERRIDE, ENCODED, NEVER = 1, 2, 4, 8  # flags of option 81: S, O, E and N (RFC 4702)


@pytest.fixture
def net(library: Library) -> Iterator[Net]:
    net = Net(library, ipv6=False)
    yield net
    net.network.close()


def said(kind: str, *options: Any, source: str = NOBODY, to: str = EVERYBODY, ciaddr: str = NOBODY) -> Packet:
    """By A, to all or to the server."""
    message = BOOTP(chaddr=CHADDR, xid=7, ciaddr=ciaddr) / DHCP(options=[("message-type", kind), *options, "end"])
    mac = ALL if to == EVERYBODY else GATEWAY
    return Ether(src=A, dst=mac) / IP(src=source, dst=to) / UDP(sport=68, dport=67) / message


def hear(net: Net, packet: Packet, now_s: float = 0.0) -> Packet | None:
    """The answer to A, which is behind the port `a`."""
    assert net.put(packet, now_s) == []
    answers = net.answer(A, "a", now_s)
    return answers[0] if answers else None


def told(answer: Packet | None) -> dict[Any, Any]:
    """The kind of the message, and its options by number where scapy has no name for them."""
    assert answer is not None
    return {option[0]: option[1] for option in answer[DHCP].options if isinstance(option, tuple)}


def fqdn(answer: Packet | None) -> bytes | None:
    """Option 81, as it is."""
    return answered(answer).options.get(dhcp.CLIENT_FQDN)


def answered(answer: Packet | None) -> dhcp.Message:
    """Its options, as bytes."""
    assert answer is not None
    request = bytearray(bytes(answer[BOOTP]))
    request[0] = 1
    message = dhcp.read(bytes(request))
    assert message is not None
    return message


def test_windows_gets_a_lease_and_its_name_in_small_letters(net: Net) -> None:
    name81 = (81, bytes([0, 0, 0]) + b"DESKTOP-4F7K2")
    offer = hear(net, said("discover", *WINDOWS, name81))
    assert told(offer)["message-type"] == dhcp.OFFER
    assert offer is not None
    ip = offer[BOOTP].yiaddr
    ack = hear(net, said("request", *WINDOWS, name81, ("requested_addr", ip), ("server_id", "10.0.2.2")))
    options = told(ack)
    assert options["message-type"] == dhcp.ACK
    assert (options["router"], options["name_server"], options["domain"]) == ("10.0.2.2", "10.0.2.3", b"lan")
    assert answered(ack).options[dhcp.CLIENT_ID] == CLIENT_ID[1], "said again (RFC 6842)"
    assert fqdn(ack) == bytes([UPDATE | OVERRIDE, 255, 255]) + b"desktop-4f7k2.lan"
    assert not {33, 43, 44, 46, 47, 121, 249, 252} & answered(ack).options.keys(), "no WINS, no routes, no proxy"
    assert [(lease.name, str(lease.ip)) for lease in net.leases] == [("desktop-4f7k2", ip)]


def test_it_asks_for_the_rest_when_it_has_its_lease_and_that_is_no_other(net: Net) -> None:
    """Windows does, for option 252 among others."""
    ip = net.lease(A, "a")
    net.leases.clear()
    before = list(net.network.leases.current(0.0))
    answer = hear(net, said("inform", *WINDOWS, source=ip, ciaddr=ip))
    options = told(answer)
    assert (options["message-type"], options["name_server"]) == (dhcp.ACK, "10.0.2.3")
    assert "lease_time" not in options
    assert answer is not None
    assert (answer.dst, answer[IP].dst, answer[BOOTP].yiaddr, answer[BOOTP].ciaddr) == (A, ip, "0.0.0.0", ip)
    assert (net.leases, list(net.network.leases.current(0.0))) == ([], before)


@pytest.mark.parametrize("ciaddr", ["0.0.0.0", "255.255.255.255", "192.0.2.1", "224.0.0.1"])
def test_who_is_elsewhere_is_told_nothing(net: Net, ciaddr: str) -> None:
    assert hear(net, said("inform", *WINDOWS, ciaddr=ciaddr)) is None


@pytest.mark.parametrize(
    ("flags", "name", "answer"),
    [
        (0, b"WEB", bytes([UPDATE | OVERRIDE, 255, 255]) + b"web.lan"),
        (UPDATE, b"web.corp.example", bytes([UPDATE, 255, 255]) + b"web.lan"),
        (NEVER, b"web.", bytes([UPDATE | OVERRIDE, 255, 255]) + b"web.lan"),
        (ENCODED | UPDATE, b"\3WEB\4corp\0", bytes([ENCODED | UPDATE, 255, 255]) + b"\3web\3lan\0"),
        (ENCODED | NEVER, b"\3web", bytes([ENCODED | UPDATE | OVERRIDE, 255, 255]) + b"\3web\3lan\0"),
    ],
)
def test_the_fully_qualified_name_names_who_says_no_other(net: Net, flags: int, name: bytes, answer: bytes) -> None:
    ack = hear(net, said("request", ("requested_addr", "10.0.2.15"), (81, bytes([flags, 0, 0]) + name)))
    assert [lease.name for lease in net.leases] == ["web"]
    assert fqdn(ack) == answer
    assert net.network.names.addresses("web", 1.0) == [IPv4Address("10.0.2.15")]


@pytest.mark.parametrize(
    "option",
    [b"", b"\0\0", b"\0\0\0", b"\4\0\0", b"\4\0\0\0", b"\4\0\0\x3fweb", b"\4\0\0\xc0\x0c", b"\0\0\0\x1b[31m"],
    ids=range(8),
)
def test_what_is_no_name_names_nobody(net: Net, option: bytes) -> None:
    hear(net, said("request", ("requested_addr", "10.0.2.15"), (81, option)))
    assert [lease.name for lease in net.leases] == ["a"]


def test_the_host_name_comes_first_and_a_name_that_is_anothers_is_not_had_either_way(net: Net) -> None:
    net.lease(B, "db")
    hear(net, said("request", ("requested_addr", "10.0.2.16"), ("hostname", b"web"), (81, b"\0\0\0other")))
    assert net.leases[-1].name == "web"
    ack = hear(net, said("request", ("requested_addr", "10.0.2.16"), (81, b"\0\0\0db")))
    assert net.leases[-1].name == ""
    assert fqdn(ack) is None
    net.taken = {"mail"}
    hear(net, said("request", ("requested_addr", "10.0.2.16"), (81, b"\4\0\0\4mail")))
    assert net.leases[-1].name == "a", "nor one that a port has"


def test_who_does_not_say_it_is_not_told_it(net: Net) -> None:
    assert fqdn(hear(net, said("request", ("requested_addr", "10.0.2.15"), ("hostname", b"web")))) is None


def test_a_lease_is_renewed_by_one_server_and_then_by_any(net: Net) -> None:
    """T1 and T2 (RFC 2131, 4.4.5)."""
    ip = net.lease(A, "a")
    life_s = SETTINGS.lease_s
    for now_s, to in ((life_s / 2, "10.0.2.2"), (life_s * 1.375, "255.255.255.255")):
        ack = hear(net, said("request", source=ip, to=to, ciaddr=ip), now_s)
        assert ack is not None
        assert (told(ack)["message-type"], ack.dst, ack[IP].dst, ack[BOOTP].yiaddr) == (dhcp.ACK, A, ip, ip)
        assert told(ack)["lease_time"] == life_s
        assert net.leases[-1].until_s == now_s + life_s
    assert net.lease(B, "b", now_s + life_s - 1) != ip


def test_who_comes_back_with_an_address_that_is_not_its_own_has_to_ask_anew(net: Net) -> None:
    """INIT-REBOOT (RFC 2131, 4.3.2)."""
    ip = net.lease(A, "a")
    other = net.lease(B, "b")
    for wanted in (other, "10.0.2.99", "192.168.1.5"):
        nak = hear(net, said("request", CLIENT_ID, ("requested_addr", wanted)), 1.0)
        assert nak is not None
        assert (told(nak)["message-type"], nak.dst, nak[IP].dst) == (dhcp.NAK, ALL, "255.255.255.255")
        assert answered(nak).options[dhcp.CLIENT_ID] == CLIENT_ID[1]
    ack = hear(net, said("request", ("requested_addr", ip)), 2.0)
    assert told(ack)["message-type"] == dhcp.ACK


def test_who_renews_too_late_has_lost_its_address(net: Net) -> None:
    ip = net.lease(A, "a")
    over_s = SETTINGS.lease_s
    assert net.dhcp(B, "b", "request", ("requested_addr", ip), now_s=over_s) != []
    assert hear(net, said("request", source=ip, to="10.0.2.2", ciaddr=ip), over_s) is None, "perhaps another server's"
    assert net.put(from_guest(A, ip, "10.0.2.2", ICMP()), over_s) == []
    assert net.network.drops == {"foreign_source": 1}
