"""The pytest plugin: `lan` for async tests, `sync_lan` for others, and what is kept when a test fails.

It is loaded wherever vswitch is installed, so it imports the rest only when a test asks for it.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from vswitch.testing import pause
from vswitch.testing.kept import TITLE, tell
from vswitch.testing.limit import Limit
from vswitch.testing.reports import first_of, readable

if TYPE_CHECKING:
    from vswitch.testing.lan import Lan
    from vswitch.testing.sync import SyncLan

_lans = pytest.StashKey[list[Any]]()  # an item's
_item = pytest.StashKey[pytest.Item]()  # the one that runs
_sync = pytest.StashKey[Any]()  # the module's SyncLan
_where = pytest.StashKey[TracebackType | None]()  # an async test was, when something else ended it
_limit = pytest.StashKey[Limit]()
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
    group.addoption(
        "--vswitch-timeout",
        metavar="SECONDS",
        type=float,
        help="end a test with a LAN that takes longer [default: none; a test's own: pytest.mark.vswitch_timeout(20)]",
    )
    group.addoption("--vswitch-cold", action="store_true", help="boot every guest, instead of cloning one that has")
    group.addoption(
        "--vswitch-pause",
        action="store_true",
        help="when a test has failed, keep its LAN running, say how to look at it, and wait for Enter",
    )
    group.addoption("--vswitch-seed", metavar="SEED", help="what chance goes by [default: the test's node id]")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if uses(item, "lan") and is_async(item):
            item.add_marker("trio")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Imports what takes long before the first test: no limit counts it, and Ctrl-C is not lost, as it is in trio."""
    if not session.config.option.collectonly and any(map(has_lan, session.items)):
        with suppress(ImportError):  # which the test will tell
            import_module("vswitch.testing.lan")


def uses(item: pytest.Item, name: str) -> bool:
    """Whether a test uses a fixture of ours, and not another of that name, which hides it."""
    info = getattr(item, "_fixtureinfo", None)
    for definition in reversed(info.name2fixturedefs.get(name, ()) if info is not None else ()):
        if definition.func.__module__ == __name__:
            return True
        if name not in definition.argnames:  # or else it is made of the one it hides
            return False
    return False


