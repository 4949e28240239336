"""What --help says fits on a terminal of 80 columns, whole."""

import re

import click
import pytest

from tests.cli.program import FRESH, Home
from vswitch.cli import COMMANDS, cli

CONTEXT = click.Context(cli)
FOUND = [cli, *filter(None, (cli.get_command(CONTEXT, name) for name in COMMANDS))]
GROUPS = [command for command in FOUND if isinstance(command, click.Group)]


def said(home: Home, *arguments: str) -> str:
    """Each command's help is asked of a program that has loaded nothing else."""
    done = home.run(*arguments, "--help", env={"COLUMNS": "80"}, under=FRESH)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: str(group.name))
def test_each_command_is_summed_up_in_a_whole_sentence(home: Home, group: click.Group) -> None:
    arguments = [] if group is cli else [str(group.name)]
    _, _, listed = said(home, *arguments).partition("Commands:\n")
    summaries = dict(re.findall(r"^  (\S+)  +(.*)$", listed, re.MULTILINE))
    assert set(summaries) == set(group.list_commands(CONTEXT))
    assert len(summaries) == len(listed.splitlines())
    for summary in summaries.values():
        assert re.fullmatch(r"[A-Z].*[^.]\.", summary), summary


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_no_wider_than_the_terminal(home: Home, command: str) -> None:
    assert max(map(len, said(home, command).splitlines())) <= 80
