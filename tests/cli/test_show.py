"""`status`, `ports`, `macs`: JSON of the promised shape, tables for people, and which switch is asked."""

import json
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import COMMAND_TIMEOUT_S, PROGRAM, Home, connect, is_one_line
from tests.frames import BROADCAST, frame, framed, mac
from tests.needs import require
from tests.waiting import until
from vswitch import __version__, dataplane

PORT_SHAPE = {
    "name": str,
    "endpoint": str,
    "url": str,
    "peer": str,
    "up": bool,
    "state": str,
    "vlan": {"mode": str, "access": None, "native": None, "tagged": str},
    "rx_frames": int,
    "rx_bytes": int,
    "tx_frames": int,
    "tx_bytes": int,
    "drops": {},
    "queued_frames": int,
    "queued_bytes": int,
    "segmented": int,
    "checksummed": int,
    "macs": int,
    "virtio": None,
}
MAC_SHAPE = {"mac": str, "vlan": int, "port": str, "age_s": float, "static": bool}
STATUS_SHAPE: dict[str, Any] = {
    "name": str,
    "version": str,
    "compiled": bool,
    "uptime_s": float,
    "ports": int,
    "macs": int,
    "mac_moves": int,
    "mac_evictions": int,
    "pid": int,
    "failures": int,
    "totals": {"rx_frames": int, "copies": int, "tx_frames": int, "queued_frames": int, "drops": {}},
}


