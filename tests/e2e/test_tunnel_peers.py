"""Real peers of vxlan:// and l2tpv3://: Linux in namespaces of our own and in a guest, QEMU, and vde's plugs."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.cli.program import FRESH, MORTAL, Home
from tests.e2e import iperf3
from tests.e2e.guest import Guest, Nic, boot, guest_image
from tests.e2e.rig import rig
from tests.endpoints.kinds import TunnelPeer, udp_socket
from tests.frames import BROADCAST, frame, mac
from tests.hosts import Host, Pipes
from tests.namespaces import ip, needed_for_tap, own_network
from tests.needs import require
from tests.peers import Peer, until, up
from tests.vde2 import program
from vswitch import VSwitch
from vswitch.endpoints.guests import qemu
from vswitch.endpoints.tap import open_tap
from vswitch.endpoints.url import parse
from vswitch.protocols import vxlan
from vswitch.testing.guest_image import GuestImage, build

VNI, PORT = 42, 4789
GROUP, GROUP6 = "239.1.1.1", "ff05::4"
PAYLOADS = (b"ping", bytes(1400), bytes(8000))
MTU = 9200  # of the cable
TAP_MTU = 9000
QEMU_MTU = 2048 - 14  # as long as QEMU's l2tpv3 has room for
PING_HEADERS = 20 + 8  # IPv4, ICMP


class Other:
    """Another host: a namespace at the other end of a cable, 10.9.0.1 and fd00::1 here, 10.9.0.2 and fd00::2 there."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.inside = ["nsenter", "--target", str(process.pid), "--net"]

    def run(self, words: str) -> str:
        return subprocess.run(
            [*self.inside, *words.split()], check=True, capture_output=True, timeout=20
        ).stdout.decode()


@pytest.fixture
def other() -> Iterator[Other]:
    unshare = shutil.which("unshare")
    require(unshare and shutil.which("nsenter"), "unshare and nsenter not found: install the package util-linux")
    with own_network(), ExitStack() as stack:
        ip(f"link add name here type veth peer name there mtu {MTU}")
        ip(f"link set here mtu {MTU} up")
        ip("address add 10.9.0.1/24 dev here")
        ip("address add fd00::1/64 dev here nodad")
        process = subprocess.Popen([*MORTAL, str(unshare), "--net", "cat"], stdin=subprocess.PIPE)
        stack.callback(process.wait)
        assert process.stdin is not None
        stack.callback(process.stdin.close)
        while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            pass
        ip(f"link set there netns {process.pid}")
        made = Other(process)
        made.run("ip link set lo up")
        made.run("ip link set there up")
        made.run("ip address add 10.9.0.2/24 dev there")
        made.run("ip address add fd00::2/64 dev there nodad")
        yield made


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="vs-") as path:
        yield Home(Path(path))


def add_vxlan(there: Other, options: str) -> None:
    words = f"ip link add name vx type vxlan id {VNI} dstport {PORT} dev there {options}"
    made = subprocess.run([*there.inside, *words.split()], capture_output=True, timeout=20)
    require(made.returncode == 0, f"this kernel has no VXLAN: {made.stderr.decode().strip()}")
    there.run(f"ip link set vx mtu {MTU - 70} up")
    there.run("ip address add 10.0.0.2/24 dev vx")


@asynccontextmanager
async def host_on(switch: VSwitch, number: int = 1) -> AsyncIterator[Host]:
    async with await Peer.plugged_into(switch, name=f"host{number}") as wire, trio.open_nursery() as nursery:
        host = Host(wire, f"10.0.0.{number}", number)
        nursery.start_soon(host.run)
        yield host
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("here", "there"), [("10.9.0.1", "10.9.0.2"), ("[fd00::1]", "fd00::2")])
async def test_linux_is_a_remote_end(other: Other, here: str, there: str) -> None:
    add_vxlan(other, f"remote {here.strip('[]')} local {there}")
    remote = f"[{there}]" if ":" in there else there
    async with VSwitch() as switch, host_on(switch) as host:
        await switch.attach(f"vxlan://{here}?vni={VNI}&remote={remote}&insecure", name="lab")
        for payload in PAYLOADS:
            await host.ping("10.0.0.2", payload=payload)
        assert "lab" in {station.port for station in await switch.macs()}


