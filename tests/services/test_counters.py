"""What a user network counts: of each guest, of all others, and in words that the switch takes."""

import json
import socket
from collections.abc import Iterator
from typing import get_args

import dnslib  # type: ignore[import-untyped]
import msgspec
import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.services.test_network import ALL, GATEWAY, A, B, Net, echo, from_guest, library
from vswitch.endpoints.user import child, counters
from vswitch.endpoints.user.reasons import REASONS
from vswitch.services.user_network import nat, settings
from vswitch.services.user_network.counters import Known, Reason, Service, Traffic, words
from vswitch.services.user_network.slirp import Library

__all__ = ["library"]  # a fixture


@pytest.fixture
def net(library: Library) -> Iterator[Net]:
    net = Net(library, host_access=True)
    yield net
    net.network.close()


def counted(net: Net) -> dict[str, tuple[str, int, list[int]]]:
    """By MAC address: address, connections, and frames and bytes out and in."""
    return {
        known.mac.hex(":"): (
            known.ip,
            known.connections,
            [known.traffic.out_frames, known.traffic.out_bytes, known.traffic.in_frames, known.traffic.in_bytes],
        )
        for known in net.network.nat.known
    }


def test_every_reason_is_explained_and_every_service_known() -> None:
    assert set(get_args(Reason)) == set(REASONS)
    assert set(get_args(Service)) == set(counters.SERVICES)


def test_what_passes_is_counted_for_its_guest(net: Net) -> None:
    with echo() as (server, port):
        there = from_guest(A, "10.0.2.15", "10.0.2.2", UDP(sport=1000, dport=port) / Raw(b"hello"))
        net.put(there)
        net.put(there)
        server.sendto(b"back again", server.recvfrom(1000)[1])
        (back,) = net.wait()
    assert counted(net) == {A: ("10.0.2.15", 1, [2, 2 * len(there), 1, len(back)])}


def test_so_are_frames_of_a_connection_that_pass_unasked(net: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def put(flags: str, acknowledged: int, data: bytes = b"") -> Packet:
            said = TCP(sport=1000, dport=server.getsockname()[1], flags=flags, seq=1 + (flags != "S"), ack=acknowledged)
            frame = from_guest(A, "10.0.2.15", "10.0.2.2", said / Raw(data))
            net.put(frame)
            return frame

        sizes = [len(put("S", 0))]
        (answer,) = net.wait()
        sizes += [len(put("PA", answer[TCP].seq + 1, b"x" * size)) for size in (10, 10)]
        (ip, connections, numbers) = counted(net)[A]
        assert (ip, connections, numbers[:2]) == ("10.0.2.15", 1, [3, sum(sizes)])


def test_a_listening_forward_is_no_connection(net: Net) -> None:
    net.lease(A, "web")
    host, port = net.forward("web", 80)
    assert counted(net)[A][1] == 0
    with socket.create_connection((host, port), timeout=20):
        net.wait()
        assert counted(net)[A][1] == 1


def test_drops_are_a_guests_if_it_is_one(net: Net) -> None:
    with echo() as (_, port):
        net.put(from_guest(A, "10.0.2.15", "10.0.2.2", UDP(sport=1000, dport=port) / Raw(b"x")))
    net.put(from_guest(A, "10.0.2.15", "10.0.2.77", UDP()))
    net.put(from_guest(B, "10.9.9.9", "192.0.2.1", UDP()))
    net.put(Ether(src=B, dst=ALL, type=0x1234) / Raw(bytes(50)))
    net.put(Ether(src=A, dst=GATEWAY, type=0x0806) / Raw(b"x"))
    (a,) = net.network.nat.known
    assert a.traffic.drops == {"not_routed": 1, "malformed": 1}
    assert net.network.nat.others.drops == {"foreign_source": 1, "protocol": 1}
    assert net.network.drops == {"not_routed": 1, "malformed": 1, "foreign_source": 1, "protocol": 1}


def test_of_a_guest_that_is_known_no_more_nothing_is_lost(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat, "GUESTS_MAX", 2)
    with echo() as (_, port):
        for number in range(5):
            ip = f"10.0.2.{20 + number}"
            net.put(from_guest(f"52:54:00:00:00:{number:02x}", ip, "10.0.2.77", UDP()))
            net.put(from_guest(f"52:54:00:00:00:{number:02x}", ip, "10.0.2.2", UDP(sport=1, dport=port)))
            net.put(from_guest(f"52:54:00:00:00:{number:02x}", ip, "10.0.2.77", UDP()))
    assert [numbers[0] for _, _, numbers in counted(net).values()] == [1, 1]
    assert net.network.nat.others.out_frames == 3
    assert net.network.drops == {"not_routed": 10}


def test_what_is_served_is_counted(net: Net) -> None:
    net.lease(A, "web")
    question = dnslib.DNSRecord.question("web.lan").pack()
    net.put(from_guest(A, "10.0.2.15", "10.0.2.3", UDP(sport=5353, dport=53) / Raw(question)))
    net.put(from_guest(A, "10.0.2.15", "10.0.2.3", UDP(sport=5353, dport=53) / Raw(b"?")))
    assert net.network.served == {"dhcp": 2, "dns": 1}
    assert net.network.drops == {"malformed": 1}


def test_words_carry_as_many_guests_as_there_may_be() -> None:
    traffic = Traffic()
    traffic.out_frames = traffic.out_bytes = traffic.in_frames = traffic.in_bytes = (1 << 53) - 1
    traffic.drops.update(dict.fromkeys(get_args(Reason), (1 << 53) - 1))
    guests = [Known(bytes(6), "2001:db8:" + "ffff:" * 5 + "ffff", 512, traffic)] * nat.GUESTS_MAX
    said = [settings.write(["Counted", *word]) for word in words(7, guests, traffic, {"dns": 3})]
    assert max(map(len, said)) <= child.WORD_MAX
    heard = [msgspec.json.decode(word, type=child.Said) for word in said]
    assert all(isinstance(word, counters.Counted) for word in heard)
    assert sum(len(word.guests) for word in heard) == nat.GUESTS_MAX == counters.GUESTS_MAX
    assert [word.rest is None for word in heard] == [True] * (len(heard) - 1) + [False]
    assert counters.known(heard[-1].rest.others.drops) == json.loads(settings.write(traffic.drops))
