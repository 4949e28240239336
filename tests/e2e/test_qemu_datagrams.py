"""Every kind of QEMU netdev that sends frames as datagrams, by the lines we print, against each endpoint it meets.

QEMU drops what comes before its main loop runs, and its hub mixes frames up once a backend of it has taken part of
one: so each test greets until something comes through, and then sends frames one at a time.
"""

import random
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.e2e.rig import require_qemu, rig
from tests.e2e.test_qemu_netdevs import first_contact
from tests.frames import BROADCAST, frame, mac
from tests.peers import TIMEOUT_S, Peer, check_balance, up
from vswitch import VSwitch
from vswitch.dataplane.frame import FRAME_MAX
from vswitch.endpoints.guests import qemu
from vswitch.endpoints.url import EndpointConfig
from vswitch.switch import Attachment

UDP_MAX = 65507
SIZES = [14, 15, 59, 60, 61, 64, 1500, 1514, 1518, 1522, 4096, 9014, 9018, 16384, 65506, UDP_MAX]
SIZES_UNIX = [*SIZES, 65535, 65536, FRAME_MAX - 1, FRAME_MAX]
TAGGED_SIZES = [18, 64, 1518, 1522, 9018]
TAG = 0xB005  # priority 5, drop eligible, VLAN 5
QEMU_VERSION = (7, 2)
GUEST = qemu.named_guest("guest")


@pytest.fixture(autouse=True, scope="module")
def machine_that_has_qemu() -> None:
    require_qemu()


def free_port() -> int:
    """A UDP port that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_group() -> str:
    """A multicast group that nobody else is in."""
    return f"239.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(1, 255)}:{free_port()}"


@dataclass
class Line:
    """How the two sides meet: our URL, which of QEMU's netdevs, with more arguments of that one, and at which port."""

    url: str
    netdev: str
    port: str
    more: str = ""


LINES = {
    "mcast-socket": Line("mcast://{group}", "socket", "guest"),
    "mcast-dgram": Line("mcast://{group}", "dgram", "guest"),
    "udp-socket": Line("udp://127.0.0.1:0", "socket", "guest.1"),
    "udp-dgram": Line("udp://127.0.0.1:0", "dgram", "guest.1"),
    "udp-remote-socket": Line("udp://127.0.0.1:0?remote=127.0.0.1:{port}", "socket", "guest"),
    "udp-remote-dgram": Line("udp://127.0.0.1:0?remote=127.0.0.1:{port}", "dgram", "guest"),
    "unixgram": Line("unixgram://{directory}/lan.sock", "dgram", "guest.1"),
    "unixgram-remote": Line("unixgram://{directory}/lan.sock?remote={directory}/guest.sock", "dgram", "guest"),
    "vde": Line("vde://{directory}/lan.vde", "vde", "guest.1"),
    "vde-port": Line("vde://{directory}/lan.vde", "vde", "guest.7", ",port=7"),
}


def netdev_for(line: Line, config: EndpointConfig) -> str:
    """What to write on QEMU's side, as `rig` takes it."""
    found = [netdev.text for netdev in qemu.netdevs(config, QEMU_VERSION, GUEST)]
    (text,) = (text for text in found if text.startswith(f"{line.netdev},"))
    return text.replace("id=net0,", "") + line.more


def url_for(line: Line, directory: Path) -> str:
    return line.url.format(directory=directory, group=free_group(), port=free_port())


async def receive_from_afar(behind_qemu: Peer) -> bytes:
    """The next frame that does not come from the station itself: QEMU's members of a group hear what they send."""
    while True:
        (received,) = await behind_qemu.receive(1)
        if received[6:12] != mac(1).to_bytes(6):
            return received


async def send_and_hear(behind_qemu: Peer, sent: bytes, echoes: bool) -> None:
    """Sends a frame; where QEMU hears itself, waits for that, which its hub would mix with the next one."""
    await behind_qemu.send(sent)
    while echoes and await behind_qemu.receive(1) != [sent]:
        pass


