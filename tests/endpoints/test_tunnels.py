"""vxlan:// and l2tpv3://: who may come in, who is learned and forgotten, and what does not pass."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.endpoints.kinds import HELLO, L2tpv3, TunnelPeer, udp_socket
from tests.frames import BROADCAST, frame, mac
from tests.peers import Peer, check_balance, until, up
from vswitch import VSwitch
from vswitch.endpoints.url import parse
from vswitch.errors import InputError, RefusedError
from vswitch.protocols import vxlan

VNI = 42
HEADER = vxlan.header(VNI)


def free_port() -> int:
    with udp_socket("127.0.0.1") as free:
        return int(free.getsockname()[1])


class Segment:
    """A switch with `vxlan://` at 127.0.0.1, a station at another port, other hosts at 127.0.0.2 and up; no probes."""

    def __init__(self, switch: VSwitch, station: Peer, stack: AsyncExitStack) -> None:
        self.switch = switch
        self.station = station
        self.port = free_port()
        self._stack = stack

    async def attach(self, parameters: str) -> None:
        await self.switch.attach(f"vxlan://127.0.0.1:{self.port}?vni={VNI}&loop=off&{parameters}", name="lab")

    def host(self, number: int, port: int | None = None) -> TunnelPeer:
        sock = udp_socket(f"127.0.0.{number}", self.port if port is None else port)
        peer = TunnelPeer(sock, to=("127.0.0.1", self.port), sent=HEADER, wanted=HEADER)
        self._stack.callback(peer.close)
        return peer

    async def learned(self) -> dict[str, str]:
        return {station.mac[-2:]: station.port for station in await self.switch.macs()}

    def drops(self, name: str) -> dict[str, int]:
        return next(port.drops for port in self.switch.ports() if port.name == name)


@asynccontextmanager
async def segment(parameters: str = "") -> AsyncIterator[Segment]:
    async with AsyncExitStack() as stack:
        switch = await stack.enter_async_context(VSwitch())
        station = await stack.enter_async_context(await Peer.plugged_into(switch, name="station"))
        made = Segment(switch, station, stack)
        if parameters:
            await made.attach(parameters)
        yield made
        check_balance(switch)


def data(to: int, by: int, number: int = 0) -> bytes:
    return frame(to, mac(by), payload=bytes([number]))


async def test_each_remote_end_is_a_port_that_gets_what_is_for_it() -> None:
    async with segment("remote=127.0.0.2,127.0.0.3") as lan:
        assert up(lan.switch) == {"station", "lab.1", "lab.2"}
        two, three = lan.host(2), lan.host(3)
        await two.send(data(BROADCAST, 12))
        await three.send(data(BROADCAST, 13))
        assert len(await lan.station.receive(2)) == 2
        assert await lan.learned() == {"0c": "lab.1", "0d": "lab.2"}
        await lan.station.send(data(BROADCAST, 1), data(mac(12), 1, 1), data(mac(13), 1, 2))
        assert await two.receive(2) == [data(BROADCAST, 1), data(mac(12), 1, 1)]
        assert await three.receive(2) == [data(BROADCAST, 1), data(mac(13), 1, 2)]


async def test_remote_ends_do_not_reach_each_other_by_us() -> None:
    async with segment("remote=127.0.0.2,127.0.0.3") as lan:
        two, three = lan.host(2), lan.host(3)
        await three.send(data(BROADCAST, 13))
        await lan.station.receive(1)
        await two.send(data(BROADCAST, 12), data(mac(13), 12), data(mac(1), 12))  # the last one is not known: for all
        assert await lan.station.receive(2) == [data(BROADCAST, 12), data(mac(1), 12)]
        await lan.station.send(data(BROADCAST, 1))
        assert await three.receive(1) == [data(BROADCAST, 1)]
        assert await two.receive(1) == [data(BROADCAST, 1)]
        assert lan.drops("lab.1") == {"partition": 1}


async def test_only_remote_ends_may_come_in() -> None:
    async with segment("remote=127.0.0.2") as lan:
        assert up(lan.switch) == {"station", "lab"}
        two, stranger = lan.host(2), lan.host(9)
        await stranger.send(data(BROADCAST, 9))
        await until(lambda: lan.switch.status().totals.drops.get("stranger") == 1)
        await two.send(data(BROADCAST, 12))
        assert await lan.station.receive(1) == [data(BROADCAST, 12)]
        (event,) = [event for event in lan.switch.events.kept() if event.code == "turned_away"]
        assert "turned away 127.0.0.9" in event.text
        assert "learn lets others in" in event.text


async def test_what_is_not_of_the_segment_is_dropped_with_a_reason() -> None:
    async with segment("remote=127.0.0.2") as lan:
        two = lan.host(2)
        for datagram in (vxlan.header(VNI + 1) + data(BROADCAST, 9), b"\0" * 8 + data(BROADCAST, 9), b"\x08", HEADER):
            await two.sock.sendto(datagram, two.to)
        await two.send(data(BROADCAST, 12))
        assert await lan.station.receive(1) == [data(BROADCAST, 12)]
        assert lan.drops("lab") == {"other_tunnel": 1, "bad_header": 2, "runt": 1}


async def test_hosts_that_send_are_learned_and_answered_at_our_port() -> None:
    """They send from any port, by the flow; who sends something wrong is not learned."""
    async with segment("learn&remote=127.0.0.2") as lan:
        assert up(lan.switch) == {"station", "lab.1"}
        three, anywhere = lan.host(3), lan.host(3, port=0)
        await lan.host(4).sock.sendto(vxlan.header(1) + data(BROADCAST, 9), ("127.0.0.1", lan.port))
        await lan.host(5).send(b"short")
        await anywhere.send(data(BROADCAST, 13))
        assert await lan.station.receive(1) == [data(BROADCAST, 13)]
        assert up(lan.switch) == {"station", "lab.1", "lab.2"}
        await lan.station.send(data(mac(13), 1), data(BROADCAST, 1))
        assert await three.receive(2) == [data(mac(13), 1), data(BROADCAST, 1)]


async def test_a_host_that_was_learned_and_is_silent_is_forgotten(autojump_clock: MockClock) -> None:
    async with segment("learn&remote=127.0.0.2&idle=20s") as lan:
        three = lan.host(3)
        for _ in range(3):
            await three.send(data(BROADCAST, 13))
            await lan.station.receive(1)
            await trio.sleep(15)
        assert up(lan.switch) == {"station", "lab.1", "lab.2"}
        await trio.sleep(15)
        assert up(lan.switch) == {"station", "lab.1"}  # what was given stays
        assert await lan.learned() == {}
        await three.send(data(BROADCAST, 13))
        await lan.station.receive(1)
        assert await lan.learned() == {"0d": "lab.2"}


async def test_no_more_hosts_are_learned_than_there_may_be() -> None:
    async with segment("learn&limit=2") as lan:
        hosts = [lan.host(number) for number in (2, 3, 4)]
        for number, host in enumerate(hosts):
            await host.send(data(BROADCAST, number))
        assert len(await lan.station.receive(2)) == 2
        await until(lambda: lan.switch.status().totals.drops.get("stranger") == 1)
        (event,) = [event for event in lan.switch.events.kept() if event.code == "turned_away"]
        assert "there are 2 peers already (limit=)" in event.text


async def test_a_host_that_moves_stations_is_followed() -> None:
    async with segment("remote=127.0.0.2,127.0.0.3") as lan:
        two, three = lan.host(2), lan.host(3)
        for host, port in ((two, "lab.1"), (three, "lab.2"), (two, "lab.1")):
            await host.send(data(BROADCAST, 12))
            await lan.station.receive(1)
            assert await lan.learned() == {"0c": port}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("remote=127.0.0.1:{port}", "is this end; name the others only"),
        ("remote=[::1]", "one end is IPv4 and the other IPv6"),
        ("remote=127.0.0.1:8,localhost:9", "two are 127.0.0.1"),
        ("mcast=239.1.1.1&iface=no-such-one", "there is no interface no-such-one"),
    ],
)
async def test_what_cannot_be_said_is_refused_and_leaves_nothing(parameters: str, message: str) -> None:
    async with segment() as lan:
        with pytest.raises((InputError, RefusedError), match=message.replace("[", "\\[")):
            await lan.attach(parameters.format(port=lan.port))
        assert up(lan.switch) == {"station"}
        await lan.attach("remote=127.0.0.2")  # the port is free


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("vxlan://127.0.0.1", "vni: is missing"),
        ("vxlan://127.0.0.1?vni=5", "says nobody to send to"),
        ("vxlan://127.0.0.1?vni=0&learn", "not a number from 1 to 16777215"),
        ("vxlan://127.0.0.1?vni=16777216&learn", "not a number from 1 to 16777215"),
        ("vxlan://127.0.0.1?vni=5&mcast=10.0.0.1", "no multicast group"),
        ("vxlan://127.0.0.1?vni=5&mcast=here", "not an IP address"),
        ("vxlan://127.0.0.1?vni=5&mcast=239.1.1.1&remote=127.0.0.2", "leave remote= out"),
        ("vxlan://127.0.0.1?vni=5&mcast=ff05::1", "write both alike"),
        ("vxlan://127.0.0.1:0?vni=5&mcast=239.1.1.1", "a port that all agree on"),
        ("vxlan://127.0.0.1?vni=5&vxvde&learn", "vxvde goes with mcast="),
        ("vxlan://127.0.0.1?vni=5&remote=127.0.0.2,127.0.0.2:7", "two have the same address"),
        ("vxlan://127.0.0.1?vni=5&remote=127.0.0.2:0", "port 0 is nobody's"),
        ("vxlan://?vni=5&learn", "the host is missing"),
        ("l2tpv3://127.0.0.1?remote=127.0.0.2", "session: is missing"),
        ("l2tpv3://127.0.0.1?session=1", "remote: is missing"),
        ("l2tpv3://127.0.0.1?remote=127.0.0.2&session=4294967296", "not a number from 1 to 4294967295"),
        ("l2tpv3://127.0.0.1?remote=127.0.0.2&session=1&txcookie=123", "8 or 16 hexadecimal digits"),
        ("l2tpv3://127.0.0.1?remote=127.0.0.2&session=1&offset=33", "not a number from 0 to 32"),
    ],
)
def test_what_is_written_wrongly_says_what_would_be_right(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(url)


def test_usual_ports_need_not_be_written() -> None:
    assert parse("vxlan://10.0.0.1?vni=5&learn").port == 4789
    assert parse("vxlan://[fe80::1%25eth0]?vni=5&learn").port == 4789
    config = parse("l2tpv3://10.0.0.1?remote=10.0.0.2&session=0xdeadbeef&rxsession=3735928560")
    assert (config.port, config.remote) == (1701, ("10.0.0.2", 1701))
    assert (config.tunnel.session, config.tunnel.rxsession) == (0xDEADBEEF, 0xDEADBEF0)


def test_cookies_are_not_in_what_is_shown_but_in_what_is_saved() -> None:
    config = parse("l2tpv3://10.0.0.1?remote=10.0.0.2&session=7&txcookie=8BADF00D&rxcookie=0x0102030405060708")
    assert config.url == "l2tpv3://10.0.0.1:1701?remote=10.0.0.2:1701&session=7"
    assert "txcookie=8badf00d&rxcookie=0102030405060708" in config.full_url
    assert parse(config.full_url) == config


ends = st.one_of(st.sampled_from(["192.0.2.7", "[2001:db8::7]", "host.example", "[fe80::1%eth0]"]))


@given(st.lists(st.tuples(ends, st.integers(0, 65535)), min_size=1, max_size=4, unique_by=lambda end: end[0]))
def test_remote_ends_are_read_back_as_they_are_written(remotes: list[tuple[str, int]]) -> None:
    text = ",".join(host + (f":{port}" if port else "") for host, port in remotes)
    config = parse(f"vxlan://10.0.0.1?vni=5&remote={text}")
    assert [port for _, port in config.tunnel.remote] == [port for _, port in remotes]
    assert parse(config.full_url) == config


async def test_a_session_takes_in_nothing_without_its_cookie(directory: Any) -> None:
    async with L2tpv3(directory, "127.0.0.1") as kind, VSwitch() as switch:
        await kind.attach(switch)
        async with await Peer.plugged_into(switch, name="other") as other:
            station = await kind.station()
            await until(lambda: "lab" in up(switch))
            right = station._sent
            await station.sock.sendto(right[:8] + bytes(8) + right[16:] + HELLO, station.to)
            await station.sock.sendto(right[:4] + bytes(4) + right[8:] + HELLO, station.to)
            await station.send(frame(BROADCAST, mac(1)))
            assert await other.receive(1) == [frame(BROADCAST, mac(1))]
            (port,) = [port for port in switch.ports() if port.name == "lab"]
            assert port.drops == {"bad_cookie": 1, "other_tunnel": 1}
            station.close()
