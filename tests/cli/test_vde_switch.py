"""`vde_switch`, this one: used as scripts and test drivers use the one of vde2, whose clients plug into it."""

import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.cli.program import COMMAND_TIMEOUT_S, FRESH, START_TIMEOUT_S, STOP_TIMEOUT_S, Home, Process, is_one_line
from tests.frames import BROADCAST, frame, mac
from tests.namespaces import needed_for_tap
from tests.needs import require
from tests.vde2 import program
from tests.waiting import is_over, until
from vswitch.cli import vde_options

MODULE = "vswitch.cli.vde_switch"
SHOWINFO = b"0000 DATA END WITH '.'\nNumports=256\nHUB=false\ncounters=true\n.\n1000 Success\n"
NOT_IMPLEMENTED = b"1038 Function not implemented\n"
PROMPT = b"\nvde$ "


class Switch:
    """A running vde_switch: a process, what it prints, and its directory."""

    def __init__(self, process: Process, directory: Path, log: Path) -> None:
        self.process = process
        self.directory = directory
        self.ctl = directory / "ctl"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def type(self, text: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def printed(self, size: int) -> bytes:
        """The next bytes on standard output."""
        assert self.process.stdout is not None
        return receive(self.process.stdout, size)

    def wait_ready(self) -> None:
        until(lambda: can_connect(self.ctl) or self.process.poll() is not None, "clients can plug in")
        assert self.process.poll() is None, self.log

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)


