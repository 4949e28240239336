"""Debian's vde2 on the other end: vde_plug, vde_plug2tap, a vde_switch that we plug into, and one that ours is like."""

import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.cli.program import MORTAL, Home
from tests.frames import BROADCAST, frame, mac
from tests.hosts import Host, Pipes
from tests.namespaces import ip_inside, is_elsewhere, needed_for_tap
from tests.peers import TIMEOUT_S, Peer, check_balance, until, up
from tests.vde2 import MAGIC, RealSwitch, program, real_switch
from tests.waiting import until as wait_until
from vswitch import VSwitch
from vswitch.errors import RefusedError

PLUG_MAX = 9234  # what vde_plug has room for: 9216 bytes of payload and an Ethernet header with a tag
SIZES = [14, 60, 64, 1514, 1518, 1522, 9014, 9018, PLUG_MAX]
CUT_AT = 1518  # by vde_switch
TAG = 0xB005


@pytest.fixture(autouse=True, scope="module")
def machine_that_has_vde2() -> None:
    for name in ("vde_switch", "vde_plug", "dpipe", "vde_plug2tap"):
        program(name)


def exists(path: Path) -> bool:
    return os.path.lexists(path)


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program with its children, killed in the end. Its input stays open and quiet."""
    with subprocess.Popen([*MORTAL, *command], stdin=subprocess.PIPE, process_group=0) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def beside_ctl(directory: Path) -> list[str]:
    """What is in the directory of a switch, but for its control socket."""
    return sorted(path.name for path in directory.iterdir() if path.name != "ctl")


async def test_vde_plug_on_pipes_carries_all_the_frames_it_can(directory: Path) -> None:
    lan = directory / "lan"
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="station") as station:
        guest = await switch.attach(f"vde://{lan}", name="lan")
        async with Pipes.of([*MORTAL, program("vde_plug"), f"vde://{lan}[5]"]) as plug:
            await until(lambda: "lan.5" in up(switch))
            (port,) = guest.ports
            assert port.peer is not None
            assert f"pid={plug.process.pid}" in port.peer
            for size in SIZES:
                for tag in (None, TAG) if size >= 18 else (None,):
                    outward = frame(BROADCAST, mac(1), size, tag=tag, payload=size.to_bytes(4))[:size]
                    await plug.send(outward)
                    assert await station.receive(1) == [outward]
                    inward = frame(mac(1), mac(2), size, tag=tag, payload=size.to_bytes(4))[:size]
                    await station.send(inward)
                    assert await plug.receive(1) == [inward]
        await until(lambda: not guest.ports)
        assert beside_ctl(lan) == []
        check_balance(switch)


async def test_dpipe_and_two_plugs_are_a_cable_between_two_of_our_switches(directory: Path) -> None:
    ends = [directory / "a", directory / "b"]
    async with VSwitch("a") as a, VSwitch("b") as b:
        for switch, end in zip((a, b), ends, strict=True):
            await switch.attach(f"vde://{end}", name="lan")
        async with await Peer.plugged_into(a) as near, await Peer.plugged_into(b) as far:
            with running("dpipe", "vde_plug", str(ends[0]), "=", "vde_plug", str(ends[1])):
                await until(lambda: "lan.1" in up(a) and "lan.1" in up(b))
                for size in SIZES[1:]:
                    for tag in (None, TAG):
                        outward = frame(BROADCAST, mac(1), size, tag=tag, payload=b"there")[:size]
                        await near.send(outward)
                        assert await far.receive(1) == [outward]
                        back = frame(mac(1), mac(2), size, tag=tag, payload=b"back")[:size]
                        await far.send(back)
                        assert await near.receive(1) == [back]
            await until(lambda: not any(name.startswith("lan") for name in up(a) | up(b)))
        check_balance(a)
        check_balance(b)


async def test_dpipe_and_two_plugs_join_us_and_a_vde_switch(directory: Path) -> None:
    with real_switch(directory) as real:
        async with VSwitch() as switch, await Peer.plugged_into(switch) as station, plug_into(real.directory) as client:
            await switch.attach(f"vde://{directory}/lan", name="lan")
            with running("dpipe", "vde_plug", f"{directory}/lan", "=", "vde_plug", str(real.directory)):
                await until(lambda: "lan.1" in up(switch))
                await first_contact(station, client)
                await check_both_ways(station, client)
                check_balance(switch)


def plug_into(directory: Path) -> AbstractAsyncContextManager[Pipes]:
    """A vde_plug with its frames on pipes."""
    return Pipes.of([*MORTAL, program("vde_plug"), str(directory)])


async def first_contact(station: Peer, client: Pipes) -> None:
    """Sends until a frame comes out at a client of another switch: not all may be plugged in yet."""
    for attempt in range(100):
        hello = frame(BROADCAST, mac(1), payload=attempt.to_bytes(4))
        await station.send(hello)
        with trio.move_on_after(0.2):
            while await client.receive(1) != [hello]:
                pass
            return
    raise AssertionError("no frame came through")


async def check_both_ways(station: Peer, client: Pipes) -> None:
    """Frames of what sizes vde_switch passes, one after the other."""
    for size in (60, 61, 1514, CUT_AT):
        inward = frame(mac(1), mac(2), size, payload=size.to_bytes(4))
        await client.send(inward)
        assert await station.receive(1) == [inward]
        outward = frame(mac(2), mac(1), size, payload=size.to_bytes(4))
        await station.send(outward)
        assert await client.receive(1) == [outward]


async def test_who_is_plugged_in_needs_the_directory_no_more(directory: Path) -> None:
    lan = directory / "lan"
    async with VSwitch() as switch, await Peer.plugged_into(switch) as station:
        await switch.attach(f"vde://{lan}", name="lan")
        async with plug_into(lan) as client:
            await check_both_ways(station, client)
            shutil.rmtree(lan)
            await check_both_ways(station, client)
            await until((lan / "ctl").is_socket)
            async with plug_into(lan) as other:
                await until(lambda: "lan.2" in up(switch))
                await check_both_ways(station, client)
                await first_contact(station, other)
            await until(lambda: up(switch) & {"lan.1", "lan.2"} == {"lan.1"})
        await until(lambda: beside_ctl(lan) == [])
        check_balance(switch)


async def test_a_tap_device_in_another_network_namespace(directory: Path) -> None:
    """The kernel behind it answers ARP and echo requests."""
    unshare = needed_for_tap()
    lan = directory / "lan"
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="host") as wire:
        guest = await switch.attach(f"vde://{lan}", name="lan")
        async with trio.open_nursery() as nursery:
            with running(unshare, "--net", program("vde_plug2tap"), "-s", str(lan), "tap9") as plug:
                await until(lambda: is_elsewhere(plug.pid))
                await until(lambda: "lan.1" in up(switch))
                await until(lambda: ip_inside(plug.pid, "link set tap9 address 52:54:00:00:00:09"))
                assert ip_inside(plug.pid, "address add 10.0.0.9/24 dev tap9")
                assert ip_inside(plug.pid, "link set tap9 up")
                host = Host(wire, "10.0.0.1", 1)
                nursery.start_soon(host.run)
                await host.ping("10.0.0.9")
                await host.ping("10.0.0.9", payload=bytes(1400))
                macs = {entry.mac: entry.port for entry in await switch.macs()}
                assert macs["52:54:00:00:00:09"] == "lan.1"
            await until(lambda: not guest.ports)
            assert beside_ctl(lan) == []
            nursery.cancel_scope.cancel()
        check_balance(switch)


async def test_dead_and_stopped_clients_do_not_disturb_the_others(directory: Path) -> None:
    lan = directory / "lan"
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="station") as station:
        guest = await switch.attach(f"vde://{lan}", name="lan", queue="256KiB")
        (lan / ".00001-00000").touch()  # a file, which is no client's, whatever it is called
        async with plug_into(lan) as stopped:
            await until(lambda: "lan.1" in up(switch))
            with leftover_client(lan):
                await until(lambda: "lan.2" in up(switch))
            await until(lambda: [port.name for port in guest.ports] == ["lan.1"])
            assert beside_ctl(lan) == [".00001-00000", "001.0"]
            with leftover_client(lan) as frames:
                await until(lambda: "lan.2" in up(switch))
                frames.close()  # with the connection open still
                await station.send(frame(BROADCAST, mac(2)))
                assert await stopped.receive(1) == [frame(BROADCAST, mac(2))]
                await until(lambda: [port.name for port in guest.ports] == ["lan.1"])
                assert beside_ctl(lan) == [".00001-00000", "001.0"]
            async with plug_into(lan) as plug:
                await until(lambda: "lan.2" in up(switch))
                stopped.process.send_signal(signal.SIGSTOP)
                # The stopped one gets its frames when it goes on, as many as there is room for.
                burst = [frame(BROADCAST, mac(2), 1514, payload=number.to_bytes(4)) for number in range(1000)]
                for number, sent in enumerate(burst):
                    await station.send(sent)
                    assert await plug.receive(1) == [sent]
                    answer = frame(mac(2), mac(1), payload=number.to_bytes(4))
                    await plug.send(answer)
                    assert await station.receive(1) == [answer]
                first, last = guest.ports
                assert (first.name, list(first.drops), last.drops) == ("lan.1", ["queue_full"], {})
                stopped.process.send_signal(signal.SIGCONT)
                kept = len(burst) - first.drops["queue_full"]
                assert kept > 100
                assert await stopped.receive(kept) == burst[:kept]
        await until(lambda: not guest.ports)
        assert beside_ctl(lan) == [".00001-00000"]
        check_balance(switch)
    assert not exists(lan / "ctl")
    assert exists(lan / ".00001-00000")


@contextmanager
def leftover_client(lan: Path) -> Iterator[socket.socket]:
    """A client that is plugged in and does not remove its socket's path when it ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as frames, socket.socket(socket.AF_UNIX) as control:
        path = str(lan / ".12345-00000")
        frames.bind(path)
        control.connect(str(lan / "ctl"))
        control.sendall(struct.pack("=IIIH108s", MAGIC, 3, 0, socket.AF_UNIX, path.encode()) + b"dead")
        yield frames
        frames.close()


