"""Stations that are no guests: network namespaces, and programs that speak QEMU's stream."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.cli.program import package_root
from tests.e2e.guest import guest_image
from tests.namespaces import needed_for_tap
from tests.waiting import is_over, until
from vswitch import InputError, RefusedError
from vswitch.testing import Lan, QemuError, SyncLan

ECHO = """
import os, socket, sys
stream = socket.socket(fileno=int(sys.argv[1]))
assert sys.argv[1] == os.environ["VSWITCH_FD"]
print("up", flush=True)
while data := stream.recv(65536):
    stream.sendall(data)  # every frame comes back
"""


async def test_a_namespace_is_a_machine_like_others(lan: Lan) -> None:
    needed_for_tap()
    guest_image()
    ns = await lan.namespace("ns", gateway="10.0.0.254")
    host = await lan.host("host")
    guest = await lan.guest("guest")
    assert await host.ping(ns.ip)
    assert await guest.run("ping -c1 ns"), "guests know it by name"
    said = await ns.run("hostname; cat /sys/class/net/eth0/address; ip -4 -o address show eth0; ip route; ls /proc/1")
    assert said.stdout.startswith(f"ns\n{ns.mac}\n")
    assert f"inet {ns.ip}/24" in said.stdout
    assert "default via 10.0.0.254" in said.stdout
    assert (await lan.expect("icmp and dst host " + ns.ip)).sniffed_on == "host"
    async with lan.partition([ns], [host]):
        assert not await host.ping(ns.ip, timeout=0.2)
    done = await ns.run("cat; echo oops >&2; exit 3", input=b"in")
    assert (done.status, done.output, done.errors) == (3, b"in", b"oops\n")
    assert (await ns.run("sleep 1000 & echo $!")).ok, "it does not wait for what is in the background"
    with pytest.raises(QemuError, match=r"namespace ns: sleep 9: no answer in 0\.1 s"):
        await ns.run("sleep 9", timeout=0.1)
    with pytest.raises(InputError, match="somebody else's"):
        await lan.namespace("other", ip=ns.ip)
    with pytest.raises(InputError, match="unknown parameter 'vlna'"):
        await lan.namespace("other", vlna=1)
    pids = [int(pid) for pid in (await ns.run("ls /proc | grep '^[0-9]'")).stdout.split()]
    assert 1 in pids
    assert len(pids) < 10, "only its own processes"
    first = ns.pid
    await lan.remove(ns)
    await lan.eventually(lambda: is_over(first))
    assert lan.machines == {"guest": guest, "host": host}
    with pytest.raises(RefusedError, match="namespace ns has ended"):
        await ns.run("true")
    again = await lan.namespace("ns", ip="")
    assert (again.ip, (await again.run("ip -4 -o address show eth0")).stdout) == ("", "")


async def test_two_namespaces_carry_much(lan: Lan) -> None:
    """With this machine's own programs."""
    needed_for_tap()
    a, b = await lan.namespace("a"), await lan.namespace("b")
    script = "import socket; s = socket.create_server(('{ip}', 7)); print('up', flush=True); c, _ = s.accept()\n"
    script += "n = 0\nwhile d := c.recv(65536): n += len(d)\nprint(n)"
    client = "import socket; s = socket.create_connection(('{ip}', 7), 20); s.sendall(bytes(5_000_000))"
    done = []

    async def serve() -> None:
        done.append(await b.run(f'{sys.executable} -c "{script.format(ip=b.ip)}"'))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await lan.eventually(lambda: a.run(f'{sys.executable} -c "{client.format(ip=b.ip)}"'), within=20)
    assert done[0].stdout.split() == ["up", "5000000"]


def test_in_a_sync_test_too() -> None:
    needed_for_tap()
    with SyncLan() as lan:
        ns, host = lan.namespace("ns"), lan.host("host")
        assert host.ping(ns.ip)
        assert ns.run("hostname").stdout == "ns\n"


def test_what_is_needed_for_one_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a system allows none, in its words."""
    (tmp_path / "unshare").write_text("#!/bin/sh\necho unshare: unshare failed: Operation not permitted >&2; exit 1\n")
    (tmp_path / "unshare").chmod(0o755)

    async def main() -> None:
        async with Lan() as lan:
            with pytest.raises(RefusedError, match=r"ns cannot be made: unshare: .* Operation not permitted"):
                await lan.namespace("ns")
            assert (lan.machines, lan.switch.ports()) == ({}, [])
            monkeypatch.setenv("PATH", "/nowhere")
            with pytest.raises(RefusedError, match="nsenter not found: install the package util-linux"):
                await lan.namespace("ns")

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    trio.run(main)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_one_is_left_when_its_test_is_killed(number: signal.Signals) -> None:
    needed_for_tap()
    code = """
import trio
from vswitch.testing import Lan

async def main():
    async with Lan() as lan:
        ns = await lan.namespace("ns")
        await ns.run("sleep 1000 >/dev/null 2>&1 &")
        print(ns.pid, ns._program.process.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
    env = os.environ | {"PYTHONPATH": package_root()}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(map(is_over, pids))
        process.send_signal(number)
    until(lambda: all(map(is_over, pids)), "all have ended")


async def test_a_program_is_a_station(lan: Lan) -> None:
    host = await lan.host("host")
    program = await lan.program("echo", [sys.executable, "-c", ECHO, "{fd}"], ip="10.0.0.77")
    assert (program.ip, lan.machines["echo"]) == ("10.0.0.77", program)
    await lan.eventually(lambda: "up" in program.output)
    await host.send(b"\xff" * 6 + bytes.fromhex(host.mac.replace(":", "")) + bytes(46))
    packet = await lan.expect(lambda packet: True, at="echo", since=0)
    assert packet.sniffed_on == "echo"
    await lan.eventually(lambda: lan.switch.ports()[1].rx_frames == 1)
    async with lan.down(program):
        assert not lan.switch.ports()[1].up
    await lan.remove(program)
    assert not program.running
    with pytest.raises(InputError, match="gone: '/nowhere/program' is no program that can be run"):
        await lan.program("gone", ["/nowhere/program"])
    short = await lan.program("short", [sys.executable, "-c", "raise SystemExit(3)"])
    assert await short.ended() == 3
    assert not short.running


async def test_another_switch_is_a_program(lan: Lan) -> None:
    host = await lan.host("host")
    command = [sys.executable, "-m", "vswitch", "serve", "fd://{fd}?single=yes", "--name", f"x{os.getpid()}"]
    other = await lan.program("other", command)
    await lan.eventually(lambda: "ready" in other.output, within=20)
    await host.send(b"\xff" * 6 + bytes.fromhex(host.mac.replace(":", "")) + bytes(46))
    asked = [sys.executable, "-m", "vswitch", "macs", "--name", f"x{os.getpid()}"]

    async def knows_it() -> bool:
        return host.mac in (await trio.run_process(asked, capture_stdout=True)).stdout.decode()

    await lan.eventually(knows_it, within=20)
