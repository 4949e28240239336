"""Two kernels' TCP over TAP devices that leave checksums and segmentation undone."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.program import Home
from tests.namespaces import ip_inside, needed_for_tap

SIZE = 3_000_000

# Sends or receives SIZE bytes of a pattern, then says the other way round that it has them.
TALK = """
import socket, sys
role, address, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
data = (bytes(range(251)) * (size // 251 + 1))[:size]
if role == "serve":
    with socket.create_server((address, 7000), family=family) as server:
        print("ready", flush=True)
        server.settimeout(20)
        connection, _ = server.accept()
        connection.settimeout(20)
        got = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        assert got == data, (len(got), size)
        connection.close()
else:
    with socket.create_connection((address, 7000), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
"""


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="vs-") as path:
        yield Home(Path(path))


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """A process in a network namespace of its own."""
    command = [needed_for_tap(), "--net", "sh", "-c", "echo ready; exec sleep 100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def set_up(pid: int, tap: str, number: int) -> None:
    for words in (
        f"address add 10.0.0.{number}/24 dev {tap}",
        f"-6 address add fd00::{number}/64 dev {tap} nodad",
        f"link set {tap} up",
    ):
        assert ip_inside(pid, words)


def talk(server: int, client: int, address: str) -> None:
    def inside(pid: int, role: str) -> "subprocess.Popen[bytes]":
        enter = ["nsenter", "--target", str(pid), "--net", sys.executable, "-c", TALK, role, address, str(SIZE)]
        return subprocess.Popen(enter, stdout=subprocess.PIPE)

    with ExitStack() as stack:
        served = stack.enter_context(inside(server, "serve"))
        assert served.stdout is not None
        assert served.stdout.readline() == b"ready\n"
        sent = stack.enter_context(inside(client, "send"))
        assert (sent.wait(30), served.wait(30)) == (0, 0)


def received(pid: int, tap: str) -> int:
    """How many packets have come in by a device."""
    words = f"nsenter --target {pid} --net ip -json -stats link show {tap}"
    return int(json.loads(subprocess.check_output(words.split()))[0]["stats64"]["rx"]["packets"])


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_what_one_device_leaves_to_do_the_other_takes(home: Home, elsewhere: int, address: str) -> None:
    with home.serve("tap://ta?name=a", "tap://tb?name=b", under=[needed_for_tap(), "--net"]) as serving:
        assert ip_inside(serving.pid, f"link set tb netns {elsewhere}")
        set_up(elsewhere, "tb", 2)
        set_up(serving.pid, "ta", 1)
        talk(elsewhere, serving.pid, address)
        a, b = home.get("ports")
        assert a["rx_bytes"] > SIZE
        assert a["rx_bytes"] / a["rx_frames"] > 2000, "longer than any on a wire"
        assert (b["segmented"], b["checksummed"]) == (0, 0)
        assert b["drops"].keys() <= {"unreachable"}, "what was sent before it was up"
        assert serving.stop() == 0


def test_a_device_may_leave_nothing_to_do(home: Home, elsewhere: int) -> None:
    with home.serve("tap://ta?name=a&offload=no", "tap://tb?name=b", under=[needed_for_tap(), "--net"]) as serving:
        assert ip_inside(serving.pid, f"link set tb netns {elsewhere}")
        set_up(elsewhere, "tb", 2)
        set_up(serving.pid, "ta", 1)
        talk(elsewhere, serving.pid, "10.0.0.2")
        a = home.get("ports")[0]
        assert a["rx_bytes"] / a["rx_frames"] < 1515
        assert serving.stop() == 0


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_what_a_device_leaves_to_do_is_done_for_a_stream(home: Home, elsewhere: int, address: str) -> None:
    socket = home.root / "lan.sock"
    with home.serve("tap://ta?name=a", f"unix://{socket}?name=wire", under=[needed_for_tap(), "--net"]) as serving:
        with tempfile.TemporaryDirectory(prefix="vs-") as path:
            other = Home(Path(path))
            with other.serve(f"unix://{socket}?connect", "tap://tb", under=[needed_for_tap(), "--net"]) as far:
                assert ip_inside(far.pid, f"link set tb netns {elsewhere}")
                set_up(serving.pid, "ta", 1)
                set_up(elsewhere, "tb", 2)
                talk(elsewhere, serving.pid, address)
                assert SIZE / received(elsewhere, "tb") > 4000, "segments were joined"
                wire = next(port for port in home.get("ports") if port["name"].startswith("wire"))
                assert far.stop() == 0
        assert wire["segmented"] > 0
        assert wire["tx_frames"] > SIZE / 1500
        assert "bad_offload" not in wire["drops"]
        assert serving.stop() == 0
