"""tap:// in a network namespace: the kernel behind the device answers ARP and echo requests."""

import os
import shlex
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.cli.program import Home
from tests.frames import BROADCAST, frame, mac
from tests.hosts import Host
from tests.namespaces import ip_inside, is_elsewhere, needed_for_tap
from tests.needs import require
from tests.peers import Peer, until
from vswitch.endpoints.tap import open_tap
from vswitch.errors import RefusedError
from vswitch.ports.policy import mac_text


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="vs-") as path:
        yield Home(Path(path))


async def test_this_machine_joins_by_a_tap_device(home: Home) -> None:
    unshare = needed_for_tap()
    socket = home.root / "lan.sock"
    with home.serve("tap://tap7?name=here", f"unix://{socket}", under=[unshare, "--net"]) as serving:
        assert is_elsewhere(serving.pid)
        assert "tap://tap7" in serving.urls.values()
        async with await Peer.connected_to(f"unix://{socket}") as wire, trio.open_nursery() as nursery:
            host = Host(wire, "10.0.0.1", 1)
            nursery.start_soon(host.run)
            assert ip_inside(serving.pid, "link set tap7 down")
            await wire.send(b"\xff" * 6 + bytes.fromhex("525400000001 88b5") + bytes(46))  # to nobody
            await until(lambda: home.get("status")["totals"]["drops"].get("unreachable") == 1)
            for command in ("link set tap7 address 52:54:00:00:00:07", "address add 10.0.0.7/24 dev tap7"):
                assert ip_inside(serving.pid, command)
            assert ip_inside(serving.pid, "link set tap7 mtu 9000 up")
            for payload in (b"ping", bytes(1400), bytes(8000)):
                await host.ping("10.0.0.7", payload=payload)
            assert ("52:54:00:00:00:07", "here") in [(mac["mac"], mac["port"]) for mac in home.get("macs")]
            assert ip_inside(serving.pid, "link set tap7 down")
            nursery.cancel_scope.cancel()
        async with await Peer.connected_to(f"unix://{socket}"):
            assert ip_inside(serving.pid, "link delete tap7")
            await until(lambda: [port["up"] for port in home.get("ports") if port["name"] == "here"] == [False])
        assert serving.stop() == 0


def test_a_device_that_cannot_be_had_is_an_error(home: Home) -> None:
    with home.start("tap://lo") as serving:
        assert serving.ended() == 1
        assert serving.error.startswith("vswitch: tap://lo: ")


def test_another_user_is_told_what_root_has_to_do() -> None:
    needed_for_tap()
    require(os.geteuid() == 0, "only root can become another user")
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            open_tap("tap7")
        except RefusedError as error:
            os.write(there, str(error).encode())
        finally:
            os._exit(0)
    os.close(there)
    with open(here) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    assert (
        "have root run: chmod 666 /dev/net/tun" in said
        or "have root run: ip tuntap add tap7 mode tap user 65534" in said
    )


QEMU_HAS_USED_IT = """
import fcntl, os, struct
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"lab0", 0x5002))  # TAP, NO_PI, VNET_HDR
fcntl.ioctl(fd, 0x400454D0, 7)  # checksums and segmentation for both TCPs are the reader's to do
fcntl.ioctl(fd, 0x400454D8, struct.pack("i", 12))
fcntl.ioctl(fd, 0x400454D4, struct.pack("i", 4096))
fcntl.ioctl(fd, 0x400454E2, struct.pack("i", 0))
"""

