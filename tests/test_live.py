"""A running switch that is changed, and saved: what it is then, a new one of that file is as well."""

import re
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.endpoints.test_policy import QUERIES
from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, check_balance, until
from vswitch import InputError, RefusedError, VSwitch
from vswitch.control import config, saving
from vswitch.control.config import SwitchConfig
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import VSwitchError
from vswitch.ports.policy import PARAMETERS, Policy, amended, mac_text, read_mac, written

ONE, TWO = "52:54:00:00:00:01", "52:54:00:00:00:02"


def policy(query: str) -> Policy:
    return parse(f"unix:///x?single=yes&{query}").policy


# What is set


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        ("", {"vlan": 10}, "vlan=10"),
        ("vlan=10&sticky=yes", {"vlan": "20"}, "vlan=20&sticky=yes"),
        ("vlan=10&sticky=yes", {"trunk": [10, 20], "native": "10"}, "trunk=10,20&native=10&sticky=yes"),
        ("trunk=10&native=10", {"vlan": 3}, "vlan=3"),
        ("trunk=10&native=10", {"native": None}, "trunk=10"),
        ("qinq=10&tpid=0x9100", {"trunk": "all"}, "trunk=all"),
        ("mirror_of=a&mirror=in", {"vlan": 3}, "vlan=3"),
        ("vlan=3", {"mirror_of": "a", "mirror": None}, "mirror_of=a"),
        ("rate=10Mbit/s&burst=1s", {"rate": None, "burst": None}, ""),
        ("up=no", {"up": True}, ""),
    ],
)
def test_parameters_are_set_over_what_there_is(before: str, given: dict[str, Any], after: str) -> None:
    assert amended(policy(before), given) == policy(after)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"vlna": 1}, "unknown parameter 'vlna'; did you mean 'vlan'"),
        ({"vlan": 0}, "vlan: 0 is not a number from 1 to 4094"),
        ({"vlan": 1, "trunk": 2}, "vlan and trunk do not go together"),
        ({"native": 2}, "native goes with trunk"),
        ({"name": "x"}, "unknown parameter 'name'"),
    ],
)
def test_what_cannot_be_set_is_said(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        amended(Policy(), given)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["10", "a", ONE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(PARAMETERS)), JSON, max_size=3))
def test_whatever_is_given_is_a_policy_or_said_to_be_wrong(given: dict[str, Any]) -> None:
    with suppress(InputError):
        assert amended(amended(Policy(), given), given) == amended(Policy(), given)


# Stations


@asynccontextmanager
async def two_peers(switch: VSwitch) -> AsyncIterator[tuple[Peer, Peer]]:
    """`a` and `b`."""
    async with await Peer.plugged_into(switch, name="a") as a, await Peer.plugged_into(switch, name="b") as b:
        yield a, b


async def entries(switch: VSwitch) -> list[tuple[str, int, str, bool]]:
    return [(found.mac, found.vlan, found.port, found.static) for found in await switch.macs()]


async def test_stations_are_pinned_and_forgotten() -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="a") as a:
        switch.stations.pin(ONE, "a")
        switch.stations.pin(f"{TWO}@7", "a")
        switch.stations.pin(ONE, "a")
        await a.send(frame(BROADCAST, mac(3)))
        await until(lambda: switch.status().macs == 3)
        pinned = [(ONE, 1, "a", True), (TWO, 7, "a", True)]
        assert sorted(await entries(switch)) == sorted([*pinned, (mac_text(mac(3)), 1, "a", False)])
        assert await switch.stations.flush() == 1
        assert await entries(switch) == pinned
        assert switch.stations.forget(read_mac(TWO), 1) == 0
        assert switch.stations.forget(read_mac(TWO)) == 1
        assert switch.stations.forget(read_mac(ONE), 1) == 1
        assert await entries(switch) == []
        assert switch.policies.of("a") == Policy()
        with pytest.raises(InputError, match="there is no port 'x'; there are a"):
            switch.stations.pin(ONE, "x")
        with pytest.raises(InputError, match="is not one station's address"):
            switch.stations.pin("01:00:5e:00:00:01", "a")


