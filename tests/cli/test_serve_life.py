"""How `serve` comes and goes: files, their modes, signals, and what is left behind."""

import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests import captures
from tests.cli.program import COMMAND_TIMEOUT_S, Home, connect, is_one_line
from tests.frames import BROADCAST, frame, framed, mac
from tests.needs import require
from tests.waiting import until

NOBODY = 65534
SIGNALS = [signal.SIGINT, signal.SIGTERM]
FLOOD = framed([frame(BROADCAST, mac(1), 1500)] * 100)


def mode(path: Path) -> str:
    return stat.filemode(path.lstat().st_mode)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_it_and_its_files_are_gone(home: Home, number: signal.Signals) -> None:
    path = home.root / "lan.sock"
    with home.serve(f"unix://{path}", "tcp://127.0.0.1:0") as serving:
        assert path.is_socket()
        assert home.control().is_socket()
        assert serving.stop(number) == 0
        assert "Traceback" not in serving.log
    assert not path.exists()
    assert list(home.directory.iterdir()) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_client_that_holds_on_to_the_api_does_not_hold_it_up(home: Home, number: signal.Signals) -> None:
    request = b"GET /v1/status HTTP/1.1\r\nHost: vswitch\r\n"
    with home.serve("tcp://127.0.0.1:0") as serving, ExitStack() as stack:
        control = f"unix://{home.control()}"
        silent, halfway, kept = (stack.enter_context(connect(control)) for _ in range(3))
        halfway.sendall(request)
        kept.sendall(request + b"\r\n")
        assert b"200" in kept.recv(65536)
        assert serving.stop(number) == 0
        silent.settimeout(COMMAND_TIMEOUT_S)
        assert silent.recv(1) == b""


@contextmanager
def flooding(url: str) -> Iterator[None]:
    """A peer that sends as fast as it can, until it is hung up on, and never reads."""

    def flood() -> None:
        try:
            while True:
                sock.sendall(FLOOD)
        except OSError:
            return

    with connect(url) as sock:
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            yield
        finally:
            with suppress(OSError):  # the switch may have hung up already
                sock.shutdown(socket.SHUT_RDWR)
            thread.join(COMMAND_TIMEOUT_S)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_flood_does_not_hold_it_up(home: Home, number: signal.Signals) -> None:
    """Two flood each other, neither reads: queues are full, and there is always more to receive."""
    with home.serve("unix://lan.sock") as serving:
        url = f"unix://{home.root}/lan.sock"
        with flooding(url), flooding(url):
            until(lambda: home.get("status")["totals"]["drops"].get("queue_full"), "queues are full")
            assert serving.stop(number) == 0


def test_a_peer_that_is_connected_does_not_hold_it_up(home: Home) -> None:
    with home.serve("unix://lan.sock", "tcp://127.0.0.1:0") as serving, ExitStack() as stack:
        guests = [stack.enter_context(connect(url)) for url in (f"unix://{home.root}/lan.sock", serving.urls["tcp1"])]
        until(lambda: len(home.get("ports")) == 2, "both guests have their ports")
        assert serving.stop() == 0
        for guest in guests:
            guest.settimeout(COMMAND_TIMEOUT_S)
            assert guest.recv(1) == b""


@pytest.mark.parametrize("number", SIGNALS)
def test_an_endpoint_that_keeps_trying_does_not_hold_it_up(home: Home, number: signal.Signals) -> None:
    with home.serve("unix://nobody.sock?connect") as serving:
        until(lambda: "cannot connect" in serving.log, "it has tried")
        assert serving.stop(number) == 0


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The URL of a listener with a full backlog: connecting to it gets neither an answer nor a refusal."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        while True:
            client = stack.enter_context(socket.socket())
            client.settimeout(0.1)
            try:
                client.connect(server.getsockname())
            except TimeoutError:
                break
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_endpoints_that_get_no_answer_do_not_hold_it_up_even_before_it_is_ready(home: Home, silent_server: str) -> None:
    with home.start(*[f"{silent_server}?connect&name=c{number}" for number in range(8)]) as serving:
        until(lambda: "cannot connect" in serving.log, "the first of them has tried")
        assert serving.stop() == 0
    assert list(home.directory.iterdir()) == []


