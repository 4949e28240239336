"""Loops of real links: the LAN stays up, one way stays, and what was blocked comes back once the loop is gone."""

import socket
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from tests.endpoints.kinds import GROUP, member, udp_socket
from tests.frames import BROADCAST, frame, mac
from tests.namespaces import ip, needed_for_tap, own_network
from tests.peers import TIMEOUT_S, DatagramPeer, Peer, check_balance, until, up
from vswitch import VSwitch, interfaces
from vswitch.ports.policy import Policy
from vswitch.protocols.loop_probe import MARK


@pytest.fixture
def fast_clock() -> MockClock:
    """The guard takes seconds to open a port again; the kernel is as fast as ever."""
    return MockClock(rate=20.0)


def blocked(*switches: VSwitch) -> set[str]:
    return {port.name for switch in switches for port in switch.ports() if port.state == "blocked"}


def said(*switches: VSwitch) -> set[str]:
    return {event.code for switch in switches for event in switch.events.kept()} - {"up", "down"}


def at_rest(*switches: VSwitch) -> Callable[[], bool]:
    """Whether no frame came in since this was asked last, but probes and what a blocked port gets."""
    seen: list[int] = []

    def is_at_rest() -> bool:
        before = list(seen)
        totals = [switch.status().totals for switch in switches]
        seen[:] = [it.rx_frames - it.drops.get("probe", 0) - it.drops.get("loop", 0) for it in totals]
        return seen == before

    return is_at_rest


async def plug(here: VSwitch, there: VSwitch, name: str) -> None:
    """A cable from a port of one to a port of the other, or of the same."""
    one, other = socket.socketpair()
    await here.attach(one, name=name)
    await there.attach(other, name=name if there is not here else f"{name}-end")


async def receive(peer: Peer | DatagramPeer, number: int) -> list[bytes]:
    """The next frames that are no probes, which go through other switches as any frame does."""
    found: list[bytes] = []
    while len(found) < number:
        found += [one for one in await peer.receive(1) if MARK not in one]
    return found


async def in_touch(*peers: Peer) -> None:
    """Whatever one sends, each other one gets once."""
    for number, sender in enumerate(peers):
        sent = [frame(BROADCAST, mac(100 + number), payload=bytes([count])) for count in range(20)]
        await sender.send(*sent)
        for other in peers:
            if other is not sender:
                assert await receive(other, len(sent)) == sent


async def drained(*peers: Peer) -> None:
    """Have them take what the loop has brought, up to a frame of another one's that goes round no more."""
    for number, peer in enumerate(peers):
        last = frame(BROADCAST, mac(200 + number))
        await peer.send(last)
        for other in peers:
            while other is not peer and await other.receive(1) != [last]:
                pass


async def test_two_cables_between_two_switches_are_one_way() -> None:
    async with VSwitch() as here, VSwitch() as there:
        guest = await Peer.plugged_into(here, name="guest")
        host = await Peer.plugged_into(there, name="host")
        for name in ("one", "two"):
            await plug(here, there, name)
        await guest.send(frame(BROADCAST, mac(1)))
        await until(lambda: blocked(here, there))
        await until(at_rest(here, there))
        assert blocked(here, there) == {"two"}
        await drained(guest, host)
        await in_touch(guest, host)
        assert said(here, there) == {"loop"}
        for switch in (here, there):
            check_balance(switch)


async def test_a_cable_from_a_switch_to_itself_blocks_one_of_its_ends() -> None:
    async with VSwitch() as switch:
        guests = [await Peer.plugged_into(switch, name=name) for name in ("a", "b")]
        await plug(switch, switch, "cable")
        await guests[0].send(frame(BROADCAST, mac(1)))
        await until(at_rest(switch))
        await drained(*guests)
        assert blocked(switch) == {"cable-end"}
        await in_touch(*guests)
        assert said(switch) == {"loop"}
        check_balance(switch)


