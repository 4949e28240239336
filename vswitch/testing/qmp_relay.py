"""QMP for others: what a client of a unix socket asks, a guest's QEMU is asked (docs/interop/qmp-spec).

QEMU has one QMP channel, which is ours: it cannot be given another one while it runs. Events are not passed on.
"""

import json
from typing import Any

import trio

from vswitch.testing.qemu import Qemu, QemuError

LINE_MAX = 1 << 20
GREETING = {
    "QMP": {"version": {"qemu": {"major": 0, "minor": 0, "micro": 0}, "package": "vswitch"}, "capabilities": []}
}


async def relay(stream: trio.abc.Stream, qemu: Qemu) -> None:
    """Serves a client until it hangs up, or says what is too long."""
    buffer = bytearray()
    try:
        await stream.send_all(_line(GREETING))
        while len(buffer) <= LINE_MAX and (data := await stream.receive_some()):
            buffer += data
            *lines, rest = buffer.split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                if line.strip():
                    await stream.send_all(_line(await _answer(bytes(line), qemu)))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\r\n"


async def _answer(line: bytes, qemu: Qemu) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        command, arguments = asked["execute"], asked.get("arguments", {})
        if not isinstance(command, str) or not isinstance(arguments, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _error("QMP input must be a JSON object with 'execute'")
    number = {"id": asked["id"]} if "id" in asked else {}
    if command == "qmp_capabilities":
        return {"return": {}, **number}
    try:
        return {"return": await qemu.qmp(command, **arguments), **number}
    except QemuError as error:
        return {**_error(str(error)), **number}


def _error(text: str) -> dict[str, Any]:
    return {"error": {"class": "GenericError", "desc": text}}
