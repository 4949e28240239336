"""Accepting, when descriptors are used up for a while."""

import errno
import logging
import os
from typing import Any

import pytest
import trio

from vswitch.endpoints.accepting import accept


async def test_a_shortage_of_descriptors_passes(caplog: pytest.LogCaptureFixture, autojump_clock: object) -> None:
    troubles = [errno.ECONNABORTED, errno.EMFILE, errno.EMFILE, errno.ECONNABORTED, errno.ENFILE]

    class Short:
        async def accept(self) -> tuple[object, None]:
            await trio.lowlevel.checkpoint()
            if troubles:
                number = troubles.pop(0)
                raise OSError(number, os.strerror(number))
            return self, None

    short: Any = Short()
    with caplog.at_level(logging.WARNING):
        assert await accept(short, "/run/m") is short
    assert [record.message for record in caplog.records] == ["/run/m: accepting pauses: Too many open files"]
