"""What the process of a user network cannot do any more."""

import subprocess
import sys
from pathlib import Path

import pytest

TRY = """
import os, socket, sys
from vswitch.services.user_network import sandbox
lacks = sandbox.enter()
try:
    {action}
except OSError as error:
    print("refused", *lacks)
else:
    print("done", *lacks)
"""


def outcome(action: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", TRY.format(action=action)], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("action", "by"),
    [
        ("os.fork()", "seccomp"),
        ("os.execv('/bin/true', ['true'])", "seccomp"),
        ("os.posix_spawn('/bin/true', ['true'], {})", "seccomp"),
        ("socket.socket(socket.AF_UNIX)", "seccomp"),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "seccomp"),
        ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", "seccomp"),
        ("socket.socketpair()", "seccomp"),
        ("open('/proc/self/status')", "Landlock"),
        ("open(sys.executable, 'rb')", "Landlock"),
        ("open('/etc/passwd')", "Landlock"),
        ("open('/etc/vswitch-test', 'w')", "Landlock"),
        ("os.kill(os.getppid(), 0)", "seccomp"),
        ("os.pidfd_open(os.getppid())", "seccomp"),
        ("os.setpriority(os.PRIO_PROCESS, os.getppid(), 0)", "seccomp"),
        ("os.chmod(sys.executable, 0o755)", "seccomp"),
        ("os.utime('/tmp')", "seccomp"),
        ("os.truncate('/tmp/nothing-there', 0)", "seccomp"),
        ("os.mkdir('/tmp/vswitch-test')", "Landlock"),
        ("socket.create_server(('127.0.0.1', 1))", ""),
        ("os.chroot('/')", ""),
    ],
)
def test_is_refused(action: str, by: str) -> None:
    said, *lacks = outcome(action)
    assert said == "refused" or by in lacks


@pytest.mark.parametrize(
    "action",
    [
        "socket.create_server(('127.0.0.1', 0))",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    ],
)
def test_is_still_there(action: str) -> None:
    assert outcome(action)[0] == "done"


def test_files_beneath_one_folder_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "tftp"
    folder.mkdir()
    (folder / "boot").write_text("kernel")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    script = f"""
import os
from vswitch.services.user_network import sandbox
from vswitch.services.user_network.folder import Folder
folder = Folder({str(folder)!r})
lacks = sandbox.enter(folder.fileno())
print(os.read(folder.open("boot"), 10).decode())
for attempt in (lambda: folder.open("link"), lambda: open({str(folder / "boot")!r}, "w")):
    try:
        attempt()
    except OSError:
        print("refused")
try:
    open({str(tmp_path / "secret")!r})
except OSError:
    lacks.append("Landlock")
print("Landlock" in lacks)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split() == ["kernel", "refused", "refused", "True"]
