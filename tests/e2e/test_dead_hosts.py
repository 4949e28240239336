"""TCP peers on hosts that die without a word, in network namespaces; and that come back."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cli.program import Home, Serving, connect
from tests.frames import BROADCAST, frame, framed, mac
from tests.namespaces import needed_for_tap
from tests.waiting import until

HERE, THERE = "10.77.0.1", "10.77.0.2"
ENDPOINTS = ("tcp://0.0.0.0:7001?insecure&single&name=quiet", "tcp://0.0.0.0:7002?insecure&name=busy")
NOTICED_S = 40.0  # it takes up to 15 s; on a machine that is busy, more

# Connects to each port that comes on standard input, and says so.
GUEST = f"""
import socket, sys
held = []
for line in sys.stdin:
    held.append(socket.create_connection(("{HERE}", int(line)), 20))
    print("in", flush=True)
"""


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as path:
        yield Home(Path(path))


class OtherHost:
    """A host at the other end of a cable from a switch's, and the guests on it."""

    def __init__(self, process: "subprocess.Popen[str]", pid: int) -> None:
        self._guests = process
        self._pid = process.pid
        self._ip(f"link add there type veth peer name here netns {pid}")
        self.come_back()
        self._ip("link set there up")
        for words in (f"address add {HERE}/24 dev here", "link set here up"):
            ip(pid, words)

    def plug_in(self, port: int) -> None:
        """One more guest connects."""
        assert self._guests.stdin is not None
        assert self._guests.stdout is not None
        self._guests.stdin.write(f"{port}\n")
        self._guests.stdin.flush()
        assert self._guests.stdout.readline() == "in\n"

    def die(self) -> None:
        """Nothing that is sent to it is answered."""
        self._ip(f"address del {THERE}/24 dev there")

    def come_back(self) -> None:
        self._ip(f"address add {THERE}/24 dev there")

    def _ip(self, words: str) -> None:
        ip(self._pid, words)


def ip(pid: int, words: str) -> None:
    subprocess.run(["nsenter", "--target", str(pid), "--net", "ip", *words.split()], check=True, timeout=20)


@contextmanager
def another_host(serving: Serving) -> Iterator[OtherHost]:
    command = [needed_for_tap(), "--net", sys.executable, "-c", GUEST]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            until(
                lambda: Path(f"/proc/{process.pid}/cmdline").read_text().startswith(sys.executable), "its own network"
            )
            yield OtherHost(process, serving.pid)
        finally:
            process.kill()


@contextmanager
def two_hosts(home: Home, *urls: str) -> Iterator[tuple[Serving, OtherHost]]:
    with home.serve(*urls, under=[needed_for_tap(), "--net"]) as serving, another_host(serving) as other:
        yield serving, other


def ports_up(home: Home) -> set[str]:
    return {port["name"] for port in home.get("ports") if port["up"]}


def test_a_dead_host_is_noticed_whether_or_not_something_is_sent_to_it(home: Home) -> None:
    station = f"unix://{home.root}/lan.sock"
    with two_hosts(home, *ENDPOINTS, f"{station}?vlan=7", "unix://busy.sock?vlan=8&name=talker") as (serving, other):
        with ExitStack() as stack:
            for port in (7001, 7002):
                other.plug_in(port)
            until(lambda: {"quiet", "busy.1"} <= ports_up(home), "both are in")
            talker = stack.enter_context(connect(f"unix://{home.root}/busy.sock"))
            other.die()
            hello = framed([frame(BROADCAST, mac(1))])

            def both_are_gone() -> bool:
                talker.sendall(hello)
                return not {"quiet", "busy.1"} & ports_up(home)

            until(both_are_gone, "both to be noticed", NOTICED_S)
        serving.wait_said("quiet down: ", "busy.1 down: ")


def test_a_host_that_is_back_takes_over_at_once(home: Home) -> None:
    with two_hosts(home, *ENDPOINTS[:1]) as (serving, other):
        other.plug_in(7001)
        until(lambda: "quiet" in ports_up(home), "it is in")
        other.die()
        other.come_back()
        other.plug_in(7001)
        until(lambda: serving.log.count("quiet up: ") == 2, "it is in again")
        assert "quiet down: its host has connected again" in serving.log
        assert "turned away" not in serving.log
