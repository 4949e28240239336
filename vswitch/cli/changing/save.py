"""`vswitch save`: a running switch as a configuration file."""

import os
import stat
import tempfile
from pathlib import Path

import click

from vswitch.cli.options import names_switch
from vswitch.cli.output import say
from vswitch.control import client, operations
from vswitch.errors import InputError, RefusedError, path_advice


@click.command()
@click.argument("file", required=False, type=click.Path())
@names_switch
def save(file: str | None, name: str | None) -> None:
    """Write a switch as a configuration file, or print it.

    It is as the switch is now. What was set on a single port of a listener, and partitions, are not in it.
    """
    if file == "":
        raise InputError("the file has no name")
    text = client.ask(client.find(name), operations.SAVED)
    if file is None:
        say(text.decode(errors="surrogateescape"), end="")
        return
    try:
        _write(Path(file), text)
    except OSError as error:
        raise RefusedError(f"{file}: {error.strerror}{path_advice(error)}") from None


def _write(path: Path, text: bytes) -> None:
    """All of it, or nothing; the file keeps its permissions. What is no file, such as a pipe, is written to."""
    if path.exists() and not path.is_file():
        path.write_bytes(text)
        return
    path = path.resolve()  # of a link, the file
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".vswitch-", delete=False) as new:
        try:
            new.write(text)
            new.flush()
            os.fchmod(new.fileno(), stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
            os.rename(new.name, path)
        except OSError:
            os.unlink(new.name)
            raise


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