@pytest.mark.parametrize(("here", "group"), [("10.9.0.1", GROUP), ("[fd00::1]", GROUP6)])
async def test_linux_is_met_in_a_group_and_then_sent_to_alone(other: Other, here: str, group: str) -> None:
    add_vxlan(other, f"group {group} local {'fd00::2' if ':' in group else '10.9.0.2'}")
    iface = "&iface=here" if ":" in here else ""
    async with VSwitch() as switch, host_on(switch) as host, host_on(switch, 3) as third:
        await switch.attach(f"vxlan://{here}?vni={VNI}&mcast={group}&loop=off&insecure{iface}", name="lab")
        await third.ping("10.0.0.1")
        for payload in PAYLOADS:
            await host.ping("10.0.0.2", payload=payload)
        assert up(switch) == {"host1", "host3", "lab", "lab.1"}
        counted = {port.name: port for port in switch.ports()}
        assert counted["lab"].rx_frames == 0
        assert counted["lab.1"].tx_frames >= len(PAYLOADS)
        floods = counted["lab"].tx_frames
        await host.ping("10.0.0.2", payload=b"once more")
        assert {port.name: port for port in switch.ports()}["lab"].tx_frames == floods
        known = other.run("bridge fdb show dev vx")
        assert f"dst {here.strip('[]')}" in known  # which it has learned of us


async def test_a_host_that_is_not_known_is_learned(other: Other) -> None:
    add_vxlan(other, "remote 10.9.0.1")
    async with VSwitch() as switch, host_on(switch) as host:
        await switch.attach(f"vxlan://10.9.0.1?vni={VNI}&learn&insecure", name="lab")
        other.run("ip link set vx down")
        other.run("ip link set vx up")  # it says something, by IPv6
        await until(lambda: "lab.1" in up(switch))
        for payload in PAYLOADS:
            await host.ping("10.0.0.2", payload=payload)


async def test_what_is_too_long_for_the_way_is_said_or_cut_up() -> None:
    url, head = f"vxlan://127.0.0.1:{PORT}?vni={VNI}&remote=127.0.0.2", vxlan.header(VNI)
    longest = 1500 - 20 - 8 - 8
    with own_network(), udp_socket("127.0.0.2", PORT) as there:
        ip("link set lo mtu 1500")
        async with VSwitch() as switch, await Peer.plugged_into(switch, name="station") as station:
            host = TunnelPeer(there.dup(), to=None, sent=head, wanted=head)
            lab = await switch.attach(url, name="lab")
            frames = [frame(BROADCAST, mac(1), size) for size in (longest, longest + 1, 9000, longest, 60)]
            await station.send(*frames)
            assert await host.receive(3) == [frames[0], *frames[3:]]
            (port,) = [port for port in switch.ports() if port.name == "lab"]
            assert port.drops == {"too_long": 2}
            await until(lambda: [event for event in switch.events.kept() if event.code == "too_long"])
            await lab.detach()
            await switch.attach(f"{url}&fragment", name="lab")
            await station.send(*frames)
            assert await host.receive(5) == frames
            host.close()


async def test_vdes_vxlan_plug_is_a_member_of_the_group(other: Other) -> None:
    command = [*MORTAL, *other.inside, program("vde_plug"), f"vxlan://{GROUP}/port={PORT}/vni={VNI}/if=there"]
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="station") as station:
        await switch.attach(f"vxlan://10.9.0.1?vni={VNI}&mcast={GROUP}&loop=off&insecure", name="lab")
        async with Pipes.of(command) as plug:
            await meet(plug, station, switch, answers_to=BROADCAST)  # what it learns it cannot use


async def test_vdes_vxvde_plugs_are_answered_where_they_send_from(other: Other) -> None:
    """They and we are on one machine."""
    here = ["nsenter", "--target", str(os.getpid()), "--net"]  # it may be started by a thread that is elsewhere
    command = [*MORTAL, *here, program("vde_plug"), f"vxvde://{GROUP}/vni={VNI}/if=here"]
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="station") as station:
        await switch.attach(f"vxlan://10.9.0.1:14789?vni={VNI}&mcast={GROUP}&loop=off&vxvde&insecure", name="lab")
        async with Pipes.of(command) as plug, Pipes.of(command) as second:
            await meet(plug, station, switch)
            await second.send(frame(BROADCAST, mac(3)))
            assert await station.receive(1) == [frame(BROADCAST, mac(3))]
            assert {"lab", "lab.1", "lab.2"} <= up(switch)
        (group,) = [port for port in switch.ports() if port.name == "lab"]
        assert group.rx_frames == 0  # nothing of ours has come back


