"""The table of what may be asked of a switch: all of it is served, and documented."""

import re
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.needs import require
from vswitch import VSwitch
from vswitch.control.api import Api
from vswitch.control.capture_requests import SNAPLEN_MAX, CaptureRequest
from vswitch.control.operations import END_CAPTURE, OPERATIONS, Operation, read_query, write_query
from vswitch.errors import InputError

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_operation_is_served_and_no_other() -> None:
    assert set(Api(VSwitch()).handlers) == set(OPERATIONS)


def test_every_operation_is_documented_and_no_other() -> None:
    require(DOCS.exists(), "the tests are not in a checkout")
    documented = re.findall(r"^\| `([A-Z]+) /v1(/[^ ?`]*)", DOCS.read_text(), re.M)
    named = [
        (each.method, re.sub(r"{(\w+)}", lambda named: {"number": "ID"}.get(named[1], named[1].upper()), each.path))
        for each in OPERATIONS
        if not each.is_of_all_versions
    ]
    assert sorted(documented) == sorted(named)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each.method} {each.path}")
def test_paths_and_methods_are_of_one_operation_each(operation: Operation[object]) -> None:
    assert [each for each in OPERATIONS if (each.method, each.path) == (operation.method, operation.path)] == [
        operation
    ]


@pytest.mark.parametrize("number", ["7", "a/b", "a b", "ä", "?x=1", "\udcff", ""])
def test_what_is_in_a_path_stays_there(number: str) -> None:
    target = END_CAPTURE.target({"number": number})
    assert target.startswith("/v1/captures/")
    assert target.isascii()
    assert not set(target.removeprefix("/v1/captures/")) & set("/ ?#")


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(
    st.builds(
        CaptureRequest,
        ports=st.lists(TEXT, max_size=3).map(tuple),
        filter=TEXT,
        drops=st.booleans(),
        snaplen=st.integers(1, SNAPLEN_MAX),
        count=st.integers(0, 2**62 - 1),
        duration_s=st.none() | st.floats(0, 1e9),
        lossless=st.booleans(),
    )
)
def test_a_query_says_what_was_asked(request: CaptureRequest) -> None:
    assert read_query(CaptureRequest, parse_qsl(write_query(request), keep_blank_values=True)) == request


@pytest.mark.parametrize("items", [[("x", "1")], [("snaplen", "x")], [("drops", "maybe")], [("count", "1.5")]])
def test_a_query_that_asks_for_what_there_is_not_is_refused(items: list[tuple[str, str]]) -> None:
    with pytest.raises(InputError, match="the query asks for what there is not"):
        read_query(CaptureRequest, items)