async def check_all_sizes_pass(behind_qemu: Peer, station: Peer, frame_max: int, echoes: bool = False) -> list[int]:
    """Frames of all sizes, tagged ones too, pass unharmed both ways; answers their sizes."""
    plain = [(size, None) for size in SIZES_UNIX if size <= frame_max]
    tagged = [(size, TAG) for size in (*TAGGED_SIZES, frame_max)]
    for size, tag in [*plain, *tagged]:
        outward = frame(BROADCAST, mac(1), size, tag=tag, payload=size.to_bytes(4))[:size]
        await send_and_hear(behind_qemu, outward, echoes)
        assert await station.receive(1) == [outward]
        inward = frame(mac(1), mac(2), size, tag=tag, payload=size.to_bytes(4))[:size]
        await station.send(inward)
        assert await receive_from_afar(behind_qemu) == inward
    return [size for size, _ in [*plain, *tagged]]


async def check_guest(
    switch: VSwitch,
    guest: Attachment,
    netdev: str,
    port_name: str,
    frame_max: int,
    pass_fds: Sequence[int] = (),
    echoes: bool = False,
) -> None:
    """A QEMU that plugs in by `netdev` gets and sends frames of all sizes, and the port's counters say so."""
    near, far = socket.socketpair()
    with near, far:
        async with (
            rig(netdev, f"socket,fd={far.fileno()}", pass_fds=[*pass_fds, far.fileno()]),
            Peer.at(near) as behind_qemu,
            await Peer.plugged_into(switch, name="station") as station,
        ):
            greetings = await first_contact(behind_qemu, station)
            sizes = await check_all_sizes_pass(behind_qemu, station, frame_max, echoes)
            (port,) = guest.ports
            assert port.name == port_name
            assert (port.rx_frames, port.rx_bytes) == (len(sizes) + greetings, sum(sizes) + 60 * greetings)
            assert (port.tx_frames, port.tx_bytes, port.drops) == (len(sizes), sum(sizes), {})
            if frame_max < FRAME_MAX:
                await station.send(frame(mac(1), mac(2), frame_max + 1), frame(mac(1), mac(2), 60))
                assert await receive_from_afar(behind_qemu) == frame(mac(1), mac(2), 60)
                (port,) = guest.ports
                assert (port.tx_frames, port.drops) == (len(sizes) + 1, {"too_long": 1})
            check_balance(switch)


@pytest.mark.parametrize("name", LINES)
async def test_frames_of_all_sizes_pass_unharmed_both_ways(name: str, directory: Path) -> None:
    line = LINES[name]
    frame_max = UDP_MAX if name.startswith(("mcast", "udp")) else FRAME_MAX
    async with VSwitch() as switch:
        guest = await switch.attach(url_for(line, directory), name="guest")
        netdev = netdev_for(line, guest.config)
        await check_guest(switch, guest, netdev, line.port, frame_max, echoes=name.startswith("mcast"))


