"""Networks for tests where the kernel has no netlink, as under gVisor: scapy's import asks for it, frames need none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HAS_NONE = """
import socket

class NoNetlink(socket.socket):
    def __init__(self, family=-1, *args, **options):
        if family == socket.AF_NETLINK:
            raise OSError(93, "Protocol not supported")
        super().__init__(family, *args, **options)

socket.socket = NoNetlink
"""
ASYNC = """
import trio
from vswitch.testing import Lan

async def main():
    async with Lan() as lan:
        a, b = await lan.host("a"), await lan.host("b")
        print(await a.ping(b.ip), await a.ping(b.ip6))

trio.run(main)
"""
SYNC = """
from vswitch.testing import SyncLan

with SyncLan() as lan:
    a, b = lan.host("a"), lan.host("b")
    print(a.ping(b.ip), a.ping(b.ip6))
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that gets no netlink socket, nor what it starts."""
    (tmp_path / "sitecustomize.py").write_text(HAS_NONE)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}


def run(env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=60)


def test_the_system_is_as_it_is_meant_to_be(env: dict[str, str]) -> None:
    done = run(env, "-c", "import scapy.layers.l2")
    assert done.stderr.splitlines()[-1] == "OSError: [Errno 93] Protocol not supported"


@pytest.mark.parametrize("code", [ASYNC, SYNC], ids=["lan", "sync_lan"])
def test_hosts_reach_each_other(env: dict[str, str], code: str) -> None:
    done = run(env, "-c", code)
    assert done.stdout == "True True\n", done.stderr


def test_a_scapy_that_cannot_be_helped_is_named(env: dict[str, str], tmp_path: Path) -> None:
    """Here, one whose layers ask by other ways."""
    layers = tmp_path / "scapy" / "layers"
    layers.mkdir(parents=True)
    (layers.parent / "__init__.py").touch()
    (layers / "__init__.py").touch()
    (layers / "l2.py").write_text("import socket; socket.socket(socket.AF_NETLINK)")
    done = run(env, "-m", "vswitch", "demo")
    said = [line for line in done.stderr.splitlines() if "uncompiled" not in line]
    assert (done.returncode, said) == (1, ["vswitch: scapy cannot be imported here: Protocol not supported"])
