"""The commands `vswitch` (or `python -m vswitch`) and `vde_switch`. Ctrl-C ends them without a word, also as they load.

An interrupt during an import can surface anywhere, and even get lost: there it ends the process as it is.
"""

import os
import signal
import sys
from importlib import import_module

INTERRUPTED = 130


def main() -> None:
    """Run the command line of this process and exit."""
    _run("vswitch.cli")


def vde_switch() -> None:
    """The same as the command `vde_switch`."""
    _run("vswitch.cli.vde_switch")


def _run(module: str) -> None:
    may_be_interrupted = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if may_be_interrupted:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    command = import_module(module).main
    try:
        if may_be_interrupted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
