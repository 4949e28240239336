"""Whose the other end of a loopback connection is, and who is let in: this user and root, nobody else."""

import os
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.frames import BROADCAST, frame, framed, mac
from tests.needs import require
from tests.peers import TIMEOUT_S, Peer, until, up
from vswitch import VSwitch
from vswitch.endpoints.sock_diag import SockDiag

SOCK_DIAG = SockDiag()
NOBODY = 65534
HOSTS = ["127.0.0.1", "::1"]
FAMILIES = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


@pytest.fixture
def several_users() -> None:
    require(os.geteuid() == 0, "only root can act as another user")


@contextmanager
def another_user() -> Iterator[None]:
    """For as long as it takes to make a socket, which belongs to the effective user who makes it.

    Not for longer: another user may not be able to read Python's own modules, some of which it loads late.
    """
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def own_connection(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), TIMEOUT_S)


def others_connection(host: str, port: int) -> socket.socket:
    with another_user():
        sock = socket.socket(FAMILIES[host])
    sock.settimeout(TIMEOUT_S)
    sock.connect((host, port))
    return sock


@contextmanager
def connection(
    host: str, connect: Callable[[str, int], socket.socket] = own_connection
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a loopback connection: the one that connected, the one that was accepted."""
    with socket.create_server((host, 0), family=FAMILIES[host]) as server:
        client = connect(host, server.getsockname()[1])
        accepted, _ = server.accept()
    with client, accepted:
        yield client, accepted


@pytest.mark.parametrize("host", HOSTS)
def test_both_ends_tell_whose_the_other_is(host: str) -> None:
    with connection(host) as (client, accepted):
        assert SOCK_DIAG.peer_uid(accepted) == os.geteuid()
        assert SOCK_DIAG.peer_uid(client) == os.geteuid()
        assert SOCK_DIAG.is_trusted_client(accepted)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.usefixtures("several_users")
def test_another_users_connection_is_known_as_theirs(host: str) -> None:
    with connection(host, others_connection) as (client, accepted):
        assert SOCK_DIAG.peer_uid(accepted) == NOBODY
        assert not SOCK_DIAG.is_trusted_client(accepted)
        assert SOCK_DIAG.peer_uid(client) == 0


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.usefixtures("several_users")
def test_root_may_enter_what_another_user_runs(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with connection(host) as (_, accepted):
        assert SOCK_DIAG.is_trusted_client(accepted)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.usefixtures("several_users")
def test_a_user_may_not_enter_what_a_third_one_runs(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with connection(host, others_connection) as (_, accepted):
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY - 1)
        assert not SOCK_DIAG.is_trusted_client(accepted)
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        assert SOCK_DIAG.is_trusted_client(accepted)


@pytest.mark.parametrize("host", HOSTS)
def test_a_peer_that_has_closed_already_is_nobodys(host: str) -> None:
    with connection(host) as (client, accepted):
        client.close()
        assert SOCK_DIAG.peer_uid(accepted) is None
        assert not SOCK_DIAG.is_trusted_client(accepted)


@pytest.mark.parametrize("host", HOSTS)
def test_a_peer_that_has_closed_leaving_bytes_behind_is_nobodys(host: str) -> None:
    with connection(host) as (client, accepted):
        client.sendall(framed([frame(BROADCAST, mac(1))]))
        client.close()
        assert not SOCK_DIAG.is_trusted_client(accepted)


@pytest.mark.parametrize("host", HOSTS)
def test_a_peer_that_has_hung_up_is_not_let_in(host: str) -> None:
    with connection(host) as (client, accepted):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        try:
            entered = SOCK_DIAG.is_trusted_client(accepted)
        except OSError:  # not connected any more
            entered = False
        assert not entered


@pytest.mark.usefixtures("several_users")
def test_a_socket_that_speaks_both_ip_versions_is_looked_up_as_the_one_it_uses() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        for host in HOSTS:
            with socket.create_connection((host, port), TIMEOUT_S):
                accepted, _ = server.accept()
                with accepted:
                    assert SOCK_DIAG.peer_uid(accepted) == os.geteuid()
            with others_connection(host, port):
                accepted, _ = server.accept()
                with accepted:
                    assert SOCK_DIAG.peer_uid(accepted) == NOBODY


def test_a_client_that_speaks_both_ip_versions_is_found_as_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        client.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        accepted, _ = server.accept()
        with accepted:
            assert SOCK_DIAG.peer_uid(accepted) == os.geteuid()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest.mark.usefixtures("several_users")
async def test_a_loopback_listener_turns_another_user_away(host: str) -> None:
    async with VSwitch() as switch:
        lab = await switch.attach(f"tcp://{host}:0", name="lab")
        sock = others_connection(host.strip("[]"), lab.config.port)
        async with Peer.at(sock) as stranger:
            assert await stranger.closed()
        assert switch.ports() == []
        async with await Peer.connected_to(lab.url):  # it goes on letting this user in
            await until(lambda: up(switch) == {"lab.1"})


@pytest.mark.usefixtures("several_users")
async def test_the_port_of_a_single_listener_stays_free_for_its_own_user() -> None:
    async with VSwitch() as switch:
        lab = await switch.attach("tcp://127.0.0.1:0", name="lab", single=True)
        sock = others_connection("127.0.0.1", lab.config.port)
        async with Peer.at(sock) as stranger:
            assert await stranger.closed()
            async with await Peer.connected_to(lab.url):
                await until(lambda: up(switch) == {"lab"})


@pytest.mark.usefixtures("several_users")
async def test_an_inherited_listening_socket_turns_another_user_away() -> None:
    async with VSwitch() as switch:
        server = socket.create_server(("127.0.0.1", 0))
        port = server.getsockname()[1]
        await switch.attach(server, name="lab")
        sock = others_connection("127.0.0.1", port)
        async with Peer.at(sock) as stranger:
            assert await stranger.closed()
        assert switch.ports() == []


@pytest.mark.usefixtures("several_users")
async def test_an_ipv4_loopback_address_written_as_ipv6_is_loopback() -> None:
    async with VSwitch() as switch:
        server = socket.socket(socket.AF_INET6)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::ffff:127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        await switch.attach(server, name="lab")
        async with Peer.at(others_connection("127.0.0.1", port)) as stranger:
            async with await Peer.connected_to(f"tcp://127.0.0.1:{port}"):  # accepted after the stranger
                await until(lambda: up(switch))
            assert len(switch.ports()) <= 1
            assert await stranger.closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest.mark.usefixtures("several_users")
async def test_any_user_lets_another_user_in(host: str) -> None:
    async with VSwitch() as switch:
        lab = await switch.attach(f"tcp://{host}:0?any_user=yes", name="lab")
        sock = others_connection(host.strip("[]"), lab.config.port)
        async with (
            Peer.at(sock) as other,
            await Peer.connected_to(lab.url) as own,
        ):
            await until(lambda: up(switch) == {"lab.1", "lab.2"})
            await other.send(frame(BROADCAST, mac(1)))
            assert await own.receive(1) == [frame(BROADCAST, mac(1))]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.usefixtures("several_users")
async def test_frames_of_a_peer_that_has_closed_before_the_look_go_nowhere(host: str) -> None:
    async with VSwitch() as switch:
        own = await Peer.plugged_into(switch, name="own")
        server = socket.create_server((host, 0), family=FAMILIES[host])
        port = server.getsockname()[1]
        with others_connection(host, port) as stranger:  # in the backlog before anybody accepts
            stranger.sendall(framed([frame(BROADCAST, mac(13))]))
        await switch.attach(server, name="lab")
        async with own, await Peer.connected_to(f"tcp://{host}:{port}") as friend:
            await friend.send(frame(BROADCAST, mac(1)))  # accepted after the stranger
            assert await own.receive(1) == [frame(BROADCAST, mac(1))]
            assert [station.mac for station in await switch.macs()] == ["52:54:00:00:00:01"]


@pytest.mark.usefixtures("several_users")
async def test_another_user_cannot_open_a_unix_endpoint() -> None:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        os.chmod(directory, 0o777)  # so that it is the socket itself that keeps them out
        path = f"{directory}/lan.sock"
        async with VSwitch() as switch:
            lab = await switch.attach(f"unix://{path}")
            with socket.socket(socket.AF_UNIX) as stranger, another_user(), pytest.raises(PermissionError):
                stranger.connect(path)
            async with await Peer.connected_to(lab.url):
                await until(lambda: up(switch) == {"unix1.1"})


@pytest.mark.parametrize("host", HOSTS)
def test_a_listener_that_has_not_accepted_yet_is_whose_it_is(host: str) -> None:
    with (
        socket.create_server((host, 0), family=FAMILIES[host]) as server,
        own_connection(host, server.getsockname()[1]) as client,
    ):
        assert SOCK_DIAG.peer_uid(client) is None
        assert SOCK_DIAG.is_trusted_server(client)


@pytest.mark.parametrize("host", HOSTS)
def test_a_listener_is_no_answer_to_who_has_a_connection(host: str) -> None:
    """The kernel falls back to the listener when a connection is gone."""
    with socket.create_server((host, 0), family=FAMILIES[host]) as server:
        client = own_connection(host, server.getsockname()[1])
        accepted, _ = server.accept()
        with client, accepted:
            family, ends = client.family, (accepted.getsockname()[:2], (host, 1))
            assert SOCK_DIAG._look_up(family, *ends) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest.mark.parametrize("any_user", [False, True])
@pytest.mark.usefixtures("several_users")
async def test_we_do_not_plug_into_what_another_user_runs(host: str, any_user: bool) -> None:
    with another_user():
        server = socket.socket(FAMILIES[host.strip("[]")])
    with server:
        server.bind((host.strip("[]"), 0))
        server.listen()
        async with VSwitch() as switch:
            url = f"tcp://{host}:{server.getsockname()[1]}?connect"
            await switch.attach(url, name="uplink", any_user=any_user)
            assert up(switch) == ({"uplink"} if any_user else set())
