"""Other plugins that run async tests, beside pytest-trio."""

import importlib.util

import pytest

from tests.needs import require
from tests.testing.nested import run, same_vswitch

__all__ = ["same_vswitch"]

TESTS = """
    import pytest

    async def test_plain(lan):
        a, b = await lan.host("a"), await lan.host("b")
        assert await a.ping(b.ip)

    @pytest.mark.{mark}
    async def test_marked(lan):
        assert False, "is not to run"

    def test_sync(sync_lan):
        assert sync_lan.host("a").ip
"""


@pytest.mark.parametrize(
    ("plugin", "mark", "options", "passed"),
    [
        ("anyio", "anyio", (), 2),
        ("anyio", "anyio", ("-oanyio_mode=auto",), 1),
        ("pytest_asyncio", "asyncio", ("-oasyncio_mode=strict",), 2),
        ("pytest_asyncio", "asyncio", ("-oasyncio_mode=auto",), 1),
    ],
)
def test_a_test_that_another_plugin_wants_is_told_so_in_one_line(
    pytester: pytest.Pytester, plugin: str, mark: str, options: tuple[str, ...], passed: int
) -> None:
    require(importlib.util.find_spec(plugin), f"{plugin} is not installed")
    pytester.makepyfile(TESTS.format(mark=mark))
    result = run(pytester, *options)
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == passed
    assert "failed" not in outcomes
    said = (
        f"the fixture lan runs on trio, and {plugin.replace('_', '-')} wants to run this test; leave such tests to trio"
    )
    assert sum(line.startswith(said) for line in result.outlines) == outcomes["errors"]
    assert "Traceback" not in str(result.stdout)
