"""Tables on terminals of any width: what is shown is whole, and what is not is said."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.program import Home, connect
from tests.frames import BROADCAST, frame, framed, mac
from tests.waiting import until

NAME = "averylongendpointname"
GUESTS = 8
NAMES = [f"{NAME}.{number}" for number in range(1, GUESTS + 1)]
TABLES = ["ports", "macs", "vlans", "failures"]


@pytest.fixture(scope="module")
def lan() -> Iterator[Home]:
    """A switch with guests whose ports have long names, in VLAN 10. No test here changes any of it."""
    with ExitStack() as stack:
        home = Home(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp"))))
        stack.enter_context(home.serve(f"unix://lan.sock?name={NAME}&vlan=10"))
        guests = [stack.enter_context(connect(f"unix://{home.root}/lan.sock")) for _ in range(GUESTS)]
        until(lambda: len(home.get("ports")) == GUESTS, "the guests are in")
        for number, guest in enumerate(guests, 1):
            guest.sendall(framed([frame(BROADCAST, mac(number))]))
        until(lambda: len(home.get("macs")) == GUESTS, "the guests are known")
        yield home


def shown(home: Home, columns: int, *arguments: str) -> str:
    """What is on the terminal, without what makes it bold."""
    return re.sub(r"\x1b\[[0-9;]*m", "", home.show(columns, *arguments))


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("command", TABLES)
def test_nothing_is_wider_than_the_terminal_and_no_name_is_broken(lan: Home, command: str, columns: int) -> None:
    text = shown(lan, columns, command)
    assert max(map(len, text.splitlines())) <= columns
    names = re.findall(r"\bave[^\s,]*", text)
    if command == "failures" or (command, columns) == ("macs", 40):  # there are none; there is no room
        assert names == []
    else:
        assert sorted(names) == NAMES


@pytest.mark.parametrize("columns", [40, 80])
def test_a_port_is_one_line_of_whole_columns(lan: Home, columns: int) -> None:
    head, *lines = shown(lan, columns, "ports").splitlines()
    assert [line.split()[0] for line in lines[:GUESTS]] == NAMES
    assert head.split()[:2] == ["PORT", "LINK"]
    assert all(line.split()[1] == "up" for line in lines[:GUESTS])


def test_what_is_left_out_first_is_of_least_importance_and_is_said(lan: Home) -> None:
    head, *_ = shown(lan, 80, "ports").splitlines()
    for kept in ("PORT", "LINK", "PEER", "VLAN"):
        assert kept in head
    for dropped in ("QUEUED", "BYTES"):
        assert dropped not in head
    said = " ".join(shown(lan, 40, "ports").splitlines()[1 + GUESTS :])
    assert said == "No room for PEER, RX FRAMES, RX BYTES, TX FRAMES, TX BYTES, QUEUED, DROPPED; --wide shows all."


def test_nothing_is_said_where_there_is_room(lan: Home) -> None:
    assert len(shown(lan, 200, "ports").splitlines()) == 1 + GUESTS


@pytest.mark.parametrize("command", TABLES)
def test_wide_shows_what_a_pipe_gets(lan: Home, command: str) -> None:
    ages = re.compile(r" *\d+s$", re.MULTILINE)  # 10s moves what stands to the right, 9s did not
    piped = lan.run(command, env={"COLUMNS": "40"}).stdout
    assert ages.sub("", shown(lan, 40, command, "--wide")) == ages.sub("", piped)
    assert "No room" not in piped


def test_lists_of_ports_go_on_below_each_other(lan: Home) -> None:
    lines = shown(lan, 80, "vlans").splitlines()
    assert lines[0].split() == ["VLAN", "UNTAGGED", "TAGGED"]
    assert lines[1].split()[0] == "10"
    assert len(lines) > GUESTS / 2


def test_facts_go_on_below_each_other(lan: Home) -> None:
    lines = shown(lan, 40, "status").splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[0].startswith("switch      default")
