"""`vswitch capture` and `serve --capture`: files, pipes and text, each read by others frame by frame."""

import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import captures
from tests.captures import IN, OUT, parse
from tests.cli.program import PROGRAM, Home, Process, check_refused, connect, is_one_line
from tests.frames import BROADCAST, frame, framed, mac, unframed
from tests.needs import require
from tests.waiting import until
from vswitch.edges.packet_filter import is_available

SPARE_S = 20.0


class Lan:
    """A switch with the guests `a`, `b` and `c`."""

    def __init__(self, home: Home, guests: dict[str, socket.socket]) -> None:
        self.home = home
        self.guests = guests
        self.sent = 0

    def say(self, name: str, *frames: bytes) -> None:
        """Frames that all others get; returns when they have."""
        self.guests[name].sendall(framed(frames))
        self.sent += len(frames)
        self.forwarded()
        for other, guest in self.guests.items():
            if other != name:
                assert take(guest, len(frames)) == list(frames)

    def drop(self, name: str, *frames: bytes) -> None:
        """Frames that nobody gets; returns when the switch has them."""
        self.guests[name].sendall(framed(frames))
        self.sent += len(frames)
        self.forwarded()

    def forwarded(self) -> None:
        until(lambda: self.home.get("status")["totals"]["rx_frames"] >= self.sent, "the switch has taken all in")


def take(guest: socket.socket, count: int) -> list[bytes]:
    """The next frames that a guest gets."""
    stream = b""
    frames: list[bytes] = []
    while len(frames) < count:
        data = guest.recv(1 << 20)
        assert data, "the switch is gone"
        stream += data
        at = 0
        while len(stream) - at >= 4 and (end := at + 4 + int.from_bytes(stream[at : at + 4])) <= len(stream):
            at = end
        frames += unframed(stream[:at])
        stream = stream[at:]
    assert stream == b""
    return frames


@contextmanager
def plugged(home: Home) -> Iterator[Lan]:
    guests = {name: connect(f"unix://{home.root}/{name}.sock") for name in "abc"}
    try:
        until(lambda: [port["up"] for port in home.get("ports")] == [True] * 3, "all guests are in")
        yield Lan(home, guests)
    finally:
        for guest in guests.values():
            guest.close()


URLS = [f"unix://{name}.sock?name={name}&single=yes" for name in "abc"]


@pytest.fixture
def lan(home: Home) -> Iterator[Lan]:
    with home.serve(*URLS), plugged(home) as lan:
        yield lan


