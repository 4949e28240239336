"""`vswitch check` and `vswitch schema`: configuration files without a switch."""

import json

import pytest

from tests.cli.program import Home, is_one_line

RIGHT = """
[switch]
name = "lab"

[[endpoint]]
url = "tcp://127.0.0.1:1234"
name = "web"
vlan = 10

[[endpoint]]
url = "unix://lan.sock"
mirror_of = ["web", "web.1"]
"""


def test_a_file_that_is_right_is_said_to_be(home: Home) -> None:
    (home.root / "lab.toml").write_text(RIGHT)
    done = home.run("check", "lab.toml")
    assert (done.returncode, done.stdout, done.stderr) == (0, "lab.toml: right, for 2 endpoints\n", "")


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("name = ", "nmae = ", "lab.toml:3: [switch] has an unknown entry 'nmae'; did you mean 'name'?"),
        ("vlan = ", "vlna = ", "lab.toml:8: [[endpoint]] 1: tcp://127.0.0.1:1234: unknown parameter 'vlna' for tcp://"),
        ('["web", "web.1"]', '"wbe"', "lab.toml:12: [[endpoint]] 2: unix://lan.sock: mirror_of: there is no endpoint"),
        ("mirror_of", 'name = "web"\nmirror_of', "lab.toml:12: [[endpoint]] 2: there is an endpoint 'web' already"),
        ("lan.sock", "x" * 120, "lab.toml:11: [[endpoint]] 2: unix://"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(home: Home, wrong: str, right: str, said: str) -> None:
    (home.root / "lab.toml").write_text(RIGHT.replace(wrong, right, 1))
    done = home.run("check", "lab.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_line(done.stderr)
    assert done.stderr.startswith(f"vswitch: {said}")


def test_what_check_takes_is_served(home: Home) -> None:
    (home.root / "lab.toml").write_text(RIGHT.replace(":1234", ":0"))
    assert home.run("check", "lab.toml").returncode == 0
    with home.serve("--config", "lab.toml"):
        assert [endpoint["name"] for endpoint in home.get("endpoints", "lab")] == ["web", "unix1"]


def test_the_schema_is_json(home: Home) -> None:
    done = home.run("schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(json.loads(done.stdout)["properties"]) == {"switch", "endpoint"}
