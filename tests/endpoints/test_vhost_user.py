"""vhost-user:// with a front end in Python: cards that come, stop, break, and go."""

import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.descriptors import descriptors, opened_since
from tests.frames import BROADCAST, frame, mac
from tests.front_end import FrontEnd
from tests.peers import Peer, until, up
from tests.virtio import GUEST_BASE, NEXT, WRITABLE
from vswitch import VSwitch
from vswitch.protocols.vhost_user import FEATURES, RING_EVENT_IDX, VERSION_1, Request

RESETS = int(os.environ.get("RESETS", "60"))


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        yield Path(directory) / "lan.vhost"


@asynccontextmanager
async def listening(path: Path, parameters: str = "") -> AsyncIterator[tuple[VSwitch, Peer]]:
    """A switch with a listener, and a station beside it."""
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="peer") as peer:
        await switch.attach(f"vhost-user://{path}?name=lab{parameters}")
        yield switch, peer


def said(switch: VSwitch, code: str) -> str:
    return "\n".join(event.text for event in switch.events.kept() if event.code == code)


@pytest.mark.parametrize("features", [FEATURES, FEATURES & ~RING_EVENT_IDX])
async def test_frames_both_ways(path: Path, features: int) -> None:
    async with listening(path) as (switch, peer), await FrontEnd.at(path, features=features) as guest:
        guest.card.send(frame(BROADCAST, mac(1)))  # before there is somebody to notify
        await guest.start()
        assert await peer.receive(1) == [frame(BROADCAST, mac(1))]
        guest.card.post(64)
        sent = [frame(mac(1), mac(2), 60 + number) for number in range(50)]
        await peer.send(*sent)
        assert await guest.receive(50) == sent
        back = [frame(mac(2), mac(1), 1514, payload=bytes([number])) for number in range(50)]
        guest.card.send(*back)
        assert await peer.receive(50) == back
        [port] = [port for port in switch.ports() if port.endpoint == "lab"]
        assert port.virtio is not None
        assert "mrg_rxbuf" in port.virtio.features


async def test_a_port_is_up_while_the_rings_run_and_they_go_on_where_they_were(path: Path) -> None:
    async with listening(path, "&single") as (switch, peer), await FrontEnd.at(path) as guest:
        for round_ in range(3):
            await guest.start()
            assert "lab" in up(switch)
            guest.card.post(4)
            guest.card.send(frame(BROADCAST, mac(1), payload=bytes([round_])))
            assert await peer.receive(1) == [frame(BROADCAST, mac(1), payload=bytes([round_]))]
            await peer.send(frame(mac(1), mac(2), payload=bytes([round_])))
            assert await guest.receive(1) == [frame(mac(1), mac(2), payload=bytes([round_]))]
            guest.card.sending.take_used()
            assert await guest.stop() == [round_ + 1, round_ + 1]
            assert "lab" not in up(switch)
            guest.card.receiving.index = guest.card.receiving.seen
            guest.card.receiving.put16(guest.card.receiving.available + 2, guest.card.receiving.index)
            guest.card.receiving.forget()


async def test_the_front_end_may_be_the_one_that_listens_and_come_again(path: Path) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="peer") as peer:
        await switch.attach(f"vhost-user://{path}?connect&name=lab")
        for number in range(2):
            with trio.socket.socket(socket.AF_UNIX) as listener:
                await listener.bind(str(path))
                listener.listen()
                accepted, _ = await listener.accept()
                async with FrontEnd(socket.socket(fileno=accepted.detach())) as guest:
                    await guest.start()
                    guest.card.send(frame(BROADCAST, mac(1), payload=bytes([number])))
                    assert await peer.receive(1) == [frame(BROADCAST, mac(1), payload=bytes([number]))]
            os.unlink(path)
            await until(lambda: "lab" not in up(switch))


async def test_of_two_front_ends_one_has_a_single_port(path: Path) -> None:
    async with listening(path, "&single") as (switch, _), await FrontEnd.at(path) as guest:
        await guest.start()
        async with await FrontEnd.at(path) as other:
            await other.closed()
        assert "another one has the port" in said(switch, "turned_away")
        assert "lab" in up(switch)


async def test_memory_that_can_shrink_is_refused_unless_it_is_asked_for(path: Path) -> None:
    async with listening(path) as (switch, _), await FrontEnd.at(path, sealed=False) as guest:
        with pytest.raises((ConnectionError, trio.TooSlowError, struct.error)):
            await guest.start()
        await guest.closed()
        assert "use memory-backend-memfd, or give the endpoint unsealed=yes" in said(switch, "turned_away")
        assert up(switch) == {"peer"}
    async with listening(path, "&unsealed=yes") as (switch, _), await FrontEnd.at(path, sealed=False) as guest:
        await guest.start()
        assert up(switch) == {"peer", "lab.1"}


