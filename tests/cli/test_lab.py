"""`vswitch lab` and `vswitch console`: a LAN of guests by hand, and who sits at their consoles."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import MORTAL, PROGRAM, STOP_TIMEOUT_S, Home
from tests.e2e.guest import guest_image
from tests.namespaces import needed_for_tap
from tests.needs import require
from tests.terminal import Terminal, terminal
from tests.waiting import until
from vswitch.testing.guest_image import build, default_cache

PAIR = """
[[guest]]
name = "a"

[[guest]]
name = "b"
"""


@pytest.fixture
def lab(home: Home) -> Home:
    """A home with QEMU, images, and a file of two guests."""
    guest_image()
    home.env |= {"PATH": os.environ["PATH"], "VSWITCH_CACHE": str(default_cache())}
    (home.root / "office.toml").write_text(PAIR)
    return home


@pytest.fixture
def office(lab: Home) -> Iterator[Home]:
    """The lab of that file, in the background."""
    done = lab.run("lab", "up", "-d", "office.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "lab office is up; to look: vswitch console, vswitch ports; to end it: vswitch lab down\n"
    try:
        yield lab
    finally:
        pid = json.loads(lab.run("status", "--json").stdout or "{}").get("pid")
        if pid:
            os.kill(pid, signal.SIGKILL)


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that it ended with."""
    (line,) = [line for line in done.stderr.splitlines() if "runs uncompiled" not in line]
    assert line.startswith("vswitch: ")
    return line


def piped(home: Home, typed: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MORTAL, *PROGRAM, *arguments], env=home.env, input=typed, capture_output=True, text=True, timeout=60
    )


def test_in_the_background_until_it_is_told_to_end(office: Home) -> None:
    (pid,) = [json.loads(office.run("status", "--json").stdout)["pid"]]
    assert sorted(port["name"] for port in json.loads(office.run("ports", "--json").stdout)) == ["a", "b"]
    done = piped(office, "hostname\n", "console", "a")
    assert done.returncode == 0
    assert "\na\n" in done.stdout.replace("\r", "")
    with socket.socket(socket.AF_UNIX) as qmp:
        qmp.connect(str(office.directory / "office.lab" / "b.qmp"))
        stream = qmp.makefile("rw")
        assert "QMP" in json.loads(stream.readline())
        answers = {
            '{"execute": "qmp_capabilities"}': {"return": {}},
            '{"execute": "stop", "id": [1]}': {"return": {}, "id": [1]},
            "nonsense": {"error": {"class": "GenericError", "desc": "QMP input must be a JSON object with 'execute'"}},
        }
        for asked, answer in answers.items():
            stream.write(f"\n{asked}\n")
            stream.flush()
            assert json.loads(stream.readline()) == answer
        stream.write('{"execute": "query-status"}\n{"execute": "qeury"}\n')
        stream.flush()
        assert json.loads(stream.readline())["return"]["status"] == "paused"
        assert "qeury" in json.loads(stream.readline())["error"]["desc"]
    for arguments, said in {
        ("console", "c"): "there is no guest 'c'; there are a, b",
        ("console", "a", "--name", "x"): "no lab 'x' is running; there are office; start one with: vswitch lab up FILE",
        ("lab", "up", "office.toml"): "a switch 'office' runs already; give this one another name",
    }.items():
        assert said in error_of(office.run(*arguments))
    done = office.run("lab", "down")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    until(lambda: not Path(f"/proc/{pid}").exists(), "the lab has ended")
    assert [path.name for path in office.directory.iterdir() if path.name.startswith("office")] == []
    for command in (("lab", "down"), ("console", "a")):
        assert office.run(*command).stderr == "vswitch: no lab is running; start one with: vswitch lab up FILE\n"


def prompt(lab: Home, *command: str) -> Iterator[Terminal]:
    return terminal(command, env=lab.env, cwd=lab.root)  # type: ignore[return-value]


