"""tap:// in a network namespace: the kernel behind the device answers ARP and echo requests."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.cli.program import Home
from tests.hosts import Host
from tests.namespaces import ip_inside, is_elsewhere, needed_for_tap
from tests.needs import require
from tests.peers import Peer, until
from vswitch.endpoints.tap import open_tap
from vswitch.errors import RefusedError


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
            await wire.send(b"\xff" * 6 + bytes.fromhex("525400000001 88b5") + bytes(46))  # to nobody: it is down
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
