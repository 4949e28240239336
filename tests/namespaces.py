"""Network namespaces of the tests' own, with interfaces of any kind."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.needs import require


def needed_for_tap() -> str:
    """Where unshare is; skips the test if TAP devices or network namespaces cannot be had."""
    unshare = shutil.which("unshare")
    require(unshare and shutil.which("nsenter"), "unshare and nsenter not found: install the package util-linux")
    require(shutil.which("ip"), "ip not found: install the package iproute2")
    assert unshare is not None
    require(os.access("/dev/net/tun", os.R_OK | os.W_OK), "/dev/net/tun cannot be opened here")
    namespace = subprocess.run([unshare, "--net", "true"], capture_output=True)
    require(namespace.returncode == 0, "making a network namespace is not allowed here")
    return unshare


def ip_inside(pid: int, words: str) -> bool:
    """Runs ip in a process's network namespace; answers whether it has worked."""
    command = ["nsenter", "--target", str(pid), "--net", "ip", *words.split()]
    return subprocess.run(command, capture_output=True).returncode == 0


def is_elsewhere(pid: int) -> bool:
    """Whether a process is in a network namespace of its own already."""
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


CLONE_NEWNET = 0x4000_0000


@contextmanager
def own_network() -> Iterator[None]:
    """Has this thread, which is to be the process's first, be in a new network, with loopback up."""
    libc = ctypes.CDLL(None, use_errno=True)
    require(shutil.which("ip"), "ip not found: install the package iproute2")
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        require(libc.unshare(CLONE_NEWNET) == 0, "making a network namespace is not allowed here")
        try:
            ip("link set lo up")
            yield
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0
    finally:
        os.close(before)


def ip(words: str) -> None:
    """Runs ip in this thread's network."""
    subprocess.run(["ip", *words.split()], check=True, timeout=20)