async def test_what_was_learned_is_flushed_by_port_and_vlan() -> None:
    async with VSwitch(table_size=4096) as switch, two_peers(switch) as (a, b):
        for peer, first in ((a, 1000), (b, 2000)):
            for number in range(300):
                await peer.send(frame(BROADCAST, mac(first + number), tag=5 + number % 2))
        await until(lambda: switch.status().macs == 600)
        assert await switch.stations.flush("a", 5) == 150
        assert await switch.stations.flush(vlan=6) == 300
        assert {(vlan, port) for _, vlan, port, _ in await entries(switch)} == {(5, "b")}
        assert await switch.stations.flush("a") == 0
        assert switch.stations.forget(mac(2000)) == 1
        assert await switch.stations.flush("b") == 149
        assert await entries(switch) == []
        with pytest.raises(InputError, match="there is no port 'x'"):
            await switch.stations.flush("x")


# What is saved


@pytest.mark.parametrize("query", QUERIES)
def test_every_policy_is_saved(query: str, tmp_path: Path) -> None:
    wanted = policy(query)
    watched = {name: EndpointConfig(scheme="unix", path=f"/{name}") for name in ("web", "lab")}
    mine = {"a": EndpointConfig(scheme="unix", path="/x", policy=wanted, single=True)}
    text = saving.toml(SwitchConfig(name="lab"), watched | mine)
    (tmp_path / "saved.toml").write_text(text)
    *_, endpoint = config.read(str(tmp_path / "saved.toml")).endpoints
    assert endpoint.policy == wanted
    assert dict(written(endpoint.policy)) == dict(written(wanted))


URLS = [
    "tcp://[::1]:0?any_user=yes&queue=1MiB",
    "tcp://127.0.0.1:7?connect",
    'unix://{}/a%3Fb c"d\\e?single=yes',
    "udp://127.0.0.1:0?limit=7&idle=20s",
    "udp://127.0.0.1:0?remote=127.0.0.1:9",
    "unixgram://{}/x?remote={}/y",
    "vde://{}/vde?mode=0660&dirmode=0750&mgmt={}/m gmt&mgmtmode=0640",
    "mcast://230.0.0.7:7777?iface=lo",
    "udp://[::1]:0?remote=[fe80::1%25be0]:1234",
    "udp://127.0.0.1:0?idle=99999999999999999s",
]


@pytest.mark.parametrize("url", URLS)
def test_every_endpoint_is_saved(url: str, tmp_path: Path) -> None:
    wanted = parse(url.replace("{}", str(tmp_path)), {"name": "a"})
    (tmp_path / "saved.toml").write_text(saving.toml(SwitchConfig(), {"a": wanted}))
    assert config.read(str(tmp_path / "saved.toml")).endpoints == (wanted,)


def test_the_switch_itself_is_saved(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(
        '[switch]\nname = "lab"\nageing = "1.5s"\ntable_size = 77\ncapture = "a\\"b.pcapng"\n'
        'capture_memory = "3MiB"\nrecord = "61.25s,64MiB"\n'
    )
    wanted = msgspec.structs.replace(config.read(str(tmp_path / "lab.toml")), capture=str(tmp_path / 'a"b.pcapng'))
    (tmp_path / "saved.toml").write_text(saving.toml(wanted, {}))
    assert config.read(str(tmp_path / "saved.toml")) == wanted


def test_a_name_is_no_number(tmp_path: Path) -> None:
    endpoints = {"5": parse("unix:///a", {"name": "5"}), "m": parse("unix:///m?mirror_of=5&single=yes", {"name": "m"})}
    (tmp_path / "saved.toml").write_text(saving.toml(SwitchConfig(), endpoints))
    assert config.read(str(tmp_path / "saved.toml"), whole=True).endpoints == tuple(endpoints.values())


async def test_a_socket_that_was_passed_on_is_not_in_a_file() -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="a"):
        assert re.search(r"^# fd://\d+ \(a\) was passed on to the switch", switch.configuration.saved(), re.M)


