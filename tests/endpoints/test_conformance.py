"""What every endpoint does, whatever its peers speak."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.descriptors import descriptors
from tests.endpoints.kinds import KINDS, Kind, Station, ignore_loss
from tests.frames import BROADCAST, frame, mac
from tests.peers import TIMEOUT_S, Peer, check_balance, until, up
from vswitch import VSwitch
from vswitch.control.model import PortInfo
from vswitch.dataplane.frame import FRAME_MAX
from vswitch.dataplane.port import QUEUE_BYTES_MIN

SIZES = (14, 15, 59, 60, 1514, 1518, 9014, 65507, FRAME_MAX)
TAG = 0x6000 | 100
QUEUE = f"{QUEUE_BYTES_MIN}B"

LAB, OTHER = mac(1), mac(2)  # the stations at `lab` and at another port


class Rig:
    """A switch with one endpoint, `lab`, that is to be looked at."""

    def __init__(self, kind: Kind, switch: VSwitch, clock: MockClock) -> None:
        self.kind = kind
        self.switch = switch
        self._clock = clock
        self._before = _in_use()

    async def attach(self, **parameters: object) -> None:
        self.lab = await self.kind.attach(self.switch, **parameters)

    async def plug(self) -> tuple[Station, str]:
        """A peer plugs into `lab`; the port that it has then is up."""
        before = up(self.switch)
        station = await self.kind.plug()
        if before >= {"lab"}:  # which needs no peer
            return station, "lab"
        await self.pass_time_until(lambda: up(self.switch) - before)
        (name,) = up(self.switch) - before
        return station, name

    async def other(self, name: str = "other") -> Peer:
        """A station at another port."""
        peer = await Peer.plugged_into(self.switch, name=name)
        self.kind.stack.callback(peer.close)
        return peer

    async def lose(self, station: Station, other: Peer) -> None:
        """The peer is killed, which is noticed; if it must be, when `other` sends to everybody."""
        before = up(self.switch)
        await self.kind.lose(station)
        if self.kind.loss == "when sent to":
            await other.send(frame(BROADCAST, OTHER))
        if self.kind.loss != "never":
            await self.pass_time_until(lambda: up(self.switch) != before)

    async def fill(self, name: str, talker: Peer, listener: Peer) -> int:
        """Broadcast until the queue of a port stays full, while `listener` gets everything; answers how many frames."""
        sent = 0
        while not await self._is_full(name):
            batch = [numbered(sent + at, OTHER, 1514) for at in range(100)]
            await talker.send(*batch)
            assert await listener.receive(100) == batch
            sent += 100
            assert sent < 50_000
        return sent

    async def _is_full(self, name: str) -> bool:
        if "queue_full" not in self.port(name).drops:
            return False
        await wait_all_tasks_blocked()  # with TLS, a task may still take some out
        return self.port(name).queued_bytes > 0

    async def pass_time_until(self, condition: Callable[[], object]) -> None:
        """Let the switch's clock run ahead until `condition()` is true."""
        for _ in range(1000):
            if condition():
                return
            self._clock.jump(0.05)
            await trio.sleep(0.005)
        pytest.fail("nothing happens, however long one waits")

    async def check_detached(self, *peers: Station) -> None:
        """Nothing of `lab` is left, and nobody else has noticed."""
        assert self.lab.ports == []
        for peer in peers:
            peer.close()
        await self.kind.stack.aclose()
        await until(lambda: not up(self.switch))
        descriptors, tasks = _in_use()
        others = len(self.switch.ports())  # each has a task that stays
        assert (descriptors - self._before[0], tasks - others) == (Counter(), self._before[1])
        assert await self.switch.macs() == []
        check_balance(self.switch)

    def port(self, name: str) -> PortInfo:
        (port,) = [port for port in self.switch.ports() if port.name == name]
        return port

    async def stations(self) -> dict[str, str]:
        """The MAC table: ports, by the last byte of the address."""
        return {station.mac[-2:]: station.port for station in await self.switch.macs()}


@asynccontextmanager
async def rig(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock, **parameters: object
) -> AsyncIterator[Rig]:
    """Ends with a look at what is left."""
    before = _in_use()
    async with make(directory) as kind, VSwitch() as switch:
        lan = Rig(kind, switch, clock)
        await lan.attach(**parameters)
        yield lan
        check_balance(switch)
    in_use = _in_use()
    assert (in_use[0] - before[0], in_use[1]) == (Counter(), before[1])
    assert os.listdir(directory) == []


