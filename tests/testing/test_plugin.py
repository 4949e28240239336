"""The pytest plugin, as a project that uses it sees it."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests import captures
from tests.e2e.guest import guest_image
from tests.signals import default_signals
from tests.testing.nested import PYTEST, kept, run, same_vswitch
from tests.waiting import until

__all__ = ["same_vswitch"]

HOSTS = """
    async def test_ping(lan):
        a, b = await lan.host("a"), await lan.host("b")
        assert await a.ping(b.ip)
        assert {verdict}
"""


def test_a_test_that_fails_keeps_what_has_passed_and_says_where(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=HOSTS.format(verdict="a.ip == 'wrong'"))
    result = run(pytester)
    result.assert_outcomes(failed=1)
    directory = "test_it.py-test_ping"
    assert kept(pytester) == [f"{directory}/lan.pcapng", f"{directory}/lan.txt"]
    file = pytester.path / "vswitch-output" / directory / "lan.pcapng"
    result.stdout.fnmatch_lines(["*- vswitch -*", "seed: test_it.py::test_ping", f"kept: {file}"])
    assert len(captures.read(file).packets) == 8


@pytest.mark.parametrize(
    ("option", "verdict", "keeps"),
    [("on", "True", True), ("on", "False", True), ("off", "False", False), ("retain-on-failure", "True", False)],
)
def test_what_is_kept_is_an_option(pytester: pytest.Pytester, option: str, verdict: str, keeps: bool) -> None:
    pytester.makepyfile(HOSTS.format(verdict=verdict))
    result = run(pytester, f"--vswitch-pcap={option}", "--vswitch-output=elsewhere")
    result.assert_outcomes(**{"passed" if verdict == "True" else "failed": 1})
    assert len(list(pytester.path.glob("elsewhere/*/lan.pcapng"))) == keeps
    assert kept(pytester) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_it_is_kept_when_set_up_or_tear_down_fails(pytester: pytest.Pytester, when: str) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.fixture
        async def broken(lan):
            a, b = await lan.host("a"), await lan.host("b")
            assert await a.ping(b.ip)
            assert {when == "after"}
            yield
            raise OSError("mine")

        async def test_it(broken):
            pass
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    assert [Path(file).name for file in kept(pytester)] == ["lan.pcapng", "lan.txt"]


@pytest.mark.parametrize("when", ["before", "after", "in", "later"])
def test_of_a_sync_test_too(pytester: pytest.Pytester, when: str) -> None:
    pytester.makepyfile(
        f"""
        import pytest, random

        @pytest.fixture
        def broken(sync_lan):
            a, b = sync_lan.host("a"), sync_lan.host("b")
            assert a.ping(b.ip)
            assert {when != "before"}
            yield
            assert {when != "after"}

        def test_it(broken):
            assert {when != "in"}

        def test_that_comes_later(sync_lan):
            seed = "test_of_a_sync_test_too.py::test_that_comes_later"
            assert sync_lan.random.random() == random.Random(seed).random()
            sync_lan.expect_none("icmp", within=0)
            sync_lan.host("c").send(bytes(14))
            sync_lan.expect(lambda packet: True)
            assert {when != "later"}
        """
    )
    result = run(pytester)
    outcome = {"before": {"errors": 1, "passed": 1}, "after": {"errors": 1, "passed": 2}}
    result.assert_outcomes(**outcome.get(when, {"failed": 1, "passed": 1}))
    (file, _) = kept(pytester)
    frames = len(captures.read(pytester.path / "vswitch-output" / file).packets)
    assert frames == (1 if when == "later" else 8), "only its own"


def test_the_seed_is_the_node_id_unless_it_is_given(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import random

        async def test_it(lan):
            assert lan.random.random() == random.Random("17").random()
        """
    )
    run(pytester, "--vswitch-seed=17").assert_outcomes(passed=1)
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["seed: *::test_it"])


@pytest.mark.parametrize("cold", [True, False])
def test_guests_boot_when_they_are_to(pytester: pytest.Pytester, cold: bool) -> None:
    """What a LAN makes of it is test_template.py's."""
    pytester.makepyfile(
        f"""
        async def test_it(lan):
            assert lan.cold is {cold}

        def test_sync(sync_lan):
            assert sync_lan._options["cold"] is {cold}
        """
    )
    run(pytester, *(["--vswitch-cold"] if cold else [])).assert_outcomes(passed=2)


