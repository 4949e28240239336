"""VSwitch in a trio program: what is attached, how it is called, how it fails, and that nothing of it is left."""

import errno
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing

from tests.descriptors import descriptors, opened_since
from tests.frames import BROADCAST, frame, mac
from tests.peers import TIMEOUT_S, Peer, check_balance, until, up
from vswitch import InputError, RefusedError, VSwitch, VSwitchError
from vswitch.endpoints.guests.qemu import guest_mac
from vswitch.endpoints.stream import endpoint as stream
from vswitch.endpoints.url import EndpointConfig, parse


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        yield Path(directory)


def names(switch: VSwitch) -> list[str]:
    return [port.name for port in switch.ports()]


async def check_plugged_together(one: Peer, other: Peer) -> None:
    """Frames pass both ways."""
    await one.send(frame(mac(2), mac(1)))
    assert await other.receive(1) == [frame(mac(2), mac(1))]
    await other.send(frame(mac(1), mac(2)))
    assert await one.receive(1) == [frame(mac(1), mac(2))]


async def test_a_data_plane_that_was_not_compiled_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with VSwitch() as switch:
        assert ("runs uncompiled" in caplog.text) != switch.status().compiled


# Attaching


async def test_a_url_is_attached_with_the_port_that_was_chosen() -> None:
    async with VSwitch() as switch:
        lab = await switch.attach("tcp://127.0.0.1:0")
        assert lab.name == "tcp1"
        assert lab.url == f"tcp://127.0.0.1:{lab.config.port}"
        assert lab.config.port != 0
        async with await Peer.connected_to(lab.url) as one, await Peer.connected_to(lab.url) as other:
            await until(lambda: len(up(switch)) == 2)
            assert [port.name for port in lab.ports] == ["tcp1.1", "tcp1.2"]
            assert {port.url for port in lab.ports} == {lab.url}
            await check_plugged_together(one, other)


