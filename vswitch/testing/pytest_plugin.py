"""The pytest plugin: `lan` for async tests, `sync_lan` for others, and what is kept when a test fails.

It is loaded wherever vswitch is installed, so it imports the rest only when a test asks for it.
"""

import hashlib
import inspect
import re
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vswitch.testing.lan import Lan
    from vswitch.testing.sync import SyncLan

NAME_MAX = 120  # characters of a directory's name

_lans = pytest.StashKey[list[Any]]()  # an item's
_item = pytest.StashKey[pytest.Item]()  # the one that runs
_sync = pytest.StashKey[Any]()  # the module's SyncLan
_scopes = pytest.StashKey[list[str]]()  # of the fixtures that are being set up


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vswitch", "networks of virtual machines")
    group.addoption(
        "--vswitch-pcap",
        choices=["on", "off", "retain-on-failure"],
        default="retain-on-failure",
        help="keep what passed in a test's LAN, and its guests' consoles: always, never, or when it fails [default]",
    )
    group.addoption("--vswitch-output", metavar="DIR", default="vswitch-output", help="where [default: %(default)s]")
    group.addoption("--vswitch-seed", metavar="SEED", help="what chance goes by [default: the test's node id]")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if uses(item, "lan") and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker("trio")


def uses(item: pytest.Item, name: str) -> bool:
    """Whether a test uses a fixture of ours, and not another of that name, which hides it."""
    info = getattr(item, "_fixtureinfo", None)
    for definition in reversed(info.name2fixturedefs.get(name, ()) if info is not None else ()):
        if definition.func.__module__ == __name__:
            return True
        if name not in definition.argnames:  # or else it is made of the one it hides
            return False
    return False


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_scopes] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[_item] = item
    if (made := item.config.stash.get(_sync, None)) is not None:
        made.begin_test(seed_of(item))
    is_async = inspect.iscoroutinefunction(getattr(item, "obj", None))
    if uses(item, "lan") and not is_async:
        pytest.fail("the fixture lan is for async tests; make this one async, or use sync_lan", pytrace=False)
    if uses(item, "lan") and not item.config.pluginmanager.hasplugin("trio"):
        pytest.fail("the fixture lan needs pytest-trio: pip install pytest-trio", pytrace=False)
    if uses(item, "sync_lan") and is_async:
        pytest.fail("the fixture sync_lan is not for async tests; use lan", pytrace=False)


def seed_of(node: pytest.Item | pytest.Collector) -> str:
    given = node.config.getoption("--vswitch-seed")
    return node.nodeid if given is None else str(given)


async def lan(request: pytest.FixtureRequest) -> "AsyncIterator[Lan]":
    """A LAN for an async test."""
    from vswitch.testing.lan import Lan

    made = Lan(seed=seed_of(request.node))
    request.node.stash.setdefault(_lans, []).append(made)
    async with made:
        yield made


lan._force_trio_fixture = True  # type: ignore[attr-defined]
lan = pytest.fixture(lan)


@pytest.fixture(scope="module")
def sync_lan(request: pytest.FixtureRequest) -> "Iterator[SyncLan]":
    """A LAN for ordinary tests: one for a module.

    What a test makes on it, or a fixture of a test's scope, is taken away when the test ends; what a fixture of a
    wider scope makes stays for all tests of the module.
    """
    from vswitch.testing.sync import SyncLan

    stash = request.config.stash
    with SyncLan(seed=seed_of(request.node), is_own=lambda: stash[_scopes][-1:] in ([], ["function"])) as made:
        stash[_sync] = made
        made.begin_test(seed_of(stash[_item]))
        try:
            yield made
        finally:
            del stash[_sync]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
    scopes = request.config.stash[_scopes]
    scopes.append(fixturedef.scope)
    try:
        return (yield)
    finally:
        scopes.pop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    result = yield
    if (made := item.config.stash.get(_sync, None)) is not None:
        made.end_test()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    if uses(item, "lan") and call.excinfo is not None:
        call.excinfo = pytest.ExceptionInfo.from_exception(_sole(call.excinfo.value))
    report = yield
    made = item.stash.get(_lans, [])
    if uses(item, "sync_lan") and (shared := item.config.stash.get(_sync, None)) is not None:
        made = [shared]
    if made and (report.failed or (call.when == "call" and item.config.getoption("--vswitch-pcap") == "on")):
        said = [f"seed: {seed_of(item)}", *_save(item, made)]
        if report.failed:
            report.sections.append(("vswitch", "\n".join(said)))
    if made and call.excinfo is not None and isinstance(call.excinfo.value, KeyboardInterrupt):
        item.session.shouldstop = "Ctrl-C"  # trio has it in a group, for which pytest would go on
    if call.when == "teardown":
        item.stash[_lans] = []
    return report


def _save(item: pytest.Item, made: list[Any]) -> list[str]:
    """Writes what there is; answers lines that say where."""
    if item.config.getoption("--vswitch-pcap") == "off":
        return []
    directory = item.config.rootpath / item.config.getoption("--vswitch-output") / directory_name(item.nodeid)
    lines = []
    for number, one in enumerate(made):
        into = directory / str(number + 1) if number else directory
        try:
            files = one.save(into) if hasattr(one, "begin_test") else _run(one.save, into)
            lines += [f"kept: {file}" for file in files]
        except Exception as error:  # the test's own failure is what is to be told
            lines.append(f"nothing kept in {into}: {error}")
    return lines


def _run(save: Any, directory: Path) -> Any:
    import trio

    return trio.run(save, directory)


def _sole(error: BaseException) -> BaseException:
    """An error that is alone in a group, as nurseries raise it, by itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def directory_name(node_id: str) -> str:
    """A node id as a name for a directory, which no two tests have in common."""
    name = re.sub(r"[^\w.\[\]=-]+", "-", node_id).strip("-.")
    if len(name) > NAME_MAX:
        digest = hashlib.sha256(node_id.encode()).hexdigest()[:12]
        name = f"{name[:NAME_MAX]}-{digest}"
    return name
