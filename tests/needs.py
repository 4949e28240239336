"""What a test needs from the machine: asked in one place, so that continuous integration skips nothing."""

import os

import pytest


def require(condition: object, reason: str) -> None:
    """Skips the test unless `condition` holds. Under `CI=true`, which is to have everything, fails it."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