def shape(value: Any) -> Any:
    """A value's keys and types."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items()}
    return None if value is None else type(value)


@dataclass
class Lan:
    home: Home
    pid: int


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    """A switch `lab` with two guests on `web`. One has sent a broadcast of 100 bytes and a runt, the other two
    broadcasts of 60 bytes; a connector waits for its peer. No test here changes any of it."""
    urls = ("unix://lan.sock?name=web", "unix://nobody.sock?connect&name=vm")
    with ExitStack() as stack:
        home = Home(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp"))))
        serving = stack.enter_context(home.serve(*urls, "--name", "lab"))
        one, two = (stack.enter_context(connect(f"unix://{home.root}/lan.sock")) for _ in range(2))
        until(lambda: home.get("status", "lab")["ports"] == 3, "the guests are in")
        one.sendall(framed([frame(BROADCAST, mac(1), 100), b"runt"]))
        until(lambda: home.get("status", "lab")["totals"]["rx_frames"] == 2, "the first guest's frames are in")
        two.sendall(framed([frame(BROADCAST, mac(2), 60), frame(BROADCAST, mac(2), 60)]))
        until(lambda: home.get("status", "lab")["totals"]["tx_frames"] == 3, "all frames are through")
        yield Lan(home, serving.pid)


def test_ports_as_json(lan: Lan) -> None:
    waiting, one, two = sorted(lan.home.ask("ports"), key=lambda port: str(port["name"]))
    assert shape(one) == PORT_SHAPE | {"drops": {"runt": int}}
    assert shape(two) == PORT_SHAPE
    assert shape(waiting) == PORT_SHAPE | {"peer": None}
    assert list(one) == list(PORT_SHAPE)
    transparent = {"mode": "transparent", "access": None, "native": None, "tagged": "all"}
    here = {"endpoint": "web", "up": True, "vlan": transparent}
    assert one["url"] in ("unix://lan.sock", f"unix://{lan.home.root}/lan.sock")
    counted = {"tx_frames": 2, "tx_bytes": 120, "rx_frames": 2, "rx_bytes": 104, "drops": {"runt": 1}}
    assert one == {**one, **here, **counted, "name": "web.1", "queued_frames": 0, "queued_bytes": 0}
    counted = {"tx_frames": 1, "tx_bytes": 100, "rx_frames": 2, "rx_bytes": 120, "drops": {}}
    assert two == {**two, **here, **counted, "name": "web.2"}
    assert waiting == {**waiting, "name": "vm", "endpoint": "vm", "up": False, "peer": None, "rx_frames": 0}
    assert waiting["url"].endswith("nobody.sock?connect")
    assert str(os.getpid()) in one["peer"]


def test_macs_as_json(lan: Lan) -> None:
    one, two = lan.home.ask("macs")
    assert shape(one) == shape(two) == MAC_SHAPE
    assert list(one) == list(MAC_SHAPE)
    assert one == {**one, "mac": "52:54:00:00:00:01", "vlan": 1, "port": "web.1", "static": False}
    assert two == {**two, "mac": "52:54:00:00:00:02", "vlan": 1, "port": "web.2", "static": False}
    assert 0 <= two["age_s"] <= one["age_s"] < 60


def test_status_as_json(lan: Lan) -> None:
    status = lan.home.ask("status")
    totals = {"rx_frames": 4, "copies": 0, "tx_frames": 3, "queued_frames": 0, "drops": {"runt": 1}}
    told = {
        "name": "lab",
        "version": __version__,
        "compiled": dataplane.compiled(),
        "ports": 3,
        "macs": 2,
        "mac_moves": 0,
    }
    assert status == {**status, **told, "pid": lan.pid, "totals": totals}
    assert shape(status) == STATUS_SHAPE | {"totals": {**STATUS_SHAPE["totals"], "drops": {"runt": int}}}
    assert list(status) == list(STATUS_SHAPE)
    assert 0 < status["uptime_s"] < 60


def test_totals_go_on_counting_what_is_gone_and_balance(home: Home) -> None:
    with home.serve("unix://lan.sock"):
        with connect(f"unix://{home.root}/lan.sock") as guest:
            guest.sendall(framed([frame(BROADCAST, mac(1))] * 3))
            until(lambda: home.get("status")["totals"]["rx_frames"] == 3, "the frames are in")
        until(lambda: not home.get("ports"), "the port is gone")
        totals = home.ask("status")["totals"]
        assert totals["rx_frames"] == 3
        assert totals["drops"] == {"no_destination": 3}
        out = totals["tx_frames"] + totals["queued_frames"] + sum(totals["drops"].values())
        assert totals["rx_frames"] + totals["copies"] == out


def test_nothing_to_show_is_an_empty_list_or_a_table_with_its_head(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0"):
        assert home.ask("ports") == []
        assert home.get("macs") == []
        status = home.get("status")
        assert (status["ports"], status["macs"], status["totals"]["drops"]) == (0, 0, {})
        assert home.run("macs").stdout.startswith("MAC")


@pytest.mark.parametrize("command", ["status", "ports", "macs"])
def test_json_is_one_line_of_json_and_nothing_else(lan: Lan, command: str) -> None:
    done = lan.home.run(command, "--json")
    assert done.stdout.count("\n") == 1
    assert done.stdout.endswith("\n")
    json.loads(done.stdout)


def rows(table: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]


def test_ports_as_a_table(lan: Lan) -> None:
    done = lan.home.run("ports")
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = rows(done.stdout)
    assert head == [
        "PORT",
        "LINK",
        "PEER",
        "VLAN",
        "RX FRAMES",
        "RX BYTES",
        "TX FRAMES",
        "TX BYTES",
        "QUEUED",
        "DROPPED",
    ]
    by_name = {line[0]: line for line in lines}
    assert by_name["web.1"][1] == "up"
    assert by_name["web.1"][3:] == ["-", "2", "104", "2", "120", "0", "1 runt"]
    assert by_name["web.2"][3:] == ["-", "2", "120", "1", "100", "0", "-"]
    assert by_name["vm"] == ["vm", "down", "-", "-", "0", "0", "0", "0", "0", "-"]


def test_macs_as_a_table(lan: Lan) -> None:
    head, one, two = rows(lan.home.run("macs").stdout)
    assert head == ["MAC", "VLAN", "PORT", "AGE"]
    assert one[:3] == ["52:54:00:00:00:01", "1", "web.1"]
    assert two[:3] == ["52:54:00:00:00:02", "1", "web.2"]
    assert re.fullmatch(r"\d+s", one[3])


def test_status_as_a_table(lan: Lan) -> None:
    shown = dict(line[:2] for line in rows(lan.home.run("status").stdout))
    assert shown["switch"] == f"lab (pid {lan.pid}, vswitch {__version__})"
    assert shown["data plane"].startswith("compiled" if dataplane.compiled() else "pure Python")
    assert (shown["ports"], shown["stations"], shown["frames in"], shown["dropped"]) == ("3", "2", "4", "1 runt")


@pytest.mark.parametrize("command", ["status", "ports", "macs"])
def test_a_pipe_gets_no_escape_codes_and_no_folding(lan: Lan, command: str) -> None:
    done = lan.home.run(command, env={"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "20"})
    assert "\x1b" not in done.stdout
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert {"status": 11, "ports": 4, "macs": 3}[command] == len(done.stdout.splitlines())


@pytest.mark.parametrize("command", ["status", "ports", "macs"])
def test_no_color_is_respected_on_a_terminal(lan: Lan, command: str) -> None:
    shown = lan.home.show(80, command, env={"NO_COLOR": "1"})
    assert shown.count("\n") > 1
    assert re.search(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-7]|10[0-7])[0-9;]*m", shown) is None


def test_a_guest_cannot_write_on_the_terminal(home: Home) -> None:
    """The name of its process is shown, and a process can call itself anything."""
    own = Path("/proc/self/comm")
    before = own.read_bytes()
    with home.serve("unix://lan.sock") as serving, ExitStack() as stack:
        own.write_bytes(b"\x1b[2J[b]\n\x9b")
        try:
            stack.enter_context(connect(f"unix://{home.root}/lan.sock"))
            (port,) = until(lambda: home.get("ports"), "the guest is in")
        finally:
            own.write_bytes(before)
        assert port["peer"].isprintable()
        assert "[b]" in port["peer"]
        done = home.run("ports")
        assert len(done.stdout.splitlines()) == 2
        assert all(line.isprintable() for line in done.stdout.splitlines())
        assert "[b]" in done.stdout
        assert all(line.isprintable() for line in serving.log.splitlines())


@pytest.mark.parametrize("command", ["status", "ports", "macs"])
def test_without_a_switch_it_says_how_to_start_one(home: Home, command: str) -> None:
    done = home.run(command)
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_line(done.stderr)
    assert "no switch is running" in done.stderr
    assert "vswitch serve" in done.stderr


def test_asking_leaves_nothing_behind(home: Home) -> None:
    home.run("status")
    assert list(home.runtime.iterdir()) == []


def test_a_socket_that_was_left_behind_is_no_switch(home: Home) -> None:
    home.directory.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(home.control("dead")))
    done = home.run("status")
    assert done.returncode == 1
    assert "no switch is running" in done.stderr
    with home.serve("tcp://127.0.0.1:0", "--name", "alive"):
        assert home.ask("status")["name"] == "alive"


def test_of_several_switches_one_has_to_be_chosen(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0", "--name", "lab"), home.serve("tcp://127.0.0.1:0", "--name", "a.b:c"):
        done = home.run("status")
        assert (done.returncode, done.stdout) == (1, "")
        assert is_one_line(done.stderr)
        assert "a.b:c, lab" in done.stderr
        assert "--name" in done.stderr
        assert home.ask("status", "--name", "lab")["name"] == "lab"
        assert home.ask("status", "--name", "a.b:c")["name"] == "a.b:c"
        done = home.run("status", "--name", "nobody")
        assert (done.returncode, done.stdout) == (1, "")
        assert is_one_line(done.stderr)
        assert "'nobody'" in done.stderr
        assert "a.b:c, lab" in done.stderr


@pytest.fixture
def elsewhere(home: Home) -> dict[str, str]:
    """An environment whose own directory is another, and which looks in the usual one of others without XDG."""
    return {"VSWITCH_PATH": str(home.temp_directory)}


WITHOUT_XDG = {"XDG_RUNTIME_DIR": ""}


def test_a_switch_that_another_environment_has_started_is_found(home: Home, elsewhere: dict[str, str]) -> None:
    with home.serve("unix://lan.sock", "--name", "lab", env=WITHOUT_XDG):
        home.env |= elsewhere
        assert home.ask("status")["name"] == home.ask("status", "--name", "lab")["name"] == "lab"
        assert "vswitch:lab" in home.run("extcap", "--extcap-interfaces", "--extcap-version=4.0").stdout
        completing = {"_VSWITCH_COMPLETE": "bash_complete", "COMP_WORDS": "vswitch status --name ", "COMP_CWORD": "3"}
        assert home.run(env=completing).stdout == "plain,lab\n"
        with home.serve("tcp://127.0.0.1:0", "--name", "own"):
            assert home.ask("status")["name"] == "own"
            assert home.ask("status", "--name", "lab")["name"] == "lab"


def test_a_switch_of_the_same_name_elsewhere_is_told(home: Home, elsewhere: dict[str, str]) -> None:
    with (
        home.serve("unix://one.sock", env=WITHOUT_XDG) as first,
        home.serve("unix://two.sock", env=elsewhere) as second,
    ):
        assert "another switch" not in first.log
        second.wait_said("another switch")
        (told,) = [line for line in second.log.splitlines() if "another switch" in line]
        assert f"another switch 'default' runs, in {home.temp_directory};" in told
        assert str(home.directory) in told
        assert home.ask("status", "--name", "default")["pid"] == second.pid
        assert second.stop() == 0
        done = home.run("status", "--json", env=elsewhere)
        assert json.loads(done.stdout)["pid"] == first.pid


def test_the_places_that_were_looked_in_are_named(home: Home, elsewhere: dict[str, str]) -> None:
    for arguments in (["status"], ["status", "--name", "lab"]):
        done = home.run(*arguments, env=elsewhere)
        assert done.returncode == 1
        assert is_one_line(done.stderr)
        assert f"(looked in {home.directory}, {home.temp_directory})" in done.stderr


def test_a_directory_elsewhere_that_others_can_enter_is_not_believed(home: Home, elsewhere: dict[str, str]) -> None:
    with home.serve("unix://lan.sock", env=WITHOUT_XDG):
        home.temp_directory.chmod(0o755)
        assert home.run("status", env=elsewhere).returncode == 1
        home.temp_directory.chmod(0o700)
        assert home.run("status", env=elsewhere).returncode == 0


def test_whoever_reads_the_output_may_stop_early(lan: Lan) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        done = subprocess.run(
            [*PROGRAM, "ports", "--json"],
            env=lan.home.env,
            cwd=lan.home.root,
            stdout=pipe,
            stderr=subprocess.PIPE,
            timeout=COMMAND_TIMEOUT_S,
        )
    assert done.stderr == b""


def test_output_that_cannot_be_written_is_one_line(lan: Lan) -> None:
    for arguments in (["ports", "--json"], ["ports"]):
        with open("/dev/full", "wb") as full:
            done = lan.home.run(*arguments, stdout=full)
        assert done.returncode == 1
        assert is_one_line(done.stderr)
        assert "No space left on device" in done.stderr


def test_a_private_directory_of_another_users_is_not_believed(home: Home) -> None:
    """Without XDG_RUNTIME_DIR, anybody can make the directory under the temp directory first."""
    require(os.geteuid() == 0, "only root can give a directory to another user")
    without = {"XDG_RUNTIME_DIR": ""}
    with home.serve("tcp://127.0.0.1:0", env=without):
        directory = home.temp / "vswitch-0"
        os.chown(directory, 65534, 65534)
        for arguments in (["status"], ["status", "--name", "default"]):
            done = home.run(*arguments, env=without)
            assert (done.returncode, done.stdout) == (1, "")
            assert is_one_line(done.stderr)
