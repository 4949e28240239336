"""One LAN of guests and hosts that are plugged in by different ways."""

import shlex
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.cli.program import MORTAL, Home, Serving
from tests.e2e.guest import Guest, Nic, boot, guest_image
from tests.e2e.test_qemu_datagrams import free_group, member
from tests.hosts import Host, Pipes, Wire
from tests.peers import DatagramPeer, Peer, check_balance
from tests.vde2 import program
from vswitch import VSwitch
from vswitch.endpoints.guests import qemu

NETWORK = "10.0.0."
MTU = 9000


@pytest.fixture(autouse=True, scope="module")
def machine_that_runs_guests() -> None:
    guest_image()
    program("vde_plug")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as path:
        yield Path(path)


def lines_of(serving: Serving, name: str) -> list[str]:
    """The lines that were printed for an endpoint, to be added to a QEMU's."""
    printed = serving.lines
    start = next(number for number, line in enumerate(printed) if line.startswith(f"{name} "))
    rest = printed[start + 1 :]
    end = next(number for number, line in enumerate(rest) if not line.startswith(" "))
    return [line for line in rest[:end] if line.startswith("    ")]


@asynccontextmanager
async def wires(serving: Serving, directory: Path) -> AsyncIterator[dict[str, Wire]]:
    """A way in by each endpoint, for a host that is no guest."""
    urls = serving.urls
    group, port = urls["mcast"].removeprefix("mcast://").split(":")
    in_group = member(group, int(port))
    in_group.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.connect(("127.0.0.1", int(urls["udp"].rpartition(":")[2])))
    unixgram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unixgram.bind(str(directory / "host.sock"))
    unixgram.connect(urls["unixgram"].removeprefix("unixgram://"))
    async with AsyncExitStack() as stack:
        yield {
            "tcp": await stack.enter_async_context(await Peer.connected_to(urls["tcp"])),
            "unix": await stack.enter_async_context(await Peer.connected_to(urls["unix"])),
            "mcast": await stack.enter_async_context(DatagramPeer(in_group, to=(group, int(port)))),
            "udp": await stack.enter_async_context(DatagramPeer(udp)),
            "unixgram": await stack.enter_async_context(DatagramPeer(unixgram)),
            "vde": await stack.enter_async_context(Pipes.of([*MORTAL, program("vde_plug"), urls["vde"]])),
        }


async def test_everyone_pings_everyone_by_the_lines_that_serve_prints(directory: Path) -> None:
    """Three guests, started with lines as they are printed, and a host of ours by each way in."""
    root = directory / "home"
    root.mkdir()
    home = Home(root)
    home.install_qemu("7.2.0")
    urls = ["tcp://127.0.0.1:0?name=tcp", f"unix://{directory}/s?name=unix", f"mcast://{free_group()}?name=mcast"]
    urls += ["udp://127.0.0.1:0?name=udp", f"unixgram://{directory}/d?name=unixgram", f"vde://{directory}/v?name=vde"]
    with home.serve(*urls) as serving:
        guests = {}
        for number, way in enumerate(("mcast", "unixgram", "vde"), start=1):
            guests[f"{NETWORK}{number}"] = Guest(way, arguments=shlex.split(lines_of(serving, way)[0]))
        async with boot(*guests.values()), wires(serving, directory) as plugged, trio.open_nursery() as nursery:
            hosts = {}
            for number, (way, wire) in enumerate(plugged.items(), start=11):
                hosts[way] = Host(wire, f"{NETWORK}{number}", number)
                nursery.start_soon(hosts[way].run)
            # Where a port comes with the first frame, nobody can be found before sending one.
            for address, guest in guests.items():
                assert (await guest.run(f"ip address add {address}/24 dev eth0")).ok
                assert (await guest.run(f"ping -c 1 -W 9 {hosts['tcp'].address}")).ok, guest.name
            for host in hosts.values():
                if host is not hosts["tcp"]:
                    await host.ping(hosts["tcp"].address)

            everyone = [*guests, *(host.address for host in hosts.values())]
            async with trio.open_nursery() as pings:
                for address, guest in guests.items():
                    pings.start_soon(ping_all, guest, [other for other in everyone if other != address])
                for host in hosts.values():
                    for other in everyone:
                        if other != host.address:
                            pings.start_soon(host.ping, other)
            nursery.cancel_scope.cancel()

            found = {entry["mac"]: entry["port"].partition(".")[0] for entry in home.ask("macs")}
            expected = {text_mac(host.mac): way for way, host in hosts.items()}
            for guest in guests.values():
                (card,) = await guest.qmp("query-rx-filter")
                expected[card["main-mac"]] = guest.name
            assert found == expected
            check_totals(home)
        assert serving.stop() == 0


