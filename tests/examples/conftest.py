"""What these examples need of the machine; a project of your own needs nothing of it."""

import pytest

from tests.e2e.guest import guest_image
from tests.namespaces import needed_for_tap

WITHOUT_GUESTS = ("test_cluster",)


@pytest.fixture(scope="module", autouse=True)
def guests_can_boot(request: pytest.FixtureRequest) -> None:
    if request.module.__name__.rpartition(".")[2] not in WITHOUT_GUESTS:
        guest_image()


@pytest.fixture(autouse=True)
def namespaces_can_be_made(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("station") == "namespace":
        needed_for_tap()
