"""A place for sockets, a clock and a switch, for every test of an endpoint that asks for them."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from tests.endpoints.user_guest import need_libslirp
from vswitch import VSwitch


@pytest.fixture
def clock() -> MockClock:
    """Time that passes, and that can be made to pass faster."""
    return MockClock(rate=1)


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
async def switch() -> AsyncIterator[VSwitch]:
    async with VSwitch() as switch:
        yield switch


@pytest.fixture
def libslirp() -> None:
    """For tests of user networks, which are nothing without it."""
    need_libslirp()
