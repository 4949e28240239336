"""Nobody has to read what `serve` says: forwarding, the API and its end wait for no terminal, pipe or manager."""

import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.cli.program import PROGRAM, STOP_TIMEOUT_S, Home, Process, connect, read_to_end
from tests.cli.traffic import traffic
from tests.frames import BROADCAST, frame, framed, mac
from tests.waiting import until
from vswitch import RefusedError

GUESTS = 1500  # each has two lines in the log, and 1000 wait at most
CTRL_S, CTRL_Q = b"\x13", b"\x11"


def small_pipe() -> tuple[int, int]:
    """A pipe that holds 4 KiB."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


def fill(writer: int) -> None:
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, b"." * 1024):
            pass
    os.set_blocking(writer, True)


def has_an_endpoint(home: Home) -> bool:
    try:
        return bool(home.get("endpoints"))
    except RefusedError:
        return False


@contextmanager
def serving(
    home: Home, *arguments: str, stdout: int, stderr: int, env: dict[str, str] | None = None, **options: Any
) -> Iterator[Process]:
    """A `serve` whose output nobody may ever read, when guests can connect."""
    url = f"unix://{home.root}/lan.sock"
    with home.process("serve", url, *arguments, env=env, stdout=stdout, stderr=stderr, **options) as process:
        try:
            until(lambda: has_an_endpoint(home), "guests may come")
            yield process
        finally:
            process.kill()


def come_and_go(home: Home, guests: int = GUESTS) -> None:
    """Guests beside two that stay, a few at a time: the listen queue holds no more. They come in, in turn."""
    for begun in range(0, guests, 100):
        for _ in range(min(100, guests - begun) - 1):
            connect(f"unix://{home.root}/lan.sock").close()
        with connect(f"unix://{home.root}/lan.sock") as last:
            last.sendall(framed([frame(BROADCAST, mac(3))]))
            until(lambda: home.get("status")["macs"] == 3, "the last one has come in")
        until(lambda: home.get("status")["ports"] == 2, "only two are left")


def check_it_lives(home: Home, process: Process, guests: int = GUESTS) -> None:
    """Frames pass and the API answers while the log has no room; and SIGTERM ends it."""
    with traffic(f"unix://{home.root}/lan.sock") as passing:
        passing.check()
        come_and_go(home, guests)
        passing.check()
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_TIMEOUT_S) == 0
    assert not (home.root / "lan.sock").exists()


def test_a_log_that_nobody_reads_stops_nothing_and_the_next_line_says_what_is_lost(home: Home) -> None:
    reader, writer = small_pipe()
    with serving(home, stdout=subprocess.DEVNULL, stderr=writer) as process:
        os.close(writer)
        with traffic(f"unix://{home.root}/lan.sock") as passing:
            come_and_go(home)
            passing.check()
            log = b""
            while b" lines before this one are lost)\n" not in log:
                come_and_go(home, 1)  # which makes lines
                log += os.read(reader, 65536)
            passing.check()
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_TIMEOUT_S) == 0
    os.close(reader)
    lost = int(log.partition(b" lines before this one")[0].rpartition(b"(")[2])
    assert lost > GUESTS


def test_a_log_that_is_never_read_stops_nothing(home: Home) -> None:
    reader, writer = small_pipe()
    fill(writer)
    with serving(home, stdout=subprocess.DEVNULL, stderr=writer) as process:
        check_it_lives(home, process)
    os.close(writer)
    os.close(reader)


def test_a_terminal_that_is_stopped_stops_nothing(home: Home) -> None:
    """Ctrl-S, as the terminal itself does it."""
    master, terminal = pty.openpty()
    with serving(home, stdout=terminal, stderr=terminal, start_new_session=True) as process:
        shown = b""
        while not shown.endswith(b"ready\r\n"):
            shown += os.read(master, 65536)
        os.write(master, CTRL_S)
        termios.tcdrain(terminal)
        check_it_lives(home, process)
    os.close(terminal)
    os.close(master)


def test_output_that_is_never_read_stops_nothing_and_others_are_told_that_it_is_ready(home: Home) -> None:
    reader, writer = small_pipe()
    fill(writer)
    told, ready = os.pipe()
    with serving(home, "--ready-fd", str(ready), stdout=writer, stderr=subprocess.DEVNULL, pass_fds=[ready]) as process:
        os.close(ready)
        assert read_to_end(told) == b"ready\n"
        check_it_lives(home, process, 10)
    os.close(writer)
    os.close(reader)


def test_a_ready_descriptor_that_has_no_room_stops_nothing(home: Home) -> None:
    reader, writer = small_pipe()
    fill(writer)
    with serving(
        home, "--ready-fd", str(writer), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[writer]
    ) as process:
        check_it_lives(home, process, 10)
    os.close(writer)
    os.close(reader)


def test_a_service_manager_that_does_not_read_stops_nothing(home: Home) -> None:
    path = str(home.root / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        manager.bind(path)
        other.setblocking(False)
        with suppress(BlockingIOError):
            while other.sendto(b"X=1", path):
                pass
        null = subprocess.DEVNULL
        with serving(home, stdout=null, stderr=null, env={"NOTIFY_SOCKET": path}) as process:
            check_it_lives(home, process, 10)


def test_an_error_that_nobody_reads_holds_nothing_up(home: Home) -> None:
    reader, writer = small_pipe()
    fill(writer)
    done = subprocess.run(
        [*PROGRAM, "serve", "nonsense"], env=home.env, stderr=writer, stdout=subprocess.DEVNULL, timeout=STOP_TIMEOUT_S
    )
    assert done.returncode == 2
    os.close(writer)
    os.close(reader)


def test_what_python_itself_says_does_not_wait_either(home: Home) -> None:
    """Warnings, and errors that nobody catches, go the way of the log."""
    reader, writer = small_pipe()
    fill(writer)
    script = (
        "import sys, warnings\n"
        "from vswitch.cli.output import in_background\n"
        "with in_background('%(message)s'):\n"
        "    for number in range(5000):\n"
        "        print('x' * 100, file=sys.stderr)\n"
        "    warnings.warn('y' * 100)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=home.env, stderr=writer, timeout=STOP_TIMEOUT_S)
    assert done.returncode == 0
    os.close(writer)
    os.close(reader)
