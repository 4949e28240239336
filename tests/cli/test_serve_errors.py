"""Everything that can be written wrongly or refused: one line, the right exit code, nothing left behind."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from tests.cli.program import COMMAND_TIMEOUT_S, Home, check_refused, connect, is_one_line, read_to_end
from tests.needs import require
from tests.signals import default_signals
from vswitch import cli

NOBODY = 65534

Answer = tuple[int, str]
Vswitch = Callable[..., Answer]


@pytest.fixture
def vswitch(home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Vswitch:
    """Runs a command line that ends before a switch is started; answers exit code and standard error."""

    def must_not_run(*_: object) -> NoReturn:
        raise AssertionError("a switch was started")

    def vswitch(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["vswitch", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capfd.readouterr()
        assert captured.out == ""
        assert isinstance(caught.value.code, int)
        return caught.value.code, captured.err

    monkeypatch.setattr(trio, "run", must_not_run)
    monkeypatch.chdir(home.root)
    for name in ("XDG_RUNTIME_DIR", "TMPDIR", "VSWITCH_PATH", "PATH"):
        monkeypatch.setenv(name, home.env[name])
    return vswitch


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["frobnicate"], "frobnicate"),
        (["serv"], "serv"),
        (["completion"], "bash, zsh, fish"),
        (["completion", "tcsh"], "fish"),
        (["status", "extra"], "extra"),
        (["status", "--name"], "--name"),
        (["status", "--name", "a/b"], "a/b"),
        (["ports", "--frobnicate"], "--frobnicate"),
        (["serve", "--frobnicate"], "--frobnicate"),
        (["serve", "--config"], "--config"),
        (["serve", "--name"], "--name"),
        (["serve", "--name", "a b"], "'a b'"),
        (["serve", "--name", "../x"], "'../x'"),
        (["serve", "--name", "\x1b[31m"], "letters"),
        (["serve", "--name", ""], "letters"),
        (["serve", "--name", "x" * 64], "63"),
        (["serve", "--ageing", "300"], "--ageing: '300' has no unit; write 300s"),
        (["serve", "--ageing", ""], "--ageing"),
        (["serve", "--ageing", "0s"], "1s to"),
        (["serve", "--ageing", "-1s"], "--ageing"),
        (["serve", "--ageing", "1ms"], "1s to"),
        (["serve", "--ageing", "9" * 400 + "s"], "1s to"),
        (["serve", "--table-size", "0"], "1 to 1048576"),
        (["serve", "--table-size", "many"], "--table-size"),
        (["serve", "--table-size", "1.5"], "--table-size"),
        (["serve", "--table-size", "9" * 5000], "--table-size"),
        (["serve", "--ready-fd", "77"], "--ready-fd 77"),
        (["serve", "--ready-fd", "-1"], "--ready-fd -1"),
        (["serve", "--ready-fd", "9" * 30], "--ready-fd"),
        (["serve", "--ready-fd", "x"], "--ready-fd"),
        (["serve", ""], "not an endpoint URL"),
        (["serve", "127.0.0.1:1234"], "tcp://127.0.0.1:1234"),
        (["serve", "tpc://127.0.0.1:1234"], "unknown kind of endpoint 'tpc'; did you mean 'tcp'?"),
        (
            ["serve", "html://127.0.0.1:1234"],
            "tcp, unix, vhost-user, mcast, udp, unixgram, vde, tap, vxlan, l2tpv3, user",
        ),
        (["serve", "tcp://127.0.0.1"], "the port is missing"),
        (["serve", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536"], "65535"),
        (["serve", "tcp://[::1%l\u1bbbo]:1234"], "cannot be an interface's name"),
        (["serve", "udp://127.0.0.1:0?remote=[::1%l\u1bbbo]:1"], "cannot be an interface's name"),
        (["serve", "tcp://127.0.0.1:0?nmae=a"], "unknown parameter 'nmae'"),
        (["serve", "tcp://127.0.0.1:0?name=a&name=b"], "twice"),
        (["serve", "tcp://127.0.0.1:0?queue=4"], "write 4MiB"),
        (["serve", "tcp://\x1b[31m"], "port"),
        (["serve", "unix:///" + "x" * 107], "107"),
        (["serve", "unix:///a%00b"], "NUL"),
        (["serve", "--capture", "-"], "vswitch capture -w -"),
        (["serve", "--config", "pipe.toml"], "vswitch capture -w -"),
        (
            ["serve", "--config", "missing.toml"],
            "missing.toml: No such file or directory; a configuration is a TOML file",
        ),
        (["serve", "--config", ""], "config"),
        (["serve", "--config", "."], "directory"),
        (["serve", "--config", "wrong.toml"], "wrong.toml: not TOML"),
        (["serve", "--config", "entry.toml"], "entry.toml:2: [switch] has an unknown entry 'frobnicate'"),
        (["serve", "--config", "deep.toml"], "deep.toml"),
    ],
    ids=lambda value: " ".join(value)[:40].encode("unicode_escape").decode() if isinstance(value, list) else "",
)
def test_what_is_written_wrongly_is_one_line_and_exit_code_2(
    home: Home, vswitch: Vswitch, arguments: list[str], said: str
) -> None:
    (home.root / "wrong.toml").write_text("[switch")
    (home.root / "entry.toml").write_text("[switch]\nfrobnicate = 1")
    (home.root / "pipe.toml").write_text('[switch]\ncapture = "-"')
    (home.root / "deep.toml").write_text("a = " + 9999 * "[")
    code, line = vswitch(*arguments)
    assert line.startswith("vswitch: ")
    assert is_one_line(line)
    assert said in line
    assert code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["extcap", "--install"], "set HOME"), (["demo"], "set VSWITCH_CACHE")],
    ids=["extcap", "demo"],
)
def test_a_user_without_a_home_is_told_what_to_set(
    vswitch: Vswitch, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    for name in ("HOME", "VSWITCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4242424242)
    monkeypatch.setattr("vswitch.testing.qemu.what_is_missing", lambda: None)
    code, line = vswitch(*arguments)
    assert code == 1
    assert is_one_line(line)
    assert said in line


@pytest.mark.parametrize("command", ["main", "vde_switch"])
def test_ctrl_c_while_it_loads_ends_it_without_a_word(home: Home, command: str) -> None:
    (home.root / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    (home.root / "msgspec.py").write_text("import click\n")
    path = os.pathsep.join([str(home.root), home.env["PYTHONPATH"]])
    with default_signals():
        done = subprocess.run(
            [sys.executable, "-c", f"from vswitch import __main__; __main__.{command}()"],
            env=home.env | {"PYTHONPATH": path},
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
        )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_no_command_at_all_shows_the_help_as_it_is_meant_to_be_read(home: Home) -> None:
    done = home.run()
    shown = done.stdout + done.stderr
    assert "Usage: vswitch [OPTIONS] COMMAND [ARGS]...\n" in shown
    assert "\n  serve " in shown
    assert "Traceback" not in shown


def test_the_help_is_no_error(home: Home) -> None:
    for arguments in (["--help"], ["-h"], ["serve", "--help"], ["status", "-h"]):
        done = home.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: vswitch ")
    assert home.run("--version").stdout.startswith("vswitch ")


def test_a_control_socket_whose_path_would_be_too_long_is_said(
    home: Home, vswitch: Vswitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = home.root / ("x" * 60)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    code, line = vswitch("serve", "--name", "x" * 63, "tcp://127.0.0.1:0")
    assert code == 2
    assert is_one_line(line)
    assert "107" in line
    assert "set XDG_RUNTIME_DIR to a shorter directory" in line


@pytest.fixture
def deep(home: Home) -> Path:
    """A directory that is too deep for sockets."""
    directory = home.root / ("x" * 100)
    directory.mkdir()
    return directory


@pytest.mark.parametrize("command", ["qemu-args", "libvirt-xml"])
def test_no_path_is_printed_that_is_too_long_in_full(
    vswitch: Vswitch, monkeypatch: pytest.MonkeyPatch, deep: Path, command: str
) -> None:
    monkeypatch.chdir(deep)
    for url in ("unix://lan.sock", "unixgram://a?remote=b", "vde://lan.vde"):
        code, line = vswitch(command, url, "--guest", "web", "--qemu-version", "9.2")
        assert code == 2
        assert is_one_line(line)
        assert f"{deep}/" in line


def test_no_socket_is_made_whose_path_is_too_long_in_full(home: Home, deep: Path) -> None:
    with home.start("unix://lan.sock", under=["/usr/bin/env", "-C", str(deep)]) as serving:
        assert serving.ended() == 2
        assert is_one_line(serving.error)
        assert f"unix://lan.sock: {deep}/lan.sock: the path has " in serving.error
    assert list(deep.iterdir()) == []


def refused(home: Home, *arguments: str, code: int, said: str) -> None:
    check_refused(home, *arguments, code=code, said=said)
    leftover = sorted(path.name for path in home.directory.glob("*")) if home.directory.exists() else []
    assert leftover == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tcp://127.0.0.1:0?name=a", "unix://lan.sock?name=a"], "'a'"),
        (["unix://a.sock?name=unix1", "unix://b.sock?name=unix1"], "'unix1'"),
        (["unix://a.sock?single&name=a", "unix://b.sock?connect&name=a"], "'a'"),
        (["tcp://0.0.0.0:0"], "insecure=yes"),
        (["tcp://[::]:0"], "insecure=yes"),
        (["fd://77"], "fd://77"),
        (["fd://0"], "fd://0: neither a socket nor a TAP device"),
        (["tcp://a..b:1"], "a..b"),
        (["tcp://" + "x" * 64 + ".example:1"], "example"),
        (["tcp://a..b:1?connect"], "a..b"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_turns_out_to_be_written_wrongly_is_one_line_and_exit_code_2(
    home: Home, arguments: list[str], said: str
) -> None:
    refused(home, *arguments, code=2, said=said)


@pytest.mark.parametrize("fd", range(3, 10))
def test_a_descriptor_that_was_not_passed_on_is_none_even_if_the_program_has_one_of_that_number(
    home: Home, fd: int
) -> None:
    refused(home, f"fd://{fd}", code=2, said=f"fd://{fd}")


@pytest.mark.parametrize("fd", range(3, 7))
def test_a_ready_descriptor_that_was_not_passed_on_is_none_either(home: Home, fd: int) -> None:
    home.install_qemu("9.2.0")
    refused(home, "tcp://127.0.0.1:0", "--ready-fd", str(fd), code=2, said=f"--ready-fd {fd}")


def test_a_ready_descriptor_that_cannot_be_written_to_is_said_to_be_unusable(home: Home) -> None:
    with open("/dev/null", "rb") as unwritable:
        fd = unwritable.fileno()
        with home.start("tcp://127.0.0.1:0", "--ready-fd", str(fd), pass_fds=[fd]) as serving:
            assert serving.ended() == 2
            assert is_one_line(serving.log)
            assert f"--ready-fd {fd}: cannot be written to" in serving.log


def test_a_descriptor_given_twice_is_said_to_be(home: Home) -> None:
    here, there = socket.socketpair()
    url = f"fd://{there.fileno()}"
    with here, there, home.start(url, url, pass_fds=[there.fileno()]) as serving:
        assert not serving.wait_ready_or_end()
        assert serving.ended() == 2
        assert is_one_line(serving.error)
        assert url in serving.error


@pytest.mark.parametrize("kind", ["datagram", "unconnected", "seqpacket"])
def test_a_descriptor_of_another_kind_is_said_to_be(home: Home, kind: str) -> None:
    types = {"datagram": socket.SOCK_DGRAM, "unconnected": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET}
    with socket.socket(socket.AF_UNIX, types[kind]) as sock:
        url = f"fd://{sock.fileno()}"
        with home.start(url, pass_fds=[sock.fileno()]) as serving:
            assert serving.ended() == 2
            assert is_one_line(serving.error)
            assert url in serving.log


def test_insecure_lets_it_listen_beyond_loopback_and_says_so(home: Home) -> None:
    with home.serve("tcp://0.0.0.0:0?insecure=yes") as serving:
        connect(serving.urls["tcp1"].replace("0.0.0.0", "127.0.0.1")).close()
        serving.wait_said("anyone who reaches")


def test_an_address_in_use_is_exit_code_1(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        refused(home, url, code=1, said=f"cannot listen on {url}: Address already in use")


def test_a_name_in_use_is_exit_code_1(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0"), home.start("tcp://127.0.0.1:0") as second:
        assert not second.wait_ready_or_end()
        assert second.ended() == 1
        assert second.error == "vswitch: a switch 'default' runs already; give this one another --name\n"


def test_an_address_that_is_not_this_machines_is_exit_code_1(home: Home) -> None:
    refused(
        home,
        "tcp://192.0.2.1:1?insecure",
        code=1,
        said="Cannot assign requested address; use an address of this machine",
    )


def test_a_file_that_may_not_be_read_is_exit_code_1(home: Home, vswitch: Vswitch) -> None:
    require(os.geteuid() == 0, "only root can act as another user")
    (home.root / "lab.toml").write_text("[switch]")
    (home.root / "lab.toml").chmod(0o600)
    home.root.chmod(0o755)
    import_module("vswitch.cli.serving.serve")  # which the other user may not be able to
    os.seteuid(NOBODY)
    try:
        code, line = vswitch("serve", "--config", "lab.toml")
    finally:
        os.seteuid(0)
    assert is_one_line(line)
    assert "lab.toml: Permission denied" in line
    assert code == 1


def test_a_unix_socket_in_use_is_exit_code_1_and_goes_on_working(home: Home) -> None:
    path = home.root / "lan.sock"
    with home.serve(f"unix://{path}", "--name", "first") as first:
        with home.start(f"unix://{path}", "--name", "second") as second:
            assert second.ended() == 1
            assert is_one_line(second.error)
            assert str(path) in second.log
            assert second.lines == []
        assert not home.control("second").exists()
        connect(f"unix://{path}").close()
        assert first.stop() == 0


def test_a_second_switch_of_the_same_name_is_exit_code_1_and_the_first_goes_on(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0", "--name", "lab") as first:
        with home.start("tcp://127.0.0.1:0", "--name", "lab") as second:
            assert second.ended() == 1
            assert is_one_line(second.error)
            assert "lab" in second.log
            assert second.lines == []
        assert home.get("status", "lab")["pid"] == first.pid
        connect(first.urls["tcp1"]).close()
        assert first.stop() == 0


@pytest.mark.parametrize("place", ["endpoint", "control"])
@pytest.mark.parametrize("kind", ["file", "link to a file", "link to a socket", "link to nothing", "directory"])
def test_what_is_in_the_way_stays_and_is_exit_code_1(home: Home, place: str, kind: str) -> None:
    home.directory.mkdir(mode=0o700)
    path = home.root / "lan.sock" if place == "endpoint" else home.control()
    aim = home.root / "aim"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(aim)
        if kind == "link to a file":
            aim.write_text("precious")
        elif kind == "link to a socket":
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(aim))
    before = look(path), look(aim)
    with home.start(f"unix://{home.root}/lan.sock") as serving:
        assert serving.ended() == 1
        assert is_one_line(serving.error)
        assert str(path) in serving.log
    assert (look(path), look(aim)) == before


@pytest.mark.parametrize("place", ["endpoint", "control"])
def test_another_users_socket_stays_and_is_exit_code_1(home: Home, place: str) -> None:
    require(os.geteuid() == 0, "only root can give a file to another user")
    home.directory.mkdir(mode=0o700)
    path = home.root / "lan.sock" if place == "endpoint" else home.control()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    os.chown(path, NOBODY, NOBODY)
    before = look(path)
    with home.start(f"unix://{home.root}/lan.sock") as serving:
        assert serving.ended() == 1
        assert is_one_line(serving.error)
        assert "another user" in serving.log
    assert look(path) == before


def test_standard_output_that_takes_nothing_is_one_line(home: Home) -> None:
    with open("/dev/full", "wb") as full, home.start("tcp://127.0.0.1:0", stdout=full.fileno()) as serving:
        assert serving.process.wait(20) == 1
        assert "Traceback" not in serving.log
        assert "No space left on device" in serving.log
    assert list(home.directory.iterdir()) == []


def test_a_pipe_that_nobody_reads_from_ends_it_without_a_word(home: Home) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with home.start("tcp://127.0.0.1:0", stdout=writer) as serving:
        os.close(writer)
        assert serving.process.wait(20) == 1
        assert "Traceback" not in serving.log
        assert "BrokenPipe" not in serving.log
    assert list(home.directory.iterdir()) == []


def test_without_standard_output_it_serves_all_the_same(home: Home) -> None:
    reader, writer = os.pipe()
    closed = ["/bin/sh", "-c", 'exec "$@" >&-', "sh"]
    with home.start("tcp://127.0.0.1:0", "--ready-fd", str(writer), pass_fds=[writer], under=closed) as serving:
        os.close(writer)
        assert read_to_end(reader) == b"ready\n", serving.log
        assert home.get("status")["pid"] == serving.pid
        assert serving.stop() == 0


def test_a_ready_descriptor_that_takes_nothing_is_one_line(home: Home) -> None:
    with open("/dev/full", "wb") as full:
        descriptor = full.fileno()
        with home.start("tcp://127.0.0.1:0", "--ready-fd", str(descriptor), pass_fds=[descriptor]) as serving:
            assert serving.ended() == 1
            assert is_one_line(serving.error)
            assert f"--ready-fd {descriptor}" in serving.error


def test_a_guests_descriptor_is_not_the_ready_descriptor(home: Home) -> None:
    here, there = socket.socketpair()
    descriptor = there.fileno()
    arguments = (f"fd://{descriptor}", "--ready-fd", str(descriptor))
    with here, there, home.start(*arguments, pass_fds=[descriptor]) as serving:
        assert not serving.wait_ready_or_end()
        assert serving.ended() == 2
        assert is_one_line(serving.error)
        assert str(descriptor) in serving.error


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["completion", "zsh"]], ids=" ".join)
def test_help_that_cannot_be_written_is_one_line(home: Home, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = home.run(*arguments, stdout=full)
    assert done.returncode == 1
    assert is_one_line(done.stderr)


def look(path: Path) -> tuple[int, int, int, bytes] | None:
    """What is at a path, to see whether anybody touched it."""
    if not os.path.lexists(path):
        return None
    found = path.lstat()
    content = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
    return found.st_ino, found.st_mode, found.st_uid, content
