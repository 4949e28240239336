"""Events: few, however often something happens; kept, and followed by those who come late."""

import logging

import pytest
import trio
from trio.testing import MockClock

from vswitch.ports.event import KINDS
from vswitch.ports.events import KEPT, SUBJECTS_MAX, Events


def texts(events: Events) -> list[str]:
    return [event.text for event in events.kept()]


async def test_one_subject_says_the_same_once_in_a_while(
    caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    events = Events()
    for number in range(100):
        events.say("turned_away", "lab", f"lab: turned away {number}")
        events.say("turned_away", "web", f"web: turned away {number}")
    mock_clock.jump(KINDS["turned_away"].period_s)
    events.say("turned_away", "lab", "lab: turned away 100")
    assert texts(events) == ["lab: turned away 0", "web: turned away 0", "lab: turned away 100"]
    assert [event.repeats for event in events.kept()] == [0, 0, 99]
    assert [record.getMessage() for record in caplog.records][-1] == "lab: turned away 100 (and 99 more before)"


async def test_what_comes_often_does_not_push_out_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    events = Events()
    events.say("loop", "lab", "a loop")
    for number in range(10 * KEPT):
        events.say("up", "lab", f"up {number}")
    assert texts(events) == ["a loop", *(f"up {number}" for number in range(9 * KEPT, 10 * KEPT))]
    numbers = [event.number for event in events.kept()]
    assert numbers == sorted(numbers)
    assert [event.number for event in events.kept(numbers[-2])] == numbers[-1:]


async def test_subjects_are_forgotten_when_there_are_too_many(
    caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    caplog.set_level(logging.CRITICAL)
    events = Events()
    for number in range(SUBJECTS_MAX + 100):
        events.say("drops", str(number), "drops")
    assert len(events._limits) == SUBJECTS_MAX


async def test_who_comes_late_gets_what_there_was_and_then_what_comes() -> None:
    events = Events()
    events.say("up", "a", "first")
    got: list[str] = []

    async def follow() -> None:
        async for event in events.follow():
            got.append(event.text)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert got == ["first"]
        events.say("up", "a", "second")
        events.say("up", "a", "third")
        await trio.testing.wait_all_tasks_blocked()
        assert got == ["first", "second", "third"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\r\nfake line", "\u202edesrever", "\x00", "\udc80"])
async def test_what_a_stranger_is_called_reaches_no_terminal(hostile: str, caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    events.say("turned_away", "lab", f"lab: turned away {hostile}")
    [event] = events.kept()
    assert event.text.isprintable()
    assert hostile not in caplog.text