class Capturing:
    """A `vswitch capture` that runs."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.file = ""  # as it is named when it has begun

    def ended(self) -> tuple[bytes, str]:
        """What it has printed, on either output, in the end."""
        output, error = self.process.communicate(timeout=SPARE_S)
        assert self.process.returncode == 0, error.decode()
        return output, error.decode()

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[bytes, str]:
        self.process.send_signal(number)
        return self.ended()


@contextmanager
def capturing(home: Home, *arguments: str, stdout: int = subprocess.PIPE) -> Iterator[Capturing]:
    with home.process("capture", *arguments, stdout=stdout, stderr=subprocess.PIPE) as process:
        try:
            yield Capturing(process)
        finally:
            process.kill()


@contextmanager
def capturing_to(home: Home, file: str, *arguments: str) -> Iterator[Capturing]:
    """A capture into a file that has begun."""
    with capturing(home, "-w", file, *arguments) as running:
        assert running.process.stderr is not None
        said = re.fullmatch("capturing to (.+); Ctrl-C ends it\n", running.process.stderr.readline().decode())
        assert said is not None
        running.file = said[1]
        yield running


def numbered(count: int, station: int = 1, size: int = 60) -> list[bytes]:
    return [frame(BROADCAST, mac(station), size, payload=number.to_bytes(4)) for number in range(count)]


def check_flood(read: captures.Read, source: str, frames: list[bytes]) -> None:
    """It has these frames, in by one port and out by the others, each with one id."""
    others = {"a", "b", "c"} - {source}
    came_in = read.at(source, IN)
    assert [packet.data for packet in came_in] == frames
    for other in others:
        assert read.frames(other, OUT) == frames
        assert [packet.id for packet in read.at(other, OUT)] == [packet.id for packet in came_in]
    assert len({packet.id for packet in came_in}) == len(frames)


def test_serve_captures_from_its_start_to_its_end(home: Home) -> None:
    with home.serve(*URLS, "--capture", "lan.pcapng") as serving, plugged(home) as lan:
        burst = numbered(300, size=1000)
        lan.say("a", *burst)
        lan.drop("b", b"runt")
        assert serving.stop() == 0
    file = home.root / "lan.pcapng"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    read = captures.read(file)
    read.check_statistics()
    check_flood(read, "a", burst)
    assert [interface.name for interface in read.ports] == ["a", "b", "c"]
    assert all(interface.description.startswith("unix://") for interface in read.ports)
    assert [(packet.data, packet.comment) for packet in read.at("b", IN)] == [(b"runt", "dropped: runt")]
    assert [packet.time_ns for packet in read.packets] == sorted(packet.time_ns for packet in read.packets)


def test_a_capture_of_nothing_is_read_by_everybody(home: Home) -> None:
    """libpcap reads no file without an interface, and no guest has come."""
    with home.serve("unix://lab.sock", "--capture", "served.pcapng", "--record", "60s") as serving:
        read = parse(captures.whole((home.root / "served.pcapng").read_bytes()))
        assert (len(read.interfaces), read.ports) == (1, []), "it is there from the beginning"
        with (
            capturing_to(home, "written.pcapng") as running,
            capturing_to(home, "row.pcapng", "--rotate", "60s") as row,
        ):
            assert running.stop() == row.stop() == (b"", "0 frames captured\n")
        assert home.run("dump", "dumped.pcapng").returncode == 0
        assert serving.stop() == 0
    files = sorted(home.root.glob("*.pcapng"))
    assert [file.name.partition("_")[0].partition(".")[0] for file in files] == ["dumped", "row", "served", "written"]
    for file in files:
        read = captures.read(file)
        assert (read.ports, read.packets, read.statistics[0][:2]) == ([], [], (0, 0))
        captures.tool("editcap", str(file), str(home.root / "edited"))


def test_after_it_was_killed_all_that_it_has_written_is_read(home: Home) -> None:
    with home.serve(*URLS, "--capture", "lan.pcapng") as serving, plugged(home) as lan:
        burst = numbered(100, size=1000)
        lan.say("a", *burst)
        file = home.root / "lan.pcapng"
        until(lambda: len(parse(captures.whole(file.read_bytes())).packets) == 300, "it is written")
        serving.process.kill()
        serving.ended()
    read = captures.read(file, cut_off=True)
    check_flood(read, "a", burst)
    assert read.statistics == {}


def test_a_full_disk_stops_the_capture_and_forwarding_goes_on(home: Home) -> None:
    unshare, mount, shell = (shutil.which(program) for program in ("unshare", "mount", "sh"))
    require(unshare and mount, "unshare and mount not found: install the packages util-linux and mount")
    alone = [unshare or "", "--mount" if os.geteuid() == 0 else "-rm", shell or ""]
    require(not subprocess.run([*alone, "-c", ":"], capture_output=True).returncode, "no mount namespaces here")
    (home.root / "small").mkdir()
    small = [*alone, "-c", f'{mount} -t tmpfs -o size=1m none small && exec "$@"', "sh"]
    with home.serve(*URLS, "--capture", "small/lan.pcapng", under=small) as serving, plugged(home) as lan:
        burst = numbered(700, size=1000)  # three times that is too much
        lan.say("a", *burst[:50])
        lan.say("a", *burst[50:])
        until(lambda: "has stopped" in serving.log, "the capture has stopped")
        lan.say("b", *numbered(50, station=2, size=1000))
        inside = Path(f"/proc/{serving.pid}/root{home.root}/small/lan.pcapng")
        copy = home.root / "copy.pcapng"
        copy.write_bytes(inside.read_bytes())
        assert serving.stop() == 0
    assert serving.log.count("has stopped") == 1
    assert f"{home.root}/small/lan.pcapng has stopped: free space there would fall below" in serving.log
    read = captures.read(copy)
    assert [packet.data for packet in read.at("a", IN)] == burst[: len(read.at("a", IN))]
    assert len(read.at("a", IN)) >= 50


def test_what_was_cut_off_anywhere_is_read_as_far_as_its_last_whole_block(lan: Lan) -> None:
    burst = numbered(3)
    with capturing_to(lan.home, "lan.pcapng") as running:
        lan.say("a", *burst)
        running.stop()
    content = (lan.home.root / "lan.pcapng").read_bytes()
    whole = parse(content)
    for cut in (len(content) - 250, len(content) - 77):
        part = lan.home.root / "part.pcapng"
        part.write_bytes(content[:cut])
        read = captures.read(part, cut_off=True)
        assert read.packets == whole.packets[: len(read.packets)]


STOPS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_ends_a_capture_to_a_file_which_is_complete(lan: Lan, number: signal.Signals) -> None:
    burst = numbered(50)
    with capturing_to(lan.home, "lan.pcapng") as running:
        lan.say("c", *burst)
        output, error = running.stop(number)
    assert (output, error) == (b"", "150 frames captured\n")
    file = lan.home.root / "lan.pcapng"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    read = captures.read(file)
    check_flood(read, "c", burst)
    read.check_statistics()


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_ends_a_pipe_which_is_complete(lan: Lan, number: signal.Signals) -> None:
    burst = numbered(50)
    with capturing(lan.home, "-w", "-") as running:
        started = begun(running)
        lan.say("a", *burst)
        output, error = running.stop(number)
    assert error == ""
    file = lan.home.root / "piped.pcapng"
    file.write_bytes(started + output)
    read = captures.read(file)
    check_flood(read, "a", burst)
    read.check_statistics()


def begun(running: Capturing) -> bytes:
    """The first bytes of a pipe: who has them misses nothing that comes after."""
    assert running.process.stdout is not None
    first = os.read(running.process.stdout.fileno(), 1 << 16)
    assert first[:4] == b"\n\r\r\n"
    return first


@pytest.mark.parametrize("reader", ["tshark", "capinfos"])
def test_others_read_the_pipe(lan: Lan, reader: str) -> None:
    arguments = captures.tshark_command("-r", "-") if reader == "tshark" else ["capinfos", "-M", "-"]
    burst = numbered(4)
    with capturing(lan.home, "-w", "-", "-c", "6") as running:
        first = begun(running)
        lan.say("b", *burst[:2])
        output, _ = running.ended()
    read = parse(first + output)
    check_flood(read, "b", burst[:2])
    shown = captures.tool(*arguments, stdin=first + output)
    if reader == "tshark":
        captures.check_tshark(shown.splitlines(), read)
    else:
        captures.check_capinfos(shown, read)


def test_tshark_shows_frames_of_the_pipe_as_they_come(lan: Lan) -> None:
    """As Wireshark does, live: it does not wait for the end."""
    with capturing(lan.home, "-w", "-") as running:
        command = captures.tshark_command("-l", "-i", "-")
        with subprocess.Popen(
            command, stdin=running.process.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as tshark:
            try:
                assert tshark.stdout is not None
                shown = tshark.stdout

                def seen() -> bool:
                    lan.say("a", frame(BROADCAST, mac(1)))
                    return bool(select.select([shown], [], [], 0.1)[0])

                until(seen, "tshark shows a frame")
                assert shown.readline().split("\t")[1] == "a"
                assert running.process.poll() is None
                running.process.send_signal(signal.SIGINT)
                tshark.communicate(timeout=SPARE_S)
            finally:
                tshark.kill()


def test_whoever_reads_the_pipe_may_stop_early(lan: Lan) -> None:
    with capturing(lan.home, "-w", "-") as running:
        begun(running)
        assert running.process.stdout is not None
        running.process.stdout.close()
        lan.say("a", *numbered(10))
        assert running.process.wait(SPARE_S) in (0, 1)
        assert running.process.stderr is not None
        assert running.process.stderr.read() == b""
    lan.say("b", *numbered(10))


def lines_of(running: Capturing) -> list[str]:
    return running.ended()[0].decode().splitlines()


def test_without_a_file_it_prints_a_line_a_frame(lan: Lan) -> None:
    with capturing(lan.home, "a", "--count", "3") as running:
        assert running.process.stdout is not None
        speak_until_captured(lan, running)
        lines = running.process.stdout.read().decode().splitlines()
        assert running.process.wait(SPARE_S) == 0
    assert len(lines) == 3
    for line in lines:
        assert " a " in line
        assert " in " in line
        assert "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff" in line
        assert line.isprintable()


def speak_until_captured(lan: Lan, running: Capturing) -> None:
    """What has no sign that it has begun is told something until it ends."""

    def ended() -> bool:
        lan.say("a", frame(BROADCAST, mac(1)))
        return running.process.poll() is not None

    until(ended, "the capture is complete")


def test_drops_are_text_with_their_reasons(lan: Lan) -> None:
    with capturing(lan.home, "--drops", "--text", "-c", "1") as running:

        def ended() -> bool:
            lan.say("a", frame(BROADCAST, mac(1)))
            lan.drop("b", frame(0x0180_C200_000E, mac(2)))
            return running.process.poll() is not None

        until(ended, "the capture is complete")
        (line,) = lines_of(running)
    assert "reserved" in line
    assert " b " in line


@pytest.mark.parametrize("unlike", [["a"], ["b", "c"]])
def test_only_ports_that_are_named_are_captured(lan: Lan, unlike: list[str]) -> None:
    with capturing_to(lan.home, "lan.pcapng", *unlike) as running:
        lan.say("a", *numbered(3))
        lan.say("b", *numbered(3, station=2))
        running.stop()
    read = captures.read(lan.home.root / "lan.pcapng")
    assert sorted(interface.name for interface in read.ports) == unlike
    assert {packet.port for packet in read.packets} == set(unlike)
    assert len(read.packets) == 6 * len(unlike)


def test_a_filter_comes_behind_the_ports(lan: Lan) -> None:
    require(is_available(), "no libpcap here")
    arp = [data[:12] + b"\x08\x06" + data[14:] for data in numbered(3, station=2)]
    with capturing_to(lan.home, "lan.pcapng", "a", "b", "arp", "and", "ether src 52:54:00:00:00:02") as running:
        lan.say("a", *numbered(3))
        lan.say("b", arp[0], *numbered(3, station=2), *arp[1:])
        lan.say("c", arp[0])
        running.stop()
    read = captures.read(lan.home.root / "lan.pcapng")
    assert read.frames("b", IN) == arp
    assert read.frames("a", OUT) == [*arp, arp[0]]
    assert {interface.filter for interface in read.ports} == {"arp and ether src 52:54:00:00:00:02"}
    assert [counted[:2] for counted in read.statistics.values()] == [(0, 0), (4, 0), (4, 0)]


def test_only_drops_are_captured(lan: Lan) -> None:
    refused = [frame(0x0180_C200_0002 + number, mac(2)) for number in range(3)]
    with capturing_to(lan.home, "lan.pcapng", "--drops") as running:
        lan.say("a", *numbered(10))
        lan.drop("b", *refused, b"runt")
        running.stop()
    read = captures.read(lan.home.root / "lan.pcapng")
    assert [(packet.port, packet.data, packet.comment) for packet in read.packets] == [
        *(("b", data, "dropped: reserved") for data in refused),
        ("b", b"runt", "dropped: runt"),
    ]
    read.check_statistics()


def test_it_ends_after_so_many_frames(lan: Lan) -> None:
    with capturing_to(lan.home, "lan.pcapng", "-c", "7") as running:
        burst = numbered(20)
        lan.say("a", *burst)
        assert running.ended()[1] == "7 frames captured\n"
    read = captures.read(lan.home.root / "lan.pcapng")
    assert read.frames("a", IN) == burst[:7]
    read.check_statistics()


def test_it_ends_after_so_long(lan: Lan) -> None:
    with capturing_to(lan.home, "lan.pcapng", "--duration", "300ms") as running:
        lan.say("a", frame(BROADCAST, mac(1)))
        running.ended()
    read = captures.read(lan.home.root / "lan.pcapng")
    check_flood(read, "a", [frame(BROADCAST, mac(1))])
    read.check_statistics()


def test_of_each_frame_as_much_is_kept_as_was_asked_for(lan: Lan) -> None:
    burst = numbered(5, size=500)
    with capturing_to(lan.home, "lan.pcapng", "-s", "61", "-c", "15") as running:
        lan.say("a", *burst)
        running.ended()
    read = captures.read(lan.home.root / "lan.pcapng")
    assert [(packet.data, packet.length) for packet in read.at("a")] == [(data[:61], 500) for data in burst]


@pytest.mark.parametrize("limit", ["20frames", "5KiB"])
def test_files_go_on_as_they_are_rotated(lan: Lan, limit: str) -> None:
    burst = numbered(100)
    with capturing_to(lan.home, "lan.pcapng", "a", "--rotate", limit) as running:
        for at in range(0, 100, 10):
            lan.say("a", *burst[at : at + 10])
        assert running.stop()[1] == "100 frames captured\n"
    files = sorted(lan.home.root.glob(running.file))
    assert files == sorted(lan.home.root.glob("*.pcapng"))
    assert len(files) >= 3
    reads = [captures.read(file) for file in files]
    assert [data for read in reads for data in read.frames("a", IN)] == burst
    for file, read in zip(files, reads, strict=True):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.stat().st_size <= 5 * 1024
        assert len(read.packets) <= 20 or limit != "20frames"
        assert sorted(read.statistics) == [0, 1]


def test_the_last_files_are_kept(lan: Lan) -> None:
    burst = numbered(100)
    with capturing_to(lan.home, "lan.pcapng", "a", "--rotate", "10frames", "--keep", "3") as running:
        lan.say("a", *burst)
        running.stop()
    reads = [captures.read(file) for file in sorted(lan.home.root.glob("lan_*.pcapng"))]
    assert [read.frames("a", IN) for read in reads] == [burst[70:80], burst[80:90], burst[90:]]


def test_captures_start_and_stop_during_traffic_without_a_lost_frame(lan: Lan) -> None:
    """One from before to after; one within it; each frame that was said while a capture ran is in its file."""
    said: list[bytes] = []

    def more() -> None:
        burst = [frame(BROADCAST, mac(1), payload=(len(said) + number).to_bytes(4)) for number in range(50)]
        said.extend(burst)
        lan.say("a", *burst)

    with capturing_to(lan.home, "one.pcapng") as one:
        more()
        with capturing_to(lan.home, "two.pcapng") as two:
            more()
            with capturing_to(lan.home, "three.pcapng") as three:
                more()
                two.stop()
                more()
                three.stop()
        more()
        one.stop()
    for name, first, last in (("one", 0, 250), ("two", 50, 150), ("three", 100, 200)):
        check_flood(captures.read(lan.home.root / f"{name}.pcapng"), "a", said[first:last])


def test_a_guest_that_comes_later_is_captured_and_its_going_harms_nothing(home: Home) -> None:
    with home.serve("unix://lab.sock?name=lab") as serving, capturing_to(home, "lan.pcapng", "lab") as running:
        url = f"unix://{home.root}/lab.sock"
        with connect(url) as one:
            for station in (2, 3):
                with connect(url) as other:
                    until(lambda: len(home.get("ports")) == 2, "both are in")
                    one.sendall(framed([frame(BROADCAST, mac(1))]))
                    other.sendall(framed([frame(BROADCAST, mac(station))]))
                    assert len(take(one, 1)) == len(take(other, 1)) == 1
                until(lambda: len(home.get("ports")) == 1, "the other is gone")
        running.stop()
        assert serving.stop() == 0
    read = captures.read(home.root / "lan.pcapng")
    assert [interface.name for interface in read.ports] == ["lab.1", "lab.2", "lab.2"]
    assert [packet.data for packet in read.packets if packet.direction == IN and packet.interface == 3] == [
        frame(BROADCAST, mac(3))
    ]
    read.check_statistics()


def test_when_the_switch_ends_the_file_is_complete(home: Home) -> None:
    with home.serve(*URLS) as serving, plugged(home) as lan, capturing_to(home, "lan.pcapng") as running:
        burst = numbered(100)
        lan.say("a", *burst)
        assert serving.stop() == 0
        running.process.wait(SPARE_S)
    read = captures.read(home.root / "lan.pcapng")
    check_flood(read, "a", burst)
    read.check_statistics()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("arguments", [[], ["-w", "-"], ["-w", "lan.pcapng"]], ids=["text", "pipe", "file"])
def test_a_switch_that_ends_first_is_said_and_an_error(
    home: Home, arguments: list[str], number: signal.Signals
) -> None:
    with home.serve(*URLS) as serving, plugged(home) as lan, capturing(home, *arguments) as running:
        begun = running.process.stderr if "lan.pcapng" in arguments else running.process.stdout
        assert begun is not None

        def has_begun() -> bool:
            lan.say("a", frame(BROADCAST, mac(1)))
            return bool(select.select([begun], [], [], 0)[0])

        until(has_begun, "the capture has begun")
        serving.process.send_signal(number)
        _, error = running.process.communicate(timeout=SPARE_S)
        (line,) = [line for line in error.decode().splitlines() if not line.startswith("capturing to ")]
        assert line.startswith("vswitch: the switch has ended")
        assert running.process.returncode == 1


def test_a_capture_that_was_told_to_end_with_the_switch_is_no_error(home: Home) -> None:
    """As by Ctrl-C, which the terminal sends to both."""
    with home.serve(*URLS) as serving, capturing_to(home, "lan.pcapng") as running:
        serving.process.send_signal(signal.SIGSTOP)
        running.process.send_signal(signal.SIGINT)
        serving.process.kill()
        assert running.ended() == (b"", "")


ERRORS: dict[str, tuple[list[str], int, list[str]]] = {
    "a wrong filter": (["host", "and"], 2, ["host and", "syntax error"]),
    "an unknown word": (["nonsense"], 2, ["no port or endpoint 'nonsense'", "there are lab;", "syntax error"]),
    "an unknown word behind a port": (["lab", "nonsense.1", "arp"], 2, ["no port or endpoint 'nonsense.1'"]),
    "a port that is gone": (["lab.7"], 2, ["no port or endpoint 'lab.7'", "there are lab"]),
    "a file and text": (["-w", "x.pcapng", "--text"], 2, ["--text", "-w"]),
    "rotation without a file": (["--rotate", "10frames"], 2, ["-w FILE"]),
    "rotation of a pipe": (["-w", "-", "--rotate", "10frames"], 2, ["-w FILE"]),
    "keep without rotation": (["-w", "x.pcapng", "--keep", "3"], 2, ["rotate"]),
    "a limit that is none": (["-w", "x.pcapng", "--rotate", "10"], 2, ["'10'", "100MB"]),
    "a path that is no text": (["-w", "\udcff.pcapng"], 2, ["UTF-8"]),
    "a filter that is no text": (["arp\udcff"], 2, []),
    "no such switch": (["--name", "nobody"], 1, ["'nobody'", "default"]),
    "a link": (["-w", "link.pcapng"], 1, ["link.pcapng", "link"]),
    "a directory": (["-w", "."], 1, []),
    "nowhere": (["-w", "no/where.pcapng"], 1, ["no/where.pcapng", "No such file", "make its directory first"]),
    "no snap length": (["-s", "0"], 2, ["snap length", "262144"]),
    "a negative count": (["-c", "-1"], 2, ["count"]),
    "a duration without a unit": (["--duration", "60"], 2, ["60s"]),
}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A switch that nobody is plugged into."""
    root = tmp_path_factory.mktemp("q")
    home = Home(root)
    (root / "link.pcapng").symlink_to("target.pcapng")
    with home.serve("tcp://127.0.0.1:0?name=lab"):
        yield home