async def test_a_unix_url_may_be_relative(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    async with VSwitch() as switch:
        await switch.attach("unix://lan.sock")
        async with await Peer.connected_to(f"unix://{directory}/lan.sock"):
            await until(lambda: up(switch) == {"unix1.1"})


async def test_a_parsed_url_will_do_as_well(directory: Path) -> None:
    async with VSwitch() as switch:
        await switch.attach(parse("tcp://127.0.0.1:0?name=lab"))
        await switch.attach(EndpointConfig(scheme="unix", path=f"{directory}/a?b%41.sock", name="odd"))
        async with await Peer.connected_to(f"unix://{directory}/a?b%41.sock"):
            await until(lambda: up(switch) == {"odd.1"})


async def test_a_connected_socket_is_a_port() -> None:
    async with VSwitch() as switch:
        one, two = await Peer.plugged_into(switch), await Peer.plugged_into(switch, name="vm")
        assert up(switch) == {"fd1", "vm"}
        async with one, two:
            await check_plugged_together(one, two)


async def test_a_listening_socket_makes_a_port_of_each_connection(directory: Path) -> None:
    async with VSwitch() as switch:
        inet = socket.create_server(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{inet.getsockname()[1]}"
        await switch.attach(inet, name="inet")
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(f"{directory}/lan.sock")
        unix.listen()
        await switch.attach(unix, name="unix", single=True)
        async with await Peer.connected_to(url) as one, await Peer.connected_to(f"unix://{directory}/lan.sock") as two:
            await until(lambda: up(switch) == {"inet.1", "unix"})
            await check_plugged_together(one, two)


async def test_parameters_may_be_keywords() -> None:
    async with VSwitch() as switch:
        lab = await switch.attach("tcp://127.0.0.1:0", name="lab", single=True, queue="2MiB", any_user="yes")
        assert (lab.config.name, lab.config.single, lab.config.queue, lab.config.any_user) == ("lab", True, 2**21, True)
        assert names(switch) == ["lab"]


async def test_parameters_with_a_parsed_url_are_not_lost(directory: Path) -> None:
    """They are used, or it is an error to give them."""
    async with VSwitch() as switch:
        try:
            lab = await switch.attach(parse(f"unix://{directory}/lan.sock"), name="lab")
        except (InputError, TypeError):
            return
        assert lab.name == "lab"


@pytest.mark.parametrize("parameters", [{"nmae": "lab"}, {"name": 5}, {"queue": 4096}, {"name": "a b"}])
async def test_parameters_that_are_wrong_are_input_errors(parameters: dict[str, object]) -> None:
    async with VSwitch() as switch:
        with pytest.raises(InputError):
            await switch.attach("tcp://127.0.0.1:0", **parameters)
        with pytest.raises(InputError):
            await switch.attach("tcp://127.0.0.1:0?name=a", name="a")
        assert names(switch) == []
        assert (await switch.attach("tcp://127.0.0.1:0")).name == "tcp1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "a/b"}, "letters"),
        ({"name": ""}, "letters"),
        ({"ageing_s": 0}, "1s"),
        ({"ageing_s": 0.999}, "1s"),
        ({"ageing_s": -300}, "1s"),
        ({"ageing_s": 1_000_001}, "1e\\+06s"),
        ({"ageing_s": float("nan")}, "1s"),
        ({"ageing_s": float("inf")}, "1s"),
        ({"table_size": 0}, "1048576"),
        ({"table_size": 1048577}, "1048576"),
    ],
)
def test_a_switch_cannot_be_made_wrongly(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        VSwitch(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [{"ageing_s": 1}, {"ageing_s": 1e6}, {"table_size": 1}, {"table_size": 1048576}])
async def test_a_switch_can_be_made_with_what_is_just_right(arguments: dict[str, float]) -> None:
    async with VSwitch(**arguments):  # type: ignore[arg-type]
        pass


# Detaching


async def test_detaching_takes_the_ports_the_peers_and_the_file_and_nothing_else(directory: Path) -> None:
    async with VSwitch() as switch:
        kept = await Peer.plugged_into(switch, name="kept")
        lab = await switch.attach(f"unix://{directory}/lan.sock", name="lab")
        async with await Peer.connected_to(lab.url) as one, await Peer.connected_to(lab.url) as two, kept:
            await until(lambda: len(up(switch)) == 3)
            await one.send(frame(BROADCAST, mac(1)))
            await kept.receive(1)
            assert [station.port for station in await switch.macs()] == ["lab.1"]
            await lab.detach()
            assert names(switch) == ["kept"]
            assert lab.ports == []
            assert await switch.macs() == []
            assert os.listdir(directory) == []
            assert await one.closed()
            assert await two.closed()
            check_balance(switch)
            again = await switch.attach(f"unix://{directory}/lan.sock", name="lab")
            async with await Peer.connected_to(again.url):
                await until(lambda: up(switch) == {"kept", "lab.1"})
                await lab.detach()  # again: it is gone already, and its successor stays
                assert up(switch) == {"kept", "lab.1"}


async def test_a_connected_socket_is_closed_when_it_is_detached() -> None:
    here, there = socket.socketpair()
    async with VSwitch() as switch, Peer.at(here) as peer:
        attached = await switch.attach(there, name="vm")
        await attached.detach()
        assert await peer.closed()
        assert names(switch) == []
        await switch.attach("tcp://127.0.0.1:0", name="vm")


async def test_an_endpoint_that_keeps_trying_can_be_detached(directory: Path) -> None:
    async with VSwitch() as switch:
        vm = await switch.attach(f"unix://{directory}/nobody.sock?connect")
        with trio.fail_after(1):
            await vm.detach()
        assert names(switch) == []


async def test_a_peer_that_is_not_served_may_be_detached_by_several_at_once() -> None:
    async with VSwitch() as switch:
        lab = await switch.attach("tcp://127.0.0.1:0")
        with trio.fail_after(TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(lab.detach)
        assert names(switch) == []


# Names


async def test_an_endpoint_without_a_name_has_its_kind_and_the_lowest_free_number(directory: Path) -> None:
    async with VSwitch() as switch:
        tcp = [await switch.attach("tcp://127.0.0.1:0") for _ in range(3)]
        unix = await switch.attach(f"unix://{directory}/lan.sock")
        vm = await switch.attach(f"unix://{directory}/vm.sock?connect")
        assert [endpoint.name for endpoint in (*tcp, unix, vm)] == ["tcp1", "tcp2", "tcp3", "unix1", "unix2"]
        await tcp[1].detach()
        assert (await switch.attach("tcp://127.0.0.1:0")).name == "tcp2"
        assert (await switch.attach("tcp://127.0.0.1:0", name="tcp4")).name == "tcp4"
        assert (await switch.attach("tcp://127.0.0.1:0")).name == "tcp5"


async def test_endpoints_that_are_attached_at_once_have_names_of_their_own() -> None:
    found = []

    async def attach() -> None:
        found.append((await switch.attach("tcp://127.0.0.1:0")).name)

    async with VSwitch() as switch:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(attach)
        assert sorted(found) == ["tcp1", "tcp2", "tcp3", "tcp4", "tcp5"]


async def test_of_several_that_are_attached_at_once_by_one_name_one_gets_it() -> None:
    outcomes = []

    async def attach() -> None:
        try:
            outcomes.append((await switch.attach("tcp://127.0.0.1:0", name="lab")).name)
        except InputError:
            outcomes.append("refused")

    async with VSwitch() as switch:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(attach)
        assert sorted(outcomes) == ["lab", "refused", "refused"]


async def test_ports_of_a_listener_have_the_lowest_free_number(directory: Path) -> None:
    async with VSwitch() as switch:
        lab = await switch.attach(f"unix://{directory}/lan.sock", name="lab")
        peers = []
        for number in range(1, 4):
            peers.append(await Peer.connected_to(lab.url))
            await until(lambda number=number: f"lab.{number}" in up(switch))  # type: ignore[misc]
        peers[1].stream.socket.close()
        await until(lambda: up(switch) == {"lab.1", "lab.3"})
        async with await Peer.connected_to(lab.url):
            await until(lambda: up(switch) == {"lab.1", "lab.2", "lab.3"})
        for peer in peers:
            peer.stream.socket.close()


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0?single", "unix://nobody.sock?connect"])
async def test_a_name_is_given_once(url: str) -> None:
    async with VSwitch() as switch:
        peer = await Peer.plugged_into(switch, name="lab")
        async with peer:
            with pytest.raises(InputError, match="'lab'"):
                await switch.attach(url, name="lab")
            assert up(switch) == {"lab"}
        await until(lambda: not up(switch))
        with pytest.raises(InputError, match="'lab'"):  # the endpoint is there, with or without its peer
            await switch.attach(url, name="lab")


@pytest.mark.parametrize("kind", ["single", "connect", "fd"])
async def test_the_name_of_a_port_is_taken_as_well(directory: Path, kind: str) -> None:
    """A listener's port may be called as somebody wants to call an endpoint."""
    before = None
    async with VSwitch() as switch:
        lab = await switch.attach("tcp://127.0.0.1:0", name="lab")
        async with await Peer.connected_to(lab.url):
            await until(lambda: up(switch) == {"lab.1"})
            before = descriptors()
            here, there = socket.socketpair()
            target: str | socket.socket = f"unix://{directory}/x.sock?{kind}"
            if kind == "fd":
                target = there
            with pytest.raises(InputError, match=r"'lab\.1'"):
                await switch.attach(target, name="lab.1")
            here.close()
            there.close()
            assert os.listdir(directory) == []
            assert opened_since(before) == {}
            assert up(switch) == {"lab.1"}


async def test_a_single_listener_is_itself_the_port_and_has_one_peer(caplog: pytest.LogCaptureFixture) -> None:
    async with VSwitch() as switch:
        lab = await switch.attach("tcp://127.0.0.1:0?name=lab&single=yes")
        assert [(port.name, port.endpoint, port.up) for port in switch.ports()] == [("lab", "lab", False)]
        other = await Peer.plugged_into(switch, name="other")
        async with await Peer.connected_to(lab.url) as first:
            await until(lambda: "lab" in up(switch))
            async with await Peer.connected_to(lab.url) as second:
                assert await second.closed()
            assert "turned away" in caplog.text
            await check_plugged_together(first, other)
        await until(lambda: "lab" not in up(switch))
        assert names(switch) == ["lab", "other"]
        async with await Peer.connected_to(lab.url) as third:
            await until(lambda: "lab" in up(switch))
            await check_plugged_together(third, other)
            assert lab.ports[0].rx_frames == 2
        other.stream.socket.close()


# Errors


async def test_what_is_written_wrongly_is_raised_as_it_is() -> None:
    with pytest.raises(InputError, match="the port is missing"):
        async with VSwitch() as switch:
            await switch.attach("tcp://127.0.0.1")


async def test_what_the_system_refuses_is_raised_as_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(RefusedError, match="Address already in use"):
        async with VSwitch() as switch:
            await switch.attach(f"tcp://127.0.0.1:{other.getsockname()[1]}")


async def test_both_are_errors_of_this_package_and_one_printable_line() -> None:
    async with VSwitch() as switch:
        for url in ("tcp://\x1b[31m", "unix:///nonexistent/\x1b[31m.sock"):
            with pytest.raises(VSwitchError) as caught:
                await switch.attach(url)
            assert str(caught.value).isprintable()


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "\udcff", "%00"])
@pytest.mark.parametrize("connect", ["", "?connect"])
async def test_a_host_name_that_cannot_be_one_does_not_stop_the_switch(host: str, connect: str) -> None:
    async with VSwitch() as switch:
        peer = await Peer.plugged_into(switch)
        try:
            attached = await switch.attach(f"tcp://{host}:1{connect}")
        except (InputError, RefusedError):
            pass  # refusing at once will do, as will trying on
        else:
            await attached.detach()
        other = await Peer.plugged_into(switch)
        async with peer, other:
            await check_plugged_together(peer, other)