@pytest.mark.parametrize("query", ["connect", "connect&port=9"])
async def test_we_plug_into_a_vde_switch_and_come_back_when_it_does(query: str, directory: Path) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="station") as station:
        await switch.attach(f"vde://{directory}/real?{query}", name="guest")
        for _ in range(3):
            with real_switch(directory) as real:
                await until(lambda: "guest" in up(switch))
                (ports,) = real.ask(b"port/print")
                assert b"vswitch guest pid=%d" % os.getpid() in ports
                assert (b"Port 0009" in ports) == ("port=9" in query)
                async with plug_into(real.directory) as client:
                    await first_contact(station, client)
                    await check_both_ways(station, client)
            await until(lambda: "guest" not in up(switch))
            await station.send(frame(BROADCAST, mac(1)))  # harms nothing
            assert not any(name.startswith(".") for name in beside_ctl(real.directory))
        check_balance(switch)


async def test_we_refuse_the_directory_of_a_running_vde_switch(directory: Path) -> None:
    with real_switch(directory) as real:
        async with VSwitch() as switch, await Peer.plugged_into(switch, name="station") as station:
            with pytest.raises(RefusedError, match=r"real/ctl is in use"):
                await switch.attach(f"vde://{real.directory}")
            await switch.attach(f"vde://{real.directory}?connect")  # which it has not minded
            async with plug_into(real.directory) as client:
                await first_contact(station, client)
                await check_both_ways(station, client)


