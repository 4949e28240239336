"""`trace` says what would become of a frame; the real thing then does the same, and nothing was changed by asking."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import drops, receive
from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer
from vswitch import InputError, VSwitch
from vswitch.control.model import Trace
from vswitch.control.tracing import trace
from vswitch.dataplane.drops import DROP_REASONS, PASSED
from vswitch.dataplane.twin import Observer
from vswitch.endpoints.url import parse
from vswitch.ports.partition import Partition
from vswitch.ports.policy import mac_text
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports

NOW_MS = 5000
POLICIES = [
    *("", "", "vlan=10", "vlan=20", "trunk=10,20", "trunk=10&native=20", "trunk=all", "qinq=10", "isolated=yes"),
    *("up=no", "rate=2fps", "storm_broadcast=1fps", "storm_unknown=1fps&burst=1s", "max_frame=100", "pad=yes"),
    *("locked=yes", "max_macs=1", "sticky=yes", f"allow_mac={mac_text(mac(1))}", "dhcp_server=no&router=no"),
    *("allow_ip=10.0.0.1", f"static={mac_text(mac(2))}", "reserved=forward", "sources=any"),
    *("mirror_of=p0", "mirror_of=p1,p2&mirror=in", "mirror_of=p0&mirror=out"),
]
PROBES = 0x0300_0000_0001  # where the switch's are sent
ADDRESSES = [*map(mac, range(4)), BROADCAST, 0x0100_5E00_0001, 0x0180_C200_000E, PROBES, 0]
FRAMES = st.builds(
    frame,
    st.sampled_from(ADDRESSES),
    st.sampled_from(ADDRESSES),
    st.sampled_from([14, 60, 120]),
    tag=st.sampled_from([None, None, None, 0, 10, 20, 4095]),
) | st.sampled_from([b"", b"short", frame(mac(1), mac(2))[:12] + b"\x81\x00"])
TRAFFIC = st.lists(st.tuples(st.integers(0, 3), FRAMES), max_size=6)


@contextmanager
def lan(policies: Sequence[str], *, hub: bool = False) -> Iterator[tuple[Ports, list[SwitchPort]]]:
    """Ports that are up, as far as the data plane knows, each with a policy if it goes with those before."""
    ports = Ports(table_size=64, ageing_s=300, hub=hub)
    ports.bridge.probe_address = PROBES
    made = []
    for number, query in enumerate(policies):
        port = ports.add(f"p{number}", f"p{number}", parse("unix:///x?single=yes"))
        with suppress(InputError):
            ports.wiring.set_policy(port, parse(f"unix:///x?single=yes&{query}").policy)
        ports.bridge.port_up(port.port)
        made.append(port)
    try:
        yield ports, made
    finally:
        for port in made:
            ports.remove(port)
        ports.close()


def state(ports: Ports) -> Any:
    """All that a frame may change."""
    counters = [
        (port.name, port.port.rx_frames, drops(port.port), port.port.queued_frames, port.port.queued_bytes)
        for port in ports
    ]
    returned = [port.port.returned for port in ports]
    table, bridge = ports.table, ports.bridge
    return counters, returned, sorted(table.entries(NOW_MS)), table.moves, bridge.copies, bridge.pool.used


def really(ports: Ports, port: SwitchPort, data: bytes) -> tuple[str | None, list[tuple[str, str | None, str]]]:
    """Why a frame is dropped where it comes in, and what becomes of its copies: the port, why not, the bytes."""
    observer = Observer()
    ports.bridge.journal.add(observer)
    receive(ports.bridge, port.port.index, [data], NOW_MS)
    ports.bridge.journal.remove(observer)
    came, *left = observer.entries
    names = {found.port.serial: found.name for found in ports}
    copies = [
        (names[entry.port], reason(entry.reason), entry.chunk[entry.start + 4 : entry.end].hex()) for entry in left
    ]
    return reason(came.reason), copies


def reason(number: int) -> str | None:
    return None if number == PASSED else DROP_REASONS[number]


@given(
    st.lists(st.sampled_from(POLICIES), min_size=4, max_size=4),
    st.booleans(),
    st.booleans(),
    TRAFFIC,
    st.lists(st.tuples(st.integers(0, 3), FRAMES), min_size=1, max_size=4),
)
def test_what_is_said_is_what_then_happens(
    policies: list[str],
    parted: bool,
    blocked: bool,
    before: list[tuple[int, bytes]],
    frames: list[tuple[int, bytes]],
) -> None:
    with lan(policies) as (ports, made):
        if parted:
            ports.wiring.part(Partition([["p0"], ["p1", "p2"]]))
        if blocked:
            ports.wiring.set_forwarding(made[1], False)
        for index, data in before:
            receive(ports.bridge, made[index].port.index, [data], 0)
        for index, data in frames:
            was = state(ports)
            said = trace(ports, made[index], data, NOW_MS)
            assert said == trace(ports, made[index], data, NOW_MS)
            assert state(ports) == was
            why, copies = really(ports, made[index], data)
            assert [(one.port, one.reason, one.frame) for one in said.egress] == copies
            assert said.forwarded == any(one.reason is None and not one.mirror for one in said.egress)
            if why is not None:
                assert said.reason == why
                assert any(f"dropped ({why})" in step.text for step in said.steps)
            assert len([step for step in said.steps if step.text.startswith(("to ", "a copy "))]) == len(copies)


@given(TRAFFIC, FRAMES)
def test_a_hub_is_traced_too(before: list[tuple[int, bytes]], data: bytes) -> None:
    with lan([""] * 4, hub=True) as (ports, made):
        for index, sent in before:
            receive(ports.bridge, made[index].port.index, [sent], 0)
        said = trace(ports, made[0], data, NOW_MS)
        _, copies = really(ports, made[0], data)
        assert [(one.port, one.reason, one.frame) for one in said.egress] == copies


def test_a_queue_that_is_full_is_said_to_be() -> None:
    with lan(["", ""]) as (ports, (one, two)):
        two.port.block()
        while not drops(two.port):
            receive(ports.bridge, one.port.index, [frame(BROADCAST, mac(1), 60000)] * 64)
        said = trace(ports, one, frame(BROADCAST, mac(1), 60000), 0)
        assert (said.forwarded, said.reason) == (False, "queue_full")
        assert "dropped (queue_full)" in said.steps[-1].text


def texts(said: Trace) -> list[str]:
    return [f"{step.step}: {step.text}" for step in said.steps]


async def test_each_step_says_what_it_went_by() -> None:
    async with VSwitch() as switch:
        a = await Peer.plugged_into(switch, name="a", vlan=10)
        b = await Peer.plugged_into(switch, name="b", trunk="10,20")
        c = await Peer.plugged_into(switch, name="c", vlan=20)
        await b.send(frame(BROADCAST, mac(2), tag=10))
        assert await a.receive(1) == [frame(BROADCAST, mac(2), 56)]
        said = switch.trace("a", frame(mac(2), mac(1)))
        known = texts(said)[5]
        assert known.startswith("look_up: 52:54:00:00:00:02 is behind b in VLAN 10, heard 0.")
        assert [*texts(said)[:5], *texts(said)[6:]] == [
            "port: a gets 60 bytes",
            "vlan: it has no tag (vlan=10): VLAN 10",
            "addresses: from 52:54:00:00:00:01 to 52:54:00:00:00:02",
            "policy: anybody may send here",
            "learn: 52:54:00:00:00:01 is new in VLAN 10: it is learned to be here",
            "egress: to b, with a tag of VLAN 10",
        ]
        said = switch.trace("c", frame(BROADCAST, mac(3), tag=10))
        assert said.reason == "vlan"
        assert texts(said)[-1].startswith("vlan: its tag says VLAN 10 (vlan=20): dropped (vlan): ")
        said = switch.trace("a", frame(BROADCAST, mac(1)))
        assert (
            texts(said)[-1] == "egress: not to c: they are down or blocked, of other VLANs, isolated, parted or mirrors"
        )
        with pytest.raises(InputError, match="there is no port 'd'; there are a, b, c"):
            switch.trace("d", b"")
        with pytest.raises(InputError, match="the frame has 70,000 bytes"):
            switch.trace("a", bytes(70000))
        c.close()
