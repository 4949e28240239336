"""`serve --record` and `dump`: what passed last, after the fact."""

import shutil
import socket
import stat
import subprocess

import pytest

from tests.cli.program import Home, check_refused, connect, is_one_line
from tests.frames import BROADCAST, frame, framed, mac
from tests.needs import require
from tests.waiting import until
from vswitch.cli.names import choose


def shown(home: Home, file: str, *fields: str) -> list[tuple[str, ...]]:
    """Fields of a capture's frames, as tshark reads them."""
    require(shutil.which("tshark"), "needs tshark (Debian: tshark)")
    options = [option for field in fields for option in ("-e", field)]
    command = ["tshark", "-r", str(home.root / file), "-T", "fields", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


def send(home: Home, guest: socket.socket, frames: list[bytes], total: int) -> None:
    guest.sendall(framed(frames))
    until(lambda: home.get("status")["totals"]["rx_frames"] == total, "the frames are in")


def test_what_has_passed_is_written_afterwards_ports_that_are_gone_too(home: Home) -> None:
    with home.serve("unix://a.sock?name=a&single", "unix://b.sock?name=b&vlan=10", "--record", "60s"):
        with connect(f"unix://{home.root}/a.sock") as a, connect(f"unix://{home.root}/b.sock"):
            until(lambda: len(home.get("ports")) == 2, "both are plugged in")
            send(home, a, [frame(BROADCAST, mac(1), tag=10), frame(BROADCAST, mac(1)), b"x" * 10], 3)
        until(lambda: len(home.get("ports")) == 1, "one port is gone")
        done = home.run("dump", "lan.pcapng")
        assert (done.returncode, done.stderr) == (0, "")
        assert stat.S_IMODE((home.root / "lan.pcapng").stat().st_mode) == 0o600
        assert shown(home, "lan.pcapng", "frame.interface_name", "frame.packet_id", "frame.len", "frame.comment") == [
            ("a", "0", "60", ""),
            ("b.1", "0", "56", ""),
            ("a", "1", "60", "dropped: no_destination"),
            ("a", "2", "10", "dropped: runt"),
        ]
        assert home.run("dump", "one.pcapng", "b", "arp or ether broadcast").returncode == 0
        assert shown(home, "one.pcapng", "frame.interface_name", "frame.len") == [("b.1", "56")]
        assert home.run("dump", "gone.pcapng", "b.1").returncode == 0
        assert shown(home, "gone.pcapng", "frame.interface_name") == [("b.1",)]
        assert home.run("dump", "drops.pcapng", "--drops").returncode == 0
        assert shown(home, "drops.pcapng", "frame.comment") == [("dropped: no_destination",), ("dropped: runt",)]


def test_it_forgets_what_is_more_than_it_may_keep(home: Home) -> None:
    with (
        home.serve("unix://a.sock?name=a&single", "--record", "1MiB"),
        connect(f"unix://{home.root}/a.sock") as a,
    ):
        for number in range(20):
            send(home, a, [frame(BROADCAST, mac(number), 60_000)] * 4, 4 * (number + 1))
        assert home.run("dump", "lan.pcapng").returncode == 0
        stations = [station for (station,) in shown(home, "lan.pcapng", "eth.src")]
        assert stations[-4:] == ["52:54:00:00:00:13"] * 4
        assert 8 <= len(stations) <= 17
        assert stations == sorted(stations)


def test_a_switch_that_records_nothing_says_how_to(home: Home) -> None:
    with home.serve("unix://a.sock"):
        done = home.run("dump", "lan.pcapng")
        assert done.returncode == 1
        assert "--record" in done.stderr
        assert not (home.root / "lan.pcapng").exists()


@pytest.mark.parametrize("limit", ["60", "0s", "1KiB", "much", "60s,60s", "1MiB,2MiB", "-5s", "1000TiB", ""])
def test_a_limit_that_cannot_be_is_refused(home: Home, limit: str) -> None:
    check_refused(home, "unix://a.sock", f"--record={limit}", code=2, said="--record: ")


def test_a_wrong_filter_is_answered_in_libpcaps_words(home: Home) -> None:
    with home.serve("unix://a.sock", "--record", "60s"):
        done = home.run("dump", "lan.pcapng", "arp", "and", "(")
        assert done.returncode == 2
        assert "syntax error" in done.stderr


def test_a_name_that_is_nobodys_is_said_to_be_one(home: Home) -> None:
    with home.serve("unix://a.sock", "--record", "60s"):
        done = home.run("dump", "lan.pcapng", "unix2", "arp")
        assert done.returncode == 2
        assert is_one_line(done.stderr)
        assert "no port or endpoint 'unix2', there are unix1" in done.stderr
        assert not (home.root / "lan.pcapng").exists()


def test_a_word_that_is_a_port_and_a_filter_is_a_port(home: Home) -> None:
    with home.serve("unix://a.sock?name=arp"):
        chosen = choose(home.control(), ["arp", "arp.7", "icmp", "or", "arp"])
        assert (chosen.ports, chosen.filter, chosen.known) == (("arp", "arp.7"), "icmp or arp", ("arp",))
