"""A place for sockets, and a clock, for every test of an endpoint that asks for them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock


@pytest.fixture
def clock() -> MockClock:
    """Time that passes, and that can be made to pass faster."""
    return MockClock(rate=1)


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        yield Path(directory)
