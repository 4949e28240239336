"""Completion: scripts that shells accept, and what they are told."""

import shlex
import shutil
import subprocess

import pytest

from tests.cli.program import COMMAND_TIMEOUT_S, PROGRAM, Home
from tests.needs import require


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


def test_shells_are_offered(home: Home) -> None:
    assert complete(home, "vswitch completion ", 2) == ["bash", "zsh", "fish"]
