"""As a service: sockets that a service manager passes on, signs of life, hardened units, logs for programs."""

import json
import logging
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import click
import pytest

from tests.cli.program import COMMAND_TIMEOUT_S, Home, connect
from tests.needs import require
from tests.waiting import until
from vswitch.cli import cli
from vswitch.cli.serving import log_format
from vswitch.cli.serving.activation import Passed
from vswitch.endpoints.url import parse
from vswitch.errors import InputError

UNITS = Path(__file__).parents[2] / "docs/systemd"
EXPOSURE_MAX = 15  # tenths


def activated(home: Home, *names: str, **paths: Path) -> tuple[str, ...]:
    """A program before `vswitch serve` that passes on a socket for each name, at the first connection to one."""
    program = shutil.which("systemd-socket-activate")
    require(program, "needs systemd-socket-activate (Debian: systemd)")
    assert program is not None
    listening = {name: home.root / f"{name}.sock" for name in names} | paths
    listens = [argument for path in listening.values() for argument in ("-l", str(path))]
    passed_on = [argument for name in home.env for argument in ("-E", name)]
    return program, *passed_on, *listens, f"--fdname={':'.join(listening)}"


def listened(path: Path) -> socket.socket:
    """A connection to a socket that is there soon; it may be bound for a moment before it listens."""

    def attempt() -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        return sock

    found = until(attempt, f"somebody listens at {path}")
    assert found is not None
    return found


def test_a_socket_that_was_passed_on_is_an_endpoint_of_its_name(home: Home) -> None:
    with home.start(under=activated(home, "lan", "db")) as serving:
        with listened(home.root / "lan.sock"):
            serving.wait_ready()
            until(lambda: [port["name"] for port in home.get("ports")] == ["lan.1"], "the first guest is in")
            with connect(f"unix://{home.root}/db.sock"):
                until(lambda: [port["name"] for port in home.get("ports")] == ["lan.1", "db.1"], "another guest is in")
        assert serving.stop() == 0


def test_a_url_says_more_of_a_socket_that_was_passed_on(home: Home) -> None:
    under = activated(home, "lan")
    with home.start("fd://lan?vlan=10&name=web", under=under) as serving, listened(home.root / "lan.sock"):
        serving.wait_ready()
        until(lambda: home.get("ports"), "the guest is in")
        [port] = home.get("ports")
        assert (port["name"], port["vlan"]["access"]) == ("web.1", 10)
        assert 'url = "fd://lan"\nname = "web"\nvlan = 10\n' in home.run("save").stdout


def test_the_control_socket_may_be_passed_on(home: Home) -> None:
    home.directory.mkdir(mode=0o700, exist_ok=True)
    with home.start("unix://lan.sock", under=activated(home, control=home.control())) as serving:
        until(lambda: home.run("status").returncode == 0, "a command has started it")
        serving.wait_ready()
        assert serving.stop() == 0


def test_names_that_were_not_passed_on_are_said(home: Home) -> None:
    done = home.run("serve", "fd://lan")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vswitch: fd://lan: no descriptor of this name was passed on; there are none")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, {}),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {}),
        ({"LISTEN_FDS": "2"}, {"unknown": 3, "unknown-2": 4}),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "lan"}, {"lan": 3, "unknown": 4}),
        ({"LISTEN_FDS": "3", "LISTEN_FDNAMES": "lan:lan:control"}, {"lan": 3, "lan-2": 4, "control": 5}),
        ({"LISTEN_FDS": "3", "LISTEN_FDNAMES": "lab-2:lab:lab"}, {"lab-2": 3, "lab": 4, "lab-3": 5}),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "lan-a:lan"}, {"lan-a": 3, "lan": 4}),
        ({"LISTEN_FDS": "x"}, {}),
    ],
)
def test_what_was_passed_on_is_known_by_name(
    environment: dict[str, str], found: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getpid", lambda: 42)
    assert Passed({"LISTEN_PID": "42"} | environment).by_name == found


def test_what_no_url_names_is_an_endpoint_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 42)
    names = "lan:control:vswitch.socket:-odd"
    passed = Passed({"LISTEN_PID": "42", "LISTEN_FDS": "4", "LISTEN_FDNAMES": names})
    named = passed.resolve(parse("fd://lan"))
    assert (named.fd, named.name) == (3, "lan")
    assert [(it.fd, it.name) for it in passed.others([named])] == [(5, "vswitch.socket"), (6, None)]
    with pytest.raises(InputError, match="there are lan, control"):
        passed.resolve(parse("fd://db"))