def _in_use() -> tuple[Counter[str], int]:
    """What descriptors are open for, and how many tasks there are."""
    return Counter(descriptors().values()), trio.lowlevel.current_statistics().tasks_living


def kinds(*conditions: Callable[[Kind], bool]) -> pytest.MarkDecorator:
    """The kinds of endpoints for which all conditions hold."""
    chosen = {name: make for name, make in KINDS.items() if all(holds(make(Path())) for holds in conditions)}
    return pytest.mark.parametrize("make", chosen.values(), ids=chosen)


def numbered(number: int, src: int, size: int = 60, dst: int = BROADCAST) -> bytes:
    return frame(dst, src, size, payload=number.to_bytes(4))


def numbers(frames: list[bytes]) -> list[int]:
    """The numbers of frames, which must be whole."""
    found = [int.from_bytes(frame[14:18]) for frame in frames]
    for number, got in zip(found, frames, strict=True):
        assert got == numbered(number, int.from_bytes(got[6:12]), len(got), int.from_bytes(got[:6]))
    return found


async def check_plugged_together(one: Station, two: Station, addresses: tuple[int, int] = (LAB, OTHER)) -> None:
    """Frames pass both ways."""
    src, dst = addresses
    for sender, receiver, data in ((one, two, frame(dst, src)), (two, one, frame(src, dst))):
        await sender.send(data)
        assert await receiver.receive(1) == [data]


async def check_in_touch(one: Station, two: Station, addresses: tuple[int, int]) -> None:
    """Frames pass both ways, among others."""
    for sender, receiver, (src, dst) in ((one, two, addresses), (two, one, addresses[::-1])):
        data = frame(dst, src, payload=os.urandom(8))
        await sender.send(data)
        while await receiver.receive(1) != [data]:
            pass