def test_a_lan_in_the_wrong_kind_of_test_is_said_in_one_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_sync(lan):
            pass

        async def test_async(sync_lan):
            pass
        """
    )
    result = run(pytester)
    result.stdout.fnmatch_lines(
        [
            "*the fixture lan is for async tests; make this one async, or use sync_lan",
            "*fixture sync_lan is not for async tests; use lan",
        ]
    )
    assert "Traceback" not in str(result.stdout)


def test_a_fixture_of_that_name_of_ones_own_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_own="""
        import pytest

        @pytest.fixture
        def lan():
            return "own"

        @pytest.fixture
        def sync_lan():
            return "own"

        def test_it(lan, sync_lan):
            assert lan == sync_lan == "own"
        """,
        test_on_top="""
        import pytest

        @pytest.fixture
        async def lan(lan):
            await lan.host("extra")
            return lan

        async def test_it(lan):
            assert list(lan.hosts) == ["extra"]
            assert False
        """,
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    assert kept(pytester) == ["test_on_top.py-test_it/lan.pcapng", "test_on_top.py-test_it/lan.txt"]


def test_virtual_time(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import trio

        async def test_it(lan, autojump_clock):
            a, b = await lan.host("a"), await lan.host("b")
            async with lan.partition([a], [b]):
                assert not await a.ping(b.ip, count=100)
            await trio.sleep(100_000)
            assert await a.ping(b.ip)
            await lan.expect_none("udp", within=1000)
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_side_by_side_under_xdist(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        async def test_it(lan, number):
            a, b = await lan.host("a"), await lan.host("b")
            assert await a.ping(b.ip)
            assert number % 2

        def test_sync(sync_lan):
            a, b = sync_lan.host("a"), sync_lan.host("b")
            assert a.ping(b.ip)
        """
    )
    run(pytester, "-n", "2").assert_outcomes(failed=2, passed=3)
    assert len(kept(pytester)) == 4


def test_what_a_test_makes_ends_with_it_and_what_a_module_makes_stays(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def server(sync_lan):
            return sync_lan.host("server", ip="10.0.0.100")

        @pytest.fixture
        def client(sync_lan):
            return sync_lan.host("client")

        @pytest.mark.parametrize("again", range(3))
        def test_it(sync_lan, server, client, again):
            own = sync_lan.host("own")
            sync_lan.partition([own], [server])
            assert not own.ping(server.ip, timeout=0.2)
            assert own.ping(client.ip)
            assert client.ping(server.ip)
            assert (client.ip, own.ip) == ("10.0.0.1", "10.0.0.2")
            assert sync_lan.expect(lambda packet: packet.haslayer("ICMP"), within=1).sniffed_on in ("own", "client")
        """
    )
    run(pytester).assert_outcomes(passed=3)


def test_functions_of_a_sync_test_are_called_there(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, pytest
        from scapy.layers.inet import ICMP
        from vswitch.testing import ExpectationFailed

        def test_it(sync_lan):
            a, b = sync_lan.host("a"), sync_lan.host("b")
            assert a.ping(b.ip)
            here = []
            sync_lan.expect(lambda packet: here.append(os.getpid()) or packet[ICMP].type == 0)
            assert here[0] == os.getpid()
            with pytest.raises(ZeroDivisionError):
                sync_lan.expect(lambda packet: 1 // 0)
            with pytest.raises(ExpectationFailed, match="what <lambda> wants within 0 s"):
                sync_lan.expect(lambda packet: False, within=0)
            with sync_lan.capture("icmp", at=b) as captured:
                assert a.ping(b.ip)
            assert [(packet.direction, packet[ICMP].type) for packet in captured.packets] == [(2, 8), (1, 0)]
            assert [port.name for port in sync_lan.switch.ports()] == ["a", "b"]
            with b.dhcp_server("10.0.0.100-10.0.0.110") as server:
                assert server.leases == {}
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_a_sync_lan_whose_call_was_interrupted_does_not_mix_answers_up(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest, signal, time
        from vswitch.testing import SyncLan

        def give_up(*_):
            raise TimeoutError

        def test_it():
            with SyncLan() as lan:
                a, b = lan.host("a"), lan.host("b")
                signal.signal(signal.SIGALRM, give_up)
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                with pytest.raises(TimeoutError):
                    a.recv(timeout=60)
                begun = time.monotonic()
                assert a.ping(b.ip)
                assert time.monotonic() - begun < 30, "the other call was not given up"
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_an_error_that_is_alone_in_a_group_is_shown_by_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(HOSTS.format(verdict="a.ip == 'wrong'"))
    result = run(pytester)
    result.stdout.fnmatch_lines([">*assert a.ip == 'wrong'", "E*AssertionError: assert '10.0.0.1' == 'wrong'"])
    assert "ExceptionGroup" not in str(result.stdout)


def test_without_a_lan_nothing_of_it_is_imported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it():
            assert not [name for name in ("scapy", "vswitch.switch", "vswitch.testing.lan") if name in sys.modules]
        """
    )
    run(pytester, apart=True).assert_outcomes(passed=1)