def test_the_service_manager_gets_signs_of_life(home: Home) -> None:
    (home.root / "lab.toml").write_text(f"[[endpoint]]\nurl = 'unix://{home.root}/lan.sock'\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{home.root}/notify")
        manager.settimeout(COMMAND_TIMEOUT_S)
        env = {"NOTIFY_SOCKET": f"{home.root}/notify", "WATCHDOG_USEC": "100000"}
        with home.serve("--config", "lab.toml", env=env) as serving:
            said = [manager.recv(100) for _ in range(4)]
            assert sorted(set(said)) == [b"READY=1", b"WATCHDOG=1"]
            serving.process.send_signal(1)
            while not said[-1].startswith(b"RELOADING=1\nMONOTONIC_USEC="):
                said.append(manager.recv(100))
            while said[-1] != b"READY=1":
                said.append(manager.recv(100))
            serving.stop()
            while said[-1] != b"STOPPING=1":
                said.append(manager.recv(100))


def test_the_unit_leaves_little_to_attack() -> None:
    program = shutil.which("systemd-analyze")
    require(program, "needs systemd-analyze (Debian: systemd)")
    unit = UNITS / "system/vswitch@.service"
    done = subprocess.run(
        [str(program), "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE_MAX}", str(unit)],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout[-200:]


def test_units_are_what_systemd_reads() -> None:
    program = shutil.which("systemd-analyze")
    require(program, "needs systemd-analyze (Debian: systemd)")
    for unit in ("system/vswitch@.service", "user/vswitch.service", "user/vswitch.socket"):
        text = (UNITS / unit).read_text()
        if exec_start := re.search(r"^ExecStart=/usr/bin/vswitch (.*)$", text, re.M):
            command, *words = exec_start[1].replace("%i", "lab").split()
            find = cli.get_command(click.Context(cli), command)
            assert find is not None
            find.make_context(command, words)


def test_logs_are_json_for_programs_and_more_or_less_of_them_while_it_runs(home: Home) -> None:
    with home.serve(f"unix://{home.root}/lan.sock?name=lab", "--log-format", "json") as serving:
        with connect(serving.urls["lab"]):
            serving.wait_said('"lab.1 up: ')
        serving.wait_said('"lab.1 down: ')
        said = [json.loads(line) for line in serving.log.splitlines()]
        ups = [line for line in said if line.get("code") == "up"]
        assert [(line["level"], line["ports"]) for line in ups] == [("info", ["lab.1"])]
        assert home.run("log-level").stdout == "info\n"
        assert home.run("log-level", "warning").stdout == "warning\n"
        before = serving.log
        with connect(serving.urls["lab"]):
            until(lambda: home.get("ports"), "the guest is in")
        until(lambda: not home.get("ports"), "the guest is gone")
        assert home.run("log-level", "info").stdout == "info\n"
        assert serving.log == before
        with connect(serving.urls["lab"]):
            until(lambda: serving.log != before, "it is logged again")


def test_the_journal_gets_priorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setattr("sys.stderr", journal)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        record = logging.LogRecord("vswitch", logging.WARNING, "", 0, "%s", ("a loop",), None)
        assert log_format.formatter("text").format(record) == "<4>a loop"
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        assert re.fullmatch(r"\d\d:\d\d:\d\d a loop", log_format.formatter("text").format(record))


def test_lines_that_are_lost_are_counted_in_json_too() -> None:
    record = logging.LogRecord("vswitch", logging.ERROR, "", 0, "%s", ("late",), None)
    record.lost = 7
    assert json.loads(log_format.formatter("json").format(record))["lost"] == 7


def test_json_logs_are_one_line_whatever_is_in_them() -> None:
    record = logging.LogRecord("vswitch", logging.ERROR, "", 0, "%s", ('"\n\x1b[2J\udc80',), None)
    line = log_format.formatter("json").format(record)
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["level"] == "error"