async def meet(plug: Pipes, station: Peer, switch: VSwitch, answers_to: int = mac(1)) -> None:
    """Frames pass both ways; those for a station that is known do so without the group."""
    with trio.fail_after(10):
        while "lab.1" not in up(switch):  # until the plug listens; it says nothing when it does
            await plug.send(frame(BROADCAST, mac(2)))
            await trio.sleep(0.05)
    before = next(port.tx_frames for port in switch.ports() if port.name == "lab")
    for size in (60, 1514, 9000):
        await station.send(frame(mac(2), mac(1), size))
        while (await plug.receive(1))[0] != frame(mac(2), mac(1), size):
            pass
        await plug.send(frame(answers_to, mac(2), size))
        while (await station.receive(1))[0] != frame(answers_to, mac(2), size):
            pass
    assert next(port.tx_frames for port in switch.ports() if port.name == "lab") == before


HEADERS = {
    "plain": "",
    "cookies": "&txcookie=8badf00d&rxcookie=00000001",
    "long-cookies": "&txcookie=8badf00d00000001&rxcookie=ffffffffffffffff",
    "counter": "&counter",
    "pinned": "&pincounter&rxsession=8",
    "everything": "&rxsession=4294967295&txcookie=8badf00d00000001&rxcookie=0102030405060708&counter&offset=5",
}


@pytest.mark.parametrize(
    ("way", "headers"),
    [*(("udp", name) for name in HEADERS), *((way, "everything") for way in ("udp6", "ip", "ip6")), ("ip", "plain")],
)
async def test_qemu_is_the_other_end_of_a_session(way: str, headers: str) -> None:
    host, remote = ("[fd00::1]", "[fd00::2]") if "6" in way else ("127.0.0.1", "127.0.0.2")
    url = f"l2tpv3://{host}:5000?remote={remote}:6000&session=7&insecure{HEADERS[headers]}"
    if way.startswith("ip"):
        url = url.replace(":5000", "").replace(":6000", "") + "&udp=no"
    with own_network(), ExitStack() as stack:
        ip("address add fd00::1/128 dev lo nodad")
        ip("address add fd00::2/128 dev lo nodad")
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
            attached = await switch.attach(url, name="lab")
            netdev = qemu.l2tpv3_netdev(attached.config)
            assert netdev is not None
            netdev = netdev.replace(",id=net0", "")
            async with rig(netdev, f"socket,fd={theirs.fileno()}", pass_fds=[theirs.fileno()]):
                guest = Peer.at(ours.dup())
                await until(lambda: "lab" in up(switch))
                for size in (14, 60, 1514, 2048):  # which is all that QEMU has room for
                    data, answer = frame(BROADCAST, mac(1), size)[:size], frame(mac(1), mac(2), size)[:size]
                    await guest.send(data)
                    while await other.receive(1) != [data]:
                        pass
                    await other.send(answer)
                    assert await guest.receive(1) == [answer]
                guest.close()


def test_without_rights_ip_protocol_115_is_refused_in_words(home: Home) -> None:
    setpriv = shutil.which("setpriv")
    require(setpriv, "setpriv not found: install the package util-linux")
    url = "l2tpv3://127.0.0.1?remote=127.0.0.2&session=1&udp=no"
    with home.start(url, under=[str(setpriv), "--bounding-set=-net_raw", "--inh-caps=-net_raw"]) as serving:
        assert serving.ended() == 1
        assert "IP protocol 115 takes root's rights (CAP_NET_RAW); use UDP on both sides" in serving.error


# A guest, the host side and another host


@pytest.fixture
def other_in_vxlan(other: Other) -> Other:
    """At 10.0.0.2 in the segment."""
    needed_for_tap()
    for tool, package in (("iperf3", "iperf3"), ("ethtool", "ethtool"), ("busybox", "busybox-static")):
        require(shutil.which(tool), f"{tool} not found: install the package {package}")
    add_vxlan(other, "remote 10.9.0.1 local 10.9.0.2")
    other.run("ethtool -K vx tx off")  # no card is there to finish checksums (docs/tunnels.md)
    return other


VXLAN_URL = f"vxlan://10.9.0.1?vni={VNI}&remote=10.9.0.2&insecure"


