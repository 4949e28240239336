"""Stream endpoints under bad input, crowds and shortage, at the switch itself."""

import os
import resource
import socket
from pathlib import Path

import pytest
import trio

from tests.descriptors import descriptors, opened_since
from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, check_balance, until, up
from vswitch import VSwitch
from vswitch.dataplane.frame import FRAME_MAX


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    "garbage",
    [
        (FRAME_MAX + 1).to_bytes(4) + bytes(100),
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\nHost: lan\r\n\r\n",
    ],
    ids=["69633", "4294967295", "http"],
)
async def test_a_peer_that_speaks_something_else_is_closed_and_nobody_else_notices(garbage: bytes) -> None:
    async with VSwitch() as switch:
        lan = await switch.attach("tcp://127.0.0.1:0", name="lan")
        async with (
            await Peer.connected_to(lan.url) as a,
            await Peer.connected_to(lan.url) as b,
            await Peer.connected_to(lan.url) as stranger,
        ):
            await until(lambda: len(up(switch)) == 3)
            await stranger.stream.send_all(garbage)
            assert await stranger.closed()
            await until(lambda: len(up(switch)) == 2)
            await a.send(frame(BROADCAST, mac(1)))
            assert await b.receive(1) == [frame(BROADCAST, mac(1))]
            check_balance(switch)


async def test_runts_of_a_peer_are_counted_and_its_frames_pass() -> None:
    async with VSwitch() as switch:
        lan = await switch.attach("tcp://127.0.0.1:0", name="lan")
        async with await Peer.connected_to(lan.url) as a, await Peer.connected_to(lan.url) as b:
            await until(lambda: len(up(switch)) == 2)
            await a.send(b"", b"x", bytes(13), frame(BROADCAST, mac(1)))
            assert await b.receive(1) == [frame(BROADCAST, mac(1))]
            assert switch.status().totals.drops == {"runt": 3}
            check_balance(switch)


async def test_two_thousand_connections_at_once() -> None:
    """All of them get a broadcast, and when they leave, nothing of them stays."""
    crowd = 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        async with VSwitch() as switch:
            before = descriptors()
            lan = await switch.attach("tcp://127.0.0.1:0", name="lan")
            peers = [await Peer.connected_to(lan.url) for _ in range(crowd)]
            await until(lambda: len(up(switch)) == crowd)
            await peers[0].send(frame(BROADCAST, mac(1)))
            for peer in peers[1:]:
                assert await peer.receive(1) == [frame(BROADCAST, mac(1))]
            assert switch.status().totals.copies == crowd - 2
            check_balance(switch)
            for peer in peers:
                peer.stream.socket.close()
            await until(lambda: not switch.ports())
            await lan.detach()
            assert opened_since(before) == {}
            check_balance(switch)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_hundred_deaf_peers_do_not_eat_the_memory() -> None:
    """Everybody but one never reads, and the talker floods: queues fill, to their bound and to the pool's."""
    deaf = 100
    async with VSwitch() as switch:
        lan = await switch.attach("tcp://127.0.0.1:0", name="lan")
        peers = [await Peer.connected_to(lan.url) for _ in range(deaf)]
        talker, listener = await Peer.connected_to(lan.url), await Peer.connected_to(lan.url)
        for peer in peers:
            peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await until(lambda: len(up(switch)) == deaf + 2)
        before = resident_bytes()
        burst = [frame(BROADCAST, mac(1), 1500)] * 200
        for _ in range(150):
            await talker.send(*burst)
            assert len(await listener.receive(200)) == 200
        assert switch.status().totals.queued_frames > 0
        assert resident_bytes() - before < 700 * 2**20
        check_balance(switch)
        for peer in (*peers, talker, listener):
            peer.stream.socket.close()


async def test_running_out_of_descriptors_pauses_accepting_and_goes_on_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with VSwitch() as switch:
        lan = await switch.attach("tcp://127.0.0.1:0", name="lan")
        waiting = socket.socket()
        waiting.setblocking(False)
        spare = os.open("/dev/null", os.O_RDONLY)
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))  # not one descriptor more
        try:
            with pytest.raises(BlockingIOError):
                waiting.connect(("127.0.0.1", lan.config.port))
            await until(lambda: "accepting pauses" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: len(up(switch)) == 1)
        assert caplog.text.count("accepting pauses") == 1
        waiting.close()


async def test_a_connector_keeps_trying_and_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody listens, then somebody does, goes away, and is there again: one port all the time."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    async with VSwitch() as switch:
        lan = await switch.attach(f"tcp://127.0.0.1:{port}?connect", name="uplink")
        assert [(port.name, port.up) for port in lan.ports] == [("uplink", False)]
        for _ in range(2):
            (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
            async with listener:
                peer = Peer(await listener.accept())
                await until(lambda: up(switch) == {"uplink"})
            peer.stream.socket.close()
            await until(lambda: up(switch) == set())
        assert [port.name for port in switch.ports()] == ["uplink"]
