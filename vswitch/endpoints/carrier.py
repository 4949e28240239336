"""Takes the carrier of a guest's card away when its port goes down by its policy, and gives it back: QMP's set_link.

The guest then sees that its cable is out, which a port that only drops does not tell it. QEMU: qapi/net.json.
"""

import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import trio

from vswitch.errors import RefusedError
from vswitch.ports.ports import Ports

QMP_S = 5.0  # how long QEMU may take; it talks to one client at a time
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
        self._told = True  # a guest starts with one
        self.changed = trio.Event()  # to be set when the policy has changed

    async def run(self) -> None:
        """Tell QEMU of each change until cancelled. What it does not take is an event."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_for_new_guests)
            while True:
                up = self._is_up()
                if up != self._told:
                    self._told = up
                    await self._tell(up)
                    continue
                self.changed = trio.Event()
                await self.changed.wait()

    async def _look_for_new_guests(self) -> None:
        kept = self._ports.events.kept()
        async with aclosing(self._ports.events.follow(kept[-1].number if kept else 0)) as events:
            async for event in events:
                if event.code == "up" and self._name in event.ports:
                    self._told = True
                    self.changed.set()

    async def _tell(self, up: bool) -> None:
        try:
            await set_link(self._qmp, self._netdev, up)
        except RefusedError as error:
            what = "is up" if up else "is down"
            text = f"{self._name}: its guest does not see that its port {what}: {error}"
            self._ports.events.say("qmp", self._name, text, ports=[self._name])


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
    except ValueError:
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