GUESTS = """
    import pytest, sys, trio

    async def test_it(lan):
        guest = await lan.guest({name!r})
        await guest.run("echo something happened >/dev/console")
        {then}

    def test_sync(sync_lan):
        guest = sync_lan.guest({name!r})
        guest.run("echo something happened >/dev/console")
        {then_sync}
"""


def processes(word: str) -> list[int]:
    """The QEMUs that have a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"qemu-system-x86_64") and word.encode() in words:
            found.append(int(path.parent.name))
    return found


def test_a_guest_that_dies_fails_the_test_with_its_last_words(pytester: pytest.Pytester) -> None:
    guest_image()
    name = f"dies-{os.getpid()}"
    then = 'await guest.run("(sleep 0.2; poweroff -f) >/dev/null 2>&1 &"); await trio.sleep(60)'
    then_sync = 'guest.run("(sleep 0.2; poweroff -f) >/dev/null 2>&1 &"); guest.wait_for("false", timeout=60)'
    later = """
    def test_later(sync_lan):
        assert sync_lan.host("a").ip == "10.0.0.1"
    """
    pytester.makepyfile(test_it=GUESTS.format(name=name, then=then, then_sync=then_sync) + later)
    result = run(pytester)
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines([f"*guest {name}*QEMU ended with status 0*", "*something happened*"])
    assert f"test_it.py-test_it/{name}.console.txt" in kept(pytester)
    assert processes(name) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("kind", ["test_it", "test_sync"])
def test_nothing_is_left_running(pytester: pytest.Pytester, kind: str, number: signal.Signals) -> None:
    guest_image()
    name = f"left-{os.getpid()}"
    then, then_sync = (
        "print('up', flush=True); await trio.sleep(60)",
        "print('up', flush=True); guest.run('sleep 60', timeout=60)",
    )
    pytester.makepyfile(test_it=GUESTS.format(name=name, then=then, then_sync=then_sync))
    with default_signals():
        process = subprocess.Popen(
            [*PYTEST, "-s", f"test_it.py::{kind}", "test_it.py"],
            cwd=pytester.path,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("up\n"):
                break
        assert len(processes(name)) == 1
        os.killpg(process.pid, number)
        rest = process.stdout.read()
    assert "up" not in rest.splitlines(), "the next test was begun"
    until(lambda: processes(name) == [], "no QEMU runs any more")


def test_node_ids_are_names_of_directories() -> None:
    from vswitch.testing.kept import NAME_MAX, directory_name

    assert directory_name("tests/test_a.py::TestB::test_c[x-1]") == "tests-test_a.py-TestB-test_c[x-1]"
    assert "/" not in directory_name("a/../../b::c[/etc]")
    assert not directory_name("../x").startswith(".")
    long, other = directory_name("x" * 300), directory_name("x" * 299 + "y")
    assert long != other
    assert len(long) < NAME_MAX + 20
    assert re.fullmatch(r"[\w.\[\]=-]+", long)