Change = Callable[[VSwitch], Any]
NAMES = st.sampled_from(["a", "b", "c", "unix1"])
SETTINGS = st.sampled_from(
    [
        {"vlan": 10},
        {"trunk": [10, 20], "native": 10},
        {"trunk": "all"},
        {"qinq": 5},
        {"up": False},
        {"up": None},
        {"vlan": None},
        {"rate": "10Mbit/s", "burst": "5ms"},
        {"static": [ONE, f"{TWO}@10"]},
        {"static": None},
        {"allow_ip": ["10.0.0.1", "fd00::1"], "dhcp_server": False},
        {"mirror_of": ["a", "b"], "mirror": "in"},
        {"max_frame": 1514, "pad": True},
    ]
)


def attach(name: str | None, place: str, query: str) -> Change:
    async def change(switch: VSwitch) -> None:
        await switch.attach(f"unix://{place}.sock?{query}", **({} if name is None else {"name": name}))

    return change


def detach(name: str) -> Change:
    return lambda switch: switch.attachments.detach(name)


def amend(name: str, parameters: dict[str, Any]) -> Change:
    async def change(switch: VSwitch) -> None:
        switch.policies.amend(name, parameters)

    return change


def pin(name: str, station: str) -> Change:
    async def change(switch: VSwitch) -> None:
        switch.stations.pin(station, name)

    return change


def forget(station: str) -> Change:
    async def change(switch: VSwitch) -> None:
        switch.stations.forget(read_mac(station))

    return change


CHANGES = st.one_of(
    st.builds(
        attach, st.none() | NAMES, st.sampled_from("xyz"), st.sampled_from(["", "single=yes", "queue=1MiB&vlan=7"])
    ),
    st.builds(detach, NAMES),
    st.builds(amend, NAMES, SETTINGS),
    st.builds(pin, NAMES, st.sampled_from([ONE, TWO, f"{ONE}@10"])),
    st.builds(forget, st.sampled_from([ONE, TWO])),
)


async def state(switch: VSwitch) -> Any:
    return switch.endpoints(), sorted(await entries(switch)), switch._ports.table.ageing


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGES, max_size=12))
def test_any_changes_are_saved(monkeypatch: pytest.MonkeyPatch, changes: list[Change]) -> None:
    """Those that are refused change nothing, whatever came before."""

    async def main() -> None:
        async with VSwitch("lab", ageing_s=77.5, table_size=500) as switch:
            for change in changes:
                before = await state(switch)
                try:
                    await change(switch)
                except VSwitchError:
                    assert await state(switch) == before
            found, text = await state(switch), switch.configuration.saved()
        await trio.Path("saved.toml").write_text(text)
        wanted = config.read("saved.toml", whole=True)
        async with VSwitch(
            wanted.name or "", ageing_s=wanted.ageing_s or 0, table_size=wanted.table_size or 0
        ) as switch:
            await switch.configuration.begin(wanted)
            assert await state(switch) == found
            assert switch.configuration.saved() == text

    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory, monkeypatch.context() as patched:
        patched.chdir(directory)
        trio.run(main)


async def test_what_a_mirror_watches_stays() -> None:
    async with VSwitch() as switch, two_peers(switch):
        await switch.attach("tcp://127.0.0.1:0", name="tap")
        switch.policies.amend("tap", {"mirror_of": ["b", "a.1"]})
        with pytest.raises(RefusedError, match="a is watched by the mirror tap; change that first"):
            await switch.attachments.detach("a")
        with pytest.raises(InputError, match="mirror_of: there is no endpoint 'x'; there are a, b, tap"):
            switch.policies.amend("tap", {"mirror_of": "x"})
        switch.policies.amend("tap", {"mirror_of": None})
        await switch.attachments.detach("tap")
        assert [endpoint.name for endpoint in switch.endpoints()] == ["a", "b"]


async def test_a_partition_is_healed_by_its_number() -> None:
    async with VSwitch() as switch, two_peers(switch) as (a, b):
        number = switch.policies.part(["a"], ["b"])
        await a.send(frame(BROADCAST, mac(1)))
        await until(lambda: switch.status().totals.drops)
        switch.policies.heal(number)
        await a.send(again := frame(BROADCAST, mac(1), payload=b"again"))
        assert await b.receive(1) == [again]
        check_balance(switch)
