"""Three hosts in network namespaces, as tools/fabric makes them: FRR spreads where their guests are."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.program import MORTAL, package_root
from tests.frames import BROADCAST, frame, mac
from tests.hosts import Host
from tests.namespaces import needed_for_tap
from tests.needs import require
from tests.peers import TIMEOUT_S, Peer, until
from vswitch.ports.policy import mac_text
from vswitch.protocols.rarp import announcement

ROOT = Path(__file__).parents[2]
HOLD = "3s"  # BGP has no shorter one
ADDRESSES = {"h1": "192.0.2.1", "h2": "192.0.2.2", "h3": "192.0.2.3"}


class Fabric:
    """A running tools/fabric; `directory` has the sockets of its switches."""

    def __init__(self, directory: Path, enter: list[str], env: dict[str, str]) -> None:
        self.directory = directory
        self._enter = enter
        self._env = env

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._enter, *words], capture_output=True, text=True, timeout=TIMEOUT_S, env=self._env, cwd=self.directory
        )

    def inside(self, host: str, *words: str) -> str:
        done = self.run("ip", "netns", "exec", host, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def vswitch(self, host: str, *words: str) -> subprocess.CompletedProcess[str]:
        there = ("--vty-socket", f"/run/frr/{host}")
        return self.run("ip", "netns", "exec", host, sys.executable, "-m", "vswitch", "fabric", *words, *there)

    def vtysh(self, host: str, question: str) -> Any:
        return json.loads(self.inside(host, "vtysh", "--vty_socket", f"/run/frr/{host}", "-c", question))

    def where(self, host: str, number: int) -> str | None:
        """Where FRR on a host says that a station is."""
        found = self.vtysh(host, "show evpn mac vni all json").get("100", {"macs": {}})["macs"]
        station: dict[str, str] = found.get(mac_text(mac(number)), {})
        return station.get("remoteVtep") or station.get("intf")

    def came_over(self, host: str) -> int:
        """Frames that have come to a host by VXLAN."""
        (device,) = json.loads(self.inside(host, "ip", "-json", "-statistics", "link", "show", "vx100"))
        return int(device["stats64"]["rx"]["packets"])

    async def guest(self, host: str) -> Peer:
        return await Peer.connected_to(f"unix://{self.directory / host}.sock")


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    needed_for_tap()
    require(os.geteuid() == 0, "only root can make network namespaces for FRR")
    require(Path("/usr/lib/frr/bgpd").exists(), "bgpd not found: install the package frr")
    kind = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "type", "vxlan", "id", "1", "dstport", "4789"], capture_output=True
    )
    require(kind.returncode == 0, "this kernel has no VXLAN")
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as path:
        python_path = os.pathsep.join(filter(None, [package_root(), os.environ.get("PYTHONPATH")]))
        env = os.environ | {"VSWITCH": shlex.join([sys.executable, "-m", "vswitch"]), "PYTHONPATH": python_path}
        command = [*MORTAL, sys.executable, str(ROOT / "tools/fabric"), "--hold", HOLD, "--directory", path, "3"]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=env, cwd=path
        ) as process:
            assert process.stdout is not None
            said = list(iter(process.stdout.readline, "ready\n"))[:20] if process.poll() is None else []
            try:
                (enter,) = [line for line in said if "nsenter" in line]
                words = enter.partition(": ")[2].split()
                yield Fabric(Path(path), words[: words.index("COMMAND")], env)
            finally:
                process.terminate()
    assert process.returncode == 0


async def test_three_hosts_are_one_lan(fabric: Fabric) -> None:
    async with await fabric.guest("h1") as one, await fabric.guest("h2") as two, await fabric.guest("h3") as three:
        await guests_talk(one, two, three)
        await every_host_knows_where_they_are(fabric)
        await what_is_for_one_host_goes_to_no_other(fabric, one, two)
        for number, first in enumerate((announcement(mac(11).to_bytes(6)), frame(mac(2), mac(12))), 11):
            await a_guest_moves(fabric, number, first, three)
        await trio.to_thread.run_sync(what_is_wrong_is_found, fabric)
        await a_host_dies(fabric)


async def guests_talk(*wires: Peer) -> None:
    hosts = [Host(wire, f"10.0.0.{number}", number) for number, wire in enumerate(wires, 1)]
    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(host.run)
        for here in hosts:
            for there in hosts:
                if here is not there:
                    await here.ping(there.address)
        nursery.cancel_scope.cancel()


async def every_host_knows_where_they_are(fabric: Fabric) -> None:
    for host, own in ADDRESSES.items():
        for number, address in enumerate(ADDRESSES.values(), 1):
            await is_said_to_be(fabric, host, number, "tap100" if address == own else address)
    shown = fabric.vswitch("h3", "show")
    assert shown.returncode == 0, shown.stderr
    assert ["52:54:00:00:00:01", "100", "h1", "-", "0"] in [line.split() for line in shown.stdout.splitlines()]
    assert ["52:54:00:00:00:03", "100", "here", "tap100", "0"] in [line.split() for line in shown.stdout.splitlines()]
    checked = fabric.vswitch("h3", "check", f"{fabric.directory}/fabric.toml", "--host", "h3")
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("is Established") == 2


async def is_said_to_be(fabric: Fabric, host: str, number: int, where: str | None) -> None:
    await until(lambda: fabric.where(host, number) == where)


async def what_is_for_one_host_goes_to_no_other(fabric: Fabric, one: Peer, two: Peer) -> None:
    before = fabric.came_over("h3")
    frames = [frame(mac(2), mac(1), payload=bytes([number])) for number in range(100)]
    await one.send(*frames)
    received: list[bytes] = []
    while received != frames:
        received += [came for came in await two.receive(1) if came in frames]
    assert fabric.came_over("h3") == before


async def a_guest_moves(fabric: Fabric, number: int, first: bytes, other: Peer) -> None:
    """From h1 to h2, where the first that it sends is for all, or only for a guest of that host."""
    async with await fabric.guest("h1") as guest:
        await guest.send(frame(BROADCAST, mac(number)))
        await is_said_to_be(fabric, "h3", number, ADDRESSES["h1"])
    async with await fabric.guest("h2") as guest:
        await guest.send(first)
        asked = frame(mac(number), mac(3), payload=b"are you there?")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_again_and_again, other, asked)
            while asked not in await guest.receive(1):
                pass
            nursery.cancel_scope.cancel()
        await is_said_to_be(fabric, "h3", number, ADDRESSES["h2"])


async def send_again_and_again(wire: Peer, asked: bytes) -> None:
    while True:
        await wire.send(asked)
        await trio.sleep(0.05)


def what_is_wrong_is_found(fabric: Fabric) -> None:
    """And what `check` says to do about it does away with it."""
    for words in (
        "vx100 type vxlan learning",
        "vx100 type bridge_slave learning on",
        "vx100 mtu 1500",
        "tap100 nomaster",
        "br100 down",
    ):
        fabric.inside("h3", *f"ip link set {words}".split())
    found = fabric.vswitch("h3", "check")
    assert found.returncode == 1
    wrong = [line for line in found.stdout.splitlines() if line.startswith("wrong")]
    commands = [line.partition("; run: ")[2].partition(",")[0] for line in wrong]
    for command in filter(None, commands):
        fabric.inside("h3", *command.split())
    assert len(list(filter(None, commands))) == 5
    again = fabric.vswitch("h3", "check")
    assert "; run: " not in again.stdout


async def a_host_dies(fabric: Fabric) -> None:
    assert fabric.run("ip", "link", "set", "h1", "down").returncode == 0
    await is_said_to_be(fabric, "h2", 1, None)
    checked = fabric.vswitch("h2", "check")
    assert checked.returncode == 1
    assert "wrong  192.0.2.1" in checked.stdout
    assert "192.0.2.3 (h3) is Established" in checked.stdout