class NoNames(trio.abc.HostnameResolver):
    """A resolver that knows nobody."""

    async def getaddrinfo(self, *_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError


async def test_a_host_that_is_unknown_is_refused_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    async with VSwitch() as switch:
        with pytest.raises(
            RefusedError, match=r"tcp://lan\.example:1: Name or service not known; check how lan\.example is"
        ):
            await switch.attach("tcp://lan.example:1")
        await switch.attach("tcp://lan.example:1?connect", name="vm")
        assert [(port.name, port.up) for port in switch.ports()] == [("vm", False)]
        assert "cannot connect to tcp://lan.example:1?connect: " in caplog.text
        assert ": Name or service not known; check how lan.example is" in caplog.text


async def test_an_error_leaves_the_switch_as_it_was(directory: Path) -> None:
    async with VSwitch() as switch:
        one, two = await Peer.plugged_into(switch), await Peer.plugged_into(switch)
        for url in ("tcp://0.0.0.0:0", "fd://9999", "unix:///", f"unix://{directory}", "unix:///nonexistent/a.sock"):
            with pytest.raises(VSwitchError):
                await switch.attach(url, name="lab")
        assert up(switch) == {"fd1", "fd2"}
        await switch.attach("tcp://127.0.0.1:0", name="lab")
        async with one, two:
            await check_plugged_together(one, two)


async def test_a_descriptor_that_is_in_use_already_is_refused() -> None:
    here, there = socket.socketpair()
    async with VSwitch() as switch, await Peer.plugged_into(switch) as other, Peer.at(here) as peer:
        fd = there.detach()
        await switch.attach(f"fd://{fd}", name="vm")
        with pytest.raises(InputError, match=f"fd://{fd}"):
            await switch.attach(f"fd://{fd}", name="again")
        await check_plugged_together(peer, other)


async def test_a_listening_descriptor_that_is_in_use_already_is_refused() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port, fd = server.getsockname()[1], server.detach()
    async with VSwitch() as switch:
        await switch.attach(f"fd://{fd}", name="lab")
        with pytest.raises(InputError, match=f"fd://{fd}"):
            await switch.attach(f"fd://{fd}", name="again")
        async with await Peer.connected_to(f"tcp://127.0.0.1:{port}"):
            await until(lambda: up(switch) == {"lab.1"})


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
async def test_a_socket_that_is_refused_is_not_leaked(kind: socket.SocketKind) -> None:
    async with VSwitch() as switch:
        before = descriptors()
        with pytest.raises(InputError):
            await switch.attach(sock := socket.socket(socket.AF_UNIX, kind))
        sock.close()  # if it is the caller's again
        assert opened_since(before) == {}


@pytest.mark.parametrize("parameters", [{"nmae": "vm"}, {"name": "taken"}])
async def test_a_socket_that_is_refused_for_its_parameters_is_not_leaked(parameters: dict[str, object]) -> None:
    async with VSwitch() as switch:
        await switch.attach("tcp://127.0.0.1:0", name="taken")
        before = descriptors()
        here, there = socket.socketpair()
        with pytest.raises(InputError):
            await switch.attach(there, **parameters)
        here.close()
        there.close()
        assert opened_since(before) == {}


class Stopped(BaseException):
    """Like pytest's own way to skip a test, or KeyboardInterrupt: no Exception."""


@pytest.mark.parametrize("kind", [ValueError, InputError, Stopped, KeyboardInterrupt])
async def test_the_blocks_own_exception_comes_out_as_it_is(kind: type[BaseException]) -> None:
    raised = kind("mine")

    async def block() -> None:
        async with VSwitch() as switch:
            await switch.attach("tcp://127.0.0.1:0")
            raise raised

    with pytest.raises(kind) as caught:
        await block()
    assert caught.value is raised
    assert caught.value.__cause__ is None


async def test_the_blocks_own_exception_group_comes_out_as_it_is() -> None:
    raised = ExceptionGroup("mine", [ValueError("one"), OSError("two")])
    with pytest.raises(ExceptionGroup) as caught:
        async with VSwitch():
            raise raised
    assert caught.value is raised


async def test_a_block_may_be_cancelled(directory: Path) -> None:
    with trio.move_on_after(TIMEOUT_S) as scope:
        async with VSwitch() as switch:
            await switch.attach(f"unix://{directory}/lan.sock")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert os.listdir(directory) == []


async def test_attaching_may_be_cancelled(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(config: EndpointConfig) -> socket.socket:
        connecting.set()
        await trio.sleep_forever()
        raise AssertionError

    connecting = trio.Event()
    monkeypatch.setattr(stream, "connect", never)
    async with VSwitch() as switch:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(switch.attach, f"unix://{directory}/vm.sock?connect&name=vm")
            with trio.fail_after(TIMEOUT_S):
                await connecting.wait()
            nursery.cancel_scope.cancel()
        assert names(switch) == []
        await switch.attach("tcp://127.0.0.1:0", name="vm")


# Nothing is left


async def busy(directory: Path) -> None:
    """A switch's life with one of everything; ends while all of it is in use."""
    with ExitStack() as stack:
        async with VSwitch() as switch:
            await switch.serve_control(f"{directory}/default.ctl")
            tcp = await switch.attach("tcp://127.0.0.1:0")
            unix = await switch.attach(f"unix://{directory}/lan.sock")
            await switch.attach(f"unix://{directory}/nobody.sock?connect")
            await switch.attach("tcp://127.0.0.1:0?single")
            peers = [await Peer.plugged_into(switch)]
            for url in (tcp.url, tcp.url, unix.url):
                peers.append(await Peer.connected_to(url))
            for peer in peers:
                stack.callback(peer.stream.socket.close)
            await until(lambda: len(up(switch)) == 4)
            for number, peer in enumerate(peers):
                await peer.send(*[frame(BROADCAST, mac(number), 1500)] * 50)
            await until(lambda: switch.status().totals.rx_frames == 200)
            for url in ("tcp://127.0.0.1", "tcp://0.0.0.0:0", f"unix://{directory}/lan.sock"):
                with pytest.raises(VSwitchError):
                    await switch.attach(url)


async def test_nothing_is_left(directory: Path) -> None:
    await busy(directory)  # what is opened once, such as the thread that resolves names, is there now
    before = descriptors()
    tasks = trio.lowlevel.current_statistics().tasks_living
    for _ in range(3):
        await busy(directory)
    assert opened_since(before) == {}
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert os.listdir(directory) == []


async def test_nothing_is_left_after_an_error(directory: Path) -> None:
    async def fail() -> None:
        async with VSwitch() as switch:
            await switch.attach(f"unix://{directory}/lan.sock")
            await switch.attach("tcp://127.0.0.1:0")
            raise ZeroDivisionError

    async with VSwitch():
        pass
    before = descriptors()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await fail()
    assert opened_since(before) == {}
    assert os.listdir(directory) == []


async def test_peers_see_the_end_of_the_block() -> None:
    async with VSwitch() as switch:
        peers = [await Peer.plugged_into(switch) for _ in range(3)]
    for peer in peers:
        async with peer:
            assert await peer.closed()


async def test_a_switch_may_run_again() -> None:
    switch = VSwitch()
    for _ in range(2):
        async with switch:
            one, two = await Peer.plugged_into(switch), await Peer.plugged_into(switch)
            async with one, two:
                await check_plugged_together(one, two)
            assert switch.status().totals.rx_frames == 2


async def test_two_switches_in_one_program_know_nothing_of_each_other() -> None:
    async with VSwitch("one") as one, VSwitch("two") as two:
        here, there = await Peer.plugged_into(one), await Peer.plugged_into(two)
        async with here, there:
            await here.send(frame(BROADCAST, mac(1)))
            await until(lambda: one.status().totals.rx_frames == 1)
            assert two.status().totals.rx_frames == 0
            assert (one.status().name, two.status().name) == ("one", "two")
            assert await two.macs() == []


# Switches plugged into each other


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix"])
async def test_two_switches_are_one_network(directory: Path, kind: str) -> None:
    urls = {"tcp": "tcp://127.0.0.1:0", "tcp6": "tcp://[::1]:0", "unix": f"unix://{directory}/lan.sock"}
    async with VSwitch("one") as one, VSwitch("two") as two:
        lab = await one.attach(urls[kind], name="lab")
        await two.attach(f"{lab.url}?connect", name="uplink")
        here, there = await Peer.plugged_into(one, name="vm"), await Peer.plugged_into(two, name="vm")
        await until(lambda: "lab.1" in up(one) and "uplink" in up(two))
        async with here, there:
            await check_plugged_together(here, there)
            assert [(station.mac[-2:], station.port) for station in await one.macs()] == [("01", "vm"), ("02", "lab.1")]
            assert [(station.mac[-2:], station.port) for station in await two.macs()] == [
                ("01", "uplink"),
                ("02", "vm"),
            ]
        check_balance(one)
        check_balance(two)


async def test_a_switch_finds_the_other_again_after_it_was_gone(directory: Path) -> None:
    url = f"unix://{directory}/lan.sock"
    async with VSwitch("two") as two:
        uplink = await two.attach(f"{url}?connect", name="uplink")
        there = await Peer.plugged_into(two, name="vm")
        for _ in range(2):
            async with VSwitch("one") as one:
                await one.attach(url)
                await until(lambda: "uplink" in up(two))
                here = await Peer.plugged_into(one)
                async with here:
                    await until(lambda one=one: "unix1.1" in up(one))  # type: ignore[misc]
                    await check_plugged_together(here, there)
            await until(lambda: "uplink" not in up(two))
            assert [station.port for station in await two.macs()] == ["vm"]  # what was behind it is forgotten
        (port,) = uplink.ports
        assert (port.up, port.peer, port.rx_frames, port.tx_frames) == (False, None, 2, 2)
        there.stream.socket.close()


async def test_pauses_between_tries_grow_to_two_seconds(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[float] = []

    async def refuse(config: EndpointConfig) -> socket.socket:
        tries.append(trio.current_time())
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr(stream, "connect", refuse)
    async with VSwitch() as switch:
        await switch.attach("tcp://127.0.0.1:1?connect")
        await trio.sleep(60)
    pauses = [later - sooner for sooner, later in itertools.pairwise(tries)]
    assert pauses[0] == pytest.approx(0.1)
    assert pauses[1] < 1
    assert all(later > sooner - 0.001 for sooner, later in itertools.pairwise(pauses))
    assert pauses[-1] == pytest.approx(2)
    assert len(tries) > 30
    assert caplog.text.count("cannot connect") == 1  # said once, not each time


async def test_a_listener_with_a_full_backlog_is_no_peer_yet(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = f"{directory}/vm.sock"
    caplog.set_level("INFO", "vswitch")
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(path)
            except BlockingIOError:
                break
        async with VSwitch() as switch:
            with trio.fail_after(TIMEOUT_S):
                await switch.attach(f"unix://{path}?connect", name="vm")
                await trio.testing.wait_all_tasks_blocked()
            assert "vm up" not in caplog.text


# What it says of itself


async def test_stations_age_by_the_trio_clock(mock_clock: trio.testing.MockClock) -> None:
    async with VSwitch(ageing_s=300) as switch:
        one, two = await Peer.plugged_into(switch), await Peer.plugged_into(switch)
        async with one, two:
            await one.stream.send_all((60).to_bytes(4) + frame(BROADCAST, mac(1)))
            await two.stream.receive_some()
            mock_clock.jump(100)
            (station,) = await switch.macs()
            assert (station.mac, station.port) == ("52:54:00:00:00:01", "fd1")
            assert station.age_s == pytest.approx(100, abs=0.1)
            mock_clock.jump(199)
            assert len(await switch.macs()) == 1
            mock_clock.jump(2)
            assert await switch.macs() == []
            assert switch.status().macs == 0


async def test_the_table_holds_what_it_was_told_to() -> None:
    async with VSwitch(table_size=2) as switch:
        peer = await Peer.plugged_into(switch)
        async with peer:
            await peer.send(*[frame(BROADCAST, mac(number)) for number in range(10)])
            await until(lambda: switch.status().totals.rx_frames == 10)
            assert len(await switch.macs()) == 2


async def test_status_counts_ports_stations_and_time(mock_clock: trio.testing.MockClock) -> None:
    async with VSwitch("lab") as switch:
        await switch.attach("tcp://127.0.0.1:0?single")
        mock_clock.jump(12.5)
        status = switch.status()
        assert (status.name, status.ports, status.macs, status.uptime_s) == ("lab", 1, 0, 12.5)
        assert status.pid == os.getpid()


async def test_answers_are_snapshots() -> None:
    async with VSwitch() as switch:
        peer = await Peer.plugged_into(switch)
        async with peer:
            before = switch.ports()[0], switch.status()
            await peer.send(frame(BROADCAST, mac(1)))
            await until(lambda: switch.status().totals.rx_frames == 1)
            assert (before[0].rx_frames, before[1].totals.rx_frames) == (0, 0)
            with pytest.raises(AttributeError):
                before[0].rx_frames = 7  # type: ignore[misc]


async def test_a_switch_that_does_not_run_takes_no_endpoints() -> None:
    switch = VSwitch()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not running"):
            await switch.attach("tcp://127.0.0.1:0")
        async with switch:
            assert (await switch.attach("tcp://127.0.0.1:0")).name == "tcp1"


# Guests to be


async def test_an_address_is_handed_out_once_even_if_its_endpoint_comes_again() -> None:
    async with VSwitch() as switch:
        macs = []
        for _ in range(2):
            lab = await switch.attach("tcp://127.0.0.1:0", name="lab")
            macs += [await switch.stations.next_guest("lab") for _ in range(3)]
            await lab.detach()
        assert len(set(macs)) == 6


async def test_an_address_that_a_station_has_is_not_handed_out() -> None:
    taken = int(guest_mac("default", "lab", "1").replace(":", ""), 16)
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="lab") as peer:
        await peer.send(frame(BROADCAST, taken))
        await until(lambda: switch.status().macs)
        assert await switch.stations.next_guest("lab") == guest_mac("default", "lab", "2")


async def test_two_endpoints_whose_addresses_would_be_the_same_get_different_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "vswitch.switch.stations.guest_mac", lambda switch, endpoint, number: f"52:54:00:00:00:0{number}"
    )
    async with VSwitch() as switch:
        for name in ("one", "two"):
            await switch.attach("tcp://127.0.0.1:0", name=name)
        assert [await switch.stations.next_guest(name) for name in ("one", "two", "one")] == [
            "52:54:00:00:00:01",
            "52:54:00:00:00:02",
            "52:54:00:00:00:03",
        ]


async def test_an_endpoint_that_is_not_there_has_no_guests() -> None:
    async with VSwitch() as switch:
        with pytest.raises(InputError, match="'lab'; there are none"):
            await switch.stations.next_guest("lab")
