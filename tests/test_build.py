"""Which build the suite runs against: `tools/test` says it in VSWITCH_EXPECT."""

import importlib
import os
import pkgutil
from pathlib import Path

import pytest

import vswitch
from vswitch import dataplane

BUILD = "compiled" if dataplane.compiled() else "pure"
MODULES = [module.name for module in pkgutil.iter_modules(dataplane.__path__, "vswitch.dataplane.")]
MODULES += [f"vswitch.edges.{name}" for name in ("pcapng", "capture", "recorder", "flows")]
MODULES += ["vswitch.services.user_network.coalescing"]


def test_the_suite_runs_against_the_build_it_is_meant_to() -> None:
    assert os.environ.get("VSWITCH_EXPECT", BUILD) == BUILD


@pytest.mark.parametrize("name", ["vswitch.dataplane", *MODULES])
def test_every_module_that_is_compiled_is_of_that_build(name: str) -> None:
    file = importlib.import_module(name).__file__
    assert file is not None
    assert Path(file).suffix == {"compiled": ".so", "pure": ".py"}[BUILD]


def test_the_package_under_test_is_one_installation() -> None:
    assert vswitch.__file__ is not None
    assert dataplane.__file__ is not None
    assert Path(dataplane.__file__).is_relative_to(Path(vswitch.__file__).parent)
