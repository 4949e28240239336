"""Whose a loopback peer is where the kernel has no sock_diag: /proc/net says it too, or a person is told what to do."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, until, up
from vswitch import RefusedError, VSwitch
from vswitch.endpoints.sock_diag import SockDiag


class NoNetlink(socket.socket):
    def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
        if family == socket.AF_NETLINK:
            raise OSError(93, "Protocol not supported")
        super().__init__(family, *args, **options)


@pytest.fixture
def no_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", NoNetlink)


@pytest.fixture
def table(no_netlink: None) -> Iterator[SockDiag]:
    with SockDiag() as found:
        assert found._netlink is None
        yield found


LISTENERS = {
    "IPv4": (socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1"),
    "IPv6": (socket.AF_INET6, "::1", socket.AF_INET6, "::1"),
    "any IPv4": (socket.AF_INET, "0.0.0.0", socket.AF_INET, "127.0.0.1"),
    "IPv4 to both": (socket.AF_INET6, "::", socket.AF_INET, "127.0.0.1"),
}


@pytest.mark.parametrize("kind", LISTENERS)
def test_a_connections_other_end_is_found_in_the_table(table: SockDiag, kind: str) -> None:
    family, here, client_family, there = LISTENERS[kind]
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((here, 0), family=family, dualstack_ipv6=here == "::"))
        client = stack.enter_context(socket.socket(client_family))
        client.connect((there, server.getsockname()[1]))
        assert table.is_trusted_server(client)  # which has not accepted yet
        accepted, _ = server.accept()
        stack.enter_context(accepted)
        assert table.peer_uid(accepted) == os.geteuid()
        assert table.is_trusted_client(accepted)
        assert table.is_trusted_server(client)
        client.close()
        assert not table.is_trusted_client(accepted)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_datagrams_sender_is_found_in_the_table(table: SockDiag, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as here, socket.socket(family, socket.SOCK_DGRAM) as there:
        here.bind((host, 0))
        there.bind((host, 0))
        ends = (host, there.getsockname()[1]), (host, here.getsockname()[1])
        assert table.sender_uid(*ends) == os.geteuid()
        there.connect(here.getsockname())
        assert table.is_trusted_sender(*ends)
        there.close()
        assert table.sender_uid(*ends) is None


@pytest.mark.usefixtures("no_netlink")
@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "tcp://[::1]:0"])
async def test_this_users_guests_come_in_all_the_same(url: str) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="witness") as witness:
        lab = await switch.attach(url, name="lab")
        async with await Peer.connected_to(lab.url) as guest:
            await until(lambda: "lab.1" in up(switch))
            await guest.send(frame(BROADCAST, mac(1)))
            assert await witness.receive(1) == [frame(BROADCAST, mac(1))]


@pytest.mark.usefixtures("no_netlink")
@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"])
async def test_where_nothing_can_tell_it_is_said_what_to_do(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    async with VSwitch() as switch:
        with pytest.raises(RefusedError, match=r"any_user=yes, or use a unix:// socket") as caught:
            await switch.attach(url)
        assert "Errno" not in str(caught.value)
        await switch.attach(url, any_user=True)


def test_a_kernel_that_finds_nothing_is_not_believed_at_once() -> None:
    """Without tcp_diag it answers that there is no such connection."""
    with (
        SockDiag() as sock_diag,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        sock_diag._ask_kernel = lambda *_: None  # type: ignore[method-assign]
        accepted, _ = server.accept()
        with accepted:
            assert sock_diag.is_trusted_client(accepted)
