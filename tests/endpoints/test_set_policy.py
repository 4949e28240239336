"""Ports that have a policy, get another one, and go: what the data plane goes by, and what is left."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from tests.dataplane.plumbing import drops, receive, take
from tests.endpoints.test_policy import ONE, ONE_TEXT, PORT, QUERIES, THOUSANDS, TWO_TEXT, policy
from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, check_balance, until
from vswitch import InputError, VSwitch
from vswitch.dataplane.frame import TPID_8021AD, TPID_8021Q, TPID_9100
from vswitch.dataplane.mac_table import PINNED
from vswitch.dataplane.vlan import TRANSPARENT
from vswitch.endpoints.url import parse
from vswitch.ports.policy import Policy
from vswitch.ports.port import SwitchPort
from vswitch.ports.ports import Ports


def new_ports() -> Ports:
    return Ports(table_size=64, ageing_s=300)


@pytest.fixture
def ports() -> Iterator[Ports]:
    with closing(new_ports()) as ports:
        yield ports
        for port in list(ports):
            ports.remove(port)


def add(ports: Ports, name: str, query: str = "") -> SwitchPort:
    """A port of the endpoint that its name says, with a link as far as the data plane knows."""
    port = ports.add(name, name.partition(".")[0], parse(f"{PORT}&{query}"))
    ports.bridge.port_up(port.port)
    return port


def seen(port: SwitchPort) -> dict[str, Any]:
    """What the data plane goes by at one port."""
    names = (
        "vlans isolated plain enabled up is_mirror forwards_reserved any_source"
        " ingress_policy egress_policy mirrors_in mirrors_out"
    )
    sticky = port.port.place == port.port.index | PINNED
    return {name: getattr(port.port, name) for name in names.split()} | {"sticky": sticky}


def state(ports: Ports) -> dict[str, Any]:
    """What the data plane goes by in all."""
    return {
        "selective": ports.bridge.selective,
        "service_tpid": ports.bridge.service_tpid,
        "active": {port.index for port in ports.bridge.active},
        "stations": sorted(ports.table.entries(0)),
        "ports": {port.name: seen(port) for port in ports},
    }


NOTHING_ASKED = {
    "vlans": TRANSPARENT,
    "isolated": False,
    "plain": True,
    "enabled": True,
    "up": True,
    "is_mirror": False,
    "forwards_reserved": False,
    "any_source": False,
    "ingress_policy": None,
    "egress_policy": None,
    "mirrors_in": [],
    "mirrors_out": [],
    "sticky": False,
}


@pytest.mark.parametrize("query", QUERIES)
def test_a_port_that_asks_for_nothing_goes_the_short_way_whatever_others_ask(ports: Ports, query: str) -> None:
    before = add(ports, "before")
    add(ports, "other", query)
    after = add(ports, "after")
    assert seen(before) == seen(after) == NOTHING_ASKED


@pytest.mark.parametrize("query", QUERIES)
def test_a_policy_can_be_switched_on_and_off_again(ports: Ports, query: str) -> None:
    add(ports, "web")
    port = add(ports, "vm")
    before = state(ports)
    ports.wiring.set_policy(port, policy(query))
    assert port.policy == policy(query)
    is_the_guards_alone = query == "loop=warn"  # not the data plane's
    assert (state(ports) == before) == is_the_guards_alone
    ports.wiring.set_policy(port, Policy())
    assert state(ports) == before


@pytest.mark.parametrize("query", QUERIES)
def test_a_port_that_goes_leaves_nothing_behind_for_the_next_one(ports: Ports, query: str) -> None:
    add(ports, "web")
    before = state(ports)
    gone = add(ports, "vm", query)
    receive(ports.bridge, gone.port.index, [frame(BROADCAST, mac(1))])
    ports.remove(gone)
    assert state(ports) == before
    following = add(ports, "vm")
    assert following.port.index == gone.port.index
    assert seen(following) == NOTHING_ASKED


MANY = "static=" + ",".join(THOUSANDS.split(",")[:65])  # more than the table can hold


@pytest.mark.parametrize(
    ("other", "before", "wanted", "said"),
    [
        (f"static={ONE_TEXT}", "", f"static={ONE_TEXT}", "52:54:00:12:34:56 is behind web already"),
        (f"static={ONE_TEXT}", f"static={TWO_TEXT}", f"static={TWO_TEXT},{ONE_TEXT}", "is behind web already"),
        (f"trunk=10&static={ONE_TEXT}@10", "isolated", f"vlan=10&static={ONE_TEXT}", "is behind web already"),
        ("qinq=10", "vlan=10", "qinq=20&tpid=0x9100", "tpid: all qinq ports have the same; web has 0x88a8"),
        ("qinq=10&tpid=0x9100", "qinq=20&tpid=0x9100", "qinq=20", "web has 0x9100"),
        ("", f"rate=1fps&static={ONE_TEXT}", MANY, "--table-size"),
        (f"static={ONE_TEXT}", "mirror_of=web", MANY, "--table-size"),
    ],
    ids=lambda text: text[:40],
)
def test_a_policy_that_does_not_go_with_others_is_refused_and_the_port_stays_as_it_was(
    ports: Ports, other: str, before: str, wanted: str, said: str
) -> None:
    add(ports, "web", other)
    port = add(ports, "vm", before)
    was = state(ports)
    with pytest.raises(InputError, match=said):
        ports.wiring.set_policy(port, policy(wanted))
    assert port.policy == policy(before)
    assert state(ports) == was
    with pytest.raises(InputError):
        add(ports, "new", wanted)
    assert state(ports) == was


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (f"vlan=10&static={ONE_TEXT}", f"vlan=20&static={ONE_TEXT}"),
        (f"trunk=10,20&static={ONE_TEXT}@10", f"trunk=10,20&static={ONE_TEXT}@20"),
        ("qinq=10&tpid=0x9100", "qinq=20&tpid=0x9100"),
        ("qinq=10&tpid=0x9100", "vlan=10"),
    ],
)
def test_policies_that_go_together_do(ports: Ports, one: str, two: str) -> None:
    ports.wiring.set_policy(add(ports, "web", one), policy(one))
    ports.wiring.set_policy(add(ports, "vm", two), policy(two))


def test_what_one_port_had_another_can_have_once_it_is_free(ports: Ports) -> None:
    one, two = add(ports, "one", f"qinq=10&static={ONE_TEXT}"), add(ports, "two")
    ports.wiring.set_policy(one, Policy())
    ports.wiring.set_policy(two, policy(f"qinq=10&tpid=0x9100&static={ONE_TEXT}"))
    ports.remove(two)
    ports.wiring.set_policy(one, policy(f"qinq=10&static={ONE_TEXT}"))
    assert [station[:3] for station in ports.table.entries(0)] == [(10, ONE, one.port.index)]


@pytest.mark.parametrize(
    ("query", "vlan"),
    [
        (f"static={ONE_TEXT}", 1),
        (f"static={ONE_TEXT}@4094", 4094),
        (f"static={ONE_TEXT}&vlan=10", 10),
        (f"static={ONE_TEXT}&qinq=10", 10),
        (f"static={ONE_TEXT}&trunk=20&native=10", 10),
        (f"static={ONE_TEXT}&trunk=all&native=10", 10),
        (f"static={ONE_TEXT}@20&trunk=20&native=10", 20),
    ],
)
def test_a_static_station_is_in_the_vlan_of_untagged_frames_unless_another_is_said(
    ports: Ports, query: str, vlan: int
) -> None:
    port = add(ports, "vm", query)
    assert [station[:3] for station in ports.table.entries(0)] == [(vlan, ONE, port.port.index)]


def test_a_static_station_stays_while_its_port_is_down(ports: Ports) -> None:
    web, vm = add(ports, "web"), add(ports, "vm", f"static={ONE_TEXT}")
    ports.bridge.port_down(vm.port)
    ports.wiring.set_policy(vm, policy(f"up=no&static={ONE_TEXT}"))
    receive(ports.bridge, web.port.index, [frame(ONE, mac(1))])
    assert drops(web.port) == {"port_down": 1}


def test_the_last_port_that_needs_it_takes_it_along(ports: Ports) -> None:
    bridge = ports.bridge
    assert (bridge.selective, bridge.service_tpid) == (False, TPID_8021Q)
    one, two = add(ports, "one", "qinq=10"), add(ports, "two", "qinq=20")
    assert (bridge.selective, bridge.service_tpid) == (True, TPID_8021AD)
    ports.wiring.set_policy(one, policy("isolated"))
    assert (bridge.selective, bridge.service_tpid) == (True, TPID_8021AD)
    ports.wiring.set_policy(two, policy("qinq=20&tpid=0x9100"))
    assert (bridge.selective, bridge.service_tpid) == (True, TPID_9100)
    ports.remove(two)
    assert (bridge.selective, bridge.service_tpid) == (True, TPID_8021Q)
    ports.wiring.set_policy(one, Policy())
    assert (bridge.selective, bridge.service_tpid) == (False, TPID_8021Q)


@pytest.mark.parametrize("query", ["", "vlan=10", "up=no", "mirror_of=web"])
def test_what_was_learned_on_a_port_is_forgotten_with_its_vlans_and_only_that(ports: Ports, query: str) -> None:
    web, vm = add(ports, "web"), add(ports, "vm", "sticky")
    for port, src in ((web, 1), (vm, 2), (vm, 3)):
        receive(ports.bridge, port.port.index, [frame(BROADCAST, mac(src))])
    assert ports.table.live(0) == 3
    ports.wiring.set_policy(vm, policy(query))
    learned = [station for station in ports.table.entries(0) if station[3] >= 0]
    assert learned == [(1, mac(1), web.port.index, 0)]


@pytest.mark.parametrize("query", ["sticky&isolated", "sticky&locked", "sticky&max_frame=100"])
def test_what_was_learned_on_a_port_stays_while_its_vlans_do(ports: Ports, query: str) -> None:
    vm = add(ports, "vm", "sticky")
    receive(ports.bridge, vm.port.index, [frame(BROADCAST, mac(2))])
    ports.wiring.set_policy(vm, policy(query))
    assert ports.table.entries(0) == [(1, mac(2), vm.port.index, 0)]


def test_frames_go_by_the_policy_that_a_port_has_now(ports: Ports) -> None:
    web, vm = add(ports, "web", "vlan=10"), add(ports, "vm")
    hello = frame(BROADCAST, mac(1))
    tagged = hello[:12] + b"\x81\x00\x00\x0a" + hello[12:]
    for query, arrives in [
        ("vlan=10", [hello]),
        ("vlan=20", []),
        ("trunk=10", [tagged]),
        ("up=no", []),
        ("", [tagged]),
        ("mirror_of=web", [hello]),
        ("vlan=10&max_frame=60", [hello]),
    ]:
        ports.wiring.set_policy(vm, policy(query))
        receive(ports.bridge, web.port.index, [hello])
        assert take(vm.port) == arrives, query


def watched(ports: Ports, mirror: SwitchPort) -> tuple[str, str]:
    """The names of the ports of which a mirror gets what comes in, and what goes out."""
    of_in = [port.name for port in ports for copied_to in port.port.mirrors_in if copied_to is mirror.port]
    of_out = [port.name for port in ports for copied_to in port.port.mirrors_out if copied_to is mirror.port]
    return " ".join(of_in), " ".join(of_out)


def test_a_mirror_of_an_endpoint_has_all_its_ports_also_those_that_come_later(ports: Ports) -> None:
    add(ports, "lab.1")
    mirror = add(ports, "tap", "mirror_of=lab")
    assert watched(ports, mirror) == ("lab.1", "lab.1")
    second = add(ports, "lab.2", "rate=1fps&pad")
    add(ports, "web")
    assert watched(ports, mirror) == ("lab.1 lab.2", "lab.1 lab.2")
    ports.wiring.set_policy(second, Policy())
    assert watched(ports, mirror) == ("lab.1 lab.2", "lab.1 lab.2")
    ports.remove(second)
    assert watched(ports, mirror) == ("lab.1", "lab.1")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("mirror_of=lab", ("lab.1 lab.2", "lab.1 lab.2")),
        ("mirror_of=lab&mirror=in", ("lab.1 lab.2", "")),
        ("mirror_of=lab&mirror=out", ("", "lab.1 lab.2")),
        ("mirror_of=lab.2,web", ("lab.2 web", "lab.2 web")),
        ("mirror_of=la,lab.3,we,tap", ("", "")),
    ],
)
def test_a_mirror_can_be_turned_elsewhere_and_off(ports: Ports, query: str, names: tuple[str, str]) -> None:
    for name in ("lab.1", "lab.2", "web"):
        add(ports, name)
    mirror = add(ports, "tap", "mirror_of=web&mirror=in")
    assert watched(ports, mirror) == ("web", "")
    ports.wiring.set_policy(mirror, policy(query))
    assert watched(ports, mirror) == names
    ports.wiring.set_policy(mirror, Policy())
    assert watched(ports, mirror) == ("", "")


def test_mirrors_do_not_watch_mirrors(ports: Ports) -> None:
    one, two = add(ports, "one", "mirror_of=two"), add(ports, "two", "mirror_of=one")
    assert watched(ports, one) == watched(ports, two) == ("", "")
    ports.wiring.set_policy(two, Policy())
    assert watched(ports, one) == ("two", "two")


def test_a_watched_port_keeps_the_policy_of_its_own(ports: Ports) -> None:
    web = add(ports, "web", "rate=1fps&pad")
    own = seen(web)
    one, two = add(ports, "one", "mirror_of=web"), add(ports, "two", "mirror_of=web&mirror=in")
    assert seen(web) == own | {"mirrors_in": [one.port, two.port], "mirrors_out": [one.port]}
    ports.remove(one)
    assert seen(web) == own | {"mirrors_in": [two.port]}
    ports.remove(two)
    assert seen(web) == own


# A switch whose ports have one


@asynccontextmanager
async def two_peers(switch: VSwitch) -> AsyncIterator[tuple[Peer, Peer]]:
    """`web` and `vm`."""
    async with await Peer.plugged_into(switch, name="web") as web, await Peer.plugged_into(switch, name="vm") as vm:
        yield web, vm


async def test_the_policy_of_a_port_is_set_by_its_name() -> None:
    async with VSwitch() as switch, two_peers(switch) as (web, vm):
        switch.policies.set("web", policy("trunk=10"))
        switch.policies.set("vm", policy("vlan=10"))
        assert [port.vlan.mode for port in switch.ports()] == ["trunk", "access"]
        await web.send(frame(BROADCAST, mac(1), 64, tag=10))
        assert await vm.receive(1) == [frame(BROADCAST, mac(1))]
        check_balance(switch)


async def test_a_port_that_is_not_there_has_no_policy() -> None:
    async with VSwitch() as switch:
        with pytest.raises(InputError, match="there is no port 'vm'; there are none"):
            switch.policies.set("vm", Policy())
        async with two_peers(switch):
            with pytest.raises(InputError, match="there is no port 'lab'; there are web, vm"):
                switch.policies.set("lab", policy("vlan=10"))
            assert {port.vlan.mode for port in switch.ports()} == {"transparent"}


async def test_a_port_can_be_closed_and_opened_while_its_peer_stays() -> None:
    async with VSwitch() as switch, two_peers(switch) as (web, vm):
        switch.policies.set("web", policy("up=no"))
        assert not switch.ports()[0].up
        assert switch.ports()[0].peer is not None
        await web.send(frame(BROADCAST, mac(1)))
        await until(lambda: switch.ports()[0].drops == {"port_down": 1})
        await vm.send(frame(BROADCAST, mac(2)))
        await until(lambda: switch.ports()[1].drops == {"no_destination": 1})
        switch.policies.set("web", Policy())
        assert switch.ports()[0].up
        await vm.send(again := frame(BROADCAST, mac(2), payload=b"again"))
        assert await web.receive(1) == [again]
        check_balance(switch)


async def test_a_closed_port_has_its_one_peer_all_the_same(directory: Path) -> None:
    async with VSwitch() as switch:
        vm = await switch.attach(f"unix://{directory}/vm.sock?single&up=no")
        async with await Peer.connected_to(vm.url), await Peer.connected_to(vm.url) as second:
            assert await second.closed()


async def test_a_listening_descriptor_has_no_static_stations_either() -> None:
    async with VSwitch() as switch:
        with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(InputError, match="add single=yes"):
            await switch.attach(server, static=ONE_TEXT)
        await switch.attach(socket.create_server(("127.0.0.1", 0)), static=ONE_TEXT, single=True)
        assert [station.static for station in await switch.macs()] == [True]


async def test_a_mirror_of_what_is_not_there_is_told_from_one_of_what_may_come() -> None:
    async with VSwitch() as switch:
        await switch.attach("tcp://127.0.0.1:0", name="lab")
        await switch.attach("tcp://127.0.0.1:0", name="tap", mirror_of=["lab", "lab.7"])
        switch.attachments.check_mirrors()
        await switch.attach("tcp://127.0.0.1:0", name="tap2", mirror_of="vm.1")
        with pytest.raises(InputError, match=r"mirror_of: there is no endpoint 'vm\.1'; there are lab, tap, tap2"):
            switch.attachments.check_mirrors()


@pytest.mark.parametrize("kind", ["unix", "unixgram"])
async def test_a_peer_whose_port_cannot_be_had_is_turned_away_and_the_others_stay(directory: Path, kind: str) -> None:
    """Its endpoint's policy does not go with one that another port has by now."""
    async with VSwitch() as switch:
        lab = await switch.attach(f"{kind}://{directory}/lan.sock?qinq=10")
        listener = await switch.attach(f"unix://{directory}/vm.sock", name="vm")
        vm = await Peer.connected_to(listener.url)
        await until(lambda: switch.ports())
        switch.policies.set("vm.1", policy("qinq=10&tpid=0x9100"))
        if kind == "unix":
            async with await Peer.connected_to(lab.url) as turned_away:
                assert await turned_away.closed()
        else:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as turned_away:
                turned_away.bind(f"{directory}/guest.sock")
                turned_away.sendto(frame(BROADCAST, mac(1)), f"{directory}/lan.sock")
                await until(lambda: switch.status().totals.drops)
        assert [port.name for port in switch.ports()] == ["vm.1"]
        async with vm:
            await vm.send(frame(BROADCAST, mac(2)))
            await until(lambda: switch.ports()[0].rx_frames == 1)
        check_balance(switch)