def test_signals_are_ignored_before_trio_closes_what_python_writes_them_to() -> None:
    program = """
import signal, trio
from vswitch.cli import process

class AtTheEnd(trio.abc.Instrument):
    def after_run(self):
        print(signal.getsignal(signal.SIGTERM).name)

async def main():
    trio.lowlevel.add_instrument(AtTheEnd())

process.run(main)
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "SIG_IGN\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_an_impatient_user_changes_nothing(home: Home, number: signal.Signals) -> None:
    def still_running() -> bool:
        serving.process.send_signal(number)
        return serving.process.poll() is None

    with home.serve("unix://lan.sock") as serving:
        until(lambda: not still_running(), "it has ended")
        assert "Traceback" not in serving.log
        assert serving.ended() == 0
    assert not (home.root / "lan.sock").exists()
    assert list(home.directory.iterdir()) == []


def test_after_a_kill_it_starts_again_over_what_is_left(home: Home) -> None:
    path = home.root / "lan.sock"
    arguments = (f"unix://{path}", "--name", "lab")
    with home.serve(*arguments) as killed:
        assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    assert path.is_socket()
    assert home.control("lab").is_socket()
    assert home.run("status").returncode == 1
    with home.serve(*arguments) as serving:
        assert home.get("status", "lab")["pid"] == serving.pid
        connect(f"unix://{path}").close()
        assert serving.stop() == 0
    assert not path.exists()
    assert not home.control("lab").exists()


def test_of_two_that_start_at_once_over_what_is_left_one_gets_ready(home: Home) -> None:
    with home.serve("unix://lan.sock") as killed:
        killed.stop(signal.SIGKILL)
    with home.start("unix://lan.sock") as one, home.start("unix://lan.sock") as other:
        ready = [serving for serving in (one, other) if serving.wait_ready_or_end()]
        assert len(ready) == 1
        assert home.get("status")["pid"] == ready[0].pid
        connect(f"unix://{home.root}/lan.sock").close()


def test_what_somebody_else_put_in_place_of_its_socket_stays(home: Home) -> None:
    path = home.root / "lan.sock"
    with home.serve(f"unix://{path}") as serving:
        path.unlink()
        path.write_text("precious")
        assert serving.stop() == 0
    assert path.read_text() == "precious"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_this_user_can_open_anything_whatever_the_umask(home: Home, umask: int) -> None:
    path = home.root / "lan.sock"
    with home.serve(f"unix://{path}", umask=umask):
        assert mode(home.directory) == "drwx------"
        assert mode(home.control()) == "srw-------"
        assert mode(path) == "srw-------"


def test_a_directory_that_others_could_enter_is_closed_to_them(home: Home) -> None:
    home.directory.mkdir()
    home.directory.chmod(0o755)
    with home.serve("tcp://127.0.0.1:0"):
        assert mode(home.directory) == "drwx------"


WITHOUT_RUNTIME = [{"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "/nonexistent/runtime"}]


@pytest.mark.parametrize("env", WITHOUT_RUNTIME)
def test_without_a_runtime_directory_there_is_a_private_one_under_the_temp_directory(
    home: Home, env: dict[str, str]
) -> None:
    directory = home.temp_directory
    with home.serve("tcp://127.0.0.1:0", "--name", "lab", env=env, umask=0):
        assert mode(directory) == "drwx------"
        assert mode(directory / "lab.ctl") == "srw-------"
        done = home.run("status", env=env)
        assert done.returncode == 0
        assert "lab" in done.stdout


@pytest.mark.parametrize("kind", ["link", "other's", "file"])
def test_a_private_directory_that_somebody_else_has_made_is_not_used(home: Home, kind: str) -> None:
    directory = home.temp_directory
    aim = home.root / "aim"
    aim.mkdir()
    if kind == "link":
        directory.symlink_to(aim)
    elif kind == "file":
        directory.write_text("precious")
    else:
        require(os.geteuid() == 0, "only root can give a directory to another user")
        directory.mkdir()
        os.chown(directory, NOBODY, NOBODY)
    before = directory.lstat()
    with home.start("tcp://127.0.0.1:0", env={"XDG_RUNTIME_DIR": ""}) as serving:
        assert serving.ended() == 1
        assert is_one_line(serving.error)
        assert str(directory) in serving.log
        assert "XDG_RUNTIME_DIR" in serving.log
    after = directory.lstat()
    assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)
    assert list(aim.iterdir()) == []


@pytest.fixture
def manager(home: Home) -> Iterator[socket.socket]:
    """Where a service manager listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(COMMAND_TIMEOUT_S)
        yield manager


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told_when_guests_can_connect_and_when_it_stops(
    home: Home, manager: socket.socket, abstract: bool
) -> None:
    address = f"@{home.root.name}-notify" if abstract else f"{home.root}/notify"
    manager.bind(address.replace("@", "\0", 1) if abstract else address)
    with home.start("unix://lan.sock", env={"NOTIFY_SOCKET": address}) as serving:
        assert manager.recv(4096) == b"READY=1"
        connect(f"unix://{home.root}/lan.sock").close()
        assert serving.stop() == 0
        assert manager.recv(4096) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "/nonexistent/notify", "@nobody-listens", "vsock:2:1"])
def test_a_service_manager_that_cannot_be_told_does_not_matter(home: Home, address: str) -> None:
    with home.serve("tcp://127.0.0.1:0", env={"NOTIFY_SOCKET": address}) as serving:
        assert serving.stop() == 0
        assert "Traceback" not in serving.log