SEND = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.sendto(bytes(range(100)), ("10.0.0.1", 7))
"""


def persistent(home: Home, made_by: str, then: str = "") -> list[str]:
    """What to start a program under so that there is a device in a network of its own."""
    script = home.root / "prepare"
    path = f"PATH={home.programs}"
    steps = ["set -e", f"{path}:/sbin:/usr/sbin:/bin:/usr/bin", "ip link set lo up", made_by, then, path, 'exec "$@"']
    script.write_text("\n".join(steps))
    return [needed_for_tap(), "--net", "/bin/sh", str(script)]


def inside(pid: int, script: str) -> None:
    nsenter = ["nsenter", "--target", str(pid), "--net", sys.executable, "-c", script]
    subprocess.run(nsenter, check=True, timeout=20)


def udp_checksum(packet: bytes) -> int:
    """Of an IPv4 packet with UDP in it (RFC 768); 0 if it is right."""
    size = len(packet) - 20
    data = packet[12:20] + struct.pack("!HH", 17, size) + packet[20:] + b"\0" * (size % 2)
    total = sum(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)


async def test_what_a_devices_last_user_has_set_does_not_last(home: Home) -> None:
    use = f"{shlex.quote(sys.executable)} -c {shlex.quote(QEMU_HAS_USED_IT)}"
    socket = home.root / "lan.sock"
    under = persistent(home, "ip tuntap add lab0 mode tap", use)
    with home.serve("tap://lab0", f"unix://{socket}", under=under) as serving:
        async with await Peer.connected_to(f"unix://{socket}") as wire, trio.open_nursery() as nursery:
            host = Host(wire, "10.0.0.1", 1)
            assert ip_inside(serving.pid, "address add 10.0.0.7/24 dev lab0")
            assert ip_inside(serving.pid, "link set lab0 up")
            assert ip_inside(serving.pid, f"neighbour add 10.0.0.1 lladdr {mac_text(host.mac)} dev lab0")
            nursery.start_soon(trio.to_thread.run_sync, inside, serving.pid, SEND)
            while True:
                (received,) = await wire.receive(1)
                if received[12:14] == b"\x08\x00" and received[23] == 17:
                    break
        assert udp_checksum(received[14:]) == 0
        assert serving.stop() == 0


@pytest.mark.parametrize("how", ["multi_queue", "user 4711", "one_queue"])
def test_a_device_of_any_kind_is_opened(home: Home, how: str) -> None:
    made = f"ip tuntap add lab0 mode tap {'' if how == 'one_queue' else how}"
    with home.serve("tap://lab0", under=persistent(home, made)) as serving:
        assert serving.urls == {"tap1": "tap://lab0"}
        assert home.get("ports")[0]["up"]
        assert serving.stop() == 0


def test_a_tun_device_is_said_to_be_one(home: Home) -> None:
    mount = "mount -t sysfs sysfs /sys 2>/dev/null || true"
    under = persistent(home, "ip tuntap add lab0 mode tun", mount)
    with home.start("tap://lab0", under=[under[0], "--mount", *under[1:]]) as serving:
        assert serving.ended() == 1
        assert serving.error == "vswitch: tap://lab0: Invalid argument; it is a TUN device: use another name\n"


@pytest.mark.parametrize("made_by", ["us", "somebody else"])
async def test_a_device_that_is_taken_away_comes_back_by_itself(home: Home, made_by: str) -> None:
    made = "" if made_by == "us" else "ip tuntap add lab0 mode tap"
    socket = home.root / "lan.sock"

    def is_up() -> list[bool]:
        return [port["up"] for port in home.get("ports") if port["name"] == "tap1"]

    with home.serve("tap://lab0", f"unix://{socket}", under=persistent(home, made)) as serving:
        async with await Peer.connected_to(f"unix://{socket}") as wire:
            for _ in range(2):
                assert ip_inside(serving.pid, "link delete lab0")
                if made_by == "somebody else":
                    await wire.send(frame(BROADCAST, mac(1)))
                    await until(lambda: is_up() == [False])
                    assert not ip_inside(serving.pid, "link show lab0")
                    assert ip_inside(serving.pid, "tuntap add lab0 mode tap")
                await until(lambda: ip_inside(serving.pid, "link set lab0 up") and is_up() == [True])
        await until(lambda: serving.log.count("tap1 up: ") == 3)  # a thread writes the log
        assert serving.log.count("tap1 down: ") == 2
        assert serving.stop() == 0