async def test_two_connections_to_one_switch_are_a_loop_before_there_is_a_frame(fast_clock: MockClock) -> None:
    async with VSwitch() as here, VSwitch() as there:
        guest = await Peer.plugged_into(here, name="guest")
        lab = await there.attach("tcp://127.0.0.1:0", name="lab")
        host = await Peer.plugged_into(there, name="host")
        for name in ("one", "two"):
            await here.attach(f"{lab.url}?connect", name=name)
        await until(lambda: blocked(here))
        await in_touch(guest, host)
        [open_one] = {"one", "two"} - blocked(here)
        await here.attachments.detach(open_one)
        await until(lambda: not blocked(here, there))
        await in_touch(guest, host)
        late = {"no_connection"}  # where time passes faster than the system connects
        assert said(here, there) - late == {"loop", "loop_over"}


async def test_a_group_that_is_joined_twice_is_one_way(fast_clock: MockClock) -> None:
    with udp_socket("127.0.0.1") as free:
        number = int(free.getsockname()[1])
    async with VSwitch() as switch:
        guest = await Peer.plugged_into(switch, name="guest")
        for name in ("one", "two"):
            await switch.attach(f"mcast://{GROUP}:{number}", name=name)
        await until(lambda: blocked(switch) == {"two"})
        async with member(number) as other:
            sent = [frame(BROADCAST, mac(2), payload=bytes([count])) for count in range(20)]
            await other.send(*sent)
            assert await guest.receive(20) == sent
            await guest.send(frame(mac(2), mac(1)))
            assert await receive(other, 1) == [frame(mac(2), mac(1))]
        await switch.attachments.detach("one")
        await until(lambda: not blocked(switch))


async def test_two_taps_in_one_bridge_of_linux_are_one_way(fast_clock: MockClock) -> None:
    needed_for_tap()
    with own_network():
        ip("link add br0 type bridge")
        ip("link set br0 up")
        async with VSwitch() as switch, await Peer.plugged_into(switch, name="guest") as guest:
            for name in ("tap1", "tap2"):
                tap = interfaces.make_tap(name)
                ip(f"link set {name} master br0 up")  # before: a device that is down drops what Linux says by the other
                await switch.attach(f"fd://{tap}", name=name)
            await until(lambda: blocked(switch) == {"tap2"})
            await guest.send(frame(BROADCAST, mac(1)))
            await until(at_rest(switch))
            ip("link set tap1 nomaster")
            await until(lambda: not blocked(switch))
            ip("link set tap1 master br0")
            await until(lambda: blocked(switch))
            assert said(switch) <= {"loop", "loop_over"}


async def test_a_loop_may_be_left_open_and_is_said_all_the_same() -> None:
    async with VSwitch() as switch:
        guest = await Peer.plugged_into(switch, name="guest")
        here, there = socket.socketpair()
        await switch.attach(here, name="one", loop="warn", storm_broadcast="100fps")
        await switch.attach(there, name="two", loop="warn", storm_broadcast="100fps")
        await guest.send(*(frame(BROADCAST, mac(1)) for _ in range(20)))
        await until(lambda: "loop" in said(switch))
        [event] = [event for event in switch.events.kept() if event.code == "loop"]
        assert event.text.endswith("; nothing is blocked (loop=warn)")
        assert not blocked(switch)
        switch.policies.set("two", Policy())
        with trio.fail_after(TIMEOUT_S):
            while not blocked(switch):
                await guest.send(frame(BROADCAST, mac(1)))
        assert blocked(switch) == {"two"}


async def test_who_looks_is_told_why_nothing_passes() -> None:
    async with VSwitch() as switch:
        guest = await Peer.plugged_into(switch, name="guest")
        await plug(switch, switch, "cable")
        await guest.send(frame(BROADCAST, mac(1)))
        await until(lambda: blocked(switch))
        states = {port.name: (port.up, port.state) for port in switch.ports()}
        assert states == {"guest": (True, "forwarding"), "cable": (True, "forwarding"), "cable-end": (True, "blocked")}
        assert up(switch) == set(states)
        trace = switch.trace("cable-end", frame(BROADCAST, mac(5)))
        assert (trace.forwarded, trace.reason, len(trace.steps)) == (False, "loop", 1)
        assert "vswitch events --code loop" in trace.steps[0].text
        assert 'vswitch_port_blocked{port="cable-end",endpoint="cable-end"} 1' in await switch.metrics()
