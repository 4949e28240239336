"""Booted guests whose cards share their memory with the switch, and one at a socket."""

import json
import shlex
import shutil
import subprocess
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.e2e.guest import guest_image
from tests.needs import require
from vswitch import CaptureRequest, InputError
from vswitch.endpoints.guests import qemu
from vswitch.testing import Guest, Lan, Nic, QemuError

QEMU_VERSION = (7, 2)
SHARED = [Nic(transport="vhost-user")]
BYTES = 4_000_000
VIRTIO_NET = "/sys/bus/virtio/drivers/virtio_net"


@pytest.fixture(autouse=True, scope="module")
def tiny_guest() -> None:
    guest_image()


async def ping(guest: Guest, ip: str) -> None:
    await guest.wait_for(f"ping -c 1 -W 1 {ip}")
    done = await guest.run(f"ping -c 5 -i 0.05 -W 5 {ip}")
    assert done.ok, done.stdout


async def exchange(client: Guest, server: Guest) -> None:
    """So many bytes, one way and then the other. (iperf3 does not wait for the last of them.)"""
    (await server.run("pidof iperf3 || iperf3 -s -D")).check()
    await server.wait_for("netstat -ltn | grep :5201")
    for way in ("", "--reverse"):
        done = (await client.run(f"iperf3 -c {server.ip} -n {BYTES} --json {way}", timeout=60)).check()
        assert json.loads(done.stdout)["end"]["sum_received"]["bytes"] > BYTES / 2


async def capture(lan: Lan, port: str, file: Path) -> None:
    """What the recorder has of a port."""
    with file.open("wb") as output:
        async with aclosing(lan.switch.captures.recorded(CaptureRequest(ports=(port,)))) as blocks:
            async for block in blocks:
                output.write(block)


def frames(file: Path, condition: str) -> int:
    """How many frames tshark shows with checksums verified."""
    tshark = shutil.which("tshark")
    require(tshark, "tshark not found: install the package tshark")
    verify = [word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]
    command = [tshark or "", "-n", "-r", str(file), *verify, "-Y", condition, "-T", "fields", "-e", "frame.number"]
    return len(subprocess.check_output(command, stderr=subprocess.DEVNULL).split())


async def test_guests_that_share_their_memory_talk_to_each_other_and_to_others(lan: Lan, tmp_path: Path) -> None:
    await lan.boot("a", "b", nics=SHARED)
    a, b, c = lan.guests["a"], lan.guests["b"], await lan.guest("c")
    for other in (b, c):
        await ping(a, other.ip)
    features = {port.name: port.virtio and port.virtio.features for port in lan.switch.ports()}
    assert {"version_1", "mrg_rxbuf", "event_idx", "guest_tso4", "host_tso4"} <= set(features["a"] or ())
    assert features["c"] is None

    await exchange(a, b)
    ports = {port.name: port for port in lan.switch.ports()}
    assert ports["a"].rx_bytes / ports["a"].rx_frames > 2000, "longer than any on a wire"
    assert (ports["b"].segmented, ports["b"].checksummed) == (0, 0)

    await exchange(a, c)
    ports = {port.name: port for port in lan.switch.ports()}
    assert ports["c"].segmented > 0
    assert not ports["a"].drops
    await capture(lan, "c", tmp_path / "c.pcapng")
    assert frames(tmp_path / "c.pcapng", "tcp.checksum.status == 1") > BYTES / 1500
    assert frames(tmp_path / "c.pcapng", "ip.checksum.status == 0 || tcp.checksum.status == 0") == 0
    assert frames(tmp_path / "c.pcapng", "frame.len > 1514") == 0

    with pytest.raises(InputError, match="its memory is shared by vhost-user"):
        await b.snapshot()
    with pytest.raises(QemuError, match="Migration disabled: vhost-user backend lacks"):
        await b.qmp("migrate", uri="exec:cat >/dev/null")
    await check_comes_back(a, b)


async def check_comes_back(a: Guest, b: Guest) -> None:
    """Whatever a guest does with its card, or is done to it, its port is there again."""
    async with b.pause():
        assert not (await a.run(f"ping -c 1 -W 1 {b.ip}")).ok
    await ping(a, b.ip)

    await b.set_link(False)
    await b.wait_for("grep 0 /sys/class/net/eth0/carrier")
    await b.set_link(True)
    await ping(a, b.ip)

    device = (await b.run("basename $(readlink -f /sys/class/net/eth0/device)")).stdout.strip()
    (await b.run(f"cd {VIRTIO_NET} && echo {device} >unbind && ! test -e /sys/class/net/eth0")).check()
    (await b.run(f"cd {VIRTIO_NET} && echo {device} >bind")).check()
    (await b.run(f"ip link set eth0 up && ip address add {b.ip}/24 dev eth0")).check()
    await ping(a, b.ip)

    await b.reset()
    await ping(a, b.ip)


async def test_a_guest_of_a_printed_line_goes_on_when_the_switch_comes_back(lan: Lan, directory: Path) -> None:
    url = f"vhost-user://{directory}/card?connect"
    attached = await lan.attach(url, name="v")
    netdev = qemu.best_netdev(attached.config, QEMU_VERSION, qemu.named_guest("v"))
    line = shlex.split(qemu.arguments(netdev, qemu.named_guest("v").mac))
    guest = await lan.guest("guest", nics=[], arguments=line)
    peer = await lan.host("peer")
    (await guest.run("ip link set eth0 up && ip address add 10.0.0.99/24 dev eth0")).check()
    await ping(guest, peer.ip)

    await attached.detach()
    assert not (await guest.run(f"ping -c 1 -W 1 {peer.ip}")).ok
    await lan.attach(url, name="v")
    await ping(guest, peer.ip)
    assert guest.running