async def test_a_vde_switch_is_refused_our_directory(directory: Path) -> None:
    lan = directory / "lan"
    async with VSwitch() as switch, await Peer.plugged_into(switch) as station:
        await switch.attach(f"vde://{lan}", name="lan")
        async with Pipes.of([*MORTAL, program("vde_plug"), str(lan)]) as plug:
            await until(lambda: "lan.1" in up(switch))
            with trio.fail_after(TIMEOUT_S):
                command = [*MORTAL, program("vde_switch"), "-s", str(lan)]
                refused = await trio.run_process(command, check=False, capture_stderr=True)
            assert refused.returncode != 0
            assert b"in use" in refused.stderr
            await plug.send(frame(BROADCAST, mac(1)))
            assert await station.receive(1) == [frame(BROADCAST, mac(1))]
            await station.send(frame(mac(1), mac(2)))
            assert await plug.receive(1) == [frame(mac(1), mac(2))]


async def test_we_take_over_the_directory_of_a_vde_switch_that_was_killed(directory: Path) -> None:
    with ExitStack() as stack:
        real = stack.enter_context(real_switch(directory))
        async with plug_into(real.directory):
            await until(lambda: any(name.startswith("001.") for name in beside_ctl(real.directory)))
            stack.close()
    assert beside_ctl(real.directory)
    async with VSwitch() as switch, await Peer.plugged_into(switch) as station:
        await switch.attach(f"vde://{real.directory}", name="lan")
        assert beside_ctl(real.directory) == []
        async with plug_into(real.directory) as plug:
            await until(lambda: "lan.1" in up(switch))
            await plug.send(frame(BROADCAST, mac(1)))
            assert await station.receive(1) == [frame(BROADCAST, mac(1))]
    assert not exists(real.directory)


