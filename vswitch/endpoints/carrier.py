"""Takes the carrier of a guest's card away when its port goes down by its policy, and gives it back: QMP's set_link.

The guest then sees that its cable is out, which a port that only drops does not tell it. QEMU: qapi/net.json.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import trio

from vswitch.errors import RefusedError
from vswitch.ports.ports import Ports

QMP_S = 5.0  # how long QEMU may take; it talks to one client at a time
RETRY_MIN_S, RETRY_MAX_S = 1.0, 60.0
LINE_MAX = 1 << 16
EVENTS_MAX = 100  # before an answer


class Carrier:
    """One guest's, behind the port `name`; `is_up` says whether it should have one. QEMU's socket is at `qmp`."""

    def __init__(self, name: str, qmp: str, netdev: str, ports: Ports, is_up: Callable[[], bool]) -> None:
        self._name = name
        self._qmp = qmp
        self._netdev = netdev
        self._ports = ports
        self._is_up = is_up
        self._told: bool | None = None  # not known: an earlier switch may have told it something
        self._changed = trio.Event()
        ports.links.on_plug[name] = self._guest_came

    def look(self) -> None:
        """The policy may have changed."""
        self._changed.set()

    def close(self) -> None:
        """Its port goes."""
        self._ports.links.on_plug.pop(self._name, None)

    def _guest_came(self) -> None:
        self._told = None
        self.look()

    async def run(self) -> None:
        """Tell QEMU what it does not know yet, while it is plugged in, until cancelled. What it refuses is an event."""
        pause_s = RETRY_MIN_S
        while True:
            self._changed = trio.Event()
            up, port = self._is_up(), self._ports.named(self._name)
            wait_s = math.inf
            if port is not None and port.link is not None and up != self._told:
                self._told = up  # before it is told: a guest that comes meanwhile knows nothing again
                if await self._tell(up):
                    pause_s = RETRY_MIN_S
                    continue  # it may have changed meanwhile
                self._told = None
                wait_s, pause_s = pause_s, min(2 * pause_s, RETRY_MAX_S)
            with trio.move_on_after(wait_s):
                await self._changed.wait()

    async def _tell(self, up: bool) -> bool:
        """Whether QEMU knows it now."""
        try:
            await set_link(self._qmp, self._netdev, up)
        except RefusedError as error:
            what = "is up" if up else "is down"
            text = f"{self._name}: its guest does not see that its port {what}: {error}"
            self._ports.events.say("qmp", self._name, text, ports=[self._name])
            return False
        return True


async def set_link(path: str, netdev: str, up: bool) -> None:
    """Have the QEMU that answers QMP at `path` give a card its carrier, or take it. Raises RefusedError."""
    try:
        with trio.fail_after(QMP_S):
            async with await trio.open_unix_socket(path) as stream:
                lines = _Lines(stream)
                await lines.next()  # the greeting
                await lines.ask("qmp_capabilities")
                await lines.ask("set_link", name=netdev, up=up)
    except trio.TooSlowError:
        raise RefusedError(f"no answer at {path} within {QMP_S:.0f} s; QMP has one client at a time") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise RefusedError(f"no QEMU answers at {path} ({getattr(error, 'strerror', None) or error})") from None
    except (ValueError, RecursionError):
        raise RefusedError(f"what answers at {path} does not speak QMP") from None


class _Lines:
    """JSON objects over a stream, a line each."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._rest = b""

    async def ask(self, command: str, **arguments: object) -> None:
        """Raises RefusedError with what QEMU says is wrong, ValueError for what is not QMP, OSError."""
        await self._stream.send_all(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        for _ in range(EVENTS_MAX):
            answer = await self.next()
            if "return" in answer:
                return
            if "error" in answer:
                raise RefusedError(f"QEMU says: {str(answer['error'])[:200]}")
        raise ValueError

    async def next(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            more = await self._stream.receive_some()
            if not more:
                raise trio.BrokenResourceError("it hung up")
            self._rest += more
            if len(self._rest) > LINE_MAX:
                raise ValueError
        line, _, self._rest = self._rest.partition(b"\n")
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError
        return found
