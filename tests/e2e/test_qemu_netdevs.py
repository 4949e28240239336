"""Every kind of QEMU netdev that can plug into a stream endpoint, each way round, by the lines we print."""

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.e2e.rig import require_qemu, rig
from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, check_balance, until, up
from vswitch import VSwitch
from vswitch.dataplane.frame import FRAME_MAX
from vswitch.endpoints.guests import qemu
from vswitch.endpoints.url import parse

SIZES = [14, 15, 59, 60, 61, 64, 1500, 1514, 1518, 4096, 9014, 16384, 65535, 65536, FRAME_MAX - 1, FRAME_MAX]
QEMU_VERSION = (7, 2)


@pytest.fixture(autouse=True, scope="module")
def machine_that_has_qemu() -> None:
    require_qemu()


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@dataclass
class Line:
    """How the two sides meet: our URL, and which of QEMU's netdevs."""

    url: str
    netdev: str


LINES = {
    "socket-connect": Line("tcp://127.0.0.1:0", "socket"),
    "stream-inet": Line("tcp://127.0.0.1:0", "stream"),
    "stream-inet6": Line("tcp://[::1]:0", "stream"),
    "stream-unix": Line("unix://{directory}/lan.sock", "stream"),
    "socket-listen": Line("tcp://127.0.0.1:{port}?connect", "socket"),
    "stream-inet-server": Line("tcp://127.0.0.1:{port}?connect", "stream"),
    "stream-inet6-server": Line("tcp://[::1]:{port6}?connect", "stream"),
    "stream-unix-server": Line("unix://{directory}/guest.sock?connect", "stream"),
    "socket-fd": Line("fd://{fd}", "socket,fd={peer_fd}"),
    "stream-fd": Line("fd://{fd}", "stream,addr.type=fd,addr.str={peer_fd}"),
}


@pytest.mark.parametrize("name", LINES)
async def test_frames_of_all_sizes_pass_unharmed_both_ways(name: str, directory: Path) -> None:
    line = LINES[name]
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        near, far = (stack.enter_context(end) for end in socket.socketpair())
        url = line.url.format(
            directory=directory, port=free_port("127.0.0.1"), port6=free_port("::1"), fd=ours.fileno()
        )
        async with VSwitch() as switch:
            guest = await switch.attach(url, name="guest")
            if guest.config.scheme == "fd":
                ours.detach()
                netdev = line.netdev.format(peer_fd=theirs.fileno())
            elif line.netdev == "socket":
                netdev = qemu.socket_netdev(guest.config) or ""
            else:
                netdev = qemu.stream_netdev(guest.config, QEMU_VERSION) or ""
            fds = [theirs.fileno(), far.fileno()]
            async with (
                rig(netdev.replace("id=net0,", ""), f"socket,fd={far.fileno()}", pass_fds=fds),
                Peer.at(near) as behind_qemu,
                await Peer.plugged_into(switch) as station,
            ):
                await until(lambda: len(up(switch)) == 2)
                greetings = await first_contact(behind_qemu, station)
                for size in SIZES:
                    # One at a time: QEMU's hub mixes frames up once a backend of it has taken part of one.
                    outward = frame(BROADCAST, mac(1), size, payload=size.to_bytes(4))[:size]
                    await behind_qemu.send(outward)
                    assert await station.receive(1) == [outward]
                    inward = frame(mac(1), mac(2), size, payload=size.to_bytes(4))[:size]
                    await station.send(inward)
                    assert await behind_qemu.receive(1) == [inward]
                (port,) = guest.ports
                assert (port.rx_frames, port.tx_frames) == (len(SIZES) + greetings, len(SIZES))
                assert (port.rx_bytes, port.tx_bytes) == (sum(SIZES) + 60 * greetings, sum(SIZES))
                check_balance(switch)


async def first_contact(behind_qemu: Peer, station: Peer) -> int:
    """Sends a frame until one comes out, and returns how many came out.

    QEMU takes up a connection when its main loop gets to it, later than our side calls the port up, and drops
    what comes before.
    """
    came = 0
    for attempt in range(100):
        hello = frame(BROADCAST, mac(1), payload=attempt.to_bytes(4))
        await behind_qemu.send(hello)
        with trio.move_on_after(0.2):
            while True:
                (received,) = await station.receive(1)
                came += 1
                if received == hello:
                    return came
    raise AssertionError("no frame came through")


@pytest.mark.parametrize("netdev", ["socket,listen=127.0.0.1:{port}", "stream,server=on,{address}"])
async def test_we_come_back_to_a_qemu_that_was_restarted(netdev: str) -> None:
    port = free_port("127.0.0.1")
    address = f"addr.type=inet,addr.host=127.0.0.1,addr.port={port}"
    netdev = netdev.format(port=port, address=address)
    async with VSwitch() as switch:
        await switch.attach(f"tcp://127.0.0.1:{port}?connect", name="guest")
        async with await Peer.plugged_into(switch) as station:
            for _ in range(2):
                near, far = socket.socketpair()
                with near, far:
                    async with (
                        rig(netdev, f"socket,fd={far.fileno()}", pass_fds=[far.fileno()]),
                        Peer.at(near) as behind_qemu,
                    ):
                        await until(lambda: "guest" in up(switch))
                        await first_contact(behind_qemu, station)
                await until(lambda: "guest" not in up(switch))


def test_the_lines_that_are_printed_suit_each_version() -> None:
    listening, connecting = parse("tcp://127.0.0.1:1"), parse("unix:///a,b?connect")
    inet = "addr.type=inet,addr.host=127.0.0.1,addr.port=1"
    assert qemu.stream_netdev(listening, (7, 1)) is None
    assert qemu.stream_netdev(listening, (7, 2)) == f"stream,id=net0,server=off,{inet}"
    assert qemu.stream_netdev(listening, (8, 0)) == f"stream,id=net0,server=off,reconnect=1,{inet}"
    assert qemu.stream_netdev(listening, (9, 1)) == f"stream,id=net0,server=off,reconnect=1,{inet}"
    assert qemu.stream_netdev(listening, (9, 2)) == f"stream,id=net0,server=off,reconnect-ms=1000,{inet}"
    assert qemu.stream_netdev(connecting, (10, 2)) == "stream,id=net0,server=on,addr.type=unix,addr.path=/a,,b"
