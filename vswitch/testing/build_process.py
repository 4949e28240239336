"""What a build starts and where it works: neither outlives the builder, whatever ends that.

Only the standard library is used, as in guest_image.py.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

COMMAND_TIMEOUT_S = 600
KILL_TIMEOUT_S = 10
# Only the builder has the other end of its standard input: it is closed when the builder ends, even by SIGKILL.
WATCHDOG = ("/bin/sh", "-c", "read line; kill -KILL 0")

PREFIX = "building-"
LOCK = "lock"
UNLOCKED_MAX_AGE_S = 24 * 60 * 60  # no build takes as long


class CommandError(Exception):
    """A program has failed. The text is one line."""


def run(command: Sequence[str | Path], cwd: Path | None = None, *, given: bytes = b"") -> bytes:
    """What the program prints, with `given` as its standard input. Raises CommandError if it fails.

    What it has started itself, such as apt's download methods, ends with it, and before this returns or raises.
    """
    try:
        done = run_in_group(command, cwd, given)
        done.check_returncode()
    except FileNotFoundError as error:
        raise CommandError(f"{command[0]} not found") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{command[0]} took more than {COMMAND_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines()
        said = [line for line in lines if line and not line.startswith("W: ")]
        why = said[0] if said else f"exit status {error.returncode}"
        raise CommandError(f"{command[0]}: {why}") from error
    return done.stdout


def run_in_group(
    command: Sequence[str | Path], cwd: Path | None, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Runs the program in the watchdog's process group. Unlike PR_SET_PDEATHSIG, a group has grandchildren in it,
    and does not care which thread has started it."""
    with (
        start_watchdog() as watchdog,
        subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=watchdog.pid,
        ) as process,
    ):
        try:
            out, err = process.communicate(given, timeout=COMMAND_TIMEOUT_S)
        finally:
            os.killpg(watchdog.pid, signal.SIGKILL)
            # Grandchildren have our pipes: at their end, all are gone. One that left the group cannot hold us up.
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=KILL_TIMEOUT_S)
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def start_watchdog() -> subprocess.Popen[bytes]:
    """The leader of a process group, which it kills when this process ends."""
    return subprocess.Popen(
        WATCHDOG, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )


@contextmanager
def work_directory(parent: Path) -> Iterator[Path]:
    """A directory to work in, below `parent`, which is removed in the end, as are those of builders that were killed.

    A lock in it tells whether its builder lives. Unlike a process id, it is not reused, and other hosts see it.
    """
    remove_leftovers(parent)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as directory:
        new = Path(directory, "new")
        with new.open("wb") as lock:
            with suppress(OSError):  # where a file system has no locks, nobody gets this one: leftovers stay
                fcntl.flock(lock, fcntl.LOCK_EX)
            new.rename(Path(directory, LOCK))  # others see it locked, or not at all
            with tempfile.TemporaryDirectory(dir=directory) as work:
                yield Path(work)


def remove_leftovers(parent: Path) -> None:
    for directory in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # its builder lives, or another one removes it
            remove_leftover(directory)


def remove_leftover(directory: Path) -> None:
    """Removes the directory of a builder that is dead. Raises BlockingIOError if it lives."""
    try:
        lock = (directory / LOCK).open("r+b")  # NFS asks for a file that can be written
    except FileNotFoundError:
        # Of a version without locks, or its builder has just begun.
        if time.time() - directory.stat().st_mtime > UNLOCKED_MAX_AGE_S:
            shutil.rmtree(directory)
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in directory.iterdir():
            if path.name != LOCK:  # which goes last: if we are killed, the next builder goes on
                shutil.rmtree(path)
        shutil.rmtree(directory)
