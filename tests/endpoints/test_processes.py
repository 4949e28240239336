"""Which process a loopback peer is: told when somebody asks, once for each peer, and nobody is kept waiting for it."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from tests.frames import BROADCAST, frame, mac
from tests.peers import TIMEOUT_S, until
from vswitch import VSwitch
from vswitch.endpoints import processes
from vswitch.endpoints.unix_socket import process_text


@contextmanager
def handed_over(sock: socket.socket) -> Iterator[int]:
    """Another process has the socket from now on, and this one not; its number."""
    with subprocess.Popen(["sleep", "1000"], pass_fds=[sock.fileno()]) as process:
        sock.close()
        try:
            yield process.pid
        finally:
            process.kill()


async def peer(switch: VSwitch) -> str | None:
    """As the one port's peer is shown to who asks for the ports."""
    await switch.find_processes()
    (port,) = switch.ports()
    return port.peer


def connected(url: str) -> tuple[socket.socket, str]:
    """A socket that is connected to a listener, and its address."""
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S)
    host, port, *_ = sock.getsockname()
    return sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0?any_user=yes", "tcp://[::1]:0"])
async def test_a_tcp_peer_is_shown_with_its_process(url: str) -> None:
    async with VSwitch() as switch:
        sock, address = connected((await switch.attach(url)).url.partition("?")[0])
        with handed_over(sock) as pid:
            await until(switch.ports)
            assert await peer(switch) == f"{address}, sleep (pid {pid})"


async def test_a_listener_that_is_connected_to_is_shown_with_its_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        async with VSwitch() as switch:
            await switch.attach(f"{url}?connect")
            accepted, _ = server.accept()
            with handed_over(accepted) as pid:
                await until(lambda: switch.ports()[0].up)
                assert await peer(switch) == f"{url}, sleep (pid {pid})"


async def test_a_udp_peer_is_shown_with_its_process() -> None:
    async with VSwitch() as switch:
        host, _, port = (await switch.attach("udp://127.0.0.1:0")).url.removeprefix("udp://").rpartition(":")
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        sock.sendto(frame(BROADCAST, mac(1)), (host, int(port)))
        with handed_over(sock) as pid:
            await until(switch.ports)
            assert await peer(switch) == f"{address}, sleep (pid {pid})"


async def test_the_next_peer_of_a_port_is_another_process() -> None:
    async with VSwitch() as switch:
        url = (await switch.attach("tcp://127.0.0.1:0?single=yes")).url.partition("?")[0]
        with handed_over(connected(url)[0]):
            await until(lambda: switch.ports()[0].up)
            await peer(switch)
        await until(lambda: not switch.ports()[0].up)
        assert await peer(switch) is None
        sock, address = connected(url)
        with sock:
            await until(lambda: switch.ports()[0].up)
            assert await peer(switch) == f"{address}, {process_text(os.getpid())}"


async def test_who_cannot_be_told_is_an_address_and_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with VSwitch() as switch:
        sock, address = connected((await switch.attach("tcp://127.0.0.1:0")).url)
        with sock:
            await until(switch.ports)
            with monkeypatch.context() as nothing_found:
                nothing_found.setattr(processes, "_open_files", lambda: iter([(1, "/dev/null")]))
                assert await peer(switch) == address
            assert await peer(switch) == address


async def test_the_search_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> Iterator[tuple[int, str]]:
        while True:
            yield 1, "/dev/null"

    monkeypatch.setattr(processes, "_open_files", endless)
    monkeypatch.setattr(processes, "SEARCH_S", 0.01)
    async with VSwitch() as switch:
        sock, address = connected((await switch.attach("tcp://127.0.0.1:0")).url)
        with sock, trio.fail_after(TIMEOUT_S):
            await until(switch.ports)
            assert await peer(switch) == address


async def test_who_asks_meanwhile_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    searched, release = [], trio.Event()

    def search(sought: list[object], until_s: float) -> dict[object, str]:
        searched.append(sought)
        trio.from_thread.run(release.wait)
        return dict.fromkeys(sought, "qemu (pid 7)")

    monkeypatch.setattr(processes, "_search", search)
    async with VSwitch() as switch, trio.open_nursery() as nursery:
        sock, address = connected((await switch.attach("tcp://127.0.0.1:0")).url)
        with sock, trio.fail_after(TIMEOUT_S):
            await until(switch.ports)
            nursery.start_soon(switch.find_processes)
            await until(lambda: searched)
            assert await peer(switch) == address
            release.set()
            await until(lambda: switch.ports()[0].peer == f"{address}, qemu (pid 7)")
        assert len(searched) == 1
