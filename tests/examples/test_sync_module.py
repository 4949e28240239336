"""Ordinary tests, without async, that share two guests: they boot once for all tests of the module.

What one learns: `sync_lan` is a `lan` without `await`. What a fixture of a wider scope makes stays for the module; what
a test makes or breaks itself is taken away, or mended, when it ends.
"""

from typing import Any

import pytest

from vswitch.testing import SyncLan


@pytest.fixture(scope="module")
def pair(sync_lan: SyncLan) -> tuple[Any, Any]:
    return sync_lan.guest("a"), sync_lan.guest("b")


def test_guests_talk(pair: tuple[Any, Any]) -> None:
    a, b = pair
    (b.run("nc -l -p 7000 </dev/null >/tmp/heard 2>/dev/null &")).check()
    a.wait_for(f"echo hello | nc -w1 {b.ip} 7000")
    assert b.wait_for("grep hello /tmp/heard").ok


def test_a_partition_stops_them(sync_lan: SyncLan, pair: tuple[Any, Any]) -> None:
    a, b = pair
    with sync_lan.partition([a], [b]):
        assert not a.run("ping -c1 -W1 " + b.ip).ok
    assert a.run("ping -c1 " + b.ip).ok


def test_a_host_of_the_tests_own(sync_lan: SyncLan, pair: tuple[Any, Any]) -> None:
    a, _ = pair
    own = sync_lan.host("own", ip="10.0.0.9")
    assert own.ping(a.ip)
    echo = sync_lan.expect("icmp and dst host " + a.ip, within=2)
    assert echo.src == own.mac


def test_which_is_gone_afterwards(pair: tuple[Any, Any]) -> None:
    a, b = pair
    assert not a.run("ping -c1 -W1 10.0.0.9").ok
    assert a.run("ping -c1 " + b.ip).ok
