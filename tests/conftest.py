"""Makes `tests` importable, behind everything else: `vswitch` is the installed one, not the checkout's."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from vswitch.dataplane import compiled

sys.path.append(str(Path(__file__).parents[1]))

# How long an example takes says nothing on a busy machine. Both builds are of the same sources: the compiled one, which
# is fast, looks for what is wrong in them, the pure one for what is only in it.
settings.register_profile("vswitch", deadline=None, max_examples=100 if compiled() else 25)
settings.load_profile("vswitch")


def pytest_collection_finish() -> None:
    """Thousands of tests stay until the end: the garbage collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def certificates() -> Iterator[None]:
    """Leaves none behind: a worker of pytest-xdist ends without what Python does at its end."""
    yield
    from tests.certificates import clean_up

    clean_up()
