"""Ports that a change has nothing to do with lose nothing while it is made, at full speed: frames are numbered."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.frames import BROADCAST, frame, mac
from tests.peers import TIMEOUT_S, Peer, check_balance, until
from vswitch import VSwitch
from vswitch.control.capture_requests import CaptureRequest
from vswitch.control.config import SwitchConfig
from vswitch.control.recording import RecordLimits
from vswitch.endpoints.url import EndpointConfig, parse

BATCH = 50
WINDOW = 1000  # frames that are on their way at most: far fewer than the queue holds
PASSES = 500  # frames that pass before a change is over

Change = Callable[[VSwitch], object]


class Stream:
    """Numbered frames from one peer to another, as fast as they come in; `passed` are those that did, in order."""

    def __init__(self, sender: Peer, receiver: Peer) -> None:
        self._sender = sender
        self._receiver = receiver
        self.passed = 0
        self._room = trio.Event()
        self._wanted = math.inf

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            sent = 0
            while sent < self._wanted:
                if sent - self.passed >= WINDOW:
                    self._room = trio.Event()
                    with trio.fail_after(TIMEOUT_S):
                        await self._room.wait()
                await self._sender.send(*map(self._frame, range(sent, sent + BATCH)))
                sent += BATCH
            await until(lambda: self.passed == sent)
            nursery.cancel_scope.cancel()

    async def goes_on(self) -> None:
        """Return when so many more have passed that each batch on its way has met what there is now."""
        wanted = self.passed + WINDOW + PASSES
        await until(lambda: self.passed >= wanted)

    def end(self) -> None:
        self._wanted = 0

    async def _receive(self) -> None:
        while True:
            [came] = await self._receiver.receive(1)
            assert came == self._frame(self.passed), f"after {self.passed} frames"
            self.passed += 1
            self._room.set()

    @staticmethod
    def _frame(number: int) -> bytes:
        return frame(mac(2), mac(1), payload=number.to_bytes(8))


@asynccontextmanager
async def busy(switch: VSwitch) -> AsyncIterator[Stream]:
    """Traffic between `a` and `b` at full speed, and two more ports beside them."""
    peers = {name: await Peer.plugged_into(switch, name=name, vlan=10) for name in "abcd"}
    await peers["b"].send(frame(BROADCAST, mac(2)))
    await peers["a"].receive(1)
    stream = Stream(peers["a"], peers["b"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.run)
        await stream.goes_on()
        yield stream
        await stream.goes_on()
        stream.end()
    for peer in peers.values():
        peer.close()
    dropped = {port.name: port.drops for port in switch.ports() if port.name in "ab"}
    assert all(not drops for drops in dropped.values()), dropped
    check_balance(switch)


def amend(name: str, **parameters: object) -> Change:
    return lambda switch: switch.policies.amend(name, parameters)


async def capture(switch: VSwitch) -> None:
    async with await switch.captures.prepare(CaptureRequest(count=100)) as live:
        async for _ in live.stream():
            pass


async def plug_in_and_out(switch: VSwitch) -> None:
    async with await Peer.plugged_into(switch, name="e", vlan=10) as peer:
        await peer.send(frame(mac(5), mac(5)))
        await until(lambda: next(port for port in switch.ports() if port.name == "e").rx_frames)
    await switch.attachments.detach("e")


def part(switch: VSwitch, *islands: list[str]) -> None:
    switch.policies.heal(switch.policies.part(*islands))


CHANGES: dict[str, Change] = {
    "attach and detach": plug_in_and_out,
    "access": amend("c", vlan=20),
    "trunk": amend("c", trunk=[10, 20], native=10),
    "qinq": amend("c", qinq=30),
    "limits": amend("c", rate="1Mbit/s", storm_broadcast="10fps", max_macs=1),
    "guards": amend("c", allow_ip="10.0.0.1", dhcp_server=False, router=False),
    "sticky": amend("c", sticky=True, isolated=True),
    "down": lambda switch: switch.policies.set_up("c", False),
    "up": lambda switch: switch.policies.set_up("c", True),
    "usual": amend("c", rate=None, storm_broadcast=None, allow_ip=None, sticky=None, isolated=None, qinq=None, vlan=10),
    "pin": lambda switch: switch.stations.pin("52:54:00:00:00:07", "c"),
    "forget": lambda switch: switch.stations.forget(0x5254_0000_0007),
    "flush": lambda switch: switch.stations.flush("c"),
    "mirror": amend("d", mirror_of=["a", "b"]),
    "no mirror": amend("d", mirror_of=None, vlan=10),
    "partition": lambda switch: part(switch, ["a", "b"], ["c", "d"]),
    "isolate": lambda switch: part(switch, ["c"], ["d"]),
    "capture": capture,
    "trace": lambda switch: switch.trace("c", frame(mac(2), mac(9))),
    "flows": lambda switch: switch.captures.flows(60),
    "metrics": lambda switch: switch.metrics(),
    "save": lambda switch: switch.configuration.saved(),
}


@pytest.mark.parametrize("record", [None, RecordLimits(1 << 22, 60.0)], ids=["", "recording"])
async def test_no_change_of_others_costs_a_frame(record: RecordLimits | None) -> None:
    async with VSwitch(record=record) as switch, busy(switch) as stream:
        for name, change in CHANGES.items():
            if name != "flows" or record is not None:
                done = change(switch)
                if isinstance(done, Awaitable):
                    await done
                await stream.goes_on()


async def test_no_reload_costs_a_frame(tmp_path: Path) -> None:
    def config(*endpoints: EndpointConfig, ageing_s: float = 300.0) -> SwitchConfig:
        return SwitchConfig(ageing_s=ageing_s, endpoints=endpoints)

    one, other = (partial(parse, f"unix://{tmp_path}/{name}.sock") for name in ("one", "other"))
    wanted = config(one({"name": "one"}))
    async with VSwitch() as switch, busy(switch) as stream:
        await switch.configuration.begin(wanted, lambda: wanted)
        for wanted in (  # noqa: B007 (read again by the reload)
            config(one({"name": "one", "vlan": 10}), ageing_s=60.0),
            config(one({"name": "one", "vlan": 10}), other({"name": "other", "trunk": "all"})),
            config(other({"name": "other"})),
            config(other({"name": "other", "queue": "1MiB"})),
            config(),
        ):
            assert await switch.configuration.reload()
            await stream.goes_on()
