"""A home for every test of the program."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Home


@pytest.fixture
def home() -> Iterator[Home]:
    # Not tmp_path: a unix socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as root:
        yield Home(Path(root))
