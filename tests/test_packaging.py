"""How the package is built: what a source distribution has in it, and what is said if it cannot be compiled."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.needs import require

ROOT = Path(__file__).parents[1]


def checkout(directory: Path) -> Path:
    """A copy of the checkout, with what is not to be in a source distribution, to build in."""
    require((ROOT / "setup.py").exists(), "the tests are not in a checkout")
    require(int(version("setuptools").partition(".")[0]) >= 77, "needs setuptools 77, as the build does")
    copy = directory / "copy"
    # What other tests make and remove meanwhile is left alone.
    made = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "vswitch-output")
    shutil.copytree(ROOT, copy, ignore=made)
    return copy


def set_up(copy: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=copy,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_source_distribution_has_all_that_its_tests_and_docs_take(tmp_path: Path) -> None:
    copy = checkout(tmp_path)
    (copy / "tests" / "__pycache__").mkdir()
    (copy / "tests" / "__pycache__" / "test.cpython-311.pyc").touch()
    assert set_up(copy, "sdist", VSWITCH_PURE="1").returncode == 0
    (file,) = (copy / "dist").iterdir()
    with tarfile.open(file) as archive:
        packed = {member.name.partition("/")[2]: member.mode for member in archive if member.isfile()}
    kept = [path for top in ("docs", "tests", "tools", "vswitch") for path in (copy / top).rglob("*")]
    kept += [copy / name for name in ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "setup.py")]
    for path in kept:
        if path.is_file() and path.parent.name != "__pycache__":
            assert packed[str(path.relative_to(copy))] & 0o100 == path.stat().st_mode & 0o100
    assert not any("__pycache__" in name for name in packed)


@pytest.mark.parametrize(("cc", "source"), [("no-such-compiler", "int x;"), ("cc", "#include <no-such-header.h>")])
def test_a_build_that_cannot_compile_says_what_it_takes_and_how_to_go_without(
    tmp_path: Path, cc: str, source: str
) -> None:
    require(cc != "cc" or shutil.which("cc"), "needs a C compiler")
    copy = checkout(tmp_path)
    (copy / "x.c").write_text(source)
    (copy / "mypyc").mkdir()  # in place of the real one, which takes its time
    (copy / "mypyc" / "__init__.py").touch()
    build = "from setuptools import Extension\n\n\ndef mypycify(*_, **__):\n    return [Extension('x', ['x.c'])]\n"
    (copy / "mypyc" / "build.py").write_text(build)
    done = set_up(copy, "build_ext", CC=cc, PYTHONPATH=f"{copy}:{os.environ.get('PYTHONPATH', '')}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.search(r"cannot be compiled.*gcc python3-dev.*VSWITCH_PURE=1", last)
    assert "Traceback" not in done.stderr
    assert "[Errno" not in done.stderr