def test_it_may_open_as_many_files_as_it_is_allowed_to(home: Home) -> None:
    few = ["/bin/sh", "-c", 'ulimit -Sn 64 && exec "$@"', "sh"]
    with home.serve("tcp://127.0.0.1:0", under=few) as serving:
        limits = Path(f"/proc/{serving.pid}/limits").read_text()
        found = re.search(r"Max open files +(\S+) +(\S+)", limits)
        assert found is not None
        assert found[1] == found[2]


def as_another_user(url: str, meanwhile: Callable[[], object] = lambda: None) -> bool:
    """Whether a process of another user's gets into the switch: it sends a frame and is sent something."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        outcome = b"x"
        try:
            signal.alarm(int(COMMAND_TIMEOUT_S))
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with connect(url) as sock:
                sock.sendall(framed([frame(BROADCAST, mac(13))]))
                sock.settimeout(COMMAND_TIMEOUT_S)
                outcome = b"+" if sock.recv(1) else b"-"
        except OSError:
            outcome = b"-"
        finally:
            os.write(writer, outcome)
            os._exit(0)
    os.close(writer)
    meanwhile()
    with open(reader, "rb") as answer:
        outcome = answer.read()
    os.waitpid(child, 0)
    assert outcome in (b"+", b"-")
    return outcome == b"+"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_another_users_process_is_turned_away_and_leaves_no_trace(home: Home, host: str) -> None:
    require(os.geteuid() == 0, "only root can act as another user")
    with home.serve(f"tcp://{host}:0") as serving:
        assert not as_another_user(serving.urls["tcp1"])
        serving.wait_said("any_user=yes")
        assert home.get("ports") == []
        assert home.get("status")["totals"]["rx_frames"] == 0
        with connect(serving.urls["tcp1"]):
            until(lambda: home.get("ports"), "root's own guest is let in")


def test_another_users_process_is_let_in_with_any_user_and_the_log_says_so(home: Home) -> None:
    require(os.geteuid() == 0, "only root can act as another user")
    with home.serve("tcp://127.0.0.1:0?any_user=yes") as serving, connect(serving.urls["tcp1"]) as friend:
        serving.wait_said("any user of this machine")
        until(lambda: home.get("ports"), "the first guest has its port")

        def answer() -> None:
            assert friend.recv(1)
            friend.sendall(framed([frame(BROADCAST, mac(1))]))

        assert as_another_user(serving.urls["tcp1"], meanwhile=answer)


def test_another_users_process_cannot_open_the_sockets(home: Home) -> None:
    require(os.geteuid() == 0, "only root can act as another user")
    home.root.chmod(0o755)
    with home.serve("unix://lan.sock"):
        home.runtime.chmod(0o755)
        assert not as_another_user(f"unix://{home.root}/lan.sock")
        assert not as_another_user(f"unix://{home.control()}")
        assert home.get("ports") == []


def test_a_guest_that_hangs_up_hard_is_just_gone(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0") as serving:
        with connect(serving.urls["tcp1"]) as guest:
            until(lambda: home.get("ports"), "the guest has its port")
            guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: not home.get("ports"), "the port is gone")
        serving.wait_said("tcp1.1 down")
        assert serving.process.poll() is None


def every_ending_signal() -> list[int]:
    names = ["HUP", "QUIT", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "POLL", "PWR", "STKFLT", "XCPU"]
    return [*(int(signal.Signals[f"SIG{name}"]) for name in names), signal.SIGRTMIN, signal.SIGRTMAX]


@pytest.mark.parametrize("number", every_ending_signal())
def test_every_signal_that_ends_a_program_ends_it_in_order(home: Home, number: int) -> None:
    path = home.root / "lan.sock"
    with home.serve(f"unix://{path}", "--capture", "lan.pcapng") as serving:
        with connect(f"unix://{path}") as guest:
            guest.sendall(framed([frame(BROADCAST, mac(1))]))
            until(lambda: home.get("status")["totals"]["rx_frames"], "the frame")
        serving.process.send_signal(number)
        assert serving.ended() == 0
        assert ": stopping" in serving.log
    assert not path.exists()
    assert list(home.directory.iterdir()) == []
    captured = captures.read(home.root / "lan.pcapng")
    assert captured.frames("unix1.1", captures.IN) == [frame(BROADCAST, mac(1))]
    assert captured.statistics


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_that_was_ignored_when_it_started_stays_so(home: Home, number: signal.Signals) -> None:
    shell = shutil.which("sh")
    require(shell, "a shell is needed")
    assert shell is not None
    ignoring = [shell, "-c", f'trap "" {number.name[3:]}; exec "$@"', shell]
    with home.serve("tcp://127.0.0.1:0", under=ignoring) as serving:
        serving.process.send_signal(number)
        assert home.get("status")["ports"] == 0
        assert serving.stop() == 0
        assert f"{number.name}: stopping" not in serving.log
