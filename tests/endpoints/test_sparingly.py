"""Log lines that outsiders cause are few, and none is forgotten."""

import logging

import pytest
from trio.testing import MockClock

from vswitch.sparingly import Sparingly


async def test_one_line_a_second_and_the_number_left_out(
    caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    sparingly = Sparingly(logging.getLogger("test"))
    for number in range(100):
        sparingly.say("stranger %s", number)
    mock_clock.jump(1.0)
    sparingly.say("stranger %s", 100)
    assert [record.getMessage() for record in caplog.records] == ["stranger 0", "stranger 100 (and 99 more before)"]
