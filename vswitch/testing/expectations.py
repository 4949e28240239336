"""What a test expects to pass on its LAN, or not to."""

import time
from contextlib import aclosing
from types import TracebackType
from typing import Self

import trio

from vswitch import CaptureRequest, VSwitch
from vswitch.control.model import FlowInfo
from vswitch.testing import evidence, flows
from vswitch.testing.captured import Packets, Wanted, describe, read_wanted
from vswitch.testing.layers import Packet
from vswitch.testing.stations import Station

SHOWN_MAX = 10  # packets, where one that was expected did not come
EVERY_S = 0.1  # flows are looked at


class ExpectationFailed(AssertionError):
    """A frame was expected and did not come, or came and was not to."""


class Expectations:
    """What a `Lan` expects of its machines, and what passes between them."""

    switch: VSwitch
    _nursery: trio.Nursery

    def now(self) -> int:
        """A moment, for `since`."""
        return self.switch.captures.moment()

    async def expect(
        self, wanted: Wanted, *, within: float = 5.0, at: Station | None = None, since: int | None = None
    ) -> Packet:
        """The first frame that is `wanted`: a filter in the pcap language, or a function of a scapy packet.

        Frames since the test began count, or since `since`, and then those of the next `within` seconds; with `at` only
        those at one machine's ports. Its `sniffed_on` is the port, `direction` 1 where it came in and 2 where it left,
        `comments` say why it was dropped. Raises ExpectationFailed, InputError for a wrong filter.
        """
        __tracebackhide__ = True
        packet = await self._find(wanted, within, at, since)
        if packet is None:
            last = describe(await self._last(since))
            raise ExpectationFailed(f"no frame was {_shown(wanted)} within {within:g} s{last}")
        return packet

    async def expect_none(
        self, wanted: Wanted, *, within: float = 1.0, at: Station | None = None, since: int | None = None
    ) -> None:
        """Nothing like it since the test began, or since `since`, nor in the next `within` seconds."""
        __tracebackhide__ = True
        packet = await self._find(wanted, within, at, since)
        if packet is not None:
            raise ExpectationFailed(f"a frame was {_shown(wanted)}{describe([packet])}")

    async def expect_flow(
        self,
        source: Station,
        destination: Station | None = None,
        *,
        protocol: str | None = None,
        service: int | None = None,
        dropped: str | None = None,
        within: float = 5.0,
    ) -> FlowInfo:
        """A flow that came from a machine, and reached another: `expect_flow(a, b, protocol="TCP", service=80)`.

        With `dropped`, one of whose frames some were dropped for that reason, on the way to `destination` if it is
        given. `service` is the lower of a flow's two ports. Raises ExpectationFailed if there is none within so many
        seconds.
        """
        __tracebackhide__ = True
        wanted = flows.Wanted(
            frozenset(self._ports_of(source)),
            None if destination is None else frozenset(self._ports_of(destination)),
            frozenset() if destination is None else flows.addresses_of(destination),
            protocol,
            service,
            dropped,
        )
        found: list[FlowInfo] = []
        with trio.move_on_after(within):
            while True:
                found = (await self.switch.captures.flows()).flows
                if (fitting := next(filter(wanted.fits, found), None)) is not None:
                    return fitting
                await trio.sleep(EVERY_S)
        table = evidence.flow_lines(found, time.time())
        said = "\n".join([":", *(f"  {line}" for line in table)]) if table else "; nothing passed at all"
        raise ExpectationFailed(f"no {flows.described(source, destination, wanted)[2:]} within {within:g} s{said}")

    async def quiet(self, wanted: Wanted = "", *, for_: float = 1.0, within: float = 30.0) -> None:
        """Waits until nothing passes, or nothing that is `wanted`, for so many seconds.

        Raises ExpectationFailed if that is not so within so many.
        """
        __tracebackhide__ = True
        matches, predicate = read_wanted(wanted)
        live = await self.switch.captures.prepare(CaptureRequest(), matches)
        packets, last = Packets(), list[Packet]()
        async with aclosing(live.stream()) as passing:
            packets.feed(await anext(passing))
            silence = trio.CancelScope(deadline=trio.current_time() + for_)
            with trio.move_on_after(within), silence:
                async for blocks in passing:
                    if found := [packet for packet in packets.feed(blocks) if await predicate(packet)]:
                        silence.deadline = trio.current_time() + for_
                        last = [*last, *found][-SHOWN_MAX:]
        if not silence.cancelled_caught:
            raise ExpectationFailed(f"it was not quiet for {for_:g} s within {within:g} s{describe(last)}")

    def capture(self, wanted: Wanted | None = None, *, at: Station | None = None) -> "Capturing":
        """What passes while its `async with` block runs; afterwards `packets` has it."""
        return Capturing(self, wanted, at)

    async def _find(self, wanted: Wanted, within: float, at: Station | None, since: int | None) -> Packet | None:
        """The first of what has passed since then, or passes soon, that is wanted."""
        matches, predicate = read_wanted(wanted)
        request = CaptureRequest(ports=tuple(self._ports_of(at)) if at is not None else ())
        live = await self.switch.captures.prepare(request, matches)
        past, present = Packets(), Packets()
        async with aclosing(live.stream()) as passing:
            present.feed(await anext(passing))  # and now it watches: nothing is missed between past and present
            async with aclosing(self.switch.captures.recorded(request, matches, since or 0)) as passed:
                async for blocks in passed:
                    for packet in past.feed(blocks):
                        if await predicate(packet):
                            return packet
            with trio.move_on_after(within):
                async for blocks in passing:
                    for packet in present.feed(blocks):
                        if await predicate(packet):
                            return packet
        return None

    def _ports_of(self, station: Station) -> list[str]:
        raise NotImplementedError

    async def _last(self, since: int | None) -> list[Packet]:
        """The last packets there were."""
        past, found = Packets(), list[Packet]()
        async with aclosing(self.switch.captures.recorded(CaptureRequest(), since=since or 0)) as passed:
            async for blocks in passed:
                found = [*found, *past.feed(blocks)][-SHOWN_MAX:]
        return found


class Capturing:
    """What `lan.capture` answers; `packets` are scapy's, in the order they passed."""

    def __init__(self, lan: Expectations, wanted: Wanted | None, at: Station | None) -> None:
        self.packets: list[Packet] = []
        self._lan = lan
        self._wanted = wanted
        self._at = at

    def __repr__(self) -> str:
        wanted = _shown(self._wanted) if self._wanted is not None else "everything"
        return f"<Capture of {wanted}: {len(self.packets)} packets>"

    async def __aenter__(self) -> Self:
        lan = self._lan
        matches, self._predicate = read_wanted(self._wanted if self._wanted is not None else "")
        ports = tuple(lan._ports_of(self._at)) if self._at is not None else ()
        self._live = await lan.switch.captures.prepare(CaptureRequest(ports=ports), matches)
        self._over = trio.Event()
        await lan._nursery.start(self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.end()
        with trio.CancelScope(shield=True):
            await self._over.wait()

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        packets = Packets()
        try:
            async with aclosing(self._live.stream()) as passing:
                packets.feed(await anext(passing))
                task_status.started()
                async for blocks in passing:
                    self.packets += [packet for packet in packets.feed(blocks) if await self._predicate(packet)]
        finally:
            self._over.set()


def _shown(wanted: Wanted) -> str:
    return repr(wanted) if isinstance(wanted, str) else f"what {getattr(wanted, '__name__', 'the function')} wants"
