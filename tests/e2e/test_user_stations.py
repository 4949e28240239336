"""Real stations (this machine's kernel and programs in namespaces) on a user network whose process dies."""

import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.endpoints.user_guest import need_libslirp, restarted
from tests.frames import BROADCAST, frame, mac
from tests.needs import require
from tests.peers import Peer, until
from vswitch.control.model import ForwardInfo
from vswitch.endpoints.user import forward as forwards
from vswitch.testing import Lan, Namespace

FRAMES = 2000


@pytest.fixture(autouse=True)
def libslirp() -> None:
    need_libslirp()


@pytest.fixture
def source() -> Iterator[socket.socket]:
    """A server on loopback that sends without end, to one client at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        while True:
                            client.sendall(bytes(1 << 16))

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


READER = """
import socket, sys
sock = socket.create_connection(("10.0.2.2", int(sys.argv[1])))
sock.settimeout(20)
total = 0
while True:
    total += len(sock.recv(1 << 16))
    with open(sys.argv[2], "w") as file:
        file.write(str(total))
"""


async def with_lease(lan: Lan, name: str, tmp_path: Path) -> tuple[Namespace, Path, Path]:
    """A station that has its address from busybox's client; where that writes its number, and what it was told."""
    require(shutil.which("busybox"), "busybox not found: install the package busybox")
    station = await lan.namespace(name)
    script, told, pid = (tmp_path / file for file in ("script", "told", "pid"))
    script.write_text(f'#!/bin/sh\n[ -n "$ip" ] && ip addr replace $ip/24 dev eth0\necho "$1 $ip" >> {told}\n')
    script.chmod(0o755)
    client = f"busybox udhcpc -f -i eth0 -s {script} -p {pid} -x hostname:{name} </dev/null >/dev/null 2>&1 &"
    (await station.run(client)).check()
    await until(lambda: told.exists() and "bound" in told.read_text())
    return station, pid, told


def only_lease(lan: Lan) -> tuple[str, str, str]:
    (lease,) = lan.switch.user_networks.leases()
    return lease.name, lease.ip, lease.mac


async def test_a_lease_is_renewed_and_stays_also_with_another_process(lan: Lan, tmp_path: Path) -> None:
    await lan.switch.attach("user://10.0.2.0/24?name=net")
    station, pid, told = await with_lease(lan, "web", tmp_path)
    before = only_lease(lan)
    assert before[:2] == ("web", "10.0.2.15")
    for lines in (3, 4):
        (await station.run(f"kill -USR1 $(cat {pid})")).check()
        await until(lambda lines=lines: len(told.read_text().splitlines()) == lines)  # type: ignore[misc]
        assert only_lease(lan) == before
        async with restarted(lan.switch, signal.SIGKILL):
            pass
        (await station.run("busybox ping -c 1 -W 10 10.0.2.2")).check()
    assert told.read_text().splitlines() == ["deconfig ", "bound 10.0.2.15", *["renew 10.0.2.15"] * 2]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_nobody_else_notices_that_the_process_dies_in_a_transfer(
    lan: Lan, tmp_path: Path, source: socket.socket, number: signal.Signals
) -> None:
    await lan.switch.attach("user://10.0.2.0/24?name=net&host_access=yes&hostfwd=tcp::0-web:80")
    station, *_ = await with_lease(lan, "web", tmp_path)
    before, progress = only_lease(lan), tmp_path / "progress"
    port = source.getsockname()[1]
    (await station.run(f"{sys.executable} -c '{READER}' {port} {progress} </dev/null >/dev/null 2>&1 &")).check()
    await until(lambda: received(progress) > 1 << 20)
    x, y = [await Peer.plugged_into(lan.switch, name=name) for name in "xy"]
    await y.send(frame(BROADCAST, mac(2)))
    assert len(await x.receive(1)) == 1
    numbered = [frame(mac(2), mac(1), payload=number.to_bytes(4)) for number in range(FRAMES)]
    got: list[bytes] = []

    async def listen() -> None:
        while len(got) < FRAMES:
            got.extend(one for one in await y.receive(1) if one[:6] == mac(2).to_bytes(6))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        async with restarted(lan.switch, number):
            for at in range(0, FRAMES, 20):
                await x.send(*numbered[at : at + 20])
    assert got == numbered
    assert only_lease(lan) == before
    (await station.run("busybox ping -c 1 -W 10 10.0.2.2")).check()
    await until(lambda: [info.ip for info in lan.switch.user_networks.forwards()] == ["10.0.2.15"])


def received(progress: Path) -> int:
    return int(progress.read_text() or 0) if progress.exists() else 0


async def test_a_forward_by_ipv6_leads_to_a_station_that_says_nothing_when_the_process_was_replaced(
    lan: Lan, tmp_path: Path
) -> None:
    await lan.switch.attach("user://10.0.2.0/24?name=net&hostfwd=tcp:[::1]:0-web:8080")
    station, *_ = await with_lease(lan, "web", tmp_path)
    serve = f"{sys.executable} -c '{GREETER}' </dev/null >/dev/null 2>&1 &"
    enabled = " ".join(f"net.ipv6.conf.eth0.{name}=0" for name in ("accept_dad", "disable_ipv6"))
    (await station.run(f"sysctl -w {enabled} && {HAS_IPV6}")).check()
    (await station.run(serve)).check()
    await until(lambda: (only_forward(lan).ip or "").startswith("fec0::"))
    before = only_forward(lan)
    async with restarted(lan.switch, signal.SIGKILL):
        pass
    await until(lambda: only_forward(lan) == before)
    async with await trio.open_tcp_stream("::1", forwards.read(before.forward).host_port) as stream:
        assert b"".join([data async for data in stream]) == b"hello"


def only_forward(lan: Lan) -> ForwardInfo:
    (info,) = lan.switch.user_networks.forwards()
    return info


HAS_IPV6 = (
    "for i in $(seq 200); do ip -6 addr show dev eth0 | grep fec0:: | grep -v tentative && break; sleep 0.05; done"
)
GREETER = """
import socket
with socket.create_server(("::", 8080), family=socket.AF_INET6) as server:
    while True:
        client, _ = server.accept()
        client.sendall(b"hello")
        client.close()
"""
