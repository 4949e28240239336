"""`vswitch completion`: the script that makes a shell complete vswitch's commands and options."""

import click
from click.shell_completion import get_completion_class

from vswitch.cli.output import say

COMPLETE = "_VSWITCH_COMPLETE"  # the variable by which the script asks


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    For bash: put  eval "$(vswitch completion bash)"  into ~/.bashrc.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    say(kind(context.find_root().command, {}, "vswitch", COMPLETE).source())
