"""What these examples need of the machine; a project of your own needs nothing of it."""

import pytest

from tests.e2e.guest import guest_image

WITHOUT_GUESTS = ("test_cluster",)


@pytest.fixture(scope="module", autouse=True)
def guests_can_boot(request: pytest.FixtureRequest) -> None:
    if request.module.__name__.rpartition(".")[2] not in WITHOUT_GUESTS:
        guest_image()
