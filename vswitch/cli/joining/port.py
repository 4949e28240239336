"""A port of a running switch, which is there as long as somebody holds the other end of its cable."""

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vswitch.cli.options import key_values
from vswitch.control import client, operations
from vswitch.control.model import AttachRequest
from vswitch.errors import InputError
from vswitch.ports import policy

find = client.find


def plug(switch: str | None, name: str | None, parameters: Iterable[str]) -> tuple[str, socket.socket]:
    """The port's name, and the other end of its cable: a stream socket with QEMU's framing. Raises InputError and
    RefusedError."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            return attach(find(switch), theirs.fileno(), name, parameters), ours
    except BaseException:
        ours.close()
        raise


def attach(
    switch: Path, descriptor: int, name: str | None, parameters: Iterable[str], *, with_process: bool | int = False
) -> str:
    """Passes a descriptor on; answers the name of its port, which goes `with_process`: this one, or the one of a PID.

    Raises InputError and RefusedError.
    """
    wanted = _read(parameters) | ({} if name is None else {"name": name})
    url = f"fd://{descriptor}"
    request = AttachRequest(url=url, parameters=wanted, with_process=with_process)
    try:
        return client.call(switch, operations.ATTACH, body=request, descriptor=descriptor).name
    except InputError as error:  # which nobody knows by that URL
        raise InputError(str(error).removeprefix(f"{url}: ")) from None


def detach(switch: Path, name: str) -> None:
    client.call(switch, operations.DETACH, name=name)


def _read(texts: Iterable[str]) -> dict[str, Any]:
    """Parameters as TOML has them; a list may be given item by item. Raises InputError."""
    found: dict[str, Any] = {}
    for key, value in key_values(texts):
        if key not in policy.LISTS:
            if key in found:
                raise InputError(f"parameter {key!r} is given twice")
            found[key] = value
        else:
            found.setdefault(key, []).append(value)
    return found
