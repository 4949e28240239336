"""The schema of configuration files takes what the program takes, and refuses names that it refuses."""

import tomllib
from typing import Any

import jsonschema
import pytest

from tests.control.test_config import PARAMETERS, REMOTES, TARGETS
from tests.endpoints.test_policy import WRITTEN
from vswitch.control.schema import schema
from vswitch.endpoints.url import SCHEMES

CHECK = jsonschema.Draft202012Validator(schema())


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(("scheme", "name"), [(scheme, name) for scheme, (_, own) in SCHEMES.items() for name in own])
def test_every_parameter_may_be_said(scheme: str, name: str) -> None:
    value = f'"{REMOTES[scheme]}"' if name == "remote" else PARAMETERS[name][0]
    CHECK.validate(tomllib.loads(f'[[endpoint]]\nurl = "{TARGETS[scheme]}"\n{name} = {value}'))


@pytest.mark.parametrize("table", [table for _, table, _ in WRITTEN], ids=str)
def test_every_policy_may_be_said(table: dict[str, Any]) -> None:
    CHECK.validate({"endpoint": [{"url": "fd://3", **table}]})


@pytest.mark.parametrize(
    "content",
    [
        "name = 'lab'",
        "[switch]\nagein = '300s'",
        "[switch]\nageing = 300",
        "[switch]\ntable_size = 0",
        "[endpoint]\nurl = 'fd://3'",
        "[[endpoint]]\nname = 'a'",
        "[[endpoint]]\nurl = 'lan'",
        "[[endpoint]]\nurl = 'fd://3'\nvlna = 10",
        "[[endpoint]]\nurl = 'fd://3'\nvlan = 4095",
        "[[endpoint]]\nurl = 'fd://3'\nmode = '0660'",
        "[[endpoint]]\nurl = 'fd://3'\nmirror = 'all'",
    ],
)
def test_what_the_program_refuses_it_refuses(content: str) -> None:
    assert not CHECK.is_valid(tomllib.loads(content))