async def test_a_vde_switch_takes_over_our_directory_when_we_were_killed(directory: Path) -> None:
    """`vswitch serve` is, that is, and comes back after it."""
    root = directory / "home"
    root.mkdir()
    home = Home(root)
    url = f"vde://{directory}/real"
    with home.serve(f"{url}?name=lan") as serving:
        async with plug_into(directory / "real"):
            await until(lambda: (directory / "real" / "001.0").exists())
            serving.process.kill()
            serving.process.wait()
    assert (directory / "real" / "ctl").exists()
    with real_switch(directory) as real:
        async with plug_into(real.directory) as one, plug_into(real.directory) as other:
            await until(lambda: len(plugged(real)) == 2)
            await one.send(frame(BROADCAST, mac(1)))
            assert await other.receive(1) == [frame(BROADCAST, mac(1))]
    with home.serve(f"{url}?name=lan") as serving:
        assert serving.stop() == 0
    assert not exists(directory / "real")


def plugged(real: RealSwitch) -> list[bytes]:
    """Who is plugged into a vde_switch."""
    return [line for line in real.ask(b"port/print")[0].splitlines() if b"vdeplug:" in line]


# VLANs, side by side

RC_FILE = """
# 1 and 2: one VLAN each; 3: both, tagged
vlan/create 10
vlan/create 20
port/create 1
port/create 2
port/create 3
port/allocatable 1 1
port/allocatable 2 1
port/allocatable 3 1
port/setvlan 1 10
port/setvlan 2 20
vlan/addport 10 3
vlan/addport 20 3
"""
CHANGES = [  # each to be followed by frames from everywhere
    ["vlan/print", "vlan/allprint", "port/allprint", "vlan/create 10", "vlan/remove 10", "vlan/create 30"],
    ["port/setvlan 3 30", "vlan/print", "vlan/delport 30 3", "vlan/print 30"],
    ["vlan/delport 10 3", "vlan/addport 30 1", "vlan/addport 20 1", "vlan/allprint 20", "port/print"],
    ["port/setvlan 2 4095", "vlan/addport 10 2", "port/print 2", "port/setvlan 3 20", "vlan/allprint"],
    ["port/setvlan 1 0", "vlan/delport 10 2", "vlan/remove 10", "vlan/remove 30", "port/setvlan 2 11", "vlan/print"],
]
PCP = 0xA000


