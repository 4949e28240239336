"""A switch that becomes as its configuration says, while it runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, check_balance, until
from vswitch import InputError, VSwitch
from vswitch.control.config import SwitchConfig
from vswitch.endpoints.url import parse
from vswitch.errors import RefusedError

ONE = "52:54:00:00:00:01"


class Source:
    """A configuration that a test writes."""

    def __init__(self, *urls: str) -> None:
        self.write(*urls)

    def write(self, *urls: str, ageing_s: float = 300.0) -> None:
        named = [(url.rpartition(" ")[2], url.rpartition(" ")[0]) for url in urls]
        endpoints = tuple(parse(url, {"name": name} if name else {}) for url, name in named)
        self.config = SwitchConfig(ageing_s=ageing_s, endpoints=endpoints)

    def read(self) -> SwitchConfig:
        return self.config


async def lines(switch: VSwitch, *, dry_run: bool = False) -> list[str]:
    return [line for change in await switch.configuration.reload(dry_run=dry_run) for line in change.diff()]


def urls(switch: VSwitch) -> dict[str, str]:
    return {endpoint.name: endpoint.url for endpoint in switch.endpoints()}


@pytest.fixture
def at(tmp_path: Path) -> Callable[[str], str]:
    """The URL of a unix socket, and what follows it."""
    return lambda rest: f"unix://{tmp_path}/{rest}"


async def test_without_a_configuration_there_is_nothing_to_read_again() -> None:
    async with VSwitch() as switch:
        with pytest.raises(RefusedError, match="this switch has no configuration file; start it with"):
            await switch.configuration.reload()


async def test_guests_stay_while_all_around_them_changes(at: Callable[[str], str]) -> None:
    source = Source(f"a {at('a')}", f"b {at('b')}", f"gone {at('gone')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        async with await Peer.connected_to(at("a")) as a, await Peer.connected_to(at("b")) as b:
            await until(lambda: len(switch.ports()) == 2)
            await a.send(frame(BROADCAST, mac(1)))
            assert await b.receive(1)
            source.write(f"new {at('new')}", f"a {at('a')}", f"b {at('b?sticky=yes')}", ageing_s=20.0)
            changes = await lines(switch)
            assert changes[:2] == ["- ageing = 300s", "+ ageing = 20s"]
            assert changes[2:] == [
                f"- gone  {at('gone')}",
                f"+ new  {at('new')}",
                f"- b  {at('b')}",
                f"+ b  {at('b?sticky=yes')}",
            ]
            assert urls(switch) == {"a": at("a"), "b": at("b?sticky=yes"), "new": at("new")}
            await a.send(again := frame(BROADCAST, mac(1), payload=b"again"))
            assert await b.receive(1) == [again]
            check_balance(switch)
            assert await lines(switch) == []


async def test_a_dry_run_changes_nothing(at: Callable[[str], str]) -> None:
    source = Source(f"a {at('a')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        source.write(f"b {at('b')}")
        assert await lines(switch, dry_run=True) == [f"- a  {at('a')}", f"+ b  {at('b')}"]
        assert urls(switch) == {"a": at("a")}
        assert await lines(switch) == [f"- a  {at('a')}", f"+ b  {at('b')}"]
        assert urls(switch) == {"b": at("b")}


async def test_what_cannot_be_attached_changes_nothing(at: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = Source(f"a {at('a')}", f"gone {at('gone?vlan=5')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        source.write(f"a {at('a?vlan=7')}", f"new {at('new')}", f"bad {at('file')}", ageing_s=10.0)
        with pytest.raises(RefusedError, match="file"):
            await switch.configuration.reload()
        assert urls(switch) == {"a": at("a"), "gone": at("gone?vlan=5")}
        source.write(f"a {at('a?vlan=7')}", f"new {at('new')}")
        await switch.configuration.reload()
        assert urls(switch) == {"a": at("a?vlan=7"), "new": at("new")}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (("m tcp://127.0.0.1:0?mirror_of=nobody", "b tcp://127.0.0.1:0"), "there is no endpoint 'nobody'"),
        (("b tcp://127.0.0.1:0?qinq=10", "c tcp://127.0.0.1:0?qinq=10&tpid=0x9100"), "all qinq ports have the same"),
        (
            tuple(f"{name} unix:///x{name}?single=yes&static={ONE}" for name in "bc"),
            "static: 52:54:00:00:00:01 is behind",
        ),
    ],
)
async def test_what_does_not_go_together_changes_nothing(wrong: tuple[str, ...], why: str) -> None:
    source = Source("b tcp://127.0.0.1:0")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        await switch.attach("tcp://127.0.0.1:0", name="api")
        before = urls(switch)
        source.write(*wrong)
        with pytest.raises(InputError, match=why):
            await switch.configuration.reload()
        assert urls(switch) == before


async def test_all_service_tags_change_at_once() -> None:
    """No port may have another EtherType of them than the others."""
    source = Source(*(f"{name} tcp://127.0.0.1:0?qinq=10" for name in "abc"))
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        source.write(*(f"{name} tcp://127.0.0.1:0?qinq=10&tpid=0x9100" for name in "abc"))
        await switch.configuration.reload()
        assert [url.partition("?")[2] for url in urls(switch).values()] == ["qinq=10&tpid=0x9100"] * 3


async def test_a_station_moves_to_another_endpoint(at: Callable[[str], str]) -> None:
    station = "static=52:54:00:00:00:01"
    source = Source(f"a {at(f'a?single=yes&{station}')}", f"b {at('b?single=yes')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        source.write(f"b {at(f'b?single=yes&{station}')}", f"a {at('a?single=yes')}")
        await switch.configuration.reload()
        assert [(mac.port, mac.static) for mac in await switch.macs()] == [("b", True)]
        source.write(f"c {at(f'c?single=yes&{station}')}", f"a {at('a?single=yes')}")
        await switch.configuration.reload()
        assert [(mac.port, mac.static) for mac in await switch.macs()] == [("c", True)]


async def test_what_cannot_be_replaced_stays(at: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = Source(f"a {at('a')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        source.write(f"a {at('file')}", f"b {at('b')}")
        with pytest.raises(RefusedError, match=r"the rest has changed, but a is as it was: .*file"):
            await switch.configuration.reload()
        assert urls(switch) == {"b": at("b"), "a": at("a")}
        source.write(f"a {at('a')}", f"b {at('b')}")
        assert await lines(switch) == []


async def test_what_somebody_has_detached_comes_again(at: Callable[[str], str]) -> None:
    source = Source(f"a {at('a')}", f"b {at('b')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        await switch.attachments.detach("a")
        await switch.attachments.detach("b")
        await switch.attach(at("other"), name="b")
        assert await lines(switch) == [
            f"+ a  {at('a')}",
            f"- b  {at('other')}",
            f"+ b  {at('b')}  (its guests reconnect)",
        ]
        assert urls(switch) == {"a": at("a"), "b": at("b")}


async def test_what_is_refused_takes_nothing_from_ports(at: Callable[[str], str], tmp_path: Path) -> None:
    """Neither what was set on one alone, nor what was learned."""
    (tmp_path / "file").write_text("")
    source = Source(f"a {at('a?trunk=5,6')}", f"b {at('b')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        async with await Peer.connected_to(at("a")), await Peer.connected_to(at("b")) as b:
            await until(lambda: len(switch.ports()) == 2)
            await b.send(frame(BROADCAST, mac(1)))
            await until(lambda: switch.status().macs == 1)
            (one,) = (port.name for port in switch.ports() if port.endpoint == "a")
            switch.policies.amend(one, {"vlan": 30, "locked": True})
            own = switch.policies.of(one)
            for wrong in ((f"bad {at('file')}",), (f"a {at('a?vlan=9')}", f"b {at('b?vlan=9')}", f"bad {at('file')}")):
                source.write(*wrong)
                with pytest.raises(RefusedError, match="file"):
                    await switch.configuration.reload()
                assert switch.policies.of(one) == own
                assert switch.status().macs == 1
            source.write(f"a {at('a?vlan=9&sticky=yes')}", f"b {at('b')}")
            await switch.configuration.reload()
            assert switch.policies.of(one) == parse(at("a?vlan=30&locked=yes&sticky=yes")).policy


async def test_endpoints_take_each_others_places(at: Callable[[str], str]) -> None:
    source = Source(f"a {at('1')}", f"b {at('2')}", f"c {at('3')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        source.write(f"a {at('2')}", f"b {at('1')}", f"c {at('4')}", f"d {at('3')}")
        await switch.configuration.reload()
        assert urls(switch) == {"a": at("2"), "b": at("1"), "c": at("4"), "d": at("3")}
        assert await lines(switch) == []


async def test_an_address_may_become_wider(at: Callable[[str], str]) -> None:
    async with VSwitch() as switch:
        port = (await switch.attach("tcp://127.0.0.1:0", name="other")).config.port
        await switch.attachments.detach("other")
        source = Source(f"t tcp://127.0.0.1:{port}")
        await switch.configuration.begin(source.config, source.read)
        source.write(f"t2 tcp://0.0.0.0:{port}?insecure=yes")
        await switch.configuration.reload()
        assert list(urls(switch)) == ["t2"]


async def test_what_was_attached_and_saved_is_the_file_s(at: Callable[[str], str]) -> None:
    source = Source(f"a {at('a')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        await switch.attach(at("b"))
        source.write(f"a {at('a')}", f"unix1 {at('b')}")
        assert await lines(switch) == []
        source.write(f"a {at('a')}")
        assert await lines(switch) == [f"- unix1  {at('b')}"]


async def test_ageing_goes_back_after_half_a_reload(at: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = Source(f"a {at('a')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        source.write(f"a {at('file')}", ageing_s=60.0)
        with pytest.raises(RefusedError, match="a is as it was"):
            await switch.configuration.reload()
        source.write(f"a {at('a')}")
        assert await lines(switch) == ["- ageing = 60s", "+ ageing = 300s"]


async def test_what_a_mirror_watches_is_replaced(at: Callable[[str], str]) -> None:
    source = Source(f"a {at('a')}", f"tap {at('tap?mirror_of=a')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        source.write(f"a {at('new')}", f"tap {at('tap?mirror_of=a')}")
        await switch.configuration.reload()
        assert urls(switch) == {"tap": at("tap?mirror_of=a"), "a": at("new")}
        async with await Peer.connected_to(at("new")), await Peer.connected_to(at("tap")):
            await until(lambda: len(switch.ports()) == 2)
            (port,) = (port for port in switch._ports if port.endpoint == "a")
            assert len(port.port.mirrors_in) == 1


async def test_what_was_set_meanwhile_is_as_the_file_says_again(at: Callable[[str], str]) -> None:
    source = Source(f"a {at('a')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        switch.policies.set("a", parse(at("a?vlan=3")).policy)
        assert await lines(switch) == [f"- a  {at('a?vlan=3')}", f"+ a  {at('a')}"]


async def test_a_listener_s_new_policy_is_for_all_its_ports_and_keeps_what_one_alone_has(
    at: Callable[[str], str],
) -> None:
    source = Source(f"a {at('a')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        async with await Peer.connected_to(at("a")), await Peer.connected_to(at("a")):
            await until(lambda: len(switch.ports()) == 2)
            switch.policies.set_up(switch.ports()[0].name, False)
            source.write(f"a {at('a?vlan=7')}")
            await switch.configuration.reload()
            assert [(port.up, port.vlan.access) for port in switch.ports()] == [(False, 7), (True, 7)]
            async with await Peer.connected_to(at("a")):
                await until(lambda: len(switch.ports()) == 3)
                assert [port.vlan.access for port in switch.ports()] == [7, 7, 7]


async def test_two_reloads_follow_each_other(at: Callable[[str], str]) -> None:
    source = Source(f"a {at('a')}")
    async with VSwitch() as switch:
        await switch.configuration.begin(source.config, source.read)
        source.write(f"b {at('b')}", ageing_s=10.0)
        found: list[list[str]] = []

        async def reload() -> None:
            found.append(await lines(switch))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(reload)
        assert sorted(map(len, found)) == [0, 0, 4]
