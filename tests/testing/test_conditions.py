"""Conditions that hold all the time, that come true, and silence; in virtual time."""

from itertools import count

import pytest
import trio
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from trio.testing import MockClock

from vswitch.testing import ConditionFailed, ExpectationFailed, Lan, Result, SyncLan


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_always_ends_the_block_at_the_moment_the_condition_breaks(clock: MockClock) -> None:
    begun = trio.current_time()
    up = True

    async def stays_up() -> bool:
        await trio.lowlevel.checkpoint()
        return up

    async with Lan() as lan:
        with pytest.raises(  # noqa: PT012
            ConditionFailed, match=r"^stays_up was to hold all the time; after 1 s: it answered False$"
        ):
            async with lan.always(stays_up, every=0.25):
                await trio.sleep(0.8)
                up = False
                await trio.sleep(60)
        assert trio.current_time() - begun == pytest.approx(1)


async def test_always_asks_when_the_block_begins_and_when_it_ends(clock: MockClock) -> None:
    def says(*answers: bool) -> "tuple[list[bool], object]":
        left = list(answers)
        return left, lambda: left.pop(0)

    async with Lan() as lan:
        left, condition = says(False)
        with pytest.raises(ConditionFailed, match=r"the condition at test_conditions\.py:\d+ was to hold .* after 0 s"):
            async with lan.always(condition):  # type: ignore[arg-type]
                pytest.fail("the block was entered")
        left, condition = says(True, False)
        with pytest.raises(ConditionFailed):
            async with lan.always(condition):  # type: ignore[arg-type]
                pass
        left, condition = says(True, True)
        async with lan.always(condition):  # type: ignore[arg-type]
            pass
        assert left == []


async def test_an_error_of_the_blocks_own_is_what_is_told(clock: MockClock) -> None:
    empty: dict[str, bool] = {}
    async with Lan() as lan:
        with pytest.raises(ZeroDivisionError):
            async with lan.always(lambda: True):
                raise ZeroDivisionError
        with trio.move_on_after(1) as outer:
            async with lan.always(lambda: True):
                await trio.sleep_forever()
        assert outer.cancelled_caught
        with pytest.raises(KeyError):
            async with lan.always(lambda: empty["what a condition raises, the block raises"]):
                await trio.sleep(1)
        asked = count()
        async with lan.always(lambda: next(asked) < 2):
            pass
        await trio.sleep(10)
        assert next(asked) == 2, "nobody asks when the block is over"


async def test_an_assertion_that_fails_says_why(clock: MockClock) -> None:
    def counts() -> bool:
        raise AssertionError("only 2 of 3 are up")

    async with Lan() as lan:
        with pytest.raises(ConditionFailed, match=r"counts was to hold all the time; after 0 s: only 2 of 3 are up"):
            async with lan.always(counts):
                pass
        with pytest.raises(ConditionFailed, match=r"counts did not come true within 5 s; last: only 2 of 3 are up"):
            await lan.eventually(counts)


async def test_eventually_answers_what_is_true(clock: MockClock) -> None:
    answers = iter([None, 0, "leader"])
    async with Lan() as lan:
        assert await lan.eventually(lambda: next(answers)) == "leader"
        with pytest.raises(ConditionFailed, match=r"did not come true within 2 s; last: it answered \[\]"):
            await lan.eventually(list, within=2)
        begun = trio.current_time()
        with pytest.raises(ConditionFailed, match="sleep_forever did not come true within 3 s; last: there was no"):
            await lan.eventually(trio.sleep_forever, within=3)
        assert trio.current_time() - begun == pytest.approx(3)


def test_a_result_is_true_if_the_command_succeeded() -> None:
    assert Result("true", 0, b"", b"")
    assert not Result("false", 1, b"output", b"")


async def test_quiet_waits_until_nothing_passes(clock: MockClock) -> None:
    async with Lan() as lan, trio.open_nursery() as nursery:
        a = await lan.host("a")
        await lan.host("b")

        async def speak(times: int) -> None:
            for _ in range(times):
                await a.send(Ether(dst="ff:ff:ff:ff:ff:ff") / IP(dst="10.0.0.255") / UDP(sport=7, dport=9))
                await trio.sleep(0.4)

        begun = trio.current_time()
        nursery.start_soon(speak, 5)
        await lan.quiet(lambda packet: ARP in packet, for_=1)
        assert trio.current_time() - begun == pytest.approx(1)
        await lan.quiet(for_=1)
        assert trio.current_time() - begun == pytest.approx(4 * 0.4 + 1)
        nursery.start_soon(speak, 10)
        with pytest.raises(ExpectationFailed, match=r"it was not quiet for 1 s within 2 s; the last that passed:\n +a"):
            await lan.quiet("udp", within=2)
        await lan.quiet()


async def test_a_flow_is_expected_by_its_ends(clock: MockClock) -> None:
    async with Lan() as lan:
        a, b, c = [await lan.host(name) for name in "abc"]
        assert await a.ping(b.ip)
        await a.send(IP(dst=b.ip) / UDP(sport=40000, dport=53))
        flow = await lan.expect_flow(a, b, protocol="udp", service=53)
        assert (flow.source_ip, flow.destination_ip, flow.frames) == (a.ip, b.ip, 1)
        assert (await lan.expect_flow(b, protocol="ICMP")).forwarded == {"a": 1}
        with pytest.raises(
            ExpectationFailed, match=r"no flow from a to c of TCP at port 80 within 5 s:\n +PORT .*\n +a +10\.0\.0\.1"
        ):
            await lan.expect_flow(a, c, protocol="TCP", service=80)
        async with lan.partition([a], [b]):
            await a.send(IP(dst=b.ip) / UDP(sport=40000, dport=54))
            assert (await lan.expect_flow(a, b, service=54, dropped="partition")).drops == {"partition": 1}
            with pytest.raises(ExpectationFailed, match="no flow from a to b at port 54 within 1 s"):
                await lan.expect_flow(a, b, service=54, within=1)
            with pytest.raises(ExpectationFailed, match="no flow from a to c with drops for partition within 1 s"):
                await lan.expect_flow(a, c, dropped="partition", within=1)
    async with Lan() as lan:
        with pytest.raises(ExpectationFailed, match=r"no flow from a within 1 s; nothing passed at all$"):
            await lan.expect_flow(await lan.host("a"), within=1)


def test_in_a_sync_test_a_condition_may_use_the_lan() -> None:
    with SyncLan() as lan:
        a, b = lan.host("a"), lan.host("b")
        assert lan.eventually(lambda: a.ping(b.ip))
        with pytest.raises(ConditionFailed, match=r"did not come true within 0 s; last: it answered False"):
            lan.eventually(lambda: a.ping("10.0.0.99", timeout=0.01), within=0)
        with pytest.raises(RuntimeError, match=r"always is for async tests; .* ask with eventually"):
            lan.always(lambda: True)
        with pytest.raises(RuntimeError, match="a function that the LAN calls cannot call the LAN"):
            lan.expect(lambda packet: a.ping(b.ip))
        assert lan.expect_flow(a, b, protocol="ICMP").frames >= 1
        lan.quiet("icmp", for_=0.1)
