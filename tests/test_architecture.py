"""The house: imports run one way, downwards, and the data plane stays by itself (docs/architecture.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vswitch

PACKAGE = Path(vswitch.__file__ or "").parent
ROOMS = ["cli", "testing", "switch", "control", "services", "endpoints", "ports", "edges", "protocols", "dataplane"]
# In this order, and known to all but the data plane.
GROUND = [
    "heap",
    "values",
    "sparingly",
    "budget",
    "seldom",
    "pace",
    "units",
    "interfaces",
    "outlet",
    "supervision",
    "errors",
    "version",
]
DATA_PLANE_MAY_IMPORT = {
    *("collections", "ctypes", "errno", "fcntl", "librt", "mmap", "mypy_extensions", "os", "select", "socket"),
    *("struct", "sys", "threading", "time", "typing"),
}
SERVE_MUST_NOT_IMPORT = {"scapy"}

FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """The room of `vswitch.room.…`; what the front door hands out is for those above the switch."""
    name = module.split(".")[1]
    return "switch" if name in vswitch.__all__ else name


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_what_is_slow_to_load_is_loaded_when_it_is_needed() -> None:
    script = "import sys, vswitch.switch; sys.exit('pyroute2' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_imports_run_downwards(path: Path) -> None:
    place = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if place in ("__init__", "__main__"):  # the front door
        return
    order = ROOMS + GROUND
    assert place in order, f"{place} is no room of the house"
    for module in imports(path):
        if module.startswith("vswitch."):
            assert order.index(room(module)) >= order.index(place), f"{place} may not know {module}"
        if place == "dataplane" and not module.startswith("vswitch."):
            assert module.split(".")[0] in DATA_PLANE_MAY_IMPORT
        if place != "testing":
            assert module.split(".")[0] not in SERVE_MUST_NOT_IMPORT
    if place == "dataplane":
        assert all(room(module) == "dataplane" for module in imports(path) if module.startswith("vswitch."))
