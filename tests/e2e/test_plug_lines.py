"""Every kind of line and element that is printed: real QEMU starts with it, and its frames come to the switch's end.

The lines of stream endpoints carry frames in test_qemu_netdevs; here the other ends are plain sockets.
"""

import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trio

from tests.cli.program import Home
from tests.e2e.guest import Guest, boot, guest_image
from tests.e2e.rig import require_qemu, rig
from tests.e2e.test_qemu_netdevs import free_port
from tests.frames import BROADCAST, frame, mac
from tests.hosts import Host
from tests.needs import require
from tests.peers import TIMEOUT_S, Peer, until
from vswitch import VSwitch
from vswitch.endpoints.guests import libvirt, qemu
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.testing.qemu import Qemu, QemuError

VERSION = (7, 2)
GUEST = qemu.named_guest("a guest, or two")
ROOT_PORT = '{"driver": "pcie-root-port", "id": "pci.1", "bus": "pcie.0", "addr": "0x1"}'  # as libvirt has them


@pytest.fixture(autouse=True, scope="module")
def machine_that_has_qemu() -> None:
    require_qemu()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for unix sockets, and needs quoting."""
    with tempfile.TemporaryDirectory(prefix="v,s ", dir="/tmp") as path:
        yield Path(path)


URLS = [
    "tcp://127.0.0.1:{port}",
    "tcp://localhost:{port}",
    "tcp://[::1]:{port6}",
    "unix://{directory}/lan",
    "tcp://127.0.0.1:{port}?connect",
    "tcp://[::1]:{port6}?connect",
    "unix://{directory}/g?connect",
    "mcast://230.0.0.1:{port}",
    "mcast://230.0.0.1:{port}?iface=lo",
    "udp://127.0.0.1:{port}",
    "udp://0.0.0.0:{port}",
    "udp://127.0.0.1:9?remote=127.0.0.1:{port}",
    "unixgram://{directory}/lan",
    "unixgram://{directory}/lan?remote={directory}/g",
    "vde://{directory}/vde",
    "vhost-user://{directory}/v",
    "vhost-user://{directory}/v?connect",
]


def config_for(url: str, directory: Path) -> EndpointConfig:
    return parse(url.format(directory=directory, port=free_port("127.0.0.1"), port6=free_port("::1")))


def vde_switch(stack: AsyncExitStack, directory: Path) -> None:
    """A VDE switch, without which QEMU does not start."""
    program = shutil.which("vde_switch")
    require(program, "vde_switch not found: install the package vde2")
    assert program is not None
    process = stack.enter_context(
        subprocess.Popen([program, "-s", str(directory)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    )
    stack.callback(process.terminate)


async def check_starts(arguments: list[str], config: EndpointConfig) -> None:
    """A machine with PCI slots starts with these arguments and does not complain."""
    async with AsyncExitStack() as stack:
        if config.scheme == "vde":
            path = Path(config.path)
            vde_switch(stack, path)
            await until((path / "ctl").exists)
        elif config.scheme == "vhost-user":  # QEMU waits for the switch
            switch = await stack.enter_async_context(VSwitch())
            await switch.attach(config.url)
        machine = ["-machine", "q35", "-accel", "tcg", "-S", "-device", ROOT_PORT]
        running = stack.enter_context(closing(Qemu(*machine, *arguments)))
        await running.started()
        (nic,) = await running.qmp("query-rx-filter")
        assert nic["main-mac"] == GUEST.mac
        waits = "info: QEMU waiting for connection on"  # which vhost-user says when it listens
        assert [line for line in running.output.splitlines() if waits not in line] == []


@pytest.mark.parametrize("url", URLS)
async def test_qemu_starts_with_each_line(url: str, directory: Path) -> None:
    config = config_for(url, directory)
    for netdev in qemu.netdevs(config, VERSION, GUEST):
        arguments = shlex.split(qemu.arguments(netdev, GUEST.mac))
        # The slot is for the root port here, which a lone guest does not have.
        await check_starts([f"{word},addr=2" if word.startswith("virtio") else word for word in arguments], config)


@pytest.mark.parametrize("url", URLS)
async def test_qemu_starts_with_each_commandline_element(url: str, directory: Path) -> None:
    config = config_for(url, directory)
    text = libvirt.xml(config, VERSION, GUEST, None)
    (element,) = ElementTree.fromstring(f"<x>{text}</x>")
    if element.tag != "interface":  # which is libvirt's to understand
        await check_starts([argument.attrib["value"] for argument in element], config)


def switch_end(config: EndpointConfig) -> socket.socket:
    """A socket where the switch's would be."""
    family = socket.AF_UNIX if config.path else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if config.scheme == "mcast":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the group's port is everybody's
    sock.bind(config.path or (config.host, config.port))
    if config.scheme == "mcast":
        member = socket.inet_aton(config.host) + socket.inet_aton("127.0.0.1")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    return sock


