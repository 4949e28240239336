"""Compiles the data plane with mypyc. VSWITCH_PURE=1 builds a pure-Python package instead."""

import os
from pathlib import Path
from typing import cast

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError, LinkError, SetupError

DATA_PLANE = sorted(str(path) for path in Path("vswitch/dataplane").glob("*.py"))
# What edges, and user networks, do for each frame; the rest of these rooms is plain Python.
EDGES = [f"vswitch/edges/{name}.py" for name in ("pcapng", "capture", "recorder", "flows")]
USER_NETWORK = ["vswitch/services/user_network/coalescing.py"]


def extensions() -> list[Extension]:
    if os.environ.get("VSWITCH_PURE", "").lower() in ("1", "yes", "on", "true"):
        return []
    from mypyc.build import mypycify

    # The data plane imports nothing but itself, librt and the standard library, so mypy need not look further.
    options = ["--config-file=", "--strict", "--follow-imports=skip"]
    modules = mypycify([*options, *DATA_PLANE, *EDGES, *USER_NETWORK], opt_level="3", group_name="vswitch_dataplane")
    for module in modules:
        # Lets the C compiler inline one module's functions into another's.
        module.extra_compile_args += ["-fno-semantic-interposition"]
    return cast(list[Extension], modules)


class Build(build_ext):
    """Says what to do where there is no C compiler, or not what it needs; what the compiler says is above."""

    def run(self) -> None:
        try:
            super().run()
        except (BaseError, CompileError, LinkError):
            raise SetupError(
                "the data plane cannot be compiled; it takes a C compiler and Python's headers (Debian: apt install "
                "gcc python3-dev); or, at a small part of the speed, go without: VSWITCH_PURE=1 pip install ..."
            ) from None


setup(ext_modules=extensions(), cmdclass={"build_ext": Build})
