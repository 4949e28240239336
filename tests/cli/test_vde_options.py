"""The command line of `vde_switch`, as far as it goes without a process."""

import os
import re

import pytest

from vswitch.cli import vde_options, vde_switch
from vswitch.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["-sock", "/run/x", "-hub"], {"sock": ["/run/x"], "hub": [""]}),
        (["--vdesock=/run/x", "-mod", "600"], {"sock": ["/run/x"], "mode": ["600"]}),
        (["-s/run/x", "-m600", "-n4"], {"sock": ["/run/x"], "mode": ["600"], "numports": ["4"]}),
        (
            ["-so", "x", "-hu", "-daem", "--numports", "4"],
            {"sock": ["x"], "hub": [""], "daemon": [""], "numports": ["4"]},
        ),
        (["-xds", "x"], {"hub": [""], "daemon": [""], "sock": ["x"]}),
        (["-unix", "a", "--s", "b"], {"sock": ["a", "b"]}),
        (["--n", "4"], {"numports": ["4"]}),
        (["-nn"], {"numports": ["n"]}),
        (["-t", "a,b", "-tap=c"], {"tap": ["a,b", "c"]}),
        (["-s", "-x"], {"sock": ["-x"]}),
        (["--nostdin", "--"], {"nostdin": [""]}),
        (["--mo=0"], {"mode": ["0"]}),
        (["-sock="], {"sock": [""]}),
        ([], {}),
    ],
)
def test_options_are_read_as_vde_switch_reads_them(arguments: list[str], given: vde_options.Given) -> None:
    assert vde_options.read(arguments) == given


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--m", "600"], "--mode, --mgmt, --mgmtmode, --mgmtgroup, --macaddr; write it in full"),
        (["--sock"], "--sock needs a value, DIR"),
        (["-xs"], "--sock needs a value"),
        (["-hub=yes"], "--hub takes no value"),
        (["-Z"], "unknown option -Z"),
        (["-xZ"], "unknown option -Z"),
        (["--no"], "unknown option --no"),
        (["-"], "'-' is no option"),
        (["--", "-x"], "'-x' is no option"),
        (["-x", ""], "'' is no option"),
    ],
)
def test_options_that_cannot_be_right(arguments: list[str], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        vde_options.read(arguments)


@pytest.mark.parametrize(("uid", "directory"), [(0, "/var/run/vde.ctl"), (1000, "/tmp/vde.ctl")])
def test_where_it_is_without_a_directory(monkeypatch: pytest.MonkeyPatch, uid: int, directory: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert vde_switch._plan({"rcfile": ["/dev/null"]}).endpoints[0].path == directory


def test_paths_with_signs_that_a_url_would_read_are_paths() -> None:
    given = {"sock": ["/run/50%25?limit=1"], "mgmt": ["a&b"], "rcfile": ["/dev/null"]}
    config = vde_switch._plan(given).endpoints[0]
    assert (config.path, config.mgmt) == ("/run/50%25?limit=1", f"{os.getcwd()}/a&b")
