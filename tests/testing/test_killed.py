"""pytest may be killed at any moment: what it has started ends with it, and the next LAN removes its files."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.cli.program import Home
from tests.e2e.guest import guest_image
from tests.namespaces import needed_for_tap
from tests.testing.killing import running
from tests.waiting import until
from vswitch.testing import Lan
from vswitch.testing.build_process import remove_leftovers

TESTS = """
import trio
from vswitch.testing.guest import Guest

def say(moment):
    print(f"\\n{moment}", flush=True)

async def test_a_guest(lan):
    say("a guest is next")
    await lan.guest("a")

async def test_everything(lan):
    await lan.open()
    await lan.host("host")
    guest, ns = await lan.guest("a"), await lan.namespace("ns")
    await lan.program("program", ["sh", "-c", "sleep 1000; :"])
    await ns.run("sleep 1000 >/dev/null 2>&1 &")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guest.run, "sleep 60")
        nursery.start_soon(ns.run, "sleep 61")
        await guest.wait_for("pidof sleep")
        await lan.eventually(lambda: ns.run("grep -l 61 /proc/[0-9]*/cmdline"))
        say("commands run")

async def test_end(lan, monkeypatch):
    async def power_off(guest, before=Guest.power_off):
        await before(guest)
        say("one guest has ended")
        await trio.sleep_forever()

    await lan.open()
    await lan.boot("a", "b")
    monkeypatch.setattr(Guest, "power_off", power_off)

def test_sync(sync_lan):
    sync_lan.open()
    guest, ns = sync_lan.guest("a"), sync_lan.namespace("ns")
    say("guests run")
    guest.run("sleep 60")

async def test_start(lan):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lan.guest, "a")
        nursery.start_soon(lan.program, "program", ["sleep", "1000"])
"""
# setpriv, which asks the kernel for an end with its parent, on a machine where that has ended before.
LATE = """#!/bin/sh
echo >>{started}
while kill -0 $PPID; do sleep 0.01; done
exec {setpriv} "$@"
"""


@pytest.fixture
def home() -> Iterator[Home]:
    needed_for_tap()
    guest_image()
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as root:
        yield Home(Path(root))


def check_nothing_is_left(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the next LAN has been opened."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home.runtime))

    async def main() -> None:
        async with Lan() as lan:
            await lan.open("next")
            assert sorted(os.listdir(home.directory)) == ["next.ctl", "next.lab"]

    trio.run(main)
    assert os.listdir(home.directory) == []
    assert os.listdir(home.temp) == []


@pytest.mark.parametrize(
    ("test", "moment", "number"),
    [
        ("test_everything", "commands run", signal.SIGKILL),
        ("test_everything", "commands run", signal.SIGINT),
        ("test_sync", "guests run", signal.SIGTERM),
        ("test_end", "one guest has ended", signal.SIGKILL),
    ],
)
def test_nothing_is_left_of_a_lan(
    home: Home, monkeypatch: pytest.MonkeyPatch, test: str, moment: str, number: signal.Signals
) -> None:
    with running(home, TESTS, test) as run:
        run.wait_for(moment)
        run.kill(number)
    check_nothing_is_left(home, monkeypatch)


def test_nothing_is_left_of_a_clone_that_starts(home: Home) -> None:
    with running(home, TESTS, "test_a_guest") as run:
        run.wait_for("a guest is next")
        until(lambda: run.runs(b" -name a "), "its QEMU runs")
        run.kill(signal.SIGKILL)


def test_nothing_is_left_of_a_template_that_is_made(home: Home) -> None:
    image = guest_image().kernel.parent
    own = home.root / "cache" / "guest" / image.name
    shutil.copytree(image, own, copy_function=os.symlink, ignore=shutil.ignore_patterns("templates"))
    with running(home, TESTS, "test_a_guest", VSWITCH_CACHE=str(home.root / "cache")) as run:
        run.wait_for("a guest is next")
        until(lambda: run.runs(b" -name template "), "a template is made")
        run.kill(signal.SIGKILL)
    (work,) = (own / "templates").glob("building-*")
    remove_leftovers(own / "templates")  # as who makes the next one does
    assert not work.exists()
    assert not list((own / "templates").glob("*/manifest.json"))


def test_nothing_is_left_where_pytest_ends_before_the_kernel_was_asked(home: Home) -> None:
    started = home.root / "started"
    late = home.programs / "setpriv"
    late.write_text(LATE.format(started=started, setpriv=shutil.which("setpriv")))
    late.chmod(0o755)
    with running(home, TESTS, "test_start", PATH=f"{home.programs}:{os.environ['PATH']}") as run:
        until(lambda: started.exists() and started.stat().st_size == 2, "both are about to start", timeout_s=60)
        run.kill(signal.SIGKILL)
