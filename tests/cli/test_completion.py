"""Completion: scripts that shells accept, and what they are told."""

import shlex
import shutil
import subprocess

import pytest

from tests.cli.program import COMMAND_TIMEOUT_S, PROGRAM, Home, connect
from tests.needs import require
from tests.waiting import until


def complete(home: Home, words: str, index: int) -> list[str]:
    """What bash is told to offer for the word at `index`."""
    asked = {"_VSWITCH_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
    done = home.run(env=asked)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(home: Home, shell: str) -> None:
    done = home.run("completion", shell)
    assert done.returncode == 0
    assert f"_VSWITCH_COMPLETE={shell}_complete" in done.stdout
    assert done.stdout.strip()


def test_bash_completes_with_the_script(home: Home) -> None:
    bash = shutil.which("bash")
    require(bash, "bash not found")
    assert bash is not None
    (home.programs / "vswitch").write_text(f'#!{bash}\nexec {shlex.join(PROGRAM)} "$@"\n')
    (home.programs / "vswitch").chmod(0o755)
    typed = """
        eval "$(vswitch completion bash)"
        function=$(complete -p vswitch | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        COMP_WORDS=(vswitch sta) COMP_CWORD=1
        $function vswitch sta vswitch
        echo "offered: ${COMPREPLY[*]}"
    """
    env = home.env | {"PATH": f"{home.programs}:/usr/bin:/bin"}
    done = subprocess.run(
        [bash, "-c", typed], env=env, cwd=home.root, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
    )
    assert (done.stdout, done.stderr) == ("offered: status\n", "")


def test_commands_are_offered(home: Home) -> None:
    assert set(complete(home, "vswitch ", 1)) >= {"serve", "status", "ports", "macs", "completion"}
    assert complete(home, "vswitch sta", 1) == ["status"]


def test_options_are_offered(home: Home) -> None:
    assert set(complete(home, "vswitch serve --", 2)) >= {
        "--config",
        "--name",
        "--ageing",
        "--table-size",
        "--ready-fd",
    }
    assert complete(home, "vswitch ports --j", 2) == ["--json"]


def test_names_of_running_switches_are_offered(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0", "--name", "lab"):
        assert complete(home, "vswitch status --name ", 3) == ["lab"]
        assert complete(home, "vswitch status --name x", 3) == []


@pytest.mark.parametrize("command", ["capture", "capture --drops arp and", "dump x.pcapng", "qemu-args", "libvirt-xml"])
def test_ports_and_endpoints_are_offered(home: Home, command: str) -> None:
    words = f"vswitch {command} "
    at = len(words.split())
    assert complete(home, words, at) == []
    with (
        home.serve("unix://lan.sock?name=lab", "--name", "one"),
        home.serve("tcp://127.0.0.1:0?name=web", "--name", "two"),
        connect(f"unix://{home.root}/lan.sock"),
    ):
        until(lambda: home.get("ports", "one"), "the guest is in")
        assert complete(home, words, at) == ["lab", "lab.1", "web"]
        assert complete(home, f"{words}w", at) == ["web"]
        named = f"vswitch {command.partition(' ')[0]} --name one{command[len(command.partition(' ')[0]) :]} l"
        assert complete(home, named, at + 2) == ["lab", "lab.1"]
        assert complete(home, named.replace("one", "nobody"), at + 2) == []


@pytest.mark.parametrize("words", ["capture -w", "capture --write", "dump", "serve --config", "serve --capture"])
def test_a_file_is_completed_by_the_shell(home: Home, words: str) -> None:
    at = len(words.split()) + 1
    asked = {"_VSWITCH_COMPLETE": "bash_complete", "COMP_WORDS": f"vswitch {words} la", "COMP_CWORD": str(at)}
    done = home.run(env=asked)
    assert (done.stdout, done.stderr) == ("file,la\n", "")


@pytest.mark.parametrize("words", ["vswitch capture ", "vswitch status --name ", "vswitch 'x", ""])
def test_completion_is_silent_whatever_is_wrong(home: Home, words: str) -> None:
    asked = {"_VSWITCH_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "2"}
    home.directory.write_text("")  # where the sockets should be
    assert home.run(env=asked).stderr == ""
    assert home.run(env=asked | {"COMP_CWORD": "x"}).stderr == ""


def test_shells_are_offered(home: Home) -> None:
    assert complete(home, "vswitch completion ", 2) == ["bash", "zsh", "fish"]
