"""`vswitch plug` and `vswitch join`: LANs joined by whatever carries bytes; descriptors that are passed on."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.cli.program import MORTAL, Home, Process, connect, is_one_line
from tests.frames import frame, framed, mac
from tests.needs import require
from tests.waiting import until

BROADCAST = 0xFFFF_FFFF_FFFF
HELLO, ANSWER = frame(BROADCAST, mac(1)), frame(mac(1), mac(2), 1514)

# Stands for ssh: runs the command here, and says what it was given.
SSH = """#!/bin/sh
echo "$$ $*" >>{log}
for word; do :; done
exec sh -c "exec $word"
"""


class Station:
    """A guest, at the socket of a listener or at the other end of a cable."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.settimeout(20)
        self._file = sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self._sock.sendall(framed([data]))

    def receive(self) -> bytes:
        return self._file.read(int.from_bytes(self._file.read(4)))

    def close(self) -> None:
        self._file.close()
        self._sock.close()


@contextmanager
def station(home: Home, switch: str) -> Iterator[Station]:
    found = Station(connect(f"unix://{home.root}/{switch}.sock"))
    try:
        yield found
    finally:
        found.close()


def ports(home: Home, switch: str) -> dict[str, bool]:
    return {port["name"]: port["up"] for port in home.get("ports", name=switch)}


@contextmanager
def two(home: Home) -> Iterator[None]:
    """Switches, each with a way in."""
    with home.serve("--name", "one", "unix://one.sock"), home.serve("--name", "other", "unix://other.sock"):
        yield


@contextmanager
def plugged(home: Home, *arguments: str) -> Iterator[Process]:
    pipe = subprocess.PIPE
    with home.process("plug", *arguments, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def pass_between(home: Home, here: str, there: str) -> None:
    """Both ways, once each knows where the other is."""
    with station(home, here) as one, station(home, there) as other:

        def is_heard() -> bool:
            one.send(HELLO)
            return any(entry["mac"] == "52:54:00:00:00:01" for entry in home.get("macs", name=there))

        until(is_heard, "a frame comes through")
        other.send(ANSWER)
        assert one.receive() == ANSWER


def test_pipes_join_two_lans(home: Home) -> None:
    with two(home), ExitStack() as stack:
        ends = [os.pipe(), os.pipe()]
        for number, (switch, port) in enumerate((("one", "to-other"), ("other", "to-one"))):
            line = ["plug", "--name", switch, "--port", port]
            process = home.process(*line, stdin=ends[number][0], stdout=ends[1 - number][1], stderr=subprocess.DEVNULL)
            stack.enter_context(process)
            stack.callback(process.kill)
        for end in (end for pair in ends for end in pair):
            os.close(end)
        until(lambda: "to-other" in ports(home, "one") and "to-one" in ports(home, "other"), "both are plugged in")
        pass_between(home, "one", "other")


def test_the_port_goes_when_standard_input_ends(home: Home) -> None:
    with home.serve("unix://default.sock"), plugged(home, "--port", "in", "vlan=7") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"in is plugged in\n"
        (port,) = home.get("ports")
        assert (port["name"], port["up"]) == ("in", True)
        assert [vlan["vlan"] for vlan in home.get("vlans")] == [7]
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0
        until(lambda: home.get("ports") == [], "its port is gone")
        assert [endpoint["name"] for endpoint in home.get("endpoints")] == ["unix1"]


@pytest.mark.parametrize("what", ["detached", "ended", "no frames"])
def test_why_the_port_has_gone_is_said(home: Home, what: str) -> None:
    with home.serve("unix://default.sock") as serving, plugged(home, "--port", "in") as process:
        assert process.stderr is not None
        assert process.stdin is not None
        assert process.stderr.readline() == b"in is plugged in\n"
        if what == "detached":
            assert home.run("detach", "in").returncode == 0
        elif what == "ended":
            serving.process.send_signal(signal.SIGTERM)
        else:
            process.stdin.write(b"GET / HTTP/1.1\r\n\r\n")
            process.stdin.flush()
        assert process.wait(20) == 1
        said = process.stderr.read().decode()
        assert is_one_line(said)
        assert said.startswith("vswitch: in is gone: it was detached, the switch has ended, or what came in were no")


def test_frames_as_vde_plug_has_them(home: Home) -> None:
    dpipe, vde_plug = shutil.which("dpipe"), shutil.which("vde_plug")
    require(dpipe is not None and vde_plug is not None, "there is no vde_plug; install vde2")
    assert dpipe is not None
    assert vde_plug is not None
    with (
        home.serve("--name", "one", "unix://one.sock"),
        home.serve("--name", "other", "unix://other.sock", "vde://vde"),
    ):
        ours = [sys.executable, "-m", "vswitch", "plug", "--vde", "--name", "one"]
        line = [*MORTAL, dpipe, vde_plug, f"{home.root}/vde", "=", *ours]
        with subprocess.Popen(line, env=home.env, stderr=subprocess.DEVNULL) as joined:
            try:
                pass_between(home, "one", "other")
            finally:
                joined.terminate()


def test_a_switch_elsewhere_is_joined_by_ssh_and_again_when_the_connection_is_lost(home: Home) -> None:
    log = home.root / "ssh.log"
    ssh = home.programs / "ssh"
    ssh.write_text(SSH.format(log=log))
    ssh.chmod(0o755)
    path = f"{home.programs}:{os.environ['PATH']}"
    there = f"{sys.executable} -m vswitch"
    line = [
        "join",
        "ssh://me@host:2222",
        "--name",
        "one",
        "--port",
        "far",
        "--remote-name",
        "other",
        "--remote-program",
    ]
    program = home.programs / "remote"
    program.write_text(f'#!/bin/sh\nexec {there} "$@"\n')
    program.chmod(0o755)
    with two(home), home.process(*line, str(program), env={"PATH": path}, stderr=subprocess.PIPE) as process:
        try:
            pass_between(home, "one", "other")
            first = log.read_text().split()
            assert first[1:] == [
                *("-T", "-oServerAliveInterval=5", "-oServerAliveCountMax=3", "-p", "2222", "--", "me@host"),
                *(str(program), "plug", "--name", "other"),
            ]
            os.kill(int(first[0]), signal.SIGKILL)
            until(lambda: len(log.read_text().splitlines()) == 2, "it is joined again")
            pass_between(home, "one", "other")
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
        until(lambda: "far" not in ports(home, "one"), "ssh has ended, too")
        assert process.stderr is not None
        said = process.stderr.read().decode().split("\n")
        again = "ssh://me@host:2222: vswitch plug has ended there, with status -9; joining again in 1 s"
        assert [line for line in said if line] == ["fd1 is plugged in", again, "fd1 is plugged in"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plug"], "no switch is running"),
        (["join", "http://host"], "http://host: write it like ssh://me@host"),
        (["join", "ssh://host:x"], "ssh://host:x: Port could not be cast"),
        (["join", "ssh://host", "--name", "nobody"], "no switch 'nobody' is running"),
    ],
)
def test_what_cannot_be_joined_is_said(home: Home, arguments: list[str], says: str) -> None:
    done = home.run(*arguments, env={"PATH": os.environ["PATH"]})
    assert done.returncode in (1, 2)
    assert is_one_line(done.stderr)
    assert done.stderr.startswith(f"vswitch: {says}")


