"""`vswitch reload` and SIGHUP."""

import json
import os
import pty
import shutil
import signal
from pathlib import Path

import pytest

from tests.cli.program import Home, is_one_line
from tests.cli.traffic import traffic
from tests.waiting import until

FILE = """
[switch]
ageing = "300s"

[[endpoint]]
url = "unix://lan.sock"
name = "lan"

[[endpoint]]
url = "unix://old.sock"
"""
CHANGED = (
    FILE.replace("300s", "60s").replace("old.sock", "new.sock").replace('name = "lan"', 'name = "lan"\nsticky = true')
)


def absolute(home: Home, *lines: str) -> list[str]:
    return [line.replace("unix://", f"unix://{home.root}/") for line in lines]


def diff(home: Home) -> list[str]:
    return absolute(
        home,
        "- ageing = 300s",
        "+ ageing = 60s",
        "- lan  unix://lan.sock",
        "+ lan  unix://lan.sock?sticky=yes",
        "- unix1  unix://old.sock",
        "+ unix1  unix://new.sock  (its guests reconnect)",
    )


@pytest.fixture
def file(home: Home) -> Path:
    path = home.root / "lab.toml"
    path.write_text(FILE)
    return path


def test_the_file_is_read_again_and_traffic_goes_on(home: Home, file: Path) -> None:
    with home.serve("--config", "lab.toml") as serving, traffic(f"unix://{home.root}/lan.sock") as passing:
        file.write_text(CHANGED)
        dry = home.run("reload", "--dry-run")
        assert (dry.returncode, dry.stdout.splitlines(), dry.stderr) == (0, diff(home), "")
        done = home.run("reload")
        assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, diff(home), "")
        assert home.run("reload").stdout == "nothing changes\n"
        assert sorted(path.name for path in home.root.glob("*.sock")) == ["lan.sock", "new.sock"]
        passing.check()
        file.write_text(FILE)
        found = json.loads(home.run("reload", "--json").stdout)
        assert [change["action"] for change in found] == ["set_ageing", "set_policy", "replace"]
        passing.check()
        assert serving.stop() == 0


def test_a_wrong_file_changes_nothing_and_says_so(home: Home, file: Path) -> None:
    with home.serve("--config", "lab.toml"), traffic(f"unix://{home.root}/lan.sock") as passing:
        before = home.get("endpoints")
        file.write_text(CHANGED.replace("sticky", "stciky"))
        done = home.run("reload")
        assert (done.returncode, done.stdout) == (2, "")
        assert is_one_line(done.stderr)
        assert done.stderr.startswith(
            "vswitch: lab.toml:8: [[endpoint]] 1: unix://lan.sock: unknown parameter 'stciky'"
        )
        assert done.stderr.endswith("did you mean 'sticky'?\n")
        file.write_text(FILE.replace("[switch]", '[switch]\nname = "other"'))
        done = home.run("reload")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("vswitch: [switch] name cannot change while the switch runs")
        file.unlink()
        done = home.run("reload")
        assert (done.returncode, done.stdout) == (2, "")
        assert home.get("endpoints") == before
        passing.check()


def test_a_hangup_has_the_file_read_again(home: Home, file: Path) -> None:
    with home.serve("--config", "lab.toml") as serving, traffic(f"unix://{home.root}/lan.sock") as passing:
        file.write_text(CHANGED)
        serving.process.send_signal(signal.SIGHUP)
        serving.wait_said(*(f"reload: {line}" for line in diff(home)))
        for monstrous in ("table_size = 0x" + "f" * 5000, "name = 0x" + "f" * 5000, "name" + ".a" * 3000 + " = 1"):
            before = serving.log.count("reload: lab.toml")
            file.write_text(f"[switch]\n{monstrous}")
            serving.process.send_signal(signal.SIGHUP)
            until(lambda before=before: serving.log.count("reload: lab.toml") > before, "it to be said")  # type: ignore[misc]
        file.write_text("x = 1")
        serving.process.send_signal(signal.SIGHUP)
        serving.wait_said("reload: lab.toml:1: the file has an unknown entry 'x'")
        passing.check()
        assert serving.stop() == 0


def test_a_hangup_of_the_terminal_ends_it(home: Home, file: Path) -> None:
    primary, secondary = pty.openpty()
    under = ("/bin/sh", "-c", f'exec {shutil.which("setsid")} --ctty "$@" <{os.ttyname(secondary)}', "sh")
    with open(primary, "wb", buffering=0) as terminal, home.start("--config", "lab.toml", under=under) as serving:
        os.close(secondary)
        serving.wait_ready()
        terminal.close()
        assert serving.ended() == 0


def test_without_a_file_there_is_nothing_to_reload(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0") as serving:
        done = home.run("reload")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "vswitch: this switch has no configuration file; start it with: vswitch serve --config FILE\n"
        )
        assert serving.stop(signal.SIGHUP) == 0


def test_the_command_line_goes_before_the_file(home: Home, file: Path) -> None:
    with home.serve("--config", "lab.toml", "--ageing", "20s", "unix://mine.sock?vlan=5"):
        file.write_text(CHANGED)
        assert home.run("reload").stdout.splitlines() == diff(home)[2:]
        assert [endpoint["name"] for endpoint in home.get("endpoints")] == ["lan", "unix2", "unix1"]
