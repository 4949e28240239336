"""The control socket under fire: whatever its clients do, the switch lives, and forwards as if nobody had asked.

`HTTP_FUZZ` says how many requests, `HTTP_FUZZ_SEED` from which clients.
"""

import os
import random
import re
import select
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.program import Home, Serving, connect
from tests.control.http_fuzzer import Composer, Fuzzer
from tests.frames import frame, framed, mac
from tests.waiting import until

REQUESTS = int(os.environ.get("HTTP_FUZZ", "6000"))
SEED = int(os.environ.get("HTTP_FUZZ_SEED", "1"))
WARM_UP_REQUESTS = 2500
RSS_KIB_MAX = 10 * 1024  # more than after the warm-up
FRAMES = 8  # from each station to the other, between two clients
NUMBER_AT = 4 + 14  # in a frame with its length


# What there may be in the log: the stations, that it runs uncompiled, and files that captures cannot go on with.
NAMED = re.compile(r"[0-9:]{8} (unix1\.[12] up: |the data plane runs uncompiled|the capture to .* has stopped: )")


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as root:  # not tmp_path: sockets need short paths
        yield Home(Path(root))


class Station:
    """Sends numbered frames, and checks that it receives the other's, each and in order."""

    def __init__(self, url: str, address: int) -> None:
        self._sock = connect(url)
        self._address = address
        self._buffer = b""
        self.sent = self.received = 0

    def send(self, to: int, count: int) -> None:
        numbers = range(self.sent, self.sent + count)
        self._sock.sendall(framed([frame(to, self._address, payload=struct.pack("!I", number)) for number in numbers]))
        self.sent += count

    def receive(self) -> bool:
        """Takes what has come; answers whether there was something."""
        if not select.select([self._sock], [], [], 0)[0]:
            return False
        data = self._sock.recv(1 << 20)
        assert data, "the switch has hung up on a station"
        self._buffer += data
        at = 0
        while len(self._buffer) >= at + 4 + 60:
            (number,) = struct.unpack_from("!I", self._buffer, at + NUMBER_AT)
            assert number == self.received, f"frame {number} came where {self.received} was due"
            self.received += 1
            at += 4 + 60
        self._buffer = self._buffer[at:]
        return True

    def close(self) -> None:
        self._sock.close()


class Pair:
    """Two stations that send to each other all the while."""

    def __init__(self, url: str) -> None:
        self.stations = Station(url, mac(1)), Station(url, mac(2))

    def exchange(self, count: int = FRAMES) -> None:
        one, two = self.stations
        one.send(mac(2), count)
        two.send(mac(1), count)
        one.receive()
        two.receive()

    def has_all(self) -> bool:
        one, two = self.stations
        one.receive()
        two.receive()
        return (one.received, two.received) == (two.sent, one.sent)


@contextmanager
def stations(home: Home) -> Iterator[Pair]:
    """The pair, when each knows where the other is."""
    pair = Pair(f"unix://{home.root}/lan.sock")
    try:
        until(lambda: len(home.get("ports")) == 2, "both have their ports")
        pair.exchange(1)
        until(pair.has_all, "the first frames are there")
        yield pair
    finally:
        for station in pair.stations:
            station.close()


def fuzz(fuzzer: Fuzzer, pair: Pair, goes_on: Callable[[], bool]) -> None:
    """One client after the other, and frames in between."""
    while goes_on():
        fuzzer.step()
        pair.exchange()


def rss_kib(serving: Serving) -> int:
    found = re.search(r"^VmRSS:\s+([0-9]+) kB$", Path(f"/proc/{serving.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def descriptors(serving: Serving) -> list[str]:
    """What the program has open."""
    found = []
    for entry in Path(f"/proc/{serving.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has been closed
            found.append(re.sub("[0-9]+", "", os.readlink(entry)))
    return sorted(found)


def unnamed(log: str) -> list[str]:
    """The lines that have no business in the log."""
    return [line for line in log.splitlines() if not NAMED.match(line)]


def test_no_client_of_the_control_socket_hurts_the_switch(home: Home) -> None:
    print(f"HTTP_FUZZ_SEED={SEED}")  # which pytest shows if this fails
    files = home.root / "files"
    files.mkdir()
    with home.serve("unix://lan.sock", "--record", "1MiB") as serving, stations(home) as pair:
        composer = Composer(random.Random(SEED), files, ["unix1", "unix1.1", "unix1.2"])
        open_files = descriptors(serving)
        with Fuzzer(home.control(), composer) as fuzzer:
            fuzz(fuzzer, pair, lambda: fuzzer.requests < WARM_UP_REQUESTS)
        until(lambda: descriptors(serving) == open_files, "the first connections are closed")
        rss = rss_kib(serving)
        with Fuzzer(home.control(), composer) as fuzzer:
            fuzz(fuzzer, pair, lambda: fuzzer.requests < REQUESTS)
        print(f"{fuzzer.requests} requests, answers by status: {dict(sorted(fuzzer.answers.items()))}")
        until(pair.has_all, "every frame has arrived")
        status = home.ask("status")
        assert (status["failures"], status["totals"]["drops"]) == (0, {}), home.get("failures")
        assert 500 not in fuzzer.answers
        until(lambda: descriptors(serving) == open_files, "all descriptors are given back")
        until(lambda: rss_kib(serving) < rss + RSS_KIB_MAX, f"memory is given back, as far as {rss} KiB and some")
        print(f"memory: {rss} KiB after the warm-up, {rss_kib(serving)} KiB now")
        assert unnamed(serving.log) == []
        assert serving.stop() == 0