def receive(pipe: IO[bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        assert select.select([pipe], [], [], COMMAND_TIMEOUT_S)[0], f"nothing more than {data!r}"
        more = os.read(pipe.fileno(), size - len(data))
        if not more:
            break
        data += more
    return data


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


@contextmanager
def started(
    home: Home,
    *arguments: str,
    under: Sequence[str] = (),
    stdin: IO[bytes] | int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    stderr: int | None = None,
) -> Iterator[Switch]:
    """A vde_switch in `home`'s directory lan; killed in the end if it still runs."""
    log = home.root / f"log-{len(list(home.root.glob('log-*')))}"
    with log.open("wb") as file:
        process = home.process(
            *("-s", "lan", *arguments),
            module=MODULE,
            env={"HOME": str(home.root)},
            under=under,
            stdin=stdin,
            stdout=stdout,
            stderr=file if stderr is None else stderr,
        )
    with process:
        try:
            yield Switch(process, home.root / "lan", log)
        finally:
            process.kill()


def run(home: Home, *arguments: str, typed: bytes = b"", under: Sequence[str] = ()) -> tuple[int, bytes, str]:
    """A vde_switch to its end: exit code, standard output and error."""
    env, pipe = {"HOME": str(home.root)}, subprocess.PIPE
    with home.process(*arguments, module=MODULE, env=env, under=under, stdin=pipe, stderr=pipe) as process:
        try:
            output, error = process.communicate(typed, timeout=COMMAND_TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode is not None
    return process.returncode, output, error.decode()


def left(home: Home) -> set[str]:
    """What is in the home beside what was there from the start."""
    return {path.name for path in home.root.iterdir() if not path.name.startswith("log-")} - {"run", "tmp", "bin"}


# Standard input and output


def test_commands_from_a_pipe_have_replies_without_prompts_and_its_end_is_the_switchs(home: Home) -> None:
    typed = b"port/showinfo\n\n# comment\nversion\nlogout\nnonsense"
    code, printed, log = run(home, "-s", "lan", typed=typed)
    assert (code, printed) == (0, SHOWINFO + NOT_IMPLEMENTED * 2)
    assert "end of standard input" in log
    assert left(home) == set()


@pytest.mark.parametrize(
    "under", [["/bin/sh", "-c", 'exec "$@" </dev/null', "sh"], ["/bin/sh", "-c", 'exec "$@" <&-', "sh"]]
)
def test_without_standard_input_it_ends_at_once(home: Home, under: list[str]) -> None:
    with started(home, under=under) as switch:
        assert switch.process.wait(START_TIMEOUT_S) == 0
    assert left(home) == set()


def test_commands_from_a_file(home: Home) -> None:
    script = home.root / "script"
    script.write_bytes(b"#" * 6000 + b"\nport/showinfo\n" * 700)
    with script.open("rb") as stdin, started(home, stdin=stdin) as switch:
        assert switch.printed(len(SHOWINFO) * 700) == SHOWINFO * 700
        assert switch.process.wait(START_TIMEOUT_S) == 0


def test_what_is_no_terminal_gets_no_prompt(home: Home) -> None:
    here, there = socket.socketpair()
    with here, there, started(home, stdin=there.fileno()) as switch:
        there.close()
        here.sendall(b"port/showinfo\n\n")
        assert switch.printed(len(SHOWINFO)) == SHOWINFO
        here.shutdown(socket.SHUT_WR)
        assert here.recv(1) == b""
        assert switch.process.wait(STOP_TIMEOUT_S) == 0


def test_what_a_test_driver_does(home: Home) -> None:
    """As NixOS's nixos/lib/test-driver (vlan.py): a terminal that it never reads, pipes, of which it reads one line."""
    master, slave = pty.openpty()
    arguments = ("--dirmode", "0700", "--hub")
    with (
        open(master, "wb", buffering=0) as terminal,
        started(home, *arguments, stdin=slave, stderr=subprocess.PIPE) as switch,
    ):
        os.close(slave)
        terminal.write(b"version\n")
        assert switch.process.stdout is not None
        assert switch.process.stdout.readline() == NOT_IMPLEMENTED
        assert stat.S_ISSOCK(switch.ctl.stat().st_mode)
        assert stat.S_IMODE(switch.directory.stat().st_mode) & 0o777 == 0o700
        terminal.write(b"port/showinfo\n")
        assert b"HUB=true" in switch.printed(len(SHOWINFO) - 1)
        terminal.close()
        assert switch.process.wait(STOP_TIMEOUT_S) == 0
        assert not switch.directory.exists()


@pytest.mark.parametrize("all_of_it", [False, True])
def test_on_a_terminal_there_is_a_prompt_wherever_replies_go(home: Home, all_of_it: bool) -> None:
    master, slave = pty.openpty()
    with (
        open(master, "r+b", buffering=0) as terminal,
        started(home, stdin=slave, stdout=slave if all_of_it else subprocess.PIPE) as switch,
    ):
        os.close(slave)
        prompt, reply = b"\r\nvde$ ", NOT_IMPLEMENTED.replace(b"\n", b"\r\n") if all_of_it else b""
        for typed, shown in (
            (b"\n", b"\r\n" + prompt),
            (b"logout\n", b"logout\r\n"),
            (b"x\n", b"x\r\n" + reply + prompt),
        ):
            terminal.write(typed)
            assert receive(terminal, len(shown)) == shown
        if not all_of_it:
            assert switch.printed(len(NOT_IMPLEMENTED)) == NOT_IMPLEMENTED
        terminal.write(b"\x04")
        assert switch.process.wait(STOP_TIMEOUT_S) == 0


def test_nobody_has_to_read_its_log_or_its_replies(home: Home) -> None:
    """With both pipes full it goes on, and ends when told to."""
    with ExitStack() as stack:
        full = [stack.enter_context(full_pipe()) for _ in range(2)]
        switch = stack.enter_context(started(home, "-M", "mgmt", stdout=full[0], stderr=full[1]))
        switch.wait_ready()
        switch.type(b"showinfo\n" * 100)
        for _ in range(100):
            stack.enter_context(plug(switch)).close()  # with lines in the log
        assert ask(home.root / "mgmt", b"port/showinfo\n") == SHOWINFO
        assert switch.stop() == 0
    assert left(home) == set()


@contextmanager
def full_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


def test_without_standard_input_to_listen_to_it_goes_on(home: Home) -> None:
    with started(home, "--nostdin", stdin=subprocess.DEVNULL) as switch:
        switch.wait_ready()
        assert switch.stop() == 0
    assert left(home) == set()


# Clients


class Plug:
    """The real vde_plug: frames in and out of a port, each with its length (16 bits) before it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(len(data).to_bytes(2) + data)
        self._process.stdin.flush()

    def receive(self) -> bytes:
        assert self._process.stdout is not None
        return receive(self._process.stdout, int.from_bytes(receive(self._process.stdout, 2)))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def plug(switch: Switch) -> Iterator[Plug]:
    command = [program("vde_plug"), str(switch.directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        plug = Plug(process)
        try:
            yield plug
        finally:
            plug.close()


def ports(switch: Switch, number: int) -> None:
    """Waits until a number of ports is in use."""

    def printed() -> int:
        switch.type(b"port/print\n")
        text = b""
        while not text.endswith(b"1000 Success\n"):
            text += switch.printed(1)
        return text.count(b"ACTIVE")

    until(lambda: printed() == number, f"{number} ports are in use")


@pytest.mark.parametrize("hub", [False, True])
def test_vde_plug_exchanges_frames_through_it(home: Home, hub: bool) -> None:
    with started(home, *["--hub"] * hub) as switch:
        switch.wait_ready()
        with plug(switch) as a, plug(switch) as b, plug(switch) as c:
            ports(switch, 3)
            hello, answer, more = frame(BROADCAST, mac(1)), frame(mac(1), mac(2), 1514), frame(BROADCAST, mac(3))
            a.send(hello)
            assert (b.receive(), c.receive()) == (hello, hello)
            b.send(answer)
            assert a.receive() == answer
            a.send(more)
            assert b.receive() == more
            assert c.receive() == (answer if hub else more)
        assert switch.stop() == 0


@pytest.mark.parametrize("hub", [False, True])
def test_frames_leave_padded_if_asked_to(home: Home, hub: bool) -> None:
    with started(home, "--pad", *["--hub"] * hub) as switch:
        switch.wait_ready()
        with plug(switch) as a, plug(switch) as b:
            ports(switch, 2)
            a.send(frame(BROADCAST, mac(1))[:42])
            assert b.receive() == frame(BROADCAST, mac(1))[:42] + bytes(18)


def test_a_tap_device_is_a_port_of_the_console(home: Home) -> None:
    unshare = needed_for_tap()
    with started(home, "-t", "vsa", under=[unshare, "--net"]) as switch:
        switch.type(b"vlan/create 1\nport/setvlan 1 1\nport/epclose 1 0\nport/print 1\n")
        printed = switch.printed(200).decode()
        assert "1000 Success\n1000 Success\n1095 Operation not supported: it is no client\n" in printed
        assert "Port 0001 untagged_vlan=0001 ACTIVE" in printed


def test_what_a_bridge_keeps_to_itself_passes_as_through_the_real_one(home: Home) -> None:
    """LACP, 802.1X, LLDP and others of their kind, and sources that are nobody's address: a bond of guests needs it."""
    with started(home) as switch:
        switch.wait_ready()
        with plug(switch) as a, plug(switch) as b:
            ports(switch, 2)
            for last in range(16):
                reserved = frame(0x0180_C200_0000 + last, mac(1), 124)
                a.send(reserved)
                assert b.receive() == reserved
            for source in (0, BROADCAST, 0x0100_5E00_0001):
                a.send(frame(mac(2), source))
                assert b.receive() == frame(mac(2), source)


def test_dpipe_joins_two_of_them(home: Home) -> None:
    with started(home) as one, started(home, "-s", "other") as other:
        other.directory = home.root / "other"
        other.ctl = other.directory / "ctl"
        one.wait_ready()
        other.wait_ready()
        vde_plug = program("vde_plug")
        cable = [program("dpipe"), vde_plug, str(one.directory), "=", vde_plug, str(other.directory)]
        with subprocess.Popen(cable) as joined, plug(one) as a, plug(other) as b:
            ports(one, 2)
            ports(other, 2)
            a.send(frame(BROADCAST, mac(1)))
            assert b.receive() == frame(BROADCAST, mac(1))
            joined.kill()


def test_tap_devices_are_plugged_in_too(home: Home) -> None:
    unshare = needed_for_tap()
    devices = Path("/sys/class/net")
    with started(home, "-t", "vsa,vsb", "-tap", "vsc", under=[unshare, "--net"]) as switch:
        switch.type(b"port/showinfo\n")
        assert switch.printed(len(SHOWINFO)) == SHOWINFO, switch.log
        told = [f"interface {name}" for name in ("vsa", "vsb", "vsc")]
        until(lambda: all(text in switch.log for text in told), "the log names the devices")
        assert not (devices / "vsa").exists(), "they are in a network namespace of their own"
        assert switch.stop() == 0


# The management socket


def ask(path: Path, line: bytes) -> bytes:
    """The reply of the console at a management socket."""
    until(lambda: can_connect(path), f"{path} listens")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(COMMAND_TIMEOUT_S)
        sock.connect(str(path))
        text = b""
        while text.count(PROMPT) < 2:
            if text.count(PROMPT) == 1 and text.endswith(PROMPT):
                sock.sendall(line)
            data = sock.recv(65536)
            assert data, f"hung up; before came {text!r}"
            text += data
        return text.split(PROMPT)[1]


@pytest.mark.parametrize("mode", ["0600", "0660", "666"])
def test_the_management_socket_has_the_permissions_asked_for(home: Home, mode: str) -> None:
    with started(home, "-M", "mgmt", "--mgmtmode", mode) as switch:
        switch.wait_ready()
        assert ask(home.root / "mgmt", b"port/showinfo\n") == SHOWINFO
        says = f"mgmt {home.root}/mgmt perm 0{int(mode, 8):03o}\n"
        assert says.encode() in ask(home.root / "mgmt", b"showinfo\n")
        assert stat.S_IMODE((home.root / "mgmt").stat().st_mode) == int(mode, 8)


def test_the_management_socket_can_be_a_groups(home: Home) -> None:
    require(os.geteuid() == 0, "only root can give a socket to any group")
    with started(home, "-M", "mgmt", "--mgmtgroup", "65534") as switch:
        switch.wait_ready()
        ask(home.root / "mgmt", b"\n")
        until(lambda: (home.root / "mgmt").stat().st_gid == 65534, "it is the group's")
        assert stat.S_IMODE((home.root / "mgmt").stat().st_mode) == 0o600


@pytest.mark.parametrize("where", ["stdin", "mgmt"])
def test_shutdown_ends_it(home: Home, where: str) -> None:
    with started(home, "-M", "mgmt") as switch:
        switch.wait_ready()
        if where == "stdin":
            switch.type(b"shutdown\n")
        else:
            subprocess.run([program("unixcmd"), "-s", "mgmt", "-f", "/etc/vde2/vdecmd", "shutdown"], cwd=home.root)
        assert switch.process.wait(STOP_TIMEOUT_S) == 0
        assert "shutdown" in switch.log
    assert left(home) == set()


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_its_files_are_gone(home: Home, number: signal.Signals) -> None:
    with started(home, "-M", "mgmt", "-p", "pid") as switch:
        switch.type(b"port/showinfo\n")
        assert switch.printed(len(SHOWINFO)) == SHOWINFO
        assert (home.root / "pid").read_text() == f"{switch.process.pid}\n"
        assert switch.stop(number) == 0
        assert number.name in switch.log
    assert left(home) == set()


def test_under_nohup_the_terminals_end_is_not_its(home: Home) -> None:
    with started(home, "--nostdin", under=["/usr/bin/nohup"]) as switch:
        switch.wait_ready()
        switch.process.send_signal(signal.SIGHUP)
        assert switch.stop() == 0
        assert "SIGHUP" not in switch.log


# A daemon


@contextmanager
def daemon(home: Home, *arguments: str, under: Sequence[str] = ()) -> Iterator[int]:
    """A daemon that is ready, by its process id; killed in the end, by what /proc tells of its first environment."""
    try:
        assert run(home, "-d", "-s", "lan", "-p", "pid", *arguments, under=under or FRESH) == (0, b"", "")
        yield int((home.root / "pid").read_text())
    finally:
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"HOME={home.root}\0".encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)


def test_a_daemon_is_ready_when_the_command_returns_and_has_left_everything_behind(home: Home) -> None:
    with daemon(home, "-M", "mgmt", "-f", "/dev/null") as pid:
        assert can_connect(home.root / "lan" / "ctl")
        assert ask(home.root / "mgmt", b"port/showinfo\n") == SHOWINFO
        assert f"pid {pid} ".encode() in ask(home.root / "mgmt", b"showinfo\n")
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
        assert os.getsid(pid) == pid
        os.kill(pid, signal.SIGHUP)
        assert ask(home.root / "mgmt", b"port/showinfo\n") == SHOWINFO
        os.kill(pid, signal.SIGTERM)
        until(lambda: is_over(pid), "the daemon has ended", STOP_TIMEOUT_S)
        assert left(home) == set()


def test_a_daemon_needs_no_standard_files(home: Home) -> None:
    closed = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    with daemon(home, under=closed) as pid:
        assert can_connect(home.root / "lan" / "ctl")
        os.kill(pid, signal.SIGTERM)
        until(lambda: is_over(pid), "the daemon has ended", STOP_TIMEOUT_S)
        assert left(home) == set()


def test_a_daemon_works_and_is_told_to_end(home: Home) -> None:
    with daemon(home, "-M", "mgmt") as pid:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(home.root / "mgmt"))
            sock.sendall(b"shutdown\n")
            until(lambda: is_over(pid), "the daemon has ended", STOP_TIMEOUT_S)
        assert left(home) == set()


@pytest.mark.parametrize("background", [[], ["-d"]])
def test_two_cannot_have_the_same_directory(home: Home, background: list[str]) -> None:
    with started(home) as switch:
        switch.wait_ready()
        code, printed, log = run(home, "-s", "lan", "-p", "pid", *background)
        assert (code, printed) == (1, b"")
        assert is_one_line(last_line(log))
        assert "in use" in log
        assert can_connect(switch.ctl)
        assert left(home) == {"lan"}


@pytest.mark.parametrize("background", [[], ["-d"]])
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-s", "/nonexistent/lan"], 1, "/nonexistent/lan"),
        (["-s", "file"], 1, "is not a directory"),
        (["-s", "lan", "-M", "file"], 1, "file exists and is not a socket"),
        (["-s", "lan", "-M", "/nonexistent/mgmt"], 1, "No such file"),
        (["-s", "lan", "-p", "/nonexistent/pid"], 1, "--pidfile /nonexistent/pid: No such file or directory; make its"),
        (["-s", "lan", "-f", "/dev/zero"], 2, "is longer than"),
        (["-s", "x" * 200], 2, "use a shorter one"),
        (["-s", "lan", "-m", "9"], 2, "mode: '9' are no permissions"),
        (["-s", "lan", "--dirmode", "rwx"], 2, "dirmode"),
        (["-s", "lan", "-M", "m", "--mgmtmode", "-1"], 2, "mgmtmode"),
        (["-s", "lan", "-g", "no-such-group"], 2, "no-such-group"),
        (["-s", "lan", "--mgmtgroup", "no-such-group"], 2, "no-such-group"),
        (["-s", "lan", "-n", "0"], 2, "'0' is not a number from 1"),
        (["-s", "lan", "-n", "many"], 2, "many"),
        (["-s", "lan", "--hashsize", "big"], 2, "--hashsize: 'big' is not a number"),
        (["-s", "lan", "--hashsize", "99999999"], 2, "out of range"),
        (["-s", "lan", "-t", "a/b"], 2, "--tap: 'a/b'"),
        (["-s", "lan", "-macaddr", "2:2:2:2:2"], 2, "--macaddr: '2:2:2:2:2' is not a MAC address"),
        (["-s", "lan", "extra"], 2, "'extra' is no option"),
        (["-s", "lan\n\x1b[31m"], 2, "control character"),
        (["-s"], 2, "--sock needs a value"),
        (["-bogus"], 2, "unknown option -bogus"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_left(
    home: Home, arguments: list[str], code: int, says: str, background: list[str]
) -> None:
    (home.root / "file").write_text("precious")
    found, printed, log = run(home, *background, *arguments)
    assert (found, printed) == (code, b"")
    assert is_one_line(last_line(log))
    assert last_line(log).startswith("vde_switch: ")
    assert says in log
    assert "Traceback" not in log
    assert (home.root / "file").read_text() == "precious"
    assert left(home) == {"file"}


def last_line(log: str) -> str:
    """What is on standard error but for a warning that this build is slow."""
    return "".join(line for line in log.splitlines(True) if "uncompiled" not in line)


# The rc file


def test_the_rc_file_is_run_before_anything_else(home: Home) -> None:
    (home.root / "rc").write_text("# as a hub\nport/sethub 1\n\nport/showinfo\nlogout")
    code, printed, _ = run(home, "-s", "lan", "-f", "rc", typed=b"port/showinfo\n")
    assert (code, printed) == (0, SHOWINFO.replace(b"false", b"true"))


def test_a_line_of_it_that_fails_and_a_file_that_is_not_there_stop_nothing(home: Home) -> None:
    (home.root / "rc").write_text("nonsense\n# comment\nvlan/create 5000\nport/sethub 1\n")
    code, printed, log = run(home, "-s", "lan", "-f", "rc", typed=b"port/showinfo\n")
    assert (code, printed) == (0, SHOWINFO.replace(b"false", b"true"))
    assert f"vde_switch: {home.root}/rc" not in log
    assert "vde_switch: rc, line 1: nonsense: Function not implemented\n" in log
    assert "vde_switch: rc, line 3: vlan/create 5000: Invalid argument: a number from 1 to 4094 is needed\n" in log
    code, printed, log = run(home, "-s", "lan", "-f", "missing", typed=b"port/showinfo\n")
    assert (code, printed) == (0, SHOWINFO)
    assert "vde_switch: --rcfile missing: No such file or directory; going on without\n" in log


def test_load_runs_a_file_and_shows_what_becomes_of_each_line(home: Home) -> None:
    (home.root / "script").write_text("port/sethub 1\nnonsense\nload script\nlogout")
    code, printed, _ = run(home, "-s", "lan", typed=b"load script\nport/showinfo\nload missing\nload /\nload\n")
    assert code == 0
    assert printed == (
        b"vde[script]: port/sethub 1\n1000 Success\nvde[script]: nonsense\n"
        + NOT_IMPLEMENTED
        + b"vde[script]: load script\n1002 No such file or directory\nvde[script]: logout\n1000 Success\n"
        + SHOWINFO.replace(b"false", b"true")
        + b"1002 No such file or directory\n" * 3
    )


def test_without_one_it_is_the_users(home: Home) -> None:
    (home.root / ".vde2").mkdir()
    (home.root / ".vde2" / "vde_switch.rc").write_text("port/sethub 1\n")
    assert b"HUB=true" in run(home, "-s", "lan", typed=b"port/showinfo\n")[1]
    assert b"HUB=false" in run(home, "-s", "lan", "-f", "/dev/null", typed=b"port/showinfo\n")[1]


def test_shutdown_in_the_rc_file_ends_it(home: Home) -> None:
    (home.root / "rc").write_text("shutdown\n")
    with started(home, "-f", "rc") as switch:
        assert switch.process.wait(START_TIMEOUT_S) == 0
    assert left(home) == {"rc"}


def test_a_pid_file_that_is_another_processs_by_now_stays(home: Home) -> None:
    with started(home, "-p", "pid") as switch:
        until(lambda: (home.root / "pid").exists() and (home.root / "pid").read_text(), "it has written its number")
        (home.root / "pid").write_text("1\n")
        assert switch.stop() == 0
    assert (home.root / "pid").read_text() == "1\n"


# Options


@pytest.mark.parametrize(
    "arguments",
    [
        *("-hub -n8", "-x --numports=8", "-hu -mod 600 -n 8", "-xn8", "--n 9 --n 8", "-n 0x10", "-Fn 010"),
        *("-fstp -priority 1 -macaddr 2.0.0.0.0.1 -debugclients 3 -n 8", "--pri 4096 --mac 2:0:0:0:0:1 -D 3 -Fxn8"),
        *("-f /nonexistent/rc", "-f rc", "--hashsize 64 -m 0660 --dirmode 0770 -g root -n 8"),
    ],
)
def test_the_real_one_reads_options_alike(home: Home, arguments: str) -> None:
    (home.root / "rc").write_text("nonsense\nvlan/create 1\nport/create 5\nport/setvlan 5 1\nvlan/addport 3 5\n")
    outcomes = []
    for command in ([program("vde_switch")], [sys.executable, "-m", MODULE]):
        done = subprocess.run(
            [*command, "-s", "lan", *arguments.split()],
            env=home.env | {"HOME": str(home.root)},
            cwd=home.root,
            input=b"vlan/allprint\n" if "-f" in arguments else b"port/showinfo\n",  # it takes all in a read as one
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_TIMEOUT_S,
        )
        printed = b"VDE 2.3.2" if done.stdout.startswith(b"VDE 2.3.2") else done.stdout
        outcomes.append((done.returncode, printed))
    assert outcomes[0] == outcomes[1]


def test_what_has_no_effect_is_said_once(home: Home) -> None:
    arguments = ("-F", "--priority", "1", "--macaddr", "2:2:2:2:2:2", "-D", "1", "-F")
    code, printed, log = run(home, "-s", "lan", *arguments, typed=b"hash/setgcint 5\nhash/setgcint 6\n")
    assert (code, printed) == (0, b"1000 Success\n" * 2)
    for what in ("--fstp", "--priority", "--macaddr", "--debugclients", "hash/setgcint"):
        assert log.count(f"vde_switch: {what}: ") == 1


@pytest.mark.parametrize("descriptors", [6, 8, 10])
def test_with_too_few_descriptors_it_says_so_in_one_line(home: Home, descriptors: int) -> None:
    few = ["/bin/sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"]
    code, printed, log = run(home, "-s", "lan", under=few)
    assert (code, printed) == (1, b"")
    assert is_one_line(last_line(log))
    assert "Too many open files" in log
    assert left(home) == set()


def test_vswitch_commands_find_it(home: Home) -> None:
    with started(home, "-M", "mgmt") as switch:
        ask(home.root / "mgmt", b"\n")
        status = home.ask("status")
        assert status["pid"] == switch.process.pid
        assert re.fullmatch("vde-lan-[0-9a-f]{6}", status["name"])
        assert home.ask("ports") == []
        assert switch.stop() == 0
    assert list(home.directory.iterdir()) == []


def test_without_a_place_for_a_control_socket_it_does_without(home: Home) -> None:
    home.directory.write_text("in the way")
    code, printed, log = run(home, "-s", "lan", typed=b"port/showinfo\n")
    assert (code, printed) == (0, SHOWINFO)
    assert "no control socket, so that `vswitch status` cannot find this switch: " in log
    assert home.directory.read_text() == "in the way"


def test_help_and_version(home: Home) -> None:
    code, printed, log = run(home, "-h")
    assert (code, log) == (0, "")
    for option in vde_options.OPTIONS:
        assert f"--{option.names[0]}".encode() in printed
    code, printed, log = run(home, "--version")
    assert (code, log) == (0, "")
    assert printed.startswith(b"VDE 2.3.2 (vswitch ")
    assert left(home) == set()
