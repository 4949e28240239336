"""Other DHCP servers: what a user network hears of them, and that nobody makes it tell more than it should."""

from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.services.test_network import ALL, GATEWAY, A, B, Net, discover, library
from vswitch.services.user_network.other_servers import AGAIN_S, MOST
from vswitch.services.user_network.slirp import Library

__all__ = ["library"]  # a fixture


@pytest.fixture
def net(library: Library) -> Iterator[Net]:
    net = Net(library)
    yield net
    net.network.close()


def answer(kind: str, server: str, *, mac: str = B, to: str = ALL, **fields: Any) -> Packet:
    said = BOOTP(op=2, **fields) / DHCP(options=[("message-type", kind), ("server_id", server), "end"])
    return Ether(src=mac, dst=to) / IP(src=server, dst="255.255.255.255") / UDP(sport=67, dport=68) / said


@pytest.mark.parametrize("kind", ["offer", "ack", "nak"])
@pytest.mark.parametrize("to", [ALL, A])
def test_one_that_answers_is_told_once_in_a_while(net: Net, kind: str, to: str) -> None:
    for now_s in (0.0, 1.0, AGAIN_S - 1):
        assert net.put(answer(kind, "10.0.2.77", to=to), now_s) == []
        net.put(discover(A, "request", ("server_id", "10.0.2.77")), now_s)
    assert net.other_servers == [("10.0.2.77", B)]
    net.put(answer(kind, "10.0.2.77", to=to), AGAIN_S)
    assert net.other_servers == [("10.0.2.77", B)] * 2
    assert net.network.drops == {}


def test_one_that_a_client_has_chosen_is_told_and_again_when_it_is_heard(net: Net) -> None:
    for _ in range(3):
        net.put(discover(A, "request", ("server_id", "10.0.2.77")))
    net.put(answer("ack", "10.0.2.77"))
    assert net.other_servers == [("10.0.2.77", ""), ("10.0.2.77", B)]


def test_whoever_answers_as_we_would_is_another_one(net: Net) -> None:
    net.put(answer("offer", "10.0.2.2"))
    assert net.other_servers == [("10.0.2.2", B)]


@pytest.mark.parametrize(
    "packet",
    [
        answer("offer", "10.0.2.77", mac=GATEWAY),
        answer("offer", "0.0.0.0"),
        answer("offer", "224.0.0.1"),
        answer("offer", "255.255.255.255"),
        answer("offer", "10.0.2.77", mac="33:33:00:00:00:01"),
        answer("offer", "10.0.2.77", htype=6),
        answer("discover", "10.0.2.77"),
        discover(A, "request", ("server_id", "10.0.2.2")),
        discover(A, "request", ("server_id", "127.0.0.1")),
        discover(A, "release", ("server_id", "10.0.2.77")),
        discover(A, "request"),
    ],
    ids=range(11),
)
def test_what_says_nothing_of_another_one_tells_nothing(net: Net, packet: Packet) -> None:
    net.put(packet)
    assert net.other_servers == []


def test_where_others_are_to_give_addresses_nothing_is_told(library: Library) -> None:
    net = Net(library, dhcp=False)
    net.put(answer("offer", "10.0.2.77"))
    net.put(answer("offer", "10.0.2.77", to=A))
    net.put(discover(A, "request", ("server_id", "10.0.2.77")))
    assert net.other_servers == []
    net.network.close()


def test_forged_ones_are_told_seldom(net: Net) -> None:
    for number in range(1000):
        ip = f"10.1.{number >> 8}.{number & 255 or 1}"
        net.put(answer("offer", ip, mac=f"52:54:00:01:{number >> 8:02x}:{number & 255:02x}"))
        net.put(discover(A, "request", ("server_id", ip)))
    assert 0 < len(net.other_servers) <= MOST
