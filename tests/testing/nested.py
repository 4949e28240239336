"""pytest within tests: with the vswitch that they test, and without plugins that take long to load."""

import gc
import os
import sys

import pytest
import pytest_asyncio.plugin  # noqa: F401  # for the runs in this process: each would load it again

import vswitch.testing
from tests.cli.program import package_root
from vswitch.testing.guest_image import default_cache

ONLY_OURS = ("-p", "no:cacheprovider", "--disable-plugin-autoload", "-p", "trio", "-p", "vswitch")
PYTEST = (sys.executable, "-m", "pytest", *ONLY_OURS)
CACHE = default_cache()  # pytester has a home of its own


@pytest.fixture(autouse=True)
def same_vswitch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSWITCH_CACHE", str(CACHE))
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [package_root(), path])))
    for name in (
        "PYTEST_ADDOPTS",
        "CI",
        "BUILD_NUMBER",
        "GITHUB_ACTIONS",
    ):  # in CI, pytest's summary has all of an error
        monkeypatch.delenv(name, raising=False)
    for name in vswitch.testing.__all__:
        getattr(vswitch.testing, name)  # loads it; pytester unloads again what a run in this process has loaded


def run(pytester: pytest.Pytester, *arguments: str, apart: bool = False) -> pytest.RunResult:
    """Runs pytest in this process, which has loaded everything already, or in one of its own."""
    start = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
    quiet = [
        *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # what this process has loaded cannot be rewritten
        *("-o", "asyncio_default_fixture_loop_scope=function"),  # pytest-asyncio warns if it is unset
    ]
    result = start("-p", "no:cacheprovider", "-p", "no:schemathesis", *quiet, *arguments)
    gc.collect()  # of a run in this process, what it leaves behind would be closed in the midst of another test
    return result


def kept(pytester: pytest.Pytester) -> list[str]:
    found = pytester.path / "vswitch-output"
    return sorted(str(path.relative_to(found)) for path in found.rglob("*") if path.is_file())
