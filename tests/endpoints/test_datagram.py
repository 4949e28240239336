"""Datagram endpoints: who gets a port, who does not, and how long it is kept."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.endpoints.kinds import udp_socket, udp_url
from tests.endpoints.test_sock_diag import another_user
from tests.frames import BROADCAST, frame, mac
from tests.needs import require
from tests.peers import TIMEOUT_S, DatagramPeer, Peer, check_balance, until, up
from vswitch import VSwitch
from vswitch.dataplane.datagram import STRANGERS_MAX
from vswitch.dataplane.frame import FRAME_MAX
from vswitch.endpoints.datagram.endpoint import ASKED_MAX, LOOK_MAX_S, VERIFY_S, UdpPeers
from vswitch.endpoints.sock_diag import SockDiag
from vswitch.errors import InputError, RefusedError
from vswitch.sparingly import PERIOD_S

FRAME = frame(BROADCAST, mac(1))


@pytest.fixture
def several_users() -> None:
    require(os.geteuid() == 0, "only root can act as another user")


class Place:
    """An endpoint of one sort, and addresses for peers of it."""

    def __init__(self, directory: Path, scheme: str, stack: ExitStack) -> None:
        self.directory = directory
        self.scheme = scheme
        self.stack = stack
        self._numbers = count()
        self._there: Any = None

    async def attach(self, switch: VSwitch, **parameters: object) -> None:
        if self.scheme == "unixgram":
            lab = await switch.attach(f"unixgram://{self.directory}/lan.sock", name="lab", **parameters)
            self._there = lab.config.path
        else:
            host = {"udp": "127.0.0.1", "udp6": "::1"}[self.scheme]
            lab = await switch.attach(f"udp://{udp_url((host, 0))}", name="lab", **parameters)
            self._there = (host, lab.config.port)

    def bound(self) -> socket.socket:
        if self.scheme == "unixgram":
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.bind(bytes(self.directory / f"vm{next(self._numbers)}.sock"))
        else:
            sock = udp_socket({"udp": "127.0.0.1", "udp6": "::1"}[self.scheme])
        self.stack.callback(sock.close)
        return sock

    def peer(self, sock: socket.socket | None = None) -> DatagramPeer:
        return DatagramPeer(sock or self.bound(), to=self._there)


@pytest.fixture(params=["udp", "udp6", "unixgram"])
def place(request: pytest.FixtureRequest, directory: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(directory, request.param, stack)


def text(sock: socket.socket) -> str:
    address = sock.getsockname()
    return address if isinstance(address, str) else udp_url(address)


def strangers(switch: VSwitch) -> int:
    return switch.status().totals.drops.get("stranger", 0)


# Who is a peer


async def test_an_address_gets_a_port_with_the_first_frame_and_with_nothing_less(place: Place) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await place.attach(switch)
        peer = place.peer()
        await peer.send(b"", b"x", bytes(13))
        await until(lambda: strangers(switch) == 3)
        assert up(switch) == {"other"}
        await peer.send(FRAME)
        assert await other.receive(1) == [FRAME]
        assert up(switch) == {"other", "lab.1"}
        totals = switch.status().totals
        assert (totals.rx_frames, totals.drops) == (4, {"stranger": 3})
        check_balance(switch)


async def test_one_whose_first_datagram_is_too_long_is_a_peer_and_the_datagram_is_dropped(directory: Path) -> None:
    with ExitStack() as stack:
        place = Place(directory, "unixgram", stack)
        async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
            await place.attach(switch)
            await place.peer().send(frame(BROADCAST, mac(1), FRAME_MAX + 1), FRAME)
            assert await other.receive(1) == [FRAME]
            (lab,) = [port for port in switch.ports() if port.name == "lab.1"]
            assert (lab.rx_frames, lab.drops) == (2, {"too_long": 1})
            check_balance(switch)


async def test_only_the_remote_end_may_send(place: Place, clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        remote = place.bound()
        await place.attach(switch, remote=text(remote))
        assert up(switch) == {"other", "lab"}
        stranger = place.bound()
        clock.rate = 0
        await place.peer(stranger).send(frame(BROADCAST, mac(66)), b"", frame(mac(2), mac(1)))
        await place.peer(remote).send(FRAME)
        assert await other.receive(1) == [FRAME]
        await until(lambda: strangers(switch) == 3)
        clock.rate = 1
        assert f"lab: turned away {text(stranger)}: not the remote end" in caplog.text
        assert caplog.text.count("turned away") == 1
        assert [station.mac[-2:] for station in await switch.macs()] == ["01"]
        await other.send(frame(mac(66), mac(2)))
        assert await place.peer(remote).receive(1) == [frame(mac(66), mac(2))]
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(1)
        check_balance(switch)


async def test_there_are_as_many_peers_as_the_limit_says(
    place: Place, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await place.attach(switch, limit=2)
        first, second, third = [place.peer() for _ in range(3)]
        for peer in (first, second):
            await peer.send(FRAME)
            assert await other.receive(1) == [FRAME]
        assert up(switch) == {"other", "lab.1", "lab.2"}
        await third.send(FRAME)
        await until(lambda: strangers(switch) == 1)
        assert "there are 2 peers already (limit=)" in caplog.text
        first.close()
        await other.send(frame(BROADCAST, mac(2)))  # what a unix peer is missed with
        clock.jump(VERIFY_S)
        await until(lambda: up(switch) == {"other", "lab.2"})
        await third.send(FRAME)
        assert await other.receive(1) == [FRAME]
        assert up(switch) == {"other", "lab.1", "lab.2"}


async def test_an_inherited_socket_has_a_limit_as_well(caplog: pytest.LogCaptureFixture) -> None:
    sock = udp_socket("127.0.0.1")
    there = sock.getsockname()
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await switch.attach(sock, name="lab", limit=1)
        async with (
            DatagramPeer(udp_socket("127.0.0.1"), to=there) as one,
            DatagramPeer(udp_socket("127.0.0.1"), to=there) as two,
        ):
            await one.send(FRAME)
            assert await other.receive(1) == [FRAME]
            await two.send(FRAME)
            await until(lambda: strangers(switch) == 1)
    assert "there are 1 peers already" in caplog.text


async def test_a_peer_that_is_silent_for_long_loses_its_port_and_may_come_back(
    place: Place, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await place.attach(switch, idle="8s")
        talker, silent = place.peer(), place.peer()
        for peer in (talker, silent):
            await peer.send(FRAME)
            assert await other.receive(1) == [FRAME]
        steps = 0
        while "lab.2" in up(switch):
            await talker.send(FRAME)
            assert await other.receive(1) == [FRAME]
            clock.jump(1)
            await wait_all_tasks_blocked()
            assert "lab.1" in up(switch)
            steps += 1
        assert 8 <= steps <= 12
        assert "lab.2 down: silent for 8 s" in [record.getMessage() for record in caplog.records]
        await silent.send(FRAME)
        assert await other.receive(1) == [FRAME]
        assert up(switch) == {"other", "lab.1", "lab.2"}
        for _ in range(4):
            clock.jump(1)
            await wait_all_tasks_blocked()
        assert up(switch) == {"other", "lab.1", "lab.2"}
        clock.jump(12)
        await until(lambda: up(switch) == {"other"})


async def test_a_remote_end_may_be_silent_for_as_long_as_it_likes(place: Place, clock: MockClock) -> None:
    async with VSwitch() as switch:
        remote = place.bound()
        await place.attach(switch, remote=text(remote))
        for _ in range(100):
            clock.jump(10)
            await wait_all_tasks_blocked()
            assert up(switch) == {"lab"}


async def test_many_strangers_at_once_keep_nobody_out(
    place: Place, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        crowd = 300 if place.scheme != "unixgram" else 8  # what a queue holds
        await place.attach(switch, limit=1)
        peer = place.peer()
        await peer.send(FRAME)
        assert await other.receive(1) == [FRAME]
        socks = [place.peer(place.bound()) for _ in range(crowd)]
        clock.rate = 0
        for sock in socks:
            await sock.send(frame(BROADCAST, mac(66)))
        await until(lambda: strangers(switch) == crowd)
        clock.rate = 1
        await peer.send(FRAME)
        assert await other.receive(1) == [FRAME]
        assert caplog.text.count("turned away") == 1
        assert up(switch) == {"other", "lab.1"}
        check_balance(switch)


# Whose it is


def others_socket(host: str, port: int = 0) -> socket.socket:
    with another_user():
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, port))
    return sock


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.usefixtures("several_users")
async def test_another_users_datagrams_go_nowhere_and_that_is_said_sparingly(
    clock: MockClock, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        lab = await switch.attach(f"udp://{udp_url((host, 0))}", name="lab")
        there = (host, lab.config.port)
        stranger = others_socket(host)
        async with DatagramPeer(stranger, to=there) as peer, DatagramPeer(udp_socket(host), to=there) as own:
            clock.rate = 0
            for number in range(1, 31):
                await peer.send(frame(BROADCAST, mac(66)))
                await until(lambda number=number: strangers(switch) == number)  # type: ignore[misc]
            said = f"lab: turned away {text(stranger)}: not this user's (any_user=yes lets all in)"
            assert [record.getMessage() for record in caplog.records if "turned" in record.getMessage()] == [said]
            clock.jump(PERIOD_S)
            clock.rate = 1
            await peer.send(frame(BROADCAST, mac(66)))
            await until(lambda: f"{said} (and 29 more before)" in caplog.text)
            await own.send(FRAME)
            assert await other.receive(1) == [FRAME]
            assert up(switch) == {"other", "lab.1"}
            check_balance(switch)


@pytest.mark.usefixtures("several_users")
async def test_any_user_lets_other_users_in_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        lab = await switch.attach("udp://127.0.0.1:0?any_user=yes", name="lab")
        assert f"lab: any user of this machine may send to {lab.url}" in caplog.text
        async with DatagramPeer(others_socket("127.0.0.1"), to=("127.0.0.1", lab.config.port)) as peer:
            await peer.send(FRAME)
            assert await other.receive(1) == [FRAME]
            await other.send(frame(mac(1), mac(2)))
            assert await peer.receive(1) == [frame(mac(1), mac(2))]


@pytest.mark.usefixtures("several_users")
async def test_a_crowd_of_strangers_is_asked_who_they_are_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = 300
    asked, batches = [0], []
    meet, is_trusted = UdpPeers._meet, SockDiag.is_trusted_sender

    def counting_meet(self: UdpPeers, strangers: list[tuple[Any, bytes]]) -> None:
        asked[0] = 0
        meet(self, strangers)
        batches.append((len(strangers), asked[0]))

    def counting_is_trusted(self: SockDiag, there: Any, here: Any) -> bool:
        asked[0] += 1
        return is_trusted(self, there, here)

    monkeypatch.setattr(UdpPeers, "_meet", counting_meet)
    monkeypatch.setattr(SockDiag, "is_trusted_sender", counting_is_trusted)
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        lab = await switch.attach("udp://127.0.0.1:0", name="lab")
        there = ("127.0.0.1", lab.config.port)
        with ExitStack() as stack:
            socks = [stack.enter_context(others_socket("127.0.0.1")) for _ in range(crowd)]
            for sock in socks:  # all of them before the switch gets its turn
                sock.sendto(frame(BROADCAST, mac(66)), there)
            await until(lambda: strangers(switch) == crowd)
            async with DatagramPeer(udp_socket("127.0.0.1"), to=there) as own:
                await own.send(FRAME)
                assert await other.receive(1) == [FRAME]
    assert all(size <= STRANGERS_MAX and many <= ASKED_MAX for size, many in batches), batches
    assert max(many for _, many in batches) == ASKED_MAX


@pytest.mark.usefixtures("several_users")
async def test_another_user_who_takes_over_a_peers_address_loses_the_port(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        lab = await switch.attach("udp://127.0.0.1:0", name="lab")
        there = ("127.0.0.1", lab.config.port)
        with udp_socket("127.0.0.1") as own:
            port = own.getsockname()[1]
            own.sendto(FRAME, there)
            assert await other.receive(1) == [FRAME]
        with others_socket("127.0.0.1", port) as thief:
            clock.jump(VERIFY_S)
            await until(lambda: up(switch) == {"other"})
            thief.sendto(frame(BROADCAST, mac(66)), there)
            await until(lambda: strangers(switch) == 1)
            assert "not this user's" in caplog.text


@pytest.mark.usefixtures("several_users")
async def test_another_user_who_takes_over_the_remote_address_is_found_out(
    clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        own = udp_socket("127.0.0.1")
        remote = own.getsockname()
        lab = await switch.attach(f"udp://127.0.0.1:0?remote={udp_url(remote)}", name="lab")
        there = ("127.0.0.1", lab.config.port)
        assert up(switch) == {"other", "lab"}
        await wait_all_tasks_blocked()
        own.close()
        with others_socket("127.0.0.1", remote[1]) as thief:
            clock.jump(VERIFY_S)
            await until(lambda: up(switch) == {"other"})
            for _ in range(10):  # it is looked for all the time, and spoken of once
                clock.jump(PERIOD_S)
                await wait_all_tasks_blocked()
            assert caplog.text.count(f"turned away {udp_url(remote)}: not this user's") == 1
            thief.sendto(frame(BROADCAST, mac(66)), there)
            await until(lambda: strangers(switch) == 1)
            await other.send(frame(BROADCAST, mac(2)))
        with udp_socket("127.0.0.1", remote[1]) as own:
            clock.jump(LOOK_MAX_S)
            await until(lambda: up(switch) == {"other", "lab"})
            own.sendto(FRAME, there)
            assert await other.receive(1) == [FRAME]


@pytest.mark.usefixtures("several_users")
async def test_another_user_cannot_send_to_a_unix_endpoint(directory: Path) -> None:
    os.chmod(directory, 0o777)  # so that it is the socket itself that keeps them out
    async with VSwitch() as switch:
        await switch.attach(f"unixgram://{directory}/lan.sock")
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with stranger, another_user(), pytest.raises(PermissionError):
            stranger.sendto(FRAME, str(directory / "lan.sock"))


# Unix addresses


async def test_peers_without_an_absolute_path_are_told_to_have_one(
    directory: Path, clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    async with VSwitch() as switch:
        await switch.attach("unixgram://lan.sock", name="lab")
        for name, said in (
            ("", "somebody: it has no address to answer to; it must bind one (local.path=)"),
            ("vm.sock", "vm.sock: its address is a relative path; it must bind an absolute one (local.path=)"),
        ):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                if name:
                    sock.bind(name)
                before = strangers(switch)
                sock.sendto(FRAME, "lan.sock")
                await until(lambda before=before: strangers(switch) == before + 1)  # type: ignore[misc]
            assert f"lab: turned away {said}" in caplog.text
            clock.jump(PERIOD_S)
        assert up(switch) == set()
        check_balance(switch)


@pytest.mark.parametrize("name", [b"\0vswitch-test-%d", b"\0vswitch-\xff\n-%d"])
async def test_peers_may_have_abstract_addresses(directory: Path, name: bytes) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await switch.attach(f"unixgram://{directory}/lan.sock", name="lab")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(name % os.getpid())
        async with DatagramPeer(sock, to=str(directory / "lan.sock")) as peer:
            await peer.send(FRAME)
            assert await other.receive(1) == [FRAME]
            await other.send(frame(mac(1), mac(2)))
            assert await peer.receive(1) == [frame(mac(1), mac(2))]
            (lab,) = [port for port in switch.ports() if port.name == "lab.1"]
            assert lab.peer is not None
            assert lab.peer.startswith("@vswitch-")
            assert lab.peer.isprintable()


async def test_a_peer_that_is_started_again_at_its_path_keeps_its_port(directory: Path) -> None:
    """As a guest is that has not sent anything yet: frames reach it all the same."""
    path = directory / "vm.sock"
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        await switch.attach(f"unixgram://{directory}/lan.sock", name="lab")
        for _ in range(3):
            path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.bind(bytes(path))
            async with DatagramPeer(sock, to=str(directory / "lan.sock")) as peer:
                if "lab.1" not in up(switch):
                    await peer.send(FRAME)
                    assert await other.receive(1) == [FRAME]
                await other.send(frame(mac(1), mac(2)))
                assert await peer.receive(1) == [frame(mac(1), mac(2))]
        assert switch.status().totals.drops == {}


async def test_relative_paths_of_both_ends_will_do(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(bytes(directory / "vm.sock"))
        async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
            await switch.attach("unixgram://lan.sock?remote=vm.sock", name="lab")
            sock.sendto(FRAME, "lan.sock")
            assert await other.receive(1) == [FRAME]
            monkeypatch.chdir("/")
            await other.send(frame(mac(1), mac(2)))
            sock.settimeout(TIMEOUT_S)
            assert await trio.to_thread.run_sync(sock.recv, 4096) == frame(mac(1), mac(2))
            monkeypatch.chdir(directory)  # which its own path is removed by


# What is written


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("udp://0.0.0.0:0", "insecure=yes"),
        ("udp://[::]:0", "insecure=yes"),
        ("udp://127.0.0.1:0?remote=[::1]:5", "one end is IPv4 and the other IPv6"),
        ("udp://[::1]:0?remote=127.0.0.1:5", "one end is IPv4 and the other IPv6"),
        ("udp://127.0.0.1:0?remote=192.0.2.1:5", "127.0.0.1 reaches this machine only"),
        ("udp://[::1]:0?remote=[2001:db8::1]:5", "::1 reaches this machine only"),
        ("unixgram://a.sock?remote=a.sock", "both ends are the same path"),
        ("unixgram://a.sock?remote={}/a.sock", "both ends are the same path"),
        ("unixgram://a.sock?remote=./a.sock", "both ends are the same path"),
        ("unixgram://a.sock?remote=" + "x" * 100, "bytes, a unix socket's at most 107"),
    ],
)
async def test_ends_that_cannot_be_are_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.chdir(directory)
    async with VSwitch() as switch:
        with pytest.raises(InputError) as caught:
            await switch.attach(url.format(directory))
        assert said in str(caught.value)
        assert switch.ports() == []
    assert os.listdir(directory) == []


async def test_a_remote_host_that_there_is_not_is_refused() -> None:
    async with VSwitch() as switch:
        with pytest.raises(RefusedError, match="remote: "):
            await switch.attach("udp://127.0.0.1:0?remote=nonexistent.invalid:5")


async def test_insecure_lets_it_bind_beyond_loopback_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="other") as other:
        lab = await switch.attach("udp://0.0.0.0:0?insecure=yes", name="lab")
        assert f"lab: anyone who reaches {lab.url} may send to it" in caplog.text
        async with DatagramPeer(udp_socket("127.0.0.1"), to=("127.0.0.1", lab.config.port)) as peer:
            await peer.send(FRAME)
            assert await other.receive(1) == [FRAME]


async def test_an_address_that_is_in_use_is_refused(place: Place) -> None:
    async with VSwitch() as switch:
        await place.attach(switch)
        (lab,) = switch.endpoints()
        with pytest.raises(RefusedError, match="in use"):
            await switch.attach(lab.url, name="second")
        assert [endpoint.name for endpoint in switch.endpoints()] == ["lab"]
