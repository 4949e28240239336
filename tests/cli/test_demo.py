"""`vswitch demo`: the newcomer's first minute, with the guests, QEMU and packages that there are or are not."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.program import MORTAL, PROGRAM, Home, is_one_line
from tests.e2e.guest import guest_image
from tests.endpoints.user_guest import need_libslirp
from tests.signals import default_signals
from tests.waiting import until
from vswitch.endpoints.guests.qemu import guest_mac
from vswitch.testing.guest_image import default_cache

QEMU = "qemu-system-x86_64"
DEMO_TIMEOUT_S = 180.0  # it takes six seconds; on a machine that is busy, more
STOP_TIMEOUT_S = 10.0
A, B = guest_mac("a/0"), guest_mac("b/0")


@pytest.fixture
def guests() -> None:
    guest_image()


@contextmanager
def demo(home: Home, *arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A `vswitch demo` that sees the programs and the image there are; killed in the end if it still runs."""
    with default_signals():
        process = subprocess.Popen(
            [*MORTAL, *PROGRAM, "demo", *arguments],
            env=home.env | {"PATH": os.environ["PATH"], "VSWITCH_CACHE": str(default_cache())} | env,
            cwd=home.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run(home: Home, *arguments: str, **env: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with demo(home, *arguments, **env) as process:
        output, errors = process.communicate(timeout=DEMO_TIMEOUT_S)
        return process.returncode, output, errors


def check_refused(home: Home, *arguments: str, said: str, **env: str) -> str:
    """One line says why, the exit code is 1; answers what was printed until then."""
    code, output, errors = run(home, *arguments, **env)
    assert (code, is_one_line(errors)) == (1, True), errors
    assert errors.startswith("vswitch: ")
    assert said in errors
    return output


def fake(home: Home, program: str, script: str) -> str:
    """A PATH where a program is a shell script."""
    file = home.programs / program
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return f"{home.programs}:{os.environ['PATH']}"


def children(pid: int, program: str) -> list[int]:
    """Those that run a program, of all that the main thread has started: trio, too, starts one, to find a library."""
    found = []
    for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if Path(Path(f"/proc/{word}/cmdline").read_text().split("\0")[0]).name == program:
                found.append(int(word))
    return found


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    """As a terminal does: all that is in the foreground gets the signal, programs that it has started too."""
    os.killpg(process.pid, signal.SIGINT)


def has_ended(descriptor: int) -> bool:
    """Whether the process of a pidfd has."""
    return bool(select.select([descriptor], [], [], 0)[0])


@pytest.mark.usefixtures("guests")
def test_two_guests_find_and_ping_each_other_for_all_to_see(home: Home) -> None:
    code, output, errors = run(home)
    assert (code, errors) == (0, "")
    assert "Building" not in output  # the image was there
    assert re.search(r"^A switch, and two guests, a \(10.0.0.1\) and b \(10.0.0.2\), .* \d+\.\d s$", output, re.M)
    assert "\na$ ping -c 3 10.0.0.2\nPING 10.0.0.2" in output
    assert "\n3 packets transmitted, 3 packets received, 0% packet loss\n" in output
    frames = re.findall(r"^\d\d:\d\d:\d\d\.\d{6}  ([ab])  (in |out)  (\S+ > \S+  .*)  \d+$", output, re.M)
    wire = [re.sub(r"id \d+", "id N", " ".join(frame)) for frame in frames]
    request = f"{A} > {B}  ICMP 10.0.0.1 > 10.0.0.2 echo request id N seq"
    reply = f"{B} > {A}  ICMP 10.0.0.2 > 10.0.0.1 echo reply id N seq"
    expected = [
        *(f"{way} {A} > ff:ff:ff:ff:ff:ff  ARP who has 10.0.0.2? tell 10.0.0.1" for way in ("a in ", "b out")),
        *(f"{way} {B} > {A}  ARP 10.0.0.2 is at {B}" for way in ("b in ", "a out")),
    ]
    for seq in range(3):
        expected += [f"a in  {request} {seq}", f"b out {request} {seq}", f"b in  {reply} {seq}", f"a out {reply} {seq}"]
    asked_again = re.compile("ARP who has 10.0.0.1|ARP 10.0.0.1 is at")  # b may, after five seconds, on a slow machine
    assert [line for line in wire if not asked_again.search(line)] == expected
    learned = output.partition("What the switch has learned:\n")[2].splitlines()
    assert learned[0].split() == ["MAC", "VLAN", "PORT", "AGE"]
    assert sorted(tuple(line.split()[:3]) for line in learned[1:3]) == sorted([(A, "1", "a"), (B, "1", "b")])
    assert "Next: vswitch serve" in output


@pytest.mark.usefixtures("guests")
def test_several_guests_on_a_user_network(home: Home) -> None:
    need_libslirp()
    code, output, errors = run(home, "--user", "-n", "3")
    assert (code, errors) == (0, "")
    assert "three guests, a, b and web, are booting" in output
    assert re.findall(r"^(.*)\$ udhcpc ", output, re.M) == ["a", "b", "web"]
    assert re.findall(r"^(.)\$ ping -c 1 (.*)\nPING .* \(10.0.2.1[67]\)", output, re.M) == [
        ("a", "b.lan"),
        ("b", "web.lan"),
    ]
    assert output.count(" 1 packets received") == 2
    assert "\nName:   web.lan\nAddress: 10.0.2.17\n" in output
    assert re.search(r"^a\$ wget .*://host.lan:\d+/\nHello from this machine$", output, re.M)
    assert re.search(r"by the forward tcp:127.0.0.1:\d+-web:80:\nHello from web$", output, re.M)
    passed, learned = output.partition("What passed,")[2].split("\n\nWho has which address,")
    assert sorted(re.findall(r"^(\w+) .* ICMP .* to (\w+)$", passed, re.M)) == [
        ("a", "b"),
        ("b", "a"),
        ("b", "web"),
        ("web", "b"),
    ]
    leases = [line.split()[:2] for line in learned.splitlines()[2:5]]
    assert leases == [["10.0.2.15", "a"], ["10.0.2.16", "b"], ["10.0.2.17", "web"]]
    assert "vswitch forward add" in learned


@pytest.mark.usefixtures("guests")
def test_without_libslirp_it_says_what_to_install(home: Home) -> None:
    without = "import cffi\ndef dlopen(*_): raise OSError\ncffi.FFI.dlopen = dlopen\n"
    (home.root / "sitecustomize.py").write_text(without)
    said = "the library libslirp is missing; install it (Debian and Ubuntu: package libslirp0)\n"
    assert check_refused(home, "--user", said=said, PYTHONPATH=f"{home.root}:{home.env['PYTHONPATH']}") == ""


@pytest.mark.parametrize("count", ["1", "9", "x"])
def test_a_number_of_guests_that_there_cannot_be(home: Home, count: str) -> None:
    code, output, errors = run(home, "-n", count)
    assert (code, output, is_one_line(errors)) == (2, "", True)
    assert count in errors


@pytest.mark.usefixtures("guests")
def test_ctrl_c_while_they_boot_leaves_nothing_running(home: Home) -> None:
    with demo(home) as process, ExitStack() as stack:
        assert process.stdout is not None
        until(lambda: len(children(process.pid, QEMU)) == 2, "both guests boot", DEMO_TIMEOUT_S)
        assert os.read(process.stdout.fileno(), 1000).endswith(b"are booting ... ")  # and nobody waits to hear of it
        guests = [os.pidfd_open(pid) for pid in children(process.pid, QEMU)]
        for guest in guests:
            stack.callback(os.close, guest)
        begun = time.monotonic()
        press_ctrl_c(process)
        output, errors = process.communicate(timeout=STOP_TIMEOUT_S)
        assert time.monotonic() - begun < STOP_TIMEOUT_S
        assert all(has_ended(guest) for guest in guests)
        assert (process.returncode, output, errors.strip()) == (130, "", "")


def test_ctrl_c_while_the_image_is_built_leaves_nothing_behind(home: Home) -> None:
    fake(home, QEMU, "exit 1")
    for program in ("apt-cache", "apt-get", "dpkg-deb"):
        path = fake(home, program, "sleep 1000 & exec sleep 1000")
    cache = home.root / "cache"
    with demo(home, PATH=path, VSWITCH_CACHE=str(cache)) as process:
        apt = until(lambda: children(process.pid, "sleep"), "apt-cache runs", DEMO_TIMEOUT_S)
        apt += until(lambda: children(apt[0], "sleep"), "apt-cache has started a program")
        with ExitStack() as stack:
            running = [os.pidfd_open(pid) for pid in apt]
            for descriptor in running:
                stack.callback(os.close, descriptor)
            press_ctrl_c(process)
            output, errors = process.communicate(timeout=STOP_TIMEOUT_S)
            until(lambda: all(map(has_ended, running)), "both have ended")
    assert (process.returncode, errors.strip()) == (130, "")
    assert output == "Building the tiny guest (once, some seconds) ...\n"
    assert list((cache / "guest").iterdir()) == []


def test_without_qemu_it_says_what_to_install(home: Home) -> None:
    said = "qemu-system-x86_64 not found: install the package qemu-system-x86, or name a QEMU in VSWITCH_QEMU"
    assert check_refused(home, said=said, PATH=str(home.programs)) == ""


def test_a_qemu_that_is_named_and_is_none(home: Home) -> None:
    said = "VSWITCH_QEMU: '/nowhere/qemu' is no program that can be run; name a QEMU, or leave it out"
    assert check_refused(home, said=said, VSWITCH_QEMU="/nowhere/qemu") == ""


def test_without_scapy_it_says_what_to_install(home: Home) -> None:
    hidden = home.root / "hidden"
    hidden.mkdir()
    (hidden / "scapy.py").write_text("raise ModuleNotFoundError(\"No module named 'scapy'\", name='scapy')\n")
    said = "vswitch demo needs scapy: pip install scapy\n"
    assert check_refused(home, said=said, PYTHONPATH=f"{hidden}:{home.env['PYTHONPATH']}") == ""


def test_without_an_image_it_says_why(home: Home) -> None:
    path = fake(home, QEMU, "exit 1")
    (home.root / "file").touch()
    check_refused(home, said="no guest image: ", PATH=path, VSWITCH_CACHE=str(home.root / "file"))


@pytest.mark.usefixtures("guests")
def test_a_qemu_that_says_nothing(home: Home) -> None:
    check_refused(home, said="QEMU ended with status 3; it printed: nothing\n", PATH=fake(home, QEMU, "exit 3"))


@pytest.mark.usefixtures("guests")
def test_what_qemu_has_to_say_is_in_the_one_line(home: Home) -> None:
    path = fake(home, QEMU, "echo first; echo 'qemu: no \033[31m machine' >&2; exit 3")
    output = check_refused(home, said="QEMU ended with status 3; it printed: qemu: no \\x1b[31m machine", PATH=path)
    assert output.endswith("are booting ... \n")


def test_other_commands_do_not_load_what_the_demo_takes(home: Home) -> None:
    code = "import sys, vswitch.cli; print([name for name in sys.modules if 'scapy' in name or 'testing' in name])"
    done = subprocess.run([sys.executable, "-c", code], env=home.env, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
