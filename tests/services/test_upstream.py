"""Queries that go to this machine's name servers, and which servers these are."""

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.namespaces import own_network
from tests.services.dns_server import TC, DnsServer, dns_server
from vswitch.protocols import dns
from vswitch.services.user_network import upstream
from vswitch.services.user_network.resolv_conf import Server, servers
from vswitch.services.user_network.upstream import STREAMS_MAX, TIMEOUT_S, Upstream

A = b"a"
QUERY = b"\0\7\1\0\0\1" + bytes(6) + b"\3com\0\0\1\0\1"
RESPONSE = b"\0\7\x80\0\0\1" + bytes(6) + b"\3com\0\0\1\0\1"


class Asking:
    def __init__(self, resolv_conf: str = "nameserver 127.0.0.1") -> None:
        self.upstream = Upstream(resolv_conf)
        self.answers: list[bytes] = []

    def ask(self, now_s: float = 0.0, *, by_tcp: bool = True) -> bool:
        return self.upstream.ask(QUERY, A, self.answers.append, now_s, by_tcp=by_tcp)

    def turn(self) -> None:
        """Waits until something has come, and takes it in."""
        poll = select.poll()
        for fileno, events in self.upstream.wanted.items():
            poll.register(fileno, events)
        ready = dict(poll.poll(20_000))
        assert ready
        self.upstream.serve(ready)

    def answer(self) -> bytes:
        while not self.answers:
            self.turn()
        return self.answers.pop()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DnsServer]:
    with dns_server() as server:
        monkeypatch.setattr(upstream, "PORT", server.port)
        yield server


@pytest.fixture
def asking(server: DnsServer) -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.upstream.close()


def test_what_is_truncated_is_asked_again_by_tcp_for_who_came_by_tcp(server: DnsServer, asking: Asking) -> None:
    assert asking.ask()
    by_udp = server.answer(TC)
    asking.turn()
    assert asking.answers == []
    assert server.answer_by_tcp(b"x" * 40_000) == by_udp
    assert asking.answer() == RESPONSE + b"x" * 40_000
    assert len(asking.upstream.wanted) == 1, "nothing is left of the connection"


def test_who_came_by_udp_is_told_that_it_is_truncated(server: DnsServer, asking: Asking) -> None:
    assert asking.ask(by_tcp=False)
    server.answer(TC)
    assert asking.answer() == RESPONSE[:2] + b"\x82" + RESPONSE[3:]


def test_what_is_whole_by_udp_is_not_asked_again(server: DnsServer, asking: Asking) -> None:
    assert asking.ask()
    server.answer(0, b"x")
    assert asking.answer() == RESPONSE + b"x"


@pytest.mark.parametrize("said", [b"", b"\0", b"\0\1x", dns.framed(b"other id" * 3)], ids=["end", "cut", "short", "id"])
def test_a_server_that_says_nonsense_by_tcp_fails_in_the_answer(server: DnsServer, asking: Asking, said: bytes) -> None:
    assert asking.ask()
    server.answer(TC)
    asking.turn()
    with server.accept() as connection:
        assert connection.recv(5000)[4:] == QUERY[2:]
        connection.sendall(said)
    assert asking.answer() == dns.failure(QUERY, dns.SERVFAIL)


def test_a_server_without_tcp_fails_in_the_answer(server: DnsServer, asking: Asking) -> None:
    server.tcp.close()
    assert asking.ask()
    server.answer(TC)
    assert asking.answer() == dns.failure(QUERY, dns.SERVFAIL)


@pytest.mark.parametrize("is_connected", [False, True])
def test_a_server_that_is_silent_fails_in_time(server: DnsServer, asking: Asking, is_connected: bool) -> None:
    assert asking.ask()
    if is_connected:
        server.answer(TC)
        asking.turn()
    asking.upstream.expire(TIMEOUT_S - 0.1)
    assert asking.answers == []
    asking.upstream.expire(TIMEOUT_S)
    assert asking.answers == [dns.failure(QUERY, dns.SERVFAIL)]
    assert len(asking.upstream.wanted) == 1


def test_there_are_no_more_connections_than_there_may_be(
    server: DnsServer, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(STREAMS_MAX + 1):
        assert asking.upstream.ask(QUERY, bytes([number]), asking.answers.append, 0.0, by_tcp=True)
        server.answer(TC)
        asking.turn()
    assert asking.answers == [dns.failure(QUERY, dns.SERVFAIL)]
    assert len(asking.upstream.wanted) == STREAMS_MAX + 1
    monkeypatch.setattr(upstream, "PENDING_MAX", STREAMS_MAX)
    assert not asking.ask()


def test_which_servers_there_are() -> None:
    text = "# x\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nnameserver nonsense\nsearch lan\nnameserver ::1\n"
    assert servers(text) == [
        Server(IPv4Address("10.0.0.53")),
        Server(IPv6Address("fe80::1"), "eth0"),
        Server(IPv6Address("::1")),
    ]
    assert servers("nameserver 1.1.1.1\n" * 9) == [Server(IPv4Address("1.1.1.1"))] * 3
    assert servers("") == [Server(IPv4Address("127.0.0.1"))]
    assert servers("nameserver ::1%lo\nnameserver ::ffff:1.1.1.1") == [
        Server(IPv6Address("::1")),
        Server(IPv4Address("1.1.1.1")),
    ]


@pytest.mark.parametrize(
    "server",
    [
        *("fe80::1", "fe80::1%", "fe80::1%0", "fe80::1%99999999999", "fe80::1%a/b", "fe80::1%\x1b[31m"),
        *("fe80::1%" + "x" * 16, "1.1.1.1%eth0", "%eth0", "ff02::fb%eth0", "224.0.0.251", "1.1.1"),
    ],
)
def test_what_names_no_server_is_ignored(server: str) -> None:
    assert servers(f"nameserver {server}\nnameserver ::1") == [Server(IPv6Address("::1"))]


@given(st.text(), st.text(st.sampled_from("fe80:%123 \n/.")))
def test_whatever_is_named_nothing_raises(text: str, address: str) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        for server in servers(f"nameserver {address}{text}\n{text}"):
            try:
                server.address(sock, 53)
            except OSError:
                continue


def test_an_interface_that_is_not_there_keeps_nobody_from_being_asked(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking("nameserver fe80::1%nothing0\nnameserver 127.0.0.1")
    assert asking.ask()
    server.answer(0)
    assert asking.answer() == RESPONSE
    asking.upstream.close()


SCOPED = """
import socket
from tests.services.dns_server import TC, dns_server
from tests.services.test_upstream import RESPONSE, Asking
from vswitch.services.user_network import sandbox, upstream
with dns_server(socket.AF_INET6, ("fe80::53", 0, 0, 1)) as server:
    upstream.PORT = server.port
    sandbox.enter()
    for scope in ("lo", "1"):
        asking = Asking(f"nameserver fe80::53%{scope}")
        assert asking.ask()
        server.answer(TC)
        asking.turn()
        server.answer_by_tcp(b"x")
        assert asking.answer() == RESPONSE + b"x"
print("asked")
"""


def test_a_link_local_server_is_asked_at_its_interface_though_the_process_is_confined() -> None:
    with own_network():
        subprocess.run(["ip", "address", "add", "fe80::53/64", "dev", "lo", "nodad"], check=True, timeout=20)
        done = subprocess.run([sys.executable, "-c", SCOPED], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("asked\n", "")