def test_what_a_port_cannot_be_is_said(home: Home) -> None:
    with home.serve("unix://default.sock"):
        for argument, says in (
            ("vlan", "'vlan' is no KEY=VALUE"),
            ("vlan=x", "vlan: 'x' is not a number"),
            ("vlna=1", "unknown parameter 'vlna'"),
        ):
            done = home.run("plug", argument)
            assert (done.returncode, is_one_line(done.stderr)) == (2, True)
            assert done.stderr.startswith(f"vswitch: {says}")
        assert home.get("ports") == []


@pytest.mark.parametrize(
    ("says", "status", "reason"),
    [
        ("exit 255", 1, "ssh://host: no connection"),
        ("exit 127", 1, "ssh://host: there is no vswitch; say where it is by --remote-program"),
        ("exit 2", 1, "ssh://host: vswitch plug has ended there, with status 2"),
    ],
)
def test_what_was_never_joined_is_not_tried_again(home: Home, says: str, status: int, reason: str) -> None:
    ssh = home.programs / "ssh"
    ssh.write_text(f"#!/bin/sh\n{says}\n")
    ssh.chmod(0o755)
    with home.serve("unix://default.sock"):
        done = home.run("join", "ssh://host", env={"PATH": f"{home.programs}:{os.environ['PATH']}"})
        assert (done.returncode, done.stderr) == (status, f"vswitch: {reason}\n")


def test_a_mirror_outlives_what_it_watched(home: Home) -> None:
    """A port that was passed on goes with its peer; whoever watched it can be changed and saved all the same."""
    with home.serve("unix://one.sock", "unix://m.sock?single&name=m"):
        ours, theirs = socket.socketpair()
        with theirs, home.process("attach", f"fd://{theirs.fileno()}?name=in", pass_fds=[theirs.fileno()]) as process:
            assert process.wait(20) == 0
        assert home.run("mirror", "m", "in").returncode == 0
        ours.close()
        until(lambda: "in" not in [endpoint["name"] for endpoint in home.get("endpoints")], "it has gone")
        assert home.run("port", "down", "m").returncode == 0
        saved = home.run("save")
        assert saved.returncode == 0
        assert "mirror_of" not in saved.stdout


def test_a_descriptor_of_the_commands_own_is_an_endpoint(home: Home) -> None:
    with home.serve("--name", "one", "unix://one.sock"), station(home, "one") as other:
        ours, theirs = socket.socketpair()
        with theirs:
            line = ["attach", f"fd://{theirs.fileno()}?name=passed"]
            with home.process(*line, pass_fds=[theirs.fileno()]) as process:
                assert process.wait(20) == 0
        passed = Station(ours)
        passed.send(HELLO)
        assert other.receive() == HELLO
        passed.close()
        until(lambda: "passed" not in ports(home, "one"), "it goes when its peer does")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("fd://99", "fd://99: Bad file descriptor; pass it on to this command, as with 3<&5"),
        ("fd://1", "fd://1: neither a socket nor a TAP device"),
        ("fd://lan", "fd://lan: descriptors have numbers here; write it like fd://3"),
    ],
)
def test_what_is_no_socket_is_not_passed_on(home: Home, url: str, says: str) -> None:
    with home.serve("unix://default.sock"):
        done = home.run("attach", url)
        assert (done.returncode, done.stderr) == (2, f"vswitch: {says}\n")