@pytest.mark.parametrize("netdev", ["socket,fd={fd}", "dgram,local.type=fd,local.str={fd}"])
async def test_a_datagram_socket_pair_joins_qemu_and_a_descriptor(netdev: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with theirs:
        async with VSwitch() as switch:
            guest = await switch.attach(f"fd://{ours.detach()}", name="guest")
            fd = theirs.fileno()
            await check_guest(switch, guest, netdev.format(fd=fd), "guest", FRAME_MAX, [fd])


@pytest.mark.parametrize("netdev", ["socket,udp={there},localaddr=127.0.0.1:0", "dgram,{local},{remote}"])
async def test_a_bound_udp_socket_takes_the_guests_that_send_to_it(netdev: str) -> None:
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(("127.0.0.1", 0))
    host, port = ours.getsockname()
    local = "local.type=inet,local.host=127.0.0.1,local.port=0"
    remote = f"remote.type=inet,remote.host={host},remote.port={port}"
    async with VSwitch() as switch:
        guest = await switch.attach(ours, name="guest")
        netdev = netdev.format(there=f"{host}:{port}", local=local, remote=remote)
        await check_guest(switch, guest, netdev, "guest.1", UDP_MAX)


async def test_a_bound_unix_socket_takes_the_guests_that_send_to_it(directory: Path) -> None:
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.bind(str(directory / "lan.sock"))
    local, remote = f"local.type=unix,local.path={directory}/g", f"remote.type=unix,remote.path={directory}/lan.sock"
    async with VSwitch() as switch:
        guest = await switch.attach(ours, name="guest")
        await check_guest(switch, guest, f"dgram,{local},{remote}", "guest.1", FRAME_MAX)


async def test_two_switches_meet_over_ipv6() -> None:
    """QEMU has no datagrams over IPv6: another switch is what can plug in there. One end listens, or both know."""
    async with VSwitch("here") as here, VSwitch("there") as there:
        listening = await here.attach("udp://[::1]:0", name="guest")
        await there.attach(f"udp://[::1]:0?remote=[::1]:{listening.config.port}", name="switch")
        async with await Peer.plugged_into(here) as station, await Peer.plugged_into(there) as far:
            await first_contact(far, station)
            await check_all_sizes_pass(far, station, UDP_MAX)
        assert [port.name for port in listening.ports] == ["guest.1"]
        check_balance(here)
        check_balance(there)


@pytest.mark.parametrize("name", [name for name in LINES if name != "vde-port"])
async def test_a_qemu_that_is_restarted_on_the_same_addresses_comes_back(name: str, directory: Path) -> None:
    """Where we know its address beforehand, it need not say anything first."""
    line = LINES[name]
    speaks_first = name in ("udp-socket", "udp-dgram", "unixgram")
    async with VSwitch() as switch:
        guest = await switch.attach(url_for(line, directory), name="guest")
        netdev = netdev_for(line, guest.config).replace("local.port=0", f"local.port={free_port()}")
        netdev = netdev.replace("localaddr=127.0.0.1:0", f"localaddr=127.0.0.1:{free_port()}")
        async with await Peer.plugged_into(switch, name="station") as station:
            for run in range(3):
                near, far = socket.socketpair()
                with near, far:
                    async with (
                        rig(netdev, f"socket,fd={far.fileno()}", pass_fds=[far.fileno()]),
                        Peer.at(near) as behind_qemu,
                    ):
                        if speaks_first:
                            await first_contact(behind_qemu, station)
                            await station.send(frame(mac(1), mac(2), payload=bytes([run])))
                            assert await receive_from_afar(behind_qemu) == frame(mac(1), mac(2), payload=bytes([run]))
                        else:
                            await until_heard(station, behind_qemu, run)
                            await first_contact(behind_qemu, station)
                        assert len(up(switch)) == 2
                # What comes while nobody is there harms nothing.
                await station.send(frame(BROADCAST, mac(2)), frame(mac(1), mac(2)))
        check_balance(switch)


async def until_heard(station: Peer, behind_qemu: Peer, run: int) -> None:
    """Sends a frame to a guest that has said nothing yet, until one comes through."""
    for attempt in range(100):
        hello = frame(BROADCAST, mac(2), payload=bytes([run, attempt]))
        await station.send(hello)
        with trio.move_on_after(0.2):
            while await receive_from_afar(behind_qemu) != hello:
                pass
            return
    raise AssertionError("no frame came through")


async def test_in_a_multicast_group_every_frame_comes_once() -> None:
    """Two QEMUs, another program and our port are one group: what one sends, the others get, once, and nobody gets
    back from us what it has sent. A program that listens sees each frame once."""
    group = free_group()
    host, _, port = group.partition(":")
    near_a, far_a = socket.socketpair()
    near_b, far_b = socket.socketpair()
    with ExitStack() as stack:
        for sock in (near_a, far_a, near_b, far_b):
            stack.enter_context(sock)
        heard = stack.enter_context(trio.socket.from_stdlib_socket(member(host, int(port))))
        async with VSwitch() as switch:
            lan = await switch.attach(f"mcast://{group}", name="lan")
            netdevs = [netdev_for(LINES[f"mcast-{kind}"], lan.config) for kind in ("socket", "dgram")]
            async with (
                rig(netdevs[0], f"socket,fd={far_a.fileno()}", pass_fds=[far_a.fileno()]),
                rig(netdevs[1], f"socket,fd={far_b.fileno()}", pass_fds=[far_b.fileno()]),
                Peer.at(near_a) as a,
                Peer.at(near_b) as b,
                await Peer.plugged_into(switch) as station,
                await Peer.plugged_into(switch) as other,
            ):
                await until_heard(station, a, 0)
                await until_heard(station, b, 0)
                # QEMU hears itself, by the group.
                for peer, number, listeners in (
                    (a, 11, (a, b, station, other)),
                    (b, 12, (a, b, station, other)),
                    (other, 13, (a, b, station)),
                ):
                    await peer.send(frame(BROADCAST, mac(number), payload=b"all"))
                    for listener in listeners:
                        assert await next_new(listener) == frame(BROADCAST, mac(number), payload=b"all")
                # To a station that is known: the group has carried it already, the switch need not.
                await a.send(frame(mac(12), mac(11), payload=b"one"))
                for listener in (a, b):
                    assert await next_new(listener) == frame(mac(12), mac(11), payload=b"one")
                # Whatever was reflected or repeated would be before this one.
                last = frame(BROADCAST, mac(13), payload=b"last")
                await other.send(last)
                for listener in (a, b, station):
                    assert await next_new(listener) == last
                on_the_wire = []
                with trio.fail_after(TIMEOUT_S):
                    while last not in on_the_wire:
                        on_the_wire.append(await heard.recv(65536))
                sent = [frame(BROADCAST, mac(number), payload=b"all") for number in (11, 12, 13)]
                sent += [frame(mac(12), mac(11), payload=b"one"), last]
                assert [frame for frame in on_the_wire if not is_greeting(frame)] == sent
                (port_info,) = lan.ports
                assert (port_info.rx_frames, port_info.up) == (3, True)
                macs = {entry.mac: entry.port for entry in await switch.macs()}
                assert macs["52:54:00:00:00:0b"] == macs["52:54:00:00:00:0c"] == "lan"
                check_balance(switch)


def member(host: str, port: int) -> socket.socket:
    """A member of a group, which gets what is sent to it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    membership = socket.inet_aton(host) + socket.inet_aton("127.0.0.1")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    return sock


def is_greeting(frame: bytes) -> bool:
    return frame[6:12] == mac(2).to_bytes(6)


async def next_new(peer: Peer) -> bytes:
    """The next frame that is no greeting."""
    while True:
        (received,) = await peer.receive(1)
        if not is_greeting(received):
            return received


@pytest.mark.parametrize("name", ["udp-socket", "udp-dgram", "unixgram", "vde"])
async def test_two_guests_of_one_listener_get_a_port_each(name: str, directory: Path) -> None:
    async with VSwitch() as switch:
        lan = await switch.attach(url_for(LINES[name], directory), name="lan")
        first = netdev_for(LINES[name], lan.config)
        second = first.replace(".guest,", ".other,")  # a path of its own, where it has one
        near_a, far_a = socket.socketpair()
        near_b, far_b = socket.socketpair()
        with near_a, far_a, near_b, far_b:
            async with (
                rig(first, f"socket,fd={far_a.fileno()}", pass_fds=[far_a.fileno()]),
                rig(second, f"socket,fd={far_b.fileno()}", pass_fds=[far_b.fileno()]),
                Peer.at(near_a) as a,
                Peer.at(near_b) as b,
                await Peer.plugged_into(switch, name="station") as station,
            ):
                await first_contact(a, station)
                await first_contact(b, station)
                assert [port.name for port in lan.ports] == ["lan.1", "lan.2"]
                await a.send(frame(BROADCAST, mac(11)))
                for listener in (b, station):
                    assert await receive_from_afar(listener) == frame(BROADCAST, mac(11))
                await b.send(frame(mac(11), mac(12)))
                assert await receive_from_afar(a) == frame(mac(11), mac(12))
                await station.send(frame(mac(12), mac(2)))
                assert await receive_from_afar(b) == frame(mac(12), mac(2))
                assert {entry.mac: entry.port for entry in await switch.macs()} == {
                    "52:54:00:00:00:01": "lan.2",  # both have greeted by this address
                    "52:54:00:00:00:02": "station",
                    "52:54:00:00:00:0b": "lan.1",
                    "52:54:00:00:00:0c": "lan.2",
                }
                check_balance(switch)
