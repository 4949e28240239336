"""The command line. `serve` builds a switch; every other command asks a running one over its control socket.

Exit codes: 0 done; 1 the system or the moment refuses; 2 something is written wrongly. An error is one line.
"""

import sys

import click

from vswitch.cli.completion import completion
from vswitch.cli.serve import serve
from vswitch.cli.show import macs, ports, status
from vswitch.errors import VSwitchError
from vswitch.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vswitch", message="%(prog)s %(version)s")
def cli() -> None:
    """A virtual LAN for QEMU guests, in one process and without root."""


for command in (serve, status, ports, macs, completion):
    cli.add_command(command)


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        code = cli.main(prog_name="vswitch", standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except VSwitchError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # or the interpreter complains about standard output when it exits
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print(f"vswitch: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
