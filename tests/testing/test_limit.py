"""Tests that take too long end, with evidence, and the next test runs as if nothing had been."""

import importlib.util
import os
import re
import signal
import subprocess

import pytest

from tests.needs import require
from tests.signals import default_signals
from tests.testing.nested import PYTEST, kept, run, same_vswitch

__all__ = ["same_vswitch"]

SLOW = """
    import pytest, time, trio

    async def test_waits(lan):
        await (await lan.host("a")).send(bytes(60))
        await trio.sleep(60)  # the line

    async def test_is_busy(lan):
        await (await lan.host("a")).send(bytes(60))
        time.sleep(60)  # the line

    @pytest.fixture
    async def server(lan):
        await (await lan.host("a")).send(bytes(60))
        await trio.sleep(60)

    async def test_is_set_up(server):
        pass

    @pytest.mark.timeout(60)
    @pytest.mark.vswitch_timeout(60)
    async def test_in_virtual_time(lan, autojump_clock):
        await trio.sleep(1000)  # of which no limit knows

    @pytest.mark.timeout(60)
    @pytest.mark.vswitch_timeout(60)
    async def test_next(lan):
        a, b = await lan.host("a"), await lan.host("b")
        assert await a.ping(b.ip)

    @pytest.fixture(scope="module")
    def stays(sync_lan):
        return sync_lan.host("stays")

    @pytest.mark.timeout(60)
    @pytest.mark.vswitch_timeout(60)
    def test_first_sync(sync_lan, stays):
        assert sync_lan.host("a").ping(stays.ip)

    def test_sync(sync_lan, stays):
        sync_lan.host("a").send(bytes(60))
        sync_lan.host("b").recv("tcp", timeout=60)  # the line

    @pytest.mark.timeout(60)
    @pytest.mark.vswitch_timeout(60)
    def test_next_sync(sync_lan, stays):
        assert sync_lan.host("a").ping(stays.ip)
        assert sync_lan.host("b").ip == "10.0.0.3"
"""


@pytest.mark.parametrize("option", ["--vswitch-timeout", "--timeout"])
def test_it_ends_with_evidence(pytester: pytest.Pytester, option: str) -> None:
    if option == "--timeout":
        require(importlib.util.find_spec("pytest_timeout"), "pytest-timeout is not installed")
    pytester.makepyfile(test_it=SLOW)
    result = run(pytester, option, "3", "--show-capture=no")
    result.assert_outcomes(failed=4, passed=4)
    by = "--vswitch-timeout" if option == "--vswitch-timeout" else "pytest-timeout"
    shown = str(result.stdout)
    assert shown.count(f"TestTimeout: the test took longer than 3 s ({by})\n") >= 3
    assert len(re.findall(r"^> .*# the line\n(?: +\^+\n)?E  ", shown, re.MULTILINE)) == 3
    for foreign in ("site-packages", "vswitch/testing"):
        assert foreign not in shown
    for name in ("test_waits", "test_is_busy", "test_is_set_up", "test_sync"):
        assert f"test_it.py-{name}/lan.pcapng" in kept(pytester)


def test_a_marker_sets_it_for_one_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest, trio

        @pytest.mark.vswitch_timeout(0.5)
        async def test_short(lan):
            await trio.sleep(60)

        @pytest.mark.vswitch_timeout(60)
        async def test_long(lan):
            await trio.sleep(1.5)
        """
    )
    result = run(pytester, "--vswitch-timeout=1", "--strict-markers")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*the test took longer than 0.5 s (vswitch_timeout)"])


def test_ctrl_c_during_the_first_imports_ends_the_session(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        conftest="""
        import os, signal, sys

        class Watch:
            def find_spec(self, name, *_):
                if name == "scapy.packet":
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Watch())
        """,
        test_it="""
        async def test_it(lan):
            pass

        async def test_next(lan):
            print("next")
        """,
    )
    with default_signals():
        done = subprocess.run(
            [*PYTEST, "-s"],
            cwd=pytester.path,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == pytest.ExitCode.INTERRUPTED, signal.SIGINT
    assert "KeyboardInterrupt" in done.stdout
    assert "next" not in done.stdout.splitlines()
