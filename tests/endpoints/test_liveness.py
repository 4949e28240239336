"""TCP peers that may be dead, and names with several addresses."""

import socket
from typing import Any

import pytest
import trio

from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, until, up
from vswitch import VSwitch
from vswitch.endpoints.stream import liveness


class Connection:
    """Stands for a socket, of which `info` is what TCP says."""

    family = socket.AF_INET
    info = (0, 0, 0)  # retransmits, probes, milliseconds since something was acknowledged

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        retransmits, probes, silent_ms = self.info
        data = bytearray(size)
        data[2:4] = bytes([retransmits, probes])
        data[56:60] = silent_ms.to_bytes(4, "little")
        return bytes(data)


@pytest.mark.parametrize(
    ("before", "after", "dead"),
    [
        ((0, 0, 60_000), (0, 0, 62_000), False),  # nothing is sent to it: keepalive's to find out
        ((3, 0, 9_000), (4, 0, 11_000), True),
        ((0, 3, 9_000), (0, 4, 11_000), True),
        ((3, 0, 7_000), (4, 0, 9_000), False),  # not long enough
        ((0, 0, 90_000), (0, 1, 92_000), False),  # paused, and a probe is just on its way
        ((0, 1, 90_000), (0, 0, 1_000), False),  # and answered
    ],
)
def test_a_peer_is_dead_when_nothing_comes_back_for_long(before: Any, after: Any, dead: bool) -> None:
    connection: Any = Connection()
    pulse = liveness.Pulse()
    connection.info = before
    assert pulse.dead([connection]) == []
    connection.info = after
    assert pulse.dead([connection]) == ([connection] if dead else [])


def test_what_tcp_says_is_read_where_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sock:
        liveness.keep_alive(sock)
        assert liveness._silent_ms(sock) == -1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
        assert liveness.Pulse().dead([sock]) == []


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that has both loopback addresses, ::1 first."""
    found = trio.socket.getaddrinfo

    async def getaddrinfo(host: str, port: int, **options: Any) -> Any:
        hosts = ["::1", "127.0.0.1"] if host == "both.test" else [host]
        return [entry for each in hosts for entry in await found(each, port, **options)]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_name_is_tried_at_each_of_its_addresses(host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("there is no IPv6 here")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        server.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(server))
        async with VSwitch() as switch, await Peer.plugged_into(switch, name="witness") as witness:
            await switch.attach(f"tcp://both.test:{server.getsockname()[1]}?connect&name=lab")
            async with Peer(await listener.accept()) as guest:
                await until(lambda: "lab" in up(switch))
                await guest.send(frame(BROADCAST, mac(1)))
                assert await witness.receive(1) == [frame(BROADCAST, mac(1))]


@pytest.mark.usefixtures("both")
async def test_a_name_is_listened_on_at_each_of_its_addresses() -> None:
    async with VSwitch() as switch:
        lab = await switch.attach("tcp://both.test:0?name=lab")
        port = lab.config.port
        assert port
        hosts = ["127.0.0.1", *(["[::1]"] if has_ipv6() else [])]
        peers = [await Peer.connected_to(f"tcp://{host}:{port}") for host in hosts]
        await until(lambda: len(up(switch)) == len(hosts))
        for peer in peers:
            peer.close()