def test_vlans_are_those_of_a_vde_switch_with_the_same_commands(directory: Path) -> None:
    (directory / "rc").write_text(RC_FILE)
    for name in ("theirs", "ours"):
        (directory / name).mkdir()
    arguments = ("-f", str(directory / "rc"))
    with (
        real_switch(directory / "theirs", *arguments) as theirs,
        our_switch(directory / "ours", *arguments) as ours,
        ExitStack() as stack,
    ):
        switches = [
            (switch, [stack.enter_context(switch.plugged(b"test")) for _ in range(4)]) for switch in (theirs, ours)
        ]
        for commands in CHANGES:
            for line in commands:
                said_there, said_here = [without_details(switch.ask(line.encode())[0]) for switch, _ in switches]
                assert said_here == said_there, line
            come_there, come_here = [frames_everywhere(switch, plugs) for switch, plugs in switches]
            assert come_here == come_there, commands
            assert any(any(frames) for frames in come_there.values())


VLANS = (0, 1, 2, 10)
PLUGS = 4


def random_script(choose: random.Random) -> list[str]:
    """Commands with VLANs that may be there, ports that may be, and a few that nobody has."""

    def vlan() -> int:
        return choose.choice([*VLANS, 7])

    def port() -> int:
        return choose.randint(1, PLUGS + 1)

    return [
        choose.choice(
            [
                *(f"vlan/create {vlan()}", f"vlan/remove {vlan() or 2}", f"vlan/addport {vlan()} {port()}"),
                *(f"vlan/addport {vlan()} {port()}", f"vlan/delport {vlan()} {port()}"),
                *(f"port/setvlan {port()} {vlan()}", f"port/setvlan {port()} {vlan()}", f"port/setvlan {port()} 4095"),
                *("vlan/print", "vlan/allprint", f"vlan/print {vlan()}", f"port/print {port()}", "fstp/print"),
                *("port/setnumports 32", f"port/setuser {port()} root", f"port/setgroup {port()} NONE"),
                *(f"fstp/setedge {vlan()} {port()} 1", f"fstp/bonus {vlan()} {port()} 5", "fstp/setfstp 0"),
                *("hash/setsize 128", "hash/setgcint 2", "hash/setminper 3", "debug/list", "plugin/list"),
            ]
        )
        for _ in range(8)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_random_commands_and_frames_do_what_they_do_with_a_vde_switch(seed: int, directory: Path) -> None:
    """VLANs 0 and 1 among them, bad sources, and the addresses that a bridge keeps to itself."""
    choose = random.Random(seed)
    for name in ("theirs", "ours"):
        (directory / name).mkdir()
    with real_switch(directory / "theirs") as theirs, our_switch(directory / "ours") as ours, ExitStack() as stack:
        switches = [
            (switch, [stack.enter_context(switch.plugged(b"test")) for _ in range(PLUGS)]) for switch in (theirs, ours)
        ]
        first = [
            "vlan/create 7",
            "vlan/create 2",
            *["vlan/create 1"] * (seed % 2),
        ]  # 7 stays: from here on there are VLANs
        for line in first:
            for switch, _ in switches:
                switch.ask(line.encode())
        for _ in range(3):
            for line in random_script(choose):
                if line == "vlan/remove 7":
                    continue
                said_there, said_here = [comparable(switch.ask(line.encode())[0]) for switch, _ in switches]
                assert said_here == said_there, line
            sent = random_frames(choose, numbers_and_vlans(ours))
            come_there, come_here = [outcomes(switch, plugs, sent) for switch, plugs in switches]
            for (source, data), there, here in zip(sent, come_there, come_here, strict=True):
                assert here == there, f"{data[:20].hex(':')} from port {source + 1}"


def comparable(reply: bytes) -> str:
    """A reply without what explains its code, descriptors, counters, and what a spanning tree was told."""
    return re.sub(r"(?m)(?:[0-9a-f]{2}:){7}[0-9a-f]{2}|bonus.*$|age \d+|role=\w+|pkts.*$", "…", without_details(reply))


def numbers_and_vlans(switch: RealSwitch) -> dict[int, set[int]]:
    """The VLANs that each port carries."""
    carried: dict[int, set[int]] = {port: set() for port in range(PLUGS)}
    for vlan, members in re.findall(r"VLAN (\d+)\n((?: --.*\n)*)", switch.ask(b"vlan/print")[0].decode()):
        for port in re.findall(r"Port (\d+)", members):
            carried[int(port) - 1].add(int(vlan))
    return carried


def random_frames(choose: random.Random, carried: dict[int, set[int]]) -> list[tuple[int, bytes]]:
    """Frames and the ports that they come in by: first broadcasts, by which all stations are known.

    Stations do not move: vde_switch would notice that after seconds.
    """
    tags_of = {port: [None, *VLANS, 7, 1 | PCP, 5] for port in carried}
    for port in carried:
        if 0 not in carried[port]:
            tags_of[port].remove(0)  # a tag that says a priority here, and nothing there
    found = [(port, frame(BROADCAST, mac(port), 60, tag=tag)) for port in carried for tag in tags_of[port]]
    for number in range(60):
        source = choose.randrange(PLUGS)
        tags = tags_of[source]
        destinations = [*map(mac, range(PLUGS)), BROADCAST, 0x0180_C200_0000 + choose.randrange(16), 0x3333_0000_0001]
        sources = [mac(source)] * 4 + [BROADCAST, 0x0100_5E00_0001]
        payload = b"%03d" % number
        data = frame(choose.choice(destinations), choose.choice(sources), 100, tag=choose.choice(tags), payload=payload)
        found.append((source, data))
    return found


def outcomes(switch: RealSwitch, plugs: list[socket.socket], sent: list[tuple[int, bytes]]) -> list[list[list[bytes]]]:
    """What comes out at each plug, for each of the frames."""
    count, found = frames_in(switch), []
    for number, (source, data) in enumerate(sent, 1):
        plugs[source].send(data)
        wait_until(partial(has_taken_in, switch, count + number), "the frame is taken in")
        found.append([waiting_at(plug) for plug in plugs])
    return found


@contextmanager
def our_switch(root: Path, *arguments: str) -> Iterator[RealSwitch]:
    """Our own `vde_switch`, as `real_switch` runs the real one; when killed, it leaves its control socket there."""
    switch = RealSwitch(root)
    paths = ["-s", str(switch.directory), "-M", str(switch.management), "-p", str(root / "pid")]
    env = ["env", f"XDG_RUNTIME_DIR={root}"]
    with running(*env, sys.executable, "-m", "vswitch.cli.vde_switch", *paths, *arguments):
        wait_until((root / "pid").exists, "our vde_switch is ready")
        yield switch


def without_details(reply: bytes) -> str:
    """A reply without what explains its code, and without the descriptors in it."""
    code = re.sub(r"(?m)^(1\d{3} [^:\n]*):.*$", r"\1", reply.decode())
    return re.sub(r"endpoint ID \d+", "endpoint ID …", code)


def frames_everywhere(switch: RealSwitch, plugs: list[socket.socket]) -> dict[str, list[list[bytes]]]:
    """What comes out at each plug of frames that go in at each: broadcasts first, by which stations are known."""
    count = frames_in(switch)
    found = {}
    for destination in [BROADCAST, *map(mac, range(len(plugs)))]:
        for source, plug in enumerate(plugs):
            for tag in (None, 10, 20 | PCP, 30, 40):
                sent = frame(destination, mac(source), 100, tag=tag, payload=b"%d" % source)
                plug.send(sent)
                count += 1
                wait_until(partial(has_taken_in, switch, count), "the frame is taken in")
                found[f"{destination:x} from {source} tagged {tag}"] = [waiting_at(plug) for plug in plugs]
    return found


def frames_in(switch: RealSwitch) -> int:
    return sum(map(int, re.findall(rb" IN:  pkts +(\d+)", switch.ask(b"port/print")[0])))


def has_taken_in(switch: RealSwitch, count: int) -> bool:
    return frames_in(switch) == count


def waiting_at(plug: socket.socket) -> list[bytes]:
    """The frames that wait to be received."""
    found = []
    plug.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            found.append(plug.recv(4096, socket.MSG_DONTWAIT))
    return found