async def check_all_reach_each_other(guest: Guest, other: Other, mtu: int) -> None:
    """The guest is 10.0.0.3, by a link of that MTU, the host side 10.0.0.1, and the other host 10.0.0.2."""
    here = ["nsenter", "--target", str(os.getpid()), "--net"]  # not where the thread is that starts a program
    for address in ("10.0.0.1", "10.0.0.2"):
        for size in (56, mtu - PING_HEADERS):
            assert (await guest.run(f"ping -c 1 -s {size} {address}")).ok, (address, size)
    for size in (56, TAP_MTU - PING_HEADERS):
        await trio.run_process([*here, "busybox", "ping", "-c", "1", "-s", str(size), "10.0.0.2"], capture_stdout=True)
    assert (await guest.run(iperf3.SERVE_IN_GUEST)).ok
    await iperf3.check_both_ways(here, "10.0.0.3", iperf3.PORTS[:2], mtu)
    await iperf3.check_both_ways(other.inside, "10.0.0.3", iperf3.PORTS[2:], mtu)
    with iperf3.serving(other.inside, iperf3.PORTS[:2]):
        await iperf3.check_both_ways(here, "10.0.0.2", iperf3.PORTS[:2], TAP_MTU)


@pytest.fixture
def guests() -> None:
    guest_image()


async def test_a_guest_of_qemus_session_a_tap_and_linux_vxlan_are_one_lan(
    guests: None, other_in_vxlan: Other, home: Home
) -> None:
    session = "l2tpv3://127.0.0.1:5000?remote=127.0.0.2:6000&session=7&counter"
    netdev = (qemu.l2tpv3_netdev(parse(session)) or "").replace("id=net0,", "")
    with home.serve(f"tap://lab0?ip=10.0.0.1/24&mtu={TAP_MTU}", VXLAN_URL, session, under=FRESH) as serving:
        async with boot(Guest("guest", Nic(netdev, ip="10.0.0.3/24"))) as (guest,):
            assert (await guest.run(f"ip link set eth0 mtu {QEMU_MTU}")).ok
            await check_all_reach_each_other(guest, other_in_vxlan, QEMU_MTU)
        assert serving.stop() == 0


@pytest.fixture
def linux_with_l2tp() -> GuestImage:
    guest_image()  # skips where there are none
    return build(packages=("iproute2",), modules=("l2tp_eth", "l2tp_netlink"))


async def test_linux_is_the_other_end_of_a_session(linux_with_l2tp: GuestImage, other_in_vxlan: Other) -> None:
    """In a guest, as it takes modules that few machines have loaded."""
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        async with VSwitch("cable") as cable, VSwitch() as switch, host_on(switch, 4) as host:
            await cable.attach(ours)
            await cable.attach(f"fd://{open_tap('tap0').fileno()}")  # opened here, where the network is ours
            ip("address add 10.8.0.1/24 dev tap0")
            ip("link set tap0 mtu 9000 up")
            await switch.attach(f"fd://{open_tap('lab0').fileno()}")
            ip("address add 10.0.0.1/24 dev lab0")
            ip(f"link set lab0 mtu {TAP_MTU} up")
            await switch.attach(VXLAN_URL)
            await switch.attach(
                "l2tpv3://10.8.0.1:5000?remote=10.8.0.2:6000&session=11&rxsession=12&txcookie=8badf00d"
                "&rxcookie=0102030405060708&counter&insecure",
                name="lab",
            )
            nic = Nic(f"socket,fd={theirs.fileno()}", ip="10.8.0.2/24")
            async with boot(Guest("linux", nic, pass_fds=[theirs.fileno()]), image=linux_with_l2tp) as (linux,):
                done = await linux.run(
                    "set -e; ip link set eth0 mtu 9000;"
                    "/bin/ip l2tp add tunnel tunnel_id 1 peer_tunnel_id 1 encap udp local 10.8.0.2 remote 10.8.0.1"
                    " udp_sport 6000 udp_dport 5000;"
                    "/bin/ip l2tp add session name l2 tunnel_id 1 session_id 11 peer_session_id 12"
                    " cookie 0102030405060708 peer_cookie 8badf00d seq both;"
                    "ip link set l2 mtu 8900 up; ip address add 10.0.0.3/24 dev l2"
                )
                assert done.ok, done
                for payload in PAYLOADS:
                    await host.ping("10.0.0.3", payload=payload)
                await check_all_reach_each_other(linux, other_in_vxlan, 8900)
