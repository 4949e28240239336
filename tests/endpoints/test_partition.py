"""Partitions: between islands nothing passes, whatever the VLANs; else everything does, as before."""

import socket
from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.plumbing import check_balance, drops, receive, take
from tests.frames import BROADCAST, frame, mac
from vswitch import InputError, RefusedError, VSwitch
from vswitch.dataplane.port import Port
from vswitch.endpoints.url import parse
from vswitch.ports.partition import Partition
from vswitch.ports.ports import Ports
from vswitch.switch.policies import PARTITIONS_MAX

NAMES = ["a", "b", "c", "lab.1", "lab.2"]
QUERIES = ["", "vlan=10", "trunk=all", "trunk=10&native=10", "isolated=yes"]
ISLAND = st.lists(st.sampled_from([*NAMES, "lab", "nobody"]), max_size=3)


def lan(ports: Ports, queries: list[str]) -> dict[str, Port]:
    """Ports with links, as far as the data plane knows."""
    found = {}
    for name, query in zip(NAMES, queries, strict=True):
        port = ports.add(name, name.partition(".")[0], parse(f"tcp://127.0.0.1:0?{query}")).port
        ports.bridge.port_up(port)
        found[name] = port
    return found


def with_lan(queries: list[str], check: Callable[[Ports, dict[str, Port]], None]) -> None:
    with closing(Ports(table_size=64, ageing_s=300)) as ports:
        try:
            check(ports, lan(ports, queries))
        finally:
            for port in list(ports):
                ports.remove(port)


def flood(ports: Ports, by: Port) -> list[int]:
    """To which ports a broadcast goes."""
    receive(ports.bridge, by.index, [frame(BROADCAST, mac(by.index + 1))])
    return [port.index for port in ports.bridge.ports if take(port)]


def reach(ports: Ports, ends: dict[str, Port]) -> dict[str, set[str]]:
    """Who gets whose broadcasts."""
    by_index = {port.index: name for name, port in ends.items()}
    return {name: {by_index[index] for index in flood(ports, port)} for name, port in ends.items()}


def apart(name: str, other: str, islands: list[list[str]], rest: bool) -> bool:
    """Whether a partition parts two ports, said another way."""

    def home(port: str) -> int:
        at = [number for number, names in enumerate(islands) if port in names or port.partition(".")[0] in names]
        return at[0] if at else -1

    here, there = home(name), home(other)
    return here != there and (rest or -1 not in (here, there))


@given(
    st.lists(st.sampled_from(QUERIES), min_size=5, max_size=5),
    st.lists(st.tuples(st.lists(ISLAND, max_size=3), st.booleans()), max_size=2),
)
def test_broadcasts_go_where_they_went_but_for_other_islands(
    queries: list[str], partitions: list[tuple[list[list[str]], bool]]
) -> None:
    def check(ports: Ports, ends: dict[str, Port]) -> None:
        before = reach(ports, ends)
        made = [Partition(islands, rest) for islands, rest in partitions]
        for partition in made:
            ports.wiring.part(partition)
        expected = {
            name: {other for other in others if not any(apart(name, other, *partition) for partition in partitions)}
            for name, others in before.items()
        }
        assert reach(ports, ends) == expected
        for partition in made:
            ports.wiring.heal(partition)
        assert reach(ports, ends) == before
        check_balance(ports.bridge)

    with_lan(queries, check)


@pytest.mark.parametrize("query", QUERIES[:4])
def test_a_known_station_on_another_island_is_not_reached(query: str) -> None:
    def check(ports: Ports, ends: dict[str, Port]) -> None:
        tag = 10 if query == "trunk=all" else None
        a, b = ends["a"], ends["b"]
        receive(ports.bridge, b.index, [frame(BROADCAST, mac(2), tag=tag)])
        assert take(a)
        partition = Partition([["a"], ["b"]])
        ports.wiring.part(partition)
        receive(ports.bridge, a.index, [frame(mac(2), mac(1), tag=tag)])
        assert drops(a) == {"partition": 1}
        assert not take(b)
        ports.wiring.heal(partition)
        receive(ports.bridge, a.index, [frame(mac(2), mac(1), tag=tag)])
        assert len(take(b)) == 1

    with_lan([query] * 5, check)


def test_a_port_that_comes_later_is_where_its_name_says() -> None:
    def check(ports: Ports, ends: dict[str, Port]) -> None:
        ports.wiring.part(Partition([["lab"]], rest=True))
        later = ports.add("lab.3", "lab", parse("tcp://127.0.0.1:0")).port
        ports.bridge.port_up(later)
        assert set(flood(ports, later)) == {ends["lab.1"].index, ends["lab.2"].index}
        other = ports.add("d", "d", parse("tcp://127.0.0.1:0")).port
        ports.bridge.port_up(other)
        assert set(flood(ports, other)) == {ends["a"].index, ends["b"].index, ends["c"].index}

    with_lan([""] * 5, check)


def test_the_short_way_is_taken_again_when_it_is_healed() -> None:
    def check(ports: Ports, ends: dict[str, Port]) -> None:
        partition = Partition([["a"], ["b"]])
        ports.wiring.part(partition)
        assert ports.bridge.selective
        assert [ends[name].plain for name in "abc"] == [False, False, True]
        ports.wiring.heal(partition)
        assert not ports.bridge.selective
        assert all(port.plain and not port.islands for port in ends.values())

    with_lan([""] * 5, check)


async def test_a_switch_is_parted_by_names() -> None:
    async with VSwitch() as switch:
        for name in "ab":
            ours, theirs = socket.socketpair()
            await switch.attach(theirs, name=name)
            ours.close()
        number = switch.policies.part(["a"], ["b"])
        assert [bool(port.port.islands) for port in switch._ports if port.name in "ab"] == [True] * len(switch.ports())
        switch.policies.heal(number)
        assert not any(port.port.islands for port in switch._ports)
        with pytest.raises(InputError, match=f"there is no partition {number}; there are none"):
            switch.policies.heal(number)


async def test_a_hub_cannot_be_parted() -> None:
    async with VSwitch(hub=True) as switch:
        with pytest.raises(InputError, match="hub"):
            switch.policies.part(["a"], ["b"])


async def test_there_are_so_many_partitions_at_most() -> None:
    async with VSwitch() as switch:
        numbers = [switch.policies.part(["a"], ["b"]) for _ in range(PARTITIONS_MAX)]
        with pytest.raises(RefusedError, match=f"there are {PARTITIONS_MAX} partitions already; heal some"):
            switch.policies.part(["a"], ["b"])
        switch.policies.heal(numbers[0])
        switch.policies.part(["a"], ["b"])