def test_at_a_terminal_there_is_a_prompt(lab: Home) -> None:
    with terminal([*PROGRAM, "lab", "up", "office.toml"], env=lab.env, cwd=lab.root) as person:
        shown = person.expect("lan> ")
        assert "a  10.0.0.1\nb  10.0.0.2\n" in shown
        assert "vswitch ports --name office" in shown
        assert f"{lab.directory}/office.lab/a.qmp" in shown
        assert "Python, with lan, a, b and await" in shown
        for typed, answer in {
            "(await a.run('ping -c1 b')).ok": "True\n",
            "a.run('echo hello; false')": "hello\nstatus 1\n",  # no need to await
            "lan.nothing": "Traceback (most recent call last):\n"
            '  File "<console>", line 1, in <module>\n'
            "AttributeError: 'Lan' object has no attribute 'nothing'\n",
            "await lan.guest('a')": "InputError: there is a machine 'a' already; give this one another name\n",
            "a.run(r\"printf '\\033[31m'\")": "\\x1b[31m\n",
            "_.status": "0\n",
        }.items():
            person.type(f"{typed}\n")
            assert person.expect("lan> ").partition("\n")[2] == answer
        person.type("async with lan.partition([a], [b]):\n")
        person.expect("...> ")
        person.type("    (await a.run('ping -c1 -W1 b')).ok\n")
        person.expect("...> ")
        person.type("\n")
        assert person.expect("lan> ").strip().endswith("False")
        person.type("import trio; print('as' + 'leep'); await trio.sleep(1000)\n")
        person.expect("asleep")
        person.type("\x03")
        assert "KeyboardInterrupt\n" in person.expect("lan> ")
        with terminal([*PROGRAM, "console", "b"], env=lab.env, cwd=lab.root) as other:
            other.expect("b:~# ")
            # In a shell of its own, as the guest's loses a Ctrl-C that comes while it starts a program.
            other.type("sh -c \"echo is''asleep; sleep 1000\"\n")
            other.expect("isasleep")
            other.type("\x03")
            other.expect("b:~# ")
            other.type("exit\n")
            other.expect("b:~# ")
            other.type("\x1d")
            assert other.wait() == 0
        person.type("await b.reset()\n")
        person.expect("lan> ")
        with terminal([*PROGRAM, "console", "b"], env=lab.env, cwd=lab.root) as other:
            other.expect("b:~# ")
        person.type("\x04")
        assert person.wait() == 0
    assert not (lab.directory / "office.lab").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_terminal_is_as_before(lab: Home, number: signal.Signals) -> None:
    with terminal([*PROGRAM, "lab", "up"], env=lab.env, cwd=lab.root) as person:
        assert "Python, with lan, a, b and await" in person.expect("lan> ")
        pid = json.loads(lab.run("status", "--json").stdout)["pid"]
        os.kill(pid, signal.SIGTERM)
        assert person.wait() == 128 + signal.SIGTERM
    assert not (lab.directory / "lab.lab").exists()


def test_ctrl_c_interrupts_what_holds_everything_up_and_exit_ends_it(lab: Home) -> None:
    with terminal([*PROGRAM, "lab", "up", "office.toml"], env=lab.env, cwd=lab.root) as person:
        person.expect("lan> ")
        person.type("print('beg' + 'un'); import time; time.sleep(1000)\n")
        person.expect("begun")
        person.type("\x03")
        assert "KeyboardInterrupt\n" in person.expect("lan> ")
        person.type("await a.run('poweroff -f', timeout=20)\n")
        assert "QEMU ended with status 0" in person.expect("lan> ")
        person.type("await a.boot()\n")  # that a guest ends does not end the lab
        assert "Error" not in person.expect("lan> ")
        person.type("(await a.run('ping -c1 b')).ok\n")
        assert "True\n" in person.expect("lan> ")
        person.type("exit()\n")
        assert person.wait() == 0