@kinds()
async def test_frames_of_every_size_pass_both_ways_as_they_are(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    async with rig(make, directory, clock) as lan:
        station, name = await lan.plug()
        other = await lan.other()
        before = lan.port(name)
        sent = []
        for size in (size for size in SIZES if size <= lan.kind.frame_max):
            for tag in (None, TAG):
                out, back = frame(BROADCAST, LAB, size, tag=tag), frame(LAB, OTHER, size, tag=tag)
                await station.send(out)
                assert await other.receive(1) == [out]
                await other.send(back)
                assert await station.receive(1) == [back]
                sent.append(len(out))
        port, there = lan.port(name), lan.port("other")
        assert (port.rx_frames - before.rx_frames, port.rx_bytes - before.rx_bytes) == (len(sent), sum(sent))
        assert (port.tx_frames - before.tx_frames, port.tx_bytes - before.tx_bytes) == (len(sent), sum(sent))
        assert (there.rx_frames, there.rx_bytes, there.tx_frames, there.tx_bytes) == 2 * (len(sent), sum(sent))
        assert (port.drops, there.drops) == (before.drops, {})
        assert (port.queued_frames, port.queued_bytes) == (0, 0)
        assert await lan.stations() == {"01": name, "02": "other"}


@kinds()
async def test_many_frames_at_once_come_out_in_order(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    async with rig(make, directory, clock) as lan:
        station, _ = await lan.plug()
        other = await lan.other()
        await check_plugged_together(station, other)
        for sender, receiver, addresses in ((station, other, (OTHER, LAB)), (other, station, (LAB, OTHER))):
            frames = [numbered(number, addresses[1], 60 + number, addresses[0]) for number in range(300)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send, *frames)
                assert await receiver.receive(len(frames)) == frames


@kinds()
async def test_what_is_shorter_than_an_ethernet_header_goes_nowhere(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    async with rig(make, directory, clock) as lan:
        station, name = await lan.plug()
        other = await lan.other()
        before = lan.port(name)
        await station.send(b"", b"x", bytes(13), frame(BROADCAST, LAB))
        assert await other.receive(1) == [frame(BROADCAST, LAB)]
        if lan.kind.here.startswith("vde") and lan.kind.here.endswith("connect") and isinstance(station, Peer):
            return  # it is the other switch that has dropped them
        port = lan.port(name)
        assert port.drops == {**before.drops, "runt": 3}
        assert (port.rx_frames - before.rx_frames, port.rx_bytes - before.rx_bytes) == (4, 74)


@kinds(lambda kind: kind.frame_max < FRAME_MAX)
async def test_a_frame_that_is_too_long_to_send_is_dropped_at_that_port_alone(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    async with rig(make, directory, clock) as lan:
        station, name = await lan.plug()
        other, third = await lan.other(), await lan.other("third")
        before = lan.port(name)
        frames = [numbered(number, OTHER, lan.kind.frame_max + number) for number in (1, 0, 2, FRAME_MAX, 0)]
        frames = [data[:FRAME_MAX] for data in frames]
        await other.send(*frames)
        assert await third.receive(5) == frames
        assert await station.receive(2) == [frames[1], frames[4]]
        port = lan.port(name)
        assert port.drops == {**before.drops, "too_long": 3}
        assert (port.tx_frames - before.tx_frames, port.tx_bytes - before.tx_bytes) == (2, 2 * lan.kind.frame_max)
        assert (lan.port("other").drops, lan.port("third").drops) == ({}, {})


@kinds(lambda kind: kind.oversize)
async def test_a_datagram_that_is_too_long_for_a_frame_is_dropped_and_counted(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    async with rig(make, directory, clock) as lan:
        station, name = await lan.plug()
        other = await lan.other()
        before = lan.port(name)
        for size in (FRAME_MAX + 1, FRAME_MAX + 5000):
            await station.send(frame(BROADCAST, LAB, size))
        await station.send(frame(BROADCAST, LAB, FRAME_MAX))
        assert await other.receive(1) == [frame(BROADCAST, LAB, FRAME_MAX)]
        port = lan.port(name)
        assert port.drops == {**before.drops, "too_long": 2}
        assert port.rx_frames - before.rx_frames == 3
        assert lan.port("other").drops == {}
        await check_plugged_together(station, other)


@kinds()
async def test_a_peer_that_is_killed_is_forgotten_and_nobody_else_notices(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    async with rig(make, directory, clock) as lan:
        station, name = await lan.plug()
        other, third = await lan.other(), await lan.other("third")
        await check_plugged_together(station, other)
        assert await lan.stations() == {"01": name, "02": "other"}
        await lan.lose(station, other)
        assert (name in up(lan.switch)) == (lan.kind.loss == "never")
        stays = not lan.kind.many or lan.kind.loss == "never"
        assert (name in {port.name for port in lan.switch.ports()}) == stays
        if lan.kind.loss != "never":
            assert "lab" not in (await lan.stations()).values()
        assert up(lan.switch) >= {"other", "third"}
        await check_in_touch(third, other, (mac(3), OTHER))
        check_balance(lan.switch)
        if not lan.kind.comes_back:
            return
        station, again = await lan.plug()
        assert again == name
        await check_in_touch(station, other, (LAB, OTHER))
        assert (await lan.stations())["01"] == name


@kinds(lambda kind: kind.many and kind.loss != "never")
async def test_the_loss_of_a_peer_leaves_the_endpoints_other_peers_as_they_are(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    async with rig(make, directory, clock) as lan:
        (one, first), (two, second), (three, third) = [await lan.plug() for _ in range(3)]
        assert (first, second, third) == ("lab.1", "lab.2", "lab.3")
        await check_in_touch(one, two, (mac(11), mac(12)))
        await check_in_touch(two, three, (mac(12), mac(13)))
        other = await lan.other()
        await lan.lose(two, other)
        assert up(lan.switch) == {"lab.1", "lab.3", "other"}
        stations = await lan.stations()
        assert {address: port for address, port in stations.items() if port != "other"} == {
            "0b": "lab.1",
            "0d": "lab.3",
        }
        await check_in_touch(one, three, (mac(11), mac(13)))
        _, again = await lan.plug()
        assert again == "lab.2"


@kinds()
async def test_detached_while_traffic_flows_it_leaves_nothing(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    async def sends(sender: Station, address: int) -> None:
        with ignore_loss():
            while True:
                await sender.send(*[frame(BROADCAST, address, size) for size in (60, 1514, 9014)])

    async def receives(receiver: Station) -> None:
        with ignore_loss():
            while True:
                await receiver.receive(1)

    async with rig(make, directory, clock) as lan:
        stations = [await lan.plug() for _ in range(2 if lan.kind.many else 1)]
        talkers = [await lan.other(name) for name in ("one", "two")]
        peers = [*(station for station, _ in stations), *talkers]
        async with trio.open_nursery() as nursery:
            for address, peer in enumerate(peers):
                nursery.start_soon(sends, peer, mac(10 + address))
                nursery.start_soon(receives, peer)
            for _, name in stations:
                await until(lambda name=name: lan.port(name).rx_frames > 100)  # type: ignore[misc]
                await until(lambda name=name: lan.port(name).tx_frames > 100)  # type: ignore[misc]
            with trio.fail_after(TIMEOUT_S):
                await lan.lab.detach()
            assert up(lan.switch) == {"one", "two"}
            assert set((await lan.stations()).values()) <= {"one", "two"}
            third = await lan.other("third")
            await third.send(frame(BROADCAST, mac(3)))
            await until(lambda: lan.port("third").rx_frames == 1)
            nursery.cancel_scope.cancel()
        for station, _ in stations:
            await lan.kind.lose(station)
        await lan.check_detached(*talkers, third)
        await lan.attach()  # it may come again
        station, _ = await lan.plug()
        await check_plugged_together(station, await lan.other())


@kinds(lambda kind: kind.waits)
async def test_a_peer_that_does_not_read_has_a_bounded_queue_and_holds_nobody_up(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    async with rig(make, directory, clock, queue=QUEUE) as lan:
        deaf, name = await lan.plug()
        other, third = await lan.other(), await lan.other("third")
        sent = await lan.fill(name, other, third)
        assert 0 < lan.port(name).queued_bytes <= QUEUE_BYTES_MIN
        with trio.fail_after(TIMEOUT_S):
            await wait_all_tasks_blocked()  # it waits for room, and does not keep asking for it
        check_balance(lan.switch)
        got = numbers(await deaf.receive(sent - lan.port(name).drops["queue_full"]))
        assert got == sorted(set(got))
        port = lan.port(name)
        assert (port.queued_frames, port.queued_bytes) == (0, 0)
        assert lan.port("third").drops == {}
        await check_plugged_together(deaf, other)


@kinds(lambda kind: kind.waits)
async def test_a_peer_that_does_not_read_is_killed(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    async with rig(make, directory, clock, queue=QUEUE) as lan:
        deaf, name = await lan.plug()
        other, third = await lan.other(), await lan.other("third")
        await lan.fill(name, other, third)
        await lan.kind.lose(deaf)
        await lan.pass_time_until(lambda: name not in up(lan.switch))
        totals = lan.switch.status().totals
        assert totals.queued_frames == 0
        assert totals.drops["port_down"] > 0
        if lan.kind.comes_back:
            station, again = await lan.plug()
            assert again == name
            await check_plugged_together(station, other)


@kinds(lambda kind: not kind.waits)
async def test_a_peer_that_does_not_read_holds_nobody_up_and_loses_whole_frames(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock
) -> None:
    """Here it is the system that drops what it has no room for, and says nothing; or another switch."""
    async with rig(make, directory, clock, queue=QUEUE) as lan:
        deaf, name = await lan.plug()
        other, third = await lan.other(), await lan.other("third")
        before = lan.port(name)
        sent = 0
        while sent < 5000:
            batch = [numbered(sent + at, OTHER, 1514) for at in range(100)]
            await other.send(*batch)
            assert await third.receive(100) == batch
            sent += 100
        with trio.fail_after(TIMEOUT_S):
            await wait_all_tasks_blocked()
        port = lan.port(name)
        assert port.tx_frames - before.tx_frames + port.drops.get("queue_full", 0) == sent
        assert (port.queued_frames, port.queued_bytes) == (0, 0)
        assert lan.port("third").drops == {}
        got: list[int] = []
        while not got or got[-1] < sent:
            with trio.move_on_after(0.02):
                got += numbers(await deaf.receive(1))
                continue
            await other.send(numbered(sent, OTHER, 1514))
        assert got[:-1] == sorted(set(got[:-1]))


@kinds(lambda kind: kind.many, lambda kind: kind.apart)
@pytest.mark.parametrize("size", [60, FRAME_MAX])
async def test_a_peer_that_does_not_read_does_not_hold_up_the_endpoints_other_peers(
    make: Callable[[Path], Kind], directory: Path, clock: MockClock, size: int
) -> None:
    async with rig(make, directory, clock, queue=QUEUE) as lan:
        size = min(size, lan.kind.frame_max)
        for _ in range(8):
            await lan.plug()  # who do not read
        one, _ = await lan.plug()
        other = await lan.other()
        for number in range(100):
            await other.send(numbered(number, OTHER, size))
            assert await one.receive(1) == [numbered(number, OTHER, size)]