@pytest.mark.parametrize("blocks", [True, False])
async def test_what_is_no_eventfd_is_refused_and_one_that_blocks_stops_nobody(path: Path, blocks: bool) -> None:
    async with listening(path) as (switch, peer), await FrontEnd.at(path) as guest:
        if blocks:
            for ring in (guest.card.sending, guest.card.receiving):
                os.set_blocking(ring.kick, True)
                os.set_blocking(ring.call, True)
            await guest.start()
            guest.card.send(frame(BROADCAST, mac(1)))
            assert await peer.receive(1) == [frame(BROADCAST, mac(1))]
            await until(lambda: "lab.1" in up(switch))
        else:
            await guest.say(Request.SET_VRING_CALL, struct.pack("=Q", 0), [guest.memory.fd])
            await guest.closed()
            assert "no eventfd" in said(switch, "turned_away")


def out_of_memory(guest: FrontEnd) -> None:
    guest.card.sending.descriptor(0, GUEST_BASE + guest.memory.size - 10, 20, 0, 0)


def wrapping(guest: FrontEnd) -> None:
    guest.card.sending.descriptor(0, (1 << 64) - 8, 64, 0, 0)


def circular(guest: FrontEnd) -> None:
    guest.card.sending.descriptor(0, GUEST_BASE, 64, NEXT, 0)


def beyond_the_table(guest: FrontEnd) -> None:
    guest.card.sending.descriptor(0, GUEST_BASE, 64, NEXT, 256)


def to_write_to(guest: FrontEnd) -> None:
    guest.card.sending.descriptor(0, GUEST_BASE, 64, WRITABLE, 0)


def without_header(guest: FrontEnd) -> None:
    guest.card.sending.descriptor(0, GUEST_BASE, 11, 0, 0)


def too_many(guest: FrontEnd) -> None:
    guest.card.sending.put16(guest.card.sending.available + 2, 257)


def unknown_head(guest: FrontEnd) -> None:
    guest.card.sending.put16(guest.card.sending.available + 4, 256)


BROKEN = [out_of_memory, wrapping, circular, beyond_the_table, to_write_to, without_header, too_many, unknown_head]


@pytest.mark.parametrize("breaks", BROKEN)
async def test_a_broken_ring_costs_its_port_and_nobody_else_anything(path: Path, breaks: object) -> None:
    async with listening(path) as (switch, peer), await FrontEnd.at(path) as good, await FrontEnd.at(path) as bad:
        await good.start()
        await bad.start()
        bad.card.sending.offer([(4096, 64)])
        assert callable(breaks)
        breaks(bad)
        if breaks is not too_many:
            bad.card.sending.put16(bad.card.sending.available + 2, 1)
        os.eventfd_write(bad.card.sending.kick, 1)
        await bad.closed()
        assert up(switch) == {"peer", "lab.1"}
        assert "ring is broken: " in said(switch, "down")
        good.card.send(frame(BROADCAST, mac(1)))
        assert await peer.receive(1) == [frame(BROADCAST, mac(1))]
        assert switch.failures.total == 0


async def test_nothing_is_left_of_cards_that_come_and_go(path: Path) -> None:
    """However they go: in order, or in the midst of frames that wait for them."""
    async with listening(path) as (switch, peer):

        async def come_and_go(number: int) -> None:
            async with await FrontEnd.at(path, features=FEATURES if number % 2 else FEATURES & ~VERSION_1) as guest:
                await guest.start()
                guest.card.post(2)
                guest.card.send(*[frame(BROADCAST, mac(1))] * 5)
                await peer.receive(5)
                await peer.send(*[frame(mac(1), mac(2))] * 5)
                await guest.receive(2)
                if number % 3 == 0:
                    await guest.stop()
            await until(lambda: [port.name for port in switch.ports()] == ["peer"])

        await come_and_go(0)
        before, mappings = descriptors(), guests_mappings()
        for number in range(RESETS):
            await come_and_go(number)
        assert (opened_since(before), guests_mappings()) == ({}, mappings)
        assert switch.failures.total == 0


def guests_mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:guest")


async def test_requests_of_any_kind_at_any_time_end_at_most_the_connection(path: Path) -> None:
    async with listening(path) as (switch, peer):
        for request in Request:
            async with await FrontEnd.at(path) as guest:
                await guest.start()
                await guest.say(request, bytes(16), [guest.memory.fd])
                await guest.closed()
        await until(lambda: up(switch) == {"peer"})
        assert switch.failures.total == 0
        async with await FrontEnd.at(path) as guest:
            await guest.start()
            guest.card.send(frame(BROADCAST, mac(1)))
            assert await peer.receive(1) == [frame(BROADCAST, mac(1))]