async def ping_all(guest: Guest, addresses: list[str]) -> None:
    command = "; ".join(f"ping -c 1 -W 9 {address} || exit 1" for address in addresses)
    done = await guest.run(command)
    assert done.ok, f"{guest.name}: {done.stdout}"


def text_mac(number: int) -> str:
    return number.to_bytes(6).hex(":")


def check_totals(home: Home) -> None:
    """Every frame is accounted for; what members of the group have sent each other needed no switch."""
    totals = home.ask("status")["totals"]
    dropped = sum(totals["drops"].values())
    assert totals["rx_frames"] + totals["copies"] == totals["tx_frames"] + totals["queued_frames"] + dropped
    assert set(totals["drops"]) == {"same_port"}
    (drops,) = (port["drops"] for port in home.ask("ports") if port["name"] == "mcast")
    assert drops == totals["drops"]


async def test_tagged_and_jumbo_frames_pass_between_two_guests_on_vde(directory: Path) -> None:
    """Which a vde_switch drops, and cuts."""
    async with VSwitch() as switch:
        lan = await switch.attach(f"vde://{directory}/lan", name="lan")
        netdev = (qemu.vde_netdev(lan.config) or "").replace("id=net0,", "")
        a, b = (Guest(name, Nic(netdev, ip=f"{NETWORK}{number}/24")) for number, name in enumerate("ab", 1))
        async with boot(a, b):
            for number, guest in enumerate((a, b), 1):
                for command in (
                    f"ip link set eth0 mtu {MTU}",
                    "ip link add link eth0 name eth0.5 type vlan id 5",
                    f"ip address add 10.5.0.{number}/24 dev eth0.5",
                    f"ip link set eth0.5 mtu {MTU} up",
                ):
                    done = await guest.run(command)
                    assert done.ok, f"{command}: {done.stdout}"
            for target in (f"{NETWORK}2", "10.5.0.2"):
                before = lan.ports
                ping = await a.run(f"ping -c 5 -i 0.1 -s 8000 {target}")
                assert "5 packets received" in ping.stdout, ping.stdout
                for then, now in zip(before, lan.ports, strict=True):
                    mean = (now.rx_bytes - then.rx_bytes) / (now.rx_frames - then.rx_frames)
                    assert mean > 4000  # in one frame each, that is, beside a few of ARP
            port_of = {entry.mac: entry.port for entry in await switch.macs()}
            assert sorted(port_of.values()) == ["lan.1", "lan.2"]  # in the order in which they started
            assert {(entry.mac, entry.vlan, entry.port) for entry in await switch.macs()} == {
                (guest.nics[0].mac, vlan, port_of[guest.nics[0].mac]) for guest in (a, b) for vlan in (1, 5)
            }
            assert [port.drops for port in lan.ports] == [{}, {}]
            # The VLAN is one: without it at the other end, nobody is there.
            await b.run("ip link set eth0.5 down")
            assert not (await a.run("ping -c 1 -W 1 10.5.0.2")).ok
            assert (await a.run(f"ping -c 1 {NETWORK}2")).ok
            check_balance(switch)
