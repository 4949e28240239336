"""DNS over TCP for those who ask: what is answered, and what ends a connection."""

import select
import socket
import struct
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.protocols import dns
from vswitch.services.user_network.dns_streams import EACH_MAX, IDLE_S, MOST, UNSENT_MAX, DnsStreams, Say

A, B = b"a", b"b"


def query(number: int) -> bytes:
    return struct.pack("!H", number) + bytes(10)


class Streams:
    """Connections, what was asked by them, and what was dropped."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()
        self.asked: list[tuple[bytes, bytes, Say]] = []
        self.streams = DnsStreams(
            lambda query, who, say, now_s: self.asked.append((query, who, say)),
            lambda reason, who: self.drops.update([reason]),
        )
        self.clients: list[socket.socket] = []

    def end_others(self, query: bytes, who: bytes, say: Say, now_s: float) -> None:
        for connection in list(self.streams._connections.values())[1:]:
            self.streams._end(connection)

    def connect(self, who: bytes = A, now_s: float = 0.0) -> socket.socket:
        client, server = socket.socketpair()
        client.settimeout(20)
        self.clients.append(client)
        self.streams.add(server, who, now_s)
        return client

    def turn(self, now_s: float = 0.0) -> None:
        """What a turn of the loop does, when everything is ready that is waited for."""
        self.streams.tick(now_s)
        self.streams.serve(self.streams.wanted, now_s)

    def is_open(self, client: socket.socket) -> bool:
        client.setblocking(False)
        try:
            return client.recv(1) != b""
        except BlockingIOError:
            return True
        except ConnectionError:
            return False


@pytest.fixture
def streams() -> Iterator[Streams]:
    streams = Streams()
    yield streams
    streams.streams.close()
    for client in streams.clients:
        client.close()


def test_queries_are_answered_in_any_order_by_whoever_asks(streams: Streams) -> None:
    client = streams.connect()
    client.sendall(dns.framed(query(1)) + dns.framed(query(2)) + dns.framed(query(3))[:5])
    streams.turn()
    (first, who, say_first), (second, _, say_second) = streams.asked
    assert (first, second, who) == (query(1), query(2), A)
    say_second(b"x" * 20)
    say_first(b"y" * 30)
    assert client.recv(1000) == dns.framed(b"x" * 20) + dns.framed(b"y" * 30)
    client.sendall(dns.framed(query(3))[5:])
    streams.turn()
    assert streams.asked[-1][0] == query(3)


def test_who_says_no_more_is_answered_still(streams: Streams) -> None:
    client = streams.connect()
    client.sendall(dns.framed(query(1)))
    client.shutdown(socket.SHUT_WR)
    streams.turn()
    streams.turn()
    assert list(streams.streams.wanted.values()) == [0], "there is nothing to wait for but the answer"
    streams.asked[0][2](b"x" * 12)
    assert client.recv(100) == dns.framed(b"x" * 12)
    assert not streams.is_open(client)
    assert streams.streams.wanted == {}


def test_a_query_that_is_said_slowly_is_not_waited_for(streams: Streams) -> None:
    client = streams.connect()
    for number, byte in enumerate(dns.framed(query(1))[:-1]):
        client.sendall(bytes([byte]))
        streams.turn(number * IDLE_S / 13)
    assert streams.is_open(client)
    streams.turn(IDLE_S)
    assert not streams.is_open(client)
    assert streams.asked == []


def test_who_asks_again_in_time_stays(streams: Streams) -> None:
    client = streams.connect()
    for number in range(5):
        client.sendall(dns.framed(query(number)))
        streams.turn(number * (IDLE_S - 1))
        streams.asked[-1][2](b"x" * 12)
    assert client.recv(1000) == dns.framed(b"x" * 12) * 5
    assert streams.is_open(client)
    streams.turn(10 * IDLE_S)
    assert not streams.is_open(client)
    assert streams.drops == {}


def test_what_nobody_answers_ends_in_time_and_is_counted(streams: Streams) -> None:
    client = streams.connect()
    client.sendall(dns.framed(query(1)))
    streams.turn()
    streams.turn(IDLE_S)
    assert not streams.is_open(client)
    assert streams.drops == {"timeout": 1}
    streams.asked[0][2](b"x" * 12)  # too late: nobody is told


def test_one_may_end_while_another_is_served() -> None:
    """As when what it has asked is over just then."""
    streams = Streams()
    streams.streams = DnsStreams(streams.end_others, lambda reason, who: None)
    clients = [streams.connect() for _ in range(3)]
    for client in clients:
        client.sendall(dns.framed(query(1)))
    streams.turn()
    assert sorted(streams.is_open(client) for client in clients) == [False, False, True]


@pytest.mark.parametrize("nonsense", [b"\0\0", b"\xff\xff", b"GET / HTTP/1.1\r\n"])
def test_nonsense_ends_a_connection(streams: Streams, nonsense: bytes) -> None:
    client = streams.connect()
    client.sendall(nonsense)
    streams.turn()
    assert not streams.is_open(client)
    assert streams.drops == {"malformed": 1}


def test_of_too_many_the_one_that_was_silent_longest_makes_way(streams: Streams) -> None:
    mine = [streams.connect(A, number) for number in range(EACH_MAX)]
    other = streams.connect(B)
    mine[0].sendall(dns.framed(query(1)))
    streams.turn(EACH_MAX / 2)
    new = streams.connect(A, EACH_MAX / 2)
    assert [streams.is_open(client) for client in (*mine[:3], other, new)] == [True, False, True, True, True]
    assert streams.drops == {"crowded": 1}


def test_there_are_no_more_than_there_may_be(streams: Streams) -> None:
    clients = [streams.connect(bytes([number]), number / 100) for number in range(MOST + 3)]
    assert len(streams.streams.wanted) == MOST
    assert [streams.is_open(client) for client in clients] == [False] * 3 + [True] * MOST
    assert streams.drops == {"crowded": 3}


def test_who_takes_no_answers_asks_no_more_and_is_cut(streams: Streams) -> None:
    client = streams.connect()
    client.sendall(dns.framed(query(0)) * 100)
    streams.turn()
    says = [say for _, _, say in streams.asked]
    while list(streams.streams.wanted.values()) == [select.POLLIN]:
        says.pop()(b"x" * 60_000)
    client.sendall(dns.framed(query(1)))
    streams.turn()
    assert len(streams.asked) == 100, "it is not even read"
    for _ in range(UNSENT_MAX // 60_000 + 1):
        says.pop()(b"x" * 60_000)
    assert streams.drops == {"crowded": 1}
    assert streams.streams.wanted == {}
    says.pop()(b"x" * 12)  # too late


def test_a_connection_that_is_lost_costs_nobody_anything(streams: Streams) -> None:
    client, other = streams.connect(), streams.connect(B)
    client.sendall(dns.framed(query(1)))
    client.close()
    streams.turn()
    for _, _, say in streams.asked:
        say(b"x" * 12)
    streams.turn()
    assert len(streams.streams.wanted) == 1
    assert streams.is_open(other)


@given(st.lists(st.binary(max_size=200) | st.binary(min_size=12, max_size=100).map(dns.framed), max_size=8))
def test_whatever_comes_nothing_raises(pieces: list[bytes]) -> None:
    streams = Streams()
    client = streams.connect()
    for number, piece in enumerate(pieces):
        try:
            client.sendall(piece)
        except ConnectionError:
            break
        streams.turn(float(number))
    assert len(streams.streams.wanted) + streams.drops["malformed"] == 1
    streams.streams.close()
    client.close()
