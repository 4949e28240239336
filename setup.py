"""Compiles the data plane with mypyc. VSWITCH_PURE=1 builds a pure-Python package instead."""

import os
from pathlib import Path
from typing import cast

from setuptools import Extension, setup

DATA_PLANE = sorted(str(path) for path in Path("vswitch/dataplane").glob("*.py"))
# What edges do for each frame; the rest of that room is plain Python.
EDGES = [f"vswitch/edges/{name}.py" for name in ("pcapng", "capture", "recorder")]


def extensions() -> list[Extension]:
    if os.environ.get("VSWITCH_PURE", "").lower() in ("1", "yes", "on", "true"):
        return []
    from mypyc.build import mypycify

    # The data plane imports nothing but itself, librt and the standard library, so mypy need not look further.
    options = ["--config-file=", "--strict", "--follow-imports=skip"]
    modules = mypycify([*options, *DATA_PLANE, *EDGES], opt_level="3", group_name="vswitch_dataplane")
    for module in modules:
        # Lets the C compiler inline one module's functions into another's.
        module.extra_compile_args += ["-fno-semantic-interposition"]
    return cast(list[Extension], modules)


setup(ext_modules=extensions())