@pytest.mark.parametrize("what", ERRORS)
def test_what_is_wrong_is_said_in_one_line(quiet: Home, what: str) -> None:
    arguments, code, said = ERRORS[what]
    before = sorted(os.listdir(quiet.root))
    done = quiet.run("capture", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert is_one_line(done.stderr), done.stderr
    assert done.stderr.startswith("vswitch: ")
    assert [word for word in said if word not in done.stderr] == [], done.stderr
    assert sorted(os.listdir(quiet.root)) == before


def test_where_standard_error_is_closed_it_is_silent(quiet: Home) -> None:
    for arguments, code in ((["-w", "silent.pcapng", "--duration", "10ms"], 0), (["nonsense"], 2)):
        closed = ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *PROGRAM, "capture", *arguments]
        done = subprocess.run(closed, env=quiet.env, cwd=quiet.root, stdout=subprocess.PIPE, timeout=SPARE_S)
        assert (done.returncode, done.stdout) == (code, b"")


def test_what_starts_as_a_filter_is_no_misspelt_port(quiet: Home) -> None:
    done = quiet.run("capture", "arp", "or", "prot", "67")
    assert done.returncode == 2
    assert "syntax error" in done.stderr
    assert "no port" not in done.stderr


def test_without_a_switch_it_says_how_to_start_one(home: Home) -> None:
    done = home.run("capture")
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_line(done.stderr)
    assert "vswitch serve" in done.stderr