def test_with_nobody_there_it_does_not_ask(lab: Home) -> None:
    """Standard output goes elsewhere."""
    with terminal(["sh", "-c", f"{' '.join(PROGRAM)} lab up | cat; echo over"], env=lab.env, cwd=lab.root) as person:
        person.expect("a's QMP")
        until(lambda: lab.run("lab", "down").returncode == 0, "it is told to end")
        person.expect("over")
        assert "lan> " not in person.shown
        assert person.wait() == 0


def test_what_was_killed_is_in_nobodys_way(lab: Home) -> None:
    for _ in range(2):
        assert lab.run("lab", "up", "-d").returncode == 0
        os.kill(json.loads(lab.run("status", "--json").stdout)["pid"], signal.SIGKILL)


def test_a_session_by_ssh(lab: Home) -> None:
    needed_for_tap()
    guest_image()
    build(packages=["dropbear-bin"])  # which takes longer than a command may
    require(shutil.which("ssh-keygen"), "ssh-keygen not found: install the package openssh-client")
    key = lab.root / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (lab.root / "ssh.toml").write_text('[[guest]]\nname = "a"\npackages = ["dropbear-bin"]\n')
    assert error_of(lab.run("lab", "ssh", "a")).endswith("no lab is running; start one with: vswitch lab up FILE")
    assert lab.run("lab", "up", "-d", "ssh.toml").returncode == 0
    try:
        allowed = key.with_suffix(".pub").read_text()
        typed = f"mkdir -m 700 .ssh; echo '{allowed.strip()}' >.ssh/authorized_keys; dropbear -R; mkdir /etc/dropbear\n"
        piped(lab, typed, "console", "a")
        done = lab.run("lab", "ssh", "a", "-i", str(key), "hostname; id -un; exit 3")
        assert (done.returncode, done.stdout) == (3, "a\nroot\n")
        done = lab.run("lab", "ssh", "--user", "nobody", "a", "-i", str(key), "-o", "BatchMode=yes", "true")
        assert "nobody@10.0.0.1: Permission denied" in done.stderr
        assert error_of(lab.run("lab", "ssh", "b")).endswith("there is no guest 'b'; there are a")
    finally:
        assert lab.run("lab", "down").returncode == 0


def test_the_module_is_the_same(lab: Home) -> None:
    command = [sys.executable, "-m", "vswitch.testing", "office.toml"]
    with terminal(command, env=lab.env, cwd=lab.root) as person:
        assert "--name office" in person.expect("lan> ")
        person.type("\x04")
        assert person.wait() == 0


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (None, 2, "office.toml: No such file or directory; a configuration is a TOML file"),
        ("[[guest]]\nname = 1", 2, 'office.toml:2: [[guest]] 1: has no name; write name = "a"'),
        ("[[guest]]\nname = 'a'\ndisk = 'gone.qcow2'", 1, "gone.qcow2"),
        (
            "[[guest]]\nname = 'a'\nmemory = 'much'\nnetboot = true",
            1,
            "guest a: starting QEMU: QEMU ended with status 1; it printed: qemu",
        ),
        (
            "[[guest]]\nname = 'a'\nip = '10.0.0'",
            2,
            "office.toml:3: [[guest]] 1: ip: '10.0.0' is no IPv4 address; write one like 10.0.0.9",
        ),
    ],
)
@pytest.mark.parametrize("how", [[], ["-d"]], ids=["here", "background"])
def test_what_is_wrong_is_said_in_one_line(lab: Home, text: str | None, code: int, said: str, how: list[str]) -> None:
    file = lab.root / "office.toml"
    file.unlink()
    if text is not None:
        file.write_text(text)
    done = lab.run("lab", "up", *how, "office.toml")
    assert done.returncode == code
    assert said in error_of(done)
    until(lambda: not (lab.directory / "office.lab").exists(), "nothing is left", STOP_TIMEOUT_S)


def test_without_qemu_it_says_what_to_install(home: Home) -> None:
    done = home.run("lab", "up")
    assert done.returncode == 1
    assert "qemu-system-x86_64 not found: install the package qemu-system-x86" in done.stderr
    assert shutil.which("qemu-system-x86_64", path=home.env["PATH"]) is None
