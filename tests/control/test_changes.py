"""The plan of a reload: which endpoints stay, change, come and go."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.control.changes import Adopt, Attach, Change, Detach, Replace, SetAgeing, SetPolicy, plan
from vswitch.control.config import SwitchConfig
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import RefusedError


def config(*urls: str, **switch: object) -> SwitchConfig:
    """The configuration of endpoints, `NAME URL` or only `URL`."""
    return msgspec.structs.replace(SwitchConfig(ageing_s=300.0, name="lab"), endpoints=tuple(map(read, urls)), **switch)


def read(text: str) -> EndpointConfig:
    name, space, url = text.rpartition(" ")
    return parse(url, {"name": name} if space else {})


def attached(*urls: str) -> dict[str, EndpointConfig]:
    """Endpoints by name, which those without one get by their kind."""
    return {change.name: change.config for change in plan(config(), {}, config(*urls)) if isinstance(change, Attach)}


def diff(
    old: Mapping[str, EndpointConfig], *urls: str, others: Mapping[str, EndpointConfig] | None = None
) -> list[str]:
    return [line for change in plan(config(), old, config(*urls), others) for line in change.diff()]


def test_what_is_the_same_does_not_change() -> None:
    urls = ("a tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "unix:///run/lan.sock?vlan=10&queue=1MiB", "tcp://127.0.0.1:0")
    assert diff(attached(*urls), *urls) == []


def test_endpoints_come_and_go() -> None:
    old = attached("a tcp://127.0.0.1:1", "b tcp://127.0.0.1:2")
    assert diff(old, "b tcp://127.0.0.1:2", "c unix:///c?vlan=3", "unix:///d", "unix:///e") == [
        "- a  tcp://127.0.0.1:1",
        "+ c  unix:///c?vlan=3",
        "+ unix1  unix:///d",
        "+ unix2  unix:///e",
    ]


def test_a_policy_is_set_in_place() -> None:
    old = attached("a tcp://127.0.0.1:1?vlan=1", "tcp://127.0.0.1:2")
    assert diff(old, "tcp://127.0.0.1:2?up=no", "a tcp://127.0.0.1:1?vlan=2&sticky=yes") == [
        "- tcp1  tcp://127.0.0.1:2",
        "+ tcp1  tcp://127.0.0.1:2?up=no",
        "- a  tcp://127.0.0.1:1?vlan=1",
        "+ a  tcp://127.0.0.1:1?vlan=2&sticky=yes",
    ]


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("a tcp://127.0.0.1:1", "a tcp://127.0.0.1:2", "a"),
        ("a tcp://127.0.0.1:1", "b tcp://127.0.0.1:1", "b"),
        ("tcp://127.0.0.1:1", "b tcp://127.0.0.1:1", "b"),
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp1"),
        ("a tcp://127.0.0.1:1", "a tcp://127.0.0.1:1?single=yes", "a"),
        ("a tcp://127.0.0.1:1", "a tcp://127.0.0.1:1?queue=1MiB", "a"),
        ("a udp://127.0.0.1:1", "a udp://127.0.0.1:1?idle=20s", "a"),
        ("a unix:///x", "a tcp://127.0.0.1:1", "a"),
    ],
)
def test_what_cannot_change_in_place_is_replaced(old: str, new: str, name: str) -> None:
    (change,) = plan(config(), attached(old), config(new))
    assert isinstance(change, Replace), change
    assert change.name == name
    assert change.diff()[1].endswith("  (its guests reconnect)")


def test_an_endpoint_without_a_name_is_known_by_its_url() -> None:
    """Whatever stands before it in the file by now."""
    old = attached("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
    assert diff(old, "tcp://127.0.0.1:3", "tcp://127.0.0.1:2", "tcp://127.0.0.1:1") == ["+ tcp3  tcp://127.0.0.1:3"]


def test_one_that_came_otherwise_keeps_its_name() -> None:
    assert diff({}, "tcp://127.0.0.1:1", others={"tcp1": read("tcp://127.0.0.1:2")}) == ["+ tcp2  tcp://127.0.0.1:1"]
    assert diff({}, others={"a": read("a tcp://127.0.0.1:2")}) == []


def test_one_that_came_otherwise_becomes_the_file_s() -> None:
    """As it has been saved."""
    others = {"tcp1": read("tcp://127.0.0.1:1"), "a": read("a unix:///a")}
    wanted = config("tcp1 tcp://127.0.0.1:1", "unix:///a?vlan=3", "unix:///b")
    assert plan(config(), {}, wanted, others) == [
        Adopt("tcp1", wanted.endpoints[0]),
        SetPolicy("a", others["a"], wanted.endpoints[1]),
        Attach("unix1", wanted.endpoints[2]),
    ]


def test_ageing_changes() -> None:
    assert plan(config(), {}, config(ageing_s=60.0)) == [SetAgeing(300.0, 60.0)]


@pytest.mark.parametrize("fixed", [{"name": "x"}, {"table_size": 1}, {"capture": "/x"}, {"capture_memory": 1 << 20}])
def test_what_only_a_start_can_change_is_refused(fixed: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match=rf"^\[switch\] {next(iter(fixed))} cannot change while the switch runs"):
        plan(config(), {}, config(**fixed))


@pytest.mark.parametrize("new", ["fd://7", "a fd://7?queue=1MiB"])
def test_a_descriptor_cannot_come_later(new: str) -> None:
    with pytest.raises(RefusedError, match=r"^fd://7: a descriptor comes to a switch as it starts"):
        plan(config(), {"a": read("a fd://7")} if "a " in new else {}, config(new))


def test_one_that_was_passed_on_may_get_another_policy() -> None:
    assert [type(change) for change in plan(config(), {"fd1": read("fd://7")}, config("fd://7?vlan=3"))] == [SetPolicy]


def test_paths_are_the_same_however_they_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert diff(attached("unix://lan.sock"), f"unix://{tmp_path}/lan.sock") == []


PLACES = ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "unix:///a", "unix:///b", "mcast://230.0.0.1:1"]
ENDPOINTS = st.lists(
    st.tuples(
        st.none() | st.sampled_from("abc"), st.sampled_from(PLACES), st.sampled_from(["", "?vlan=1", "?queue=1MiB"])
    ),
    max_size=5,
    unique_by=lambda endpoint: endpoint[1],
).filter(lambda found: len(names := [name for name, *_ in found if name]) == len(set(names)))


def made(old: Mapping[str, EndpointConfig], changes: list[Change]) -> dict[str, EndpointConfig]:
    """The endpoints that changes lead to."""
    result = dict(old)
    for change in changes:
        if isinstance(change, Detach):
            del result[change.name]
        elif isinstance(change, Replace):
            del result[change.old_name]
    for change in changes:
        if isinstance(change, Attach | Replace | SetPolicy):
            assert change.name not in result or isinstance(change, SetPolicy)
            result[change.name] = change.config
    return result


@given(ENDPOINTS, ENDPOINTS)
def test_any_configuration_is_reached_from_any_other(
    before: list[tuple[str | None, str, str]], after: list[tuple[str | None, str, str]]
) -> None:
    old, new = ([f"{name or ''} {place}{query}".strip() for name, place, query in found] for found in (before, after))
    was = attached(*old)
    result = made(was, plan(config(), was, config(*new)))
    assert sorted(found.full_url for found in result.values()) == sorted(read(text).full_url for text in new)
    assert {text.partition(" ")[0] for text in new if " " in text} <= set(result)
    assert all(isinstance(change, Adopt) for change in plan(config(), result, config(*new)))