def test_serve_does_not_start_without_its_capture(home: Home) -> None:
    (home.root / "link.pcapng").symlink_to("target.pcapng")
    check_refused(home, URLS[0], "--capture", "link.pcapng", code=1, said="link.pcapng")
    assert not (home.root / "target.pcapng").exists()


def request(home: Home, line: str, body: bytes = b"") -> socket.socket:
    """A connection to the control socket on which a request was made by hand."""
    sock = connect(f"unix://{home.control()}")
    sock.sendall(f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return sock


class Answer:
    """What comes on a connection: first the head, then chunks."""

    def __init__(self, sock: socket.socket) -> None:
        self._pipe = sock.makefile("rb")
        self.status = int(self._pipe.readline().split()[1])
        self.headers = {}
        while line := self._pipe.readline().strip():
            name, _, value = line.decode().partition(": ")
            self.headers[name.lower()] = value

    def body(self) -> bytes:
        """All of it, where it has a length."""
        return self._pipe.read(int(self.headers["content-length"]))

    def chunk(self) -> bytes:
        """The next one, empty at the end."""
        size = int(self._pipe.readline(), 16)
        data = self._pipe.read(size)
        assert self._pipe.readline() == b"\r\n"
        return data

    def rest(self) -> bytes:
        return b"".join(iter(self.chunk, b""))


def test_the_control_api_streams_a_capture(lan: Lan) -> None:
    """As for `ssh … vswitch capture -w -`: what it needs of the switch is one connection."""
    burst = numbered(20)
    with request(lan.home, "GET /v1/capture?ports=a&ports=c&count=40") as sock:
        answer = Answer(sock)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/x-pcapng")
        content = answer.chunk()
        lan.say("a", *burst)
        content += answer.rest()
    file = lan.home.root / "api.pcapng"
    file.write_bytes(content)
    read = captures.read(file)
    assert [interface.name for interface in read.ports] == ["a", "c"]
    assert read.frames("a", IN) == read.frames("c", OUT) == burst
    read.check_statistics()


def test_the_control_api_ends_a_capture_by_its_id(lan: Lan) -> None:
    with request(lan.home, "GET /v1/capture") as sock:
        answer = Answer(sock)
        number = answer.headers["vswitch-capture"]
        content = answer.chunk()
        lan.say("a", *numbered(5))
        with request(lan.home, f"DELETE /v1/captures/{number}") as other:
            assert Answer(other).status == 200
        read = parse(content + answer.rest())
    check_flood(read, "a", numbered(5))
    with request(lan.home, f"DELETE /v1/captures/{number}") as other:
        assert Answer(other).status == 404


def test_who_hangs_up_ends_its_capture_and_the_file_is_complete(lan: Lan) -> None:
    """Also while nothing is said."""
    file = lan.home.root / "lan.pcapng"
    with request(lan.home, "POST /v1/capture", json.dumps({"path": str(file)}).encode()) as sock:
        assert Answer(sock).chunk() == b"\n"
        lan.say("a", *numbered(5))
    until(lambda: parse(captures.whole(file.read_bytes())).statistics, "the file is complete")
    check_flood(captures.read(file), "a", numbered(5))


WRONG = {
    "port": ("ports=nobody", 400, "nobody"),
    "field": ("colour=red", 400, "colour"),
    "number": ("count=many", 400, "count"),
    "snaplen": ("snaplen=0", 400, "snap length"),
    "filter": ("filter=host%20and", 400, "syntax error"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_control_api_says_what_is_wrong(quiet: Home, what: str, method: str) -> None:
    query, status, said = WRONG[what]
    body = json.dumps({"path": str(quiet.root / "api.pcapng")}).encode() if method == "POST" else b""
    with request(quiet, f"{method} /v1/capture?{query}", body) as sock:
        answer = Answer(sock)
        error = answer.body()
    assert answer.status == status
    assert said in json.loads(error)["error"]
    assert not (quiet.root / "api.pcapng").exists()