def has_lan(item: pytest.Item) -> bool:
    return uses(item, "lan") or uses(item, "sync_lan")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_scopes] = []
    if config.getoption("--vswitch-pause") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--vswitch-pause asks at the terminal, which -n leaves to nobody; use -n 0")
    pause.at_terminal = lambda: _at_terminal(config)
    config.addinivalue_line("markers", "vswitch_timeout(seconds): end a test with a LAN that takes longer")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[_item] = item
    if has_lan(item):
        _check(item)
    if (made := item.config.stash.get(_sync, None)) is not None:
        made.begin_test(seed_of(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    if not has_lan(item):
        return (yield)
    marker = item.get_closest_marker("vswitch_timeout")
    seconds = marker.args[0] if marker is not None else item.config.getoption("--vswitch-timeout")
    _limit_of(item).begin(seconds or 0, "vswitch_timeout" if marker is not None else "--vswitch-timeout")
    try:
        return (yield)
    finally:
        _limit_of(item).end()


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """pytest-timeout's, by signal: it would strike in the middle of trio."""
    if settings.method != "signal" or not has_lan(item):
        return None
    _limit_of(item).begin(settings.timeout, "pytest-timeout")
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> None:
    _limit_of(item).end()


def _limit_of(item: pytest.Item) -> Limit:
    return item.stash.setdefault(_limit, Limit())


def _check(item: pytest.Item) -> None:
    """Says in one line why a test cannot have the LAN it wants."""
    why = ""
    if is_async(item) and uses(item, "sync_lan"):
        why = "the fixture sync_lan is not for async tests; use lan"
    elif not uses(item, "lan"):
        return
    elif not is_async(item):
        why = "the fixture lan is for async tests; make this one async, or use sync_lan"
    elif other := other_runner(item):
        why = f"the fixture lan runs on trio, and {other} wants to run this test; "
        why += "leave such tests to trio (asyncio_mode = strict, no anyio_mode, no mark), or write an ordinary one "
        why += "with sync_lan"
    elif is_hypothesis(item):
        why = "the fixture lan is for one run of a test, and Hypothesis makes many; "
        why += "write `async with vswitch.testing.Lan() as lan:` in the test, and mark it with pytest.mark.trio"
    elif not item.config.pluginmanager.hasplugin("trio"):
        why = "the fixture lan needs pytest-trio: pip install pytest-trio"
    if why:
        pytest.fail(why, pytrace=False)


def other_runner(item: pytest.Item) -> str:
    """The plugin, other than pytest-trio, that would run an async test; "" if there is none."""
    of_asyncio = type(item).__module__.startswith("pytest_asyncio") or item.get_closest_marker("asyncio") is not None
    if of_asyncio and item.config.pluginmanager.hasplugin("asyncio"):
        return "pytest-asyncio"
    return "anyio" if item.get_closest_marker("anyio") or "anyio_backend" in item.fixturenames else ""  # type: ignore[attr-defined]


def is_hypothesis(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "obj", None), "hypothesis")


def is_async(item: pytest.Item) -> bool:
    """Whether a test is a coroutine function, in Hypothesis' wrapping or without."""
    function: Any = getattr(item, "obj", None)
    return inspect.iscoroutinefunction(function.hypothesis.inner_test if is_hypothesis(item) else function)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Around pytest-trio, which runs whatever the test's function is by now."""
    if not uses(item, "lan"):
        return (yield)
    function = item.obj  # type: ignore[attr-defined]

    @functools.wraps(function)
    async def test(**fixtures: Any) -> None:
        try:
            await function(**fixtures)
        except BaseException as error:
            item.stash[_where] = error.__traceback__
            if not isinstance(error, KeyboardInterrupt | pytest.skip.Exception | pytest.xfail.Exception):
                await _look(item, error)
            raise

    item.obj = test  # type: ignore[attr-defined]
    try:
        return (yield)
    finally:
        item.obj = function  # type: ignore[attr-defined]


async def _look(item: pytest.Item, error: BaseException) -> None:
    """At what will have ended when the report is made; so may do whoever sits at the terminal."""
    made = item.stash.get(_lans, [])
    for one in made:
        await one.look()
    why = _why_to_pause(item, error)
    if why:
        import trio

        with trio.CancelScope(shield=True), _nothing_lost(lambda text: item.add_report_section("call", TITLE, text)):
            for one in made:
                await one.pause(why)


def _why_to_pause(item: pytest.Item, error: BaseException) -> str:
    """What to tell whoever sits at the terminal; "" if the test goes on, or has not failed."""
    if not item.config.getoption("--vswitch-pause") or item.get_closest_marker("xfail") is not None:
        return ""
    if not isinstance(error, Exception | pytest.fail.Exception):  # it was cancelled, as somebody else has failed
        what = _limit_of(item).struck or next(filter(None, (one.ended_of for one in item.stash.get(_lans, []))), "")
        return f"{item.nodeid} has failed: {what}" if what else ""
    first = first_of(error)
    said = str(first).strip().partition("\n")[0]
    return f"{item.nodeid} has failed: {type(first).__name__}{f': {said}' if said else ''}"


@contextmanager
def _nothing_lost(tell: Callable[[str], object]) -> Iterator[None]:
    """The test's own failure is what is to be told, also where nobody can look, as the LAN has ended of it."""
    try:
        yield
    except Exception as error:
        tell(f"no pause: {error}")


@contextmanager
def _at_terminal(config: pytest.Config) -> Iterator[None]:
    """The terminal is a person's meanwhile, and no time limit counts."""
    if (item := config.stash.get(_item, None)) is not None:
        _limit_of(item).end()
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager is None:
        yield
        return
    capturing = getattr(manager, "_global_capturing", None)
    was_capturing = capturing is not None and capturing.is_started()
    manager.suspend(in_=True)
    try:
        yield
    finally:
        if was_capturing:
            manager.resume()


def seed_of(node: pytest.Item | pytest.Collector) -> str:
    given = node.config.getoption("--vswitch-seed")
    return node.nodeid if given is None else str(given)


async def lan(request: pytest.FixtureRequest) -> "AsyncIterator[Lan]":
    """A LAN for an async test."""
    from vswitch.testing.lan import Lan

    made = Lan(seed=seed_of(request.node), cold=request.config.getoption("--vswitch-cold"))
    request.node.stash.setdefault(_lans, []).append(made)
    async with made:
        made._nursery.start_soon(_limit_of(request.node).watch)
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
    cold = request.config.getoption("--vswitch-cold")
    is_own = lambda: stash[_scopes][-1:] in ([], ["function"])  # noqa: E731
    with SyncLan(seed=seed_of(request.node), is_own=is_own, cold=cold) as made:
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
    if call.excinfo is not None and has_lan(item):
        full = item.config.getoption("fulltrace", False)
        shown = readable(call.excinfo.value, item.stash.get(_where, None), full=full)
        if shown.__traceback__ is None:
            shown = _without_lines(shown)
        call.excinfo = pytest.ExceptionInfo.from_exception(shown)
    report = yield
    made = item.stash.get(_lans, [])
    if uses(item, "sync_lan") and (shared := item.config.stash.get(_sync, None)) is not None:
        made = [shared]
    if made and (report.failed or (call.when == "call" and item.config.getoption("--vswitch-pcap") == "on")):
        tell(item, report, made, seed_of(item))
        if report.failed and call.excinfo is not None and hasattr(made[0], "end_test"):
            why = _why_to_pause(item, call.excinfo.value)
            with _nothing_lost(lambda text: report.sections.append((TITLE, text))):
                if why:
                    made[0].pause(why)
    if made and call.excinfo is not None and isinstance(call.excinfo.value, KeyboardInterrupt):
        item.session.shouldstop = "Ctrl-C"  # trio has it in a group, for which pytest would go on
    if call.when == "teardown":
        item.stash[_lans] = []
        item.stash[_where] = None  # frames keep alive what they know
    return report


def _without_lines(error: BaseException) -> BaseException:
    """What pytest shows by its text alone."""
    try:
        pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)
    except pytest.fail.Exception as failure:
        return failure