@pytest.mark.parametrize("url", [url for url in URLS if url.startswith(("mcast", "udp", "unixgram"))])
async def test_frames_of_a_datagram_guest_come_to_our_end_and_answers_back(url: str, directory: Path) -> None:
    config = config_for(url.replace(":9?", ":{port6}?"), directory)
    for netdev in qemu.netdevs(config, VERSION, GUEST):
        near, far = socket.socketpair()
        text = netdev.text.replace("id=net0,", "")
        with near, far, trio.socket.from_stdlib_socket(switch_end(config)) as ours:
            async with rig(text, f"socket,fd={far.fileno()}", pass_fds=[far.fileno()]), Peer.at(near) as behind_qemu:
                await behind_qemu.send(frame(BROADCAST, mac(1)))
                with trio.fail_after(TIMEOUT_S):
                    came, source = await ours.recvfrom(65536)
                assert came == frame(BROADCAST, mac(1))
                if config.scheme != "mcast":
                    await ours.sendto(frame(mac(1), mac(2)), source)
                    assert await behind_qemu.receive(1) == [frame(mac(1), mac(2))]
                if config.remote is not None:
                    assert source == config.remote
        if config.path:
            await trio.Path(config.path).unlink()


async def test_without_an_address_a_device_takes_a_slot_that_libvirt_has_given_away() -> None:
    """Why elements say addr=: QEMU makes a plain -device before one in JSON."""
    bare = ["-netdev", "hubport,id=vswitch0,hubid=0", "-device", "virtio-net-pci,netdev=vswitch0"]
    machine = ["-machine", "q35", "-accel", "tcg", "-S", "-device", ROOT_PORT]
    with (
        closing(Qemu(*machine, *bare)) as running,
        pytest.raises(QemuError, match="slot 1 function 0 not available"),
    ):
        await running.started()


async def test_a_guest_started_from_the_line_of_a_port_with_a_policy_gets_its_frames_through(directory: Path) -> None:
    """README's kind of port: one address, in a VLAN, with shorter frames than usual."""
    guest_image()
    root = directory / "home"
    root.mkdir()
    home = Home(root)
    urls = [f"unix://{directory}/g?vlan=10&allow_mac=52:54:00:00:00:07&max_frame=1400", f"unix://{directory}/o?vlan=10"]
    with home.serve(*urls) as serving:
        line = next(line for line in serving.lines if "-netdev" in line)
        guest = Guest("guest", arguments=shlex.split(line))
        async with boot(guest), await Peer.connected_to(f"unix://{directory}/o") as wire, trio.open_nursery() as tasks:
            host = Host(wire, "10.0.0.2", 2)
            tasks.start_soon(host.run)
            assert (await guest.run("cat /sys/class/net/eth0/mtu")).stdout.strip() == "1386"
            # The largest packet that the card sends; the answer is as long.
            done = await guest.run("ip address add 10.0.0.1/24 dev eth0; ping -c 1 -W 9 -s 1358 10.0.0.2")
            assert done.ok, done.stdout
            assert ("unix1.1", "52:54:00:00:00:07") in {(known["port"], known["mac"]) for known in home.get("macs")}
            assert home.get("status")["totals"]["drops"] == {}
            tasks.cancel_scope.cancel()
