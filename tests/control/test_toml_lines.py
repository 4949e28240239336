"""Lines of TOML files, found without a parser that knows them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.control.toml_lines import Place, line_of

FILE = '''\
# a comment with switch = 1
[switch]
name = "lab"  # name

note = """
ageing = "this is text"
[[endpoint]]
"""
ageing = "300s"

[[endpoint]]
url = "tcp://127.0.0.1:1234"
trunk = [
    10,

    20,
]
vlan = 10
[[endpoint]]
# nothing yet
endpoint.name = 5
"url" = 'unix:///a'
other = { name = "b", vlan = 3 }'''


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ((), 1),
        (("switch",), 2),
        (("switch", "name"), 3),
        (("switch", "note"), 5),
        (("switch", "ageing"), 9),
        (("endpoint",), 11),
        (("endpoint", 1), 11),
        (("endpoint", 1, "url"), 12),
        (("endpoint", 1, "trunk"), 13),
        (("endpoint", 1, "vlan"), 18),
        (("endpoint", 2), 19),
        (("endpoint", 2, "endpoint", "name"), 21),
        (("endpoint", 2, "url"), 22),
        (("endpoint", 2, "other", "vlan"), 23),
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\n\n# the end\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_line_on_which_it_begins(place: Place, line: int, end: str, newline: str) -> None:
    assert line_of((FILE + end).replace("\n", newline), place) == line


VALUES = st.sampled_from(["1", '"text"', '"""\n\nkey0 = 1\n"""', "[\n1,\n\n2,\n]", "[]", "'''\n[table]\n'''"])
BETWEEN = st.sampled_from(["", "\n", "# key1 = 2\n", "\n\n# [table]\n"])


@given(st.lists(st.tuples(BETWEEN, VALUES), min_size=1, max_size=12), st.data())
def test_whatever_comes_before_and_behind(entries: list[tuple[str, str]], data: st.DataObject) -> None:
    text, lines = "[table]\n", []
    for number, (between, value) in enumerate(entries):
        text += between
        lines.append(text.count("\n") + 1)
        text += f"key{number} = {value}\n"
    wanted = data.draw(st.integers(0, len(entries) - 1))
    assert line_of(text, ("table", f"key{wanted}")) == lines[wanted]
