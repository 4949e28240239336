"""The command line. `serve` builds a switch, and `demo`; the other commands ask a running one over its control socket.

Exit codes: 0 done; 1 the system or the moment refuses; 2 something is written wrongly. An error is one line.
"""

import errno
import os
import sys
from importlib import import_module

import click

from vswitch.cli.completion import COMPLETE
from vswitch.cli.output import complain, give_up
from vswitch.errors import VSwitchError, only, printable
from vswitch.version import __version__

COMMANDS = {  # and the file of each
    "serve": "serving.serve",
    "demo": "demo",
    "list": "looking.switches",
    "status": "looking.show",
    "ports": "looking.show",
    "macs": "looking.show",
    "vlans": "looking.show",
    "events": "looking.events",
    "flows": "looking.flows",
    "top": "looking.top",
    "metrics": "looking.show",
    "trace": "looking.trace",
    "log-level": "changing.log_level",
    "failures": "looking.show",
    "capture": "capturing.capture",
    "dump": "capturing.capture",
    "extcap": "capturing.extcap",
    "qemu-args": "guest_side",
    "libvirt-xml": "guest_side",
    "attach": "changing.attach",
    "detach": "changing.attach",
    "plug": "joining.plug",
    "join": "joining.join",
    "exec": "joining.exec",
    "netns": "joining.exec",
    "fabric": "fabric.commands",
    "port": "changing.port",
    "mac": "changing.mac",
    "mirror": "changing.port",
    "partition": "changing.partition",
    "isolate": "changing.partition",
    "heal": "changing.partition",
    "forward": "changing.forward",
    "forwards": "looking.user_network",
    "leases": "looking.user_network",
    "nat": "looking.user_network",
    "hosts": "looking.user_network",
    "ssh": "changing.forward",
    "save": "changing.save",
    "reload": "changing.reload",
    "check": "check",
    "schema": "check",
    "lab": "lab",
    "console": "lab",
    "image": "image",
    "completion": "completion",
}


class Commands(click.Group):
    """Loads a command when it is asked for: to ask a switch takes less time than to load all that one is made of."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = import_module(f"vswitch.cli.{COMMANDS[cmd_name]}")
        found = getattr(module, name, None) or getattr(module, f"{name}_")  # as a function of Python's has the name
        assert isinstance(found, click.Command)
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vswitch", message="%(prog)s %(version)s")
def cli() -> None:
    """A virtual LAN for QEMU guests, in one process and without root."""


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        cli.main(prog_name="vswitch", complete_var=COMPLETE, standalone_mode=False)
    except BaseException as error:
        code = _tell(only(error))
        if code is None:
            raise
        sys.exit(code)
    sys.exit(0)


def _tell(error: BaseException) -> int | None:
    """Say what a person did wrong or the system refuses, in one line; answers the exit code, or None for a bug."""
    if os.environ.get(COMPLETE) and isinstance(error, Exception):  # a shell asks, whose line must not be spoilt
        return 1
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        complain(error.format_message())
        return 2
    if isinstance(error, click.ClickException):
        return _fail(error.format_message(), 2)
    if isinstance(error, VSwitchError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, BrokenPipeError):
        give_up()
        return 1
    if isinstance(error, OSError):  # such as help that cannot be written
        give_up()
        return _fail(_reason(error), 1)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return 130
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    return None


def _reason(error: OSError) -> str:
    """What the system says, in words, and what to do about it."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}: the limit of open files is too low; raise it, as with: ulimit -n 1024"
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}"


def _fail(message: str, code: int) -> int:
    complain(f"vswitch: {printable(' '.join(message.split()))}")
    return code
