"""`--vswitch-pause`: a test that has failed stands still, its LAN goes on, and somebody looks."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.program import PROGRAM, Home
from tests.e2e.guest import guest_image
from tests.terminal import Terminal, terminal
from tests.testing.nested import PYTEST
from vswitch.testing.guest_image import default_cache

CACHE = default_cache()  # pytester has a home of its own

FAILS = """
    import os, pytest, trio

    async def test_it(lan):
        a, b = await lan.host("a"), await lan.host("b")
        print("what it prints")
        assert await a.ping(b.ip, timeout=0) == "wrong", "as it is to"

    async def test_after(lan):
        print("after", await lan.host("a"))

    def test_sync(sync_lan):
        c = sync_lan.host("c")
        assert c.ip == "wrong"

    async def test_breakpoint(lan):
        x = await lan.host("x")
        await lan.pause("Look here")
        assert x.ip == "10.0.0.1"

    async def test_guest_dies(lan):
        g = await lan.guest("g")
        await g.run("(sleep 0.1; poweroff -f) >/dev/null 2>&1 &")
        await trio.sleep(60)
"""


@contextmanager
def pytest_at(home: Home, pytester: pytest.Pytester, *arguments: str, tests: str = FAILS) -> Iterator[Terminal]:
    """pytest at a terminal."""
    pytester.makepyfile(test_it=tests)
    env = home.env | {"PATH": os.environ["PATH"], "VSWITCH_CACHE": str(CACHE), "COLUMNS": "200"}
    command = [*PYTEST, *arguments]
    with terminal(command, env=env, cwd=pytester.path) as person:
        yield person


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("VSWITCH_CACHE", str(CACHE))
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as root:
        yield Home(Path(root))


def named(shown: str) -> str:
    """The LAN's name in lines to paste."""
    found = re.search(r"--name (\S+)", shown)
    assert found
    return found[1]


def test_a_test_that_has_failed_waits_for_enter(home: Home, pytester: pytest.Pytester) -> None:
    with pytest_at(home, pytester, "--vswitch-pause", "test_it.py::test_it", "test_it.py::test_after") as person:
        shown = person.expect("lan> ")
        assert "test_it.py::test_it has failed: AssertionError: as it is to; its LAN goes on:" in shown
        assert "Enter goes on. Or type Python, as in: await lan.report()" in shown
        assert "what it prints" not in shown
        name = named(shown)
        person.type("await a.ping(b.ip)\n")
        assert "True\n" in person.expect("lan> ")
        asked = subprocess.run(
            [*PROGRAM, "macs", "--name", name], env=home.env, capture_output=True, text=True, timeout=20
        )
        assert len(asked.stdout.splitlines()) == 3
        person.type("\n")
        rest = person.expect("1 failed, 1 passed")
        assert "what it prints" in rest
        assert "stations:" in rest
        assert person.wait() == 1
    assert os.listdir(home.directory) == []


def test_a_sync_test_too(home: Home, pytester: pytest.Pytester) -> None:
    with pytest_at(home, pytester, "--vswitch-pause", "test_it.py::test_sync") as person:
        assert "test_it.py::test_sync has failed: AssertionError" in person.expect("lan> ")
        person.type("c.ip\n")
        assert "10.0.0.1\n" in person.expect("lan> ")
        person.type("\x04")
        person.expect("1 failed")
        assert person.wait() == 1
    assert os.listdir(home.directory) == []


def test_a_test_may_stand_still_of_its_own_accord(home: Home, pytester: pytest.Pytester) -> None:
    with pytest_at(home, pytester, "test_it.py::test_breakpoint") as person:
        assert "Look here; its LAN goes on:" in person.expect("lan> ")
        person.type("x.mac\n")
        assert "52:54:00:" in person.expect("lan> ")
        person.type("\n")
        person.expect("1 passed")
        assert person.wait() == 0


def test_when_a_guest_has_died_too(home: Home, pytester: pytest.Pytester) -> None:
    guest_image()
    with pytest_at(home, pytester, "--vswitch-pause", "test_it.py::test_guest_dies") as person:
        assert "test_it.py::test_guest_dies has failed: " in person.expect("lan> ")
        person.type("g.console.splitlines()[-1]\n")
        assert "Power down" in person.expect("lan> ")
        person.type("\n")
        person.expect("guest g has died: QEMU ended with status 0")
        assert person.wait() == 1


def test_where_nobody_is_at_the_terminal_it_goes_on(home: Home, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=FAILS)
    command = [*PYTEST, "--vswitch-pause"]
    done = subprocess.run(
        [*command, "-k", "not test_guest_dies"],
        env=home.env,
        cwd=pytester.path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "2 failed, 2 passed" in done.stdout
    done = subprocess.run(
        [*command, "-p", "xdist", "-n", "2"],
        env=home.env,
        cwd=pytester.path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 4
    assert "--vswitch-pause asks at the terminal, which -n leaves to nobody; use -n 0" in done.stderr


STANDS_STILL = """
    import pytest, trio

    @pytest.mark.xfail
    async def test_xfail(lan):
        assert False

    @pytest.mark.xfail(strict=True)
    def test_strict(sync_lan):
        pass

    async def test_still(lan):
        g = await lan.guest("g")
        await g.stop()
        await lan.host("h")
        assert False, "the guest stands still"

    def test_sync_dies(sync_lan):
        with sync_lan.isolate(sync_lan.host("x")):
            sync_lan._process.kill()
            sync_lan.now()

    @pytest.mark.vswitch_timeout(5)
    async def test_late(lan):
        await lan.host("h")
        await trio.sleep(60)
"""


def test_a_pause_is_for_failures_and_hangs_on_nothing(home: Home, pytester: pytest.Pytester) -> None:
    guest_image()
    with pytest_at(home, pytester, "--vswitch-pause", tests=STANDS_STILL) as person:
        shown = person.expect("lan> ")
        assert "test_it.py::test_still has failed: AssertionError: the guest stands still" in shown
        person.type("await lan.report()\n")
        assert "ports:" in person.expect("lan> ")
        person.type("exit()\n")
        assert "test_late has failed: the test took longer than 5 s (vswitch_timeout)" in person.expect("lan> ")
        person.type("h.ip\n")
        assert "10.0.0.1\n" in person.expect("lan> ")
        person.type("\n")
        rest = person.expect("4 failed, 1 xfailed")
        assert "no pause: " in rest
        assert re.search(r"h +up ", rest), "as it looked before the LAN ended"
        assert person.wait() == 1


def test_several_lans_of_a_test_have_names_of_their_own(home: Home, pytester: pytest.Pytester) -> None:
    tests = """
        from vswitch.testing import Lan

        async def test_it(lan):
            async with Lan() as other:
                await lan.pause()
                await other.pause()
    """
    stale = home.directory / "test-1.lab"
    stale.mkdir(parents=True)
    home.directory.chmod(0o700)
    with pytest_at(home, pytester, tests=tests) as person:
        first = named(person.expect("lan> "))
        assert not stale.exists()
        ended = subprocess.run([*PROGRAM, "lab", "down"], env=home.env, capture_output=True, text=True, timeout=20)
        assert ended.stderr == "vswitch: no lab is running; start one with: vswitch lab up FILE\n", "it is a test"
        person.type("\n")
        assert named(person.expect("lan> ")) == f"{first}-2"
        person.type("\n")
        person.expect("1 passed")
