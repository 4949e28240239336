"""Being a VDE switch: clients of every sort, and what they may do wrong, while others work on."""

import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.descriptors import descriptors
from tests.endpoints.kinds import MAGIC, SUN_PATH, sockaddr_un, vde_plug, vde_request
from tests.endpoints.test_sock_diag import NOBODY, another_user
from tests.frames import BROADCAST, frame, mac
from tests.needs import require
from tests.peers import TIMEOUT_S, DatagramPeer, check_balance, until, up
from vswitch import VSwitch
from vswitch.endpoints import unix_socket
from vswitch.endpoints.vde import endpoint as vde
from vswitch.endpoints.vde.console import Console
from vswitch.endpoints.vde.endpoint import CHATTER_MAX, HANDSHAKE_S, HANDSHAKES_MAX, VdeSwitch


class Lan:
    """A VDE switch `lab` at `path`, and two clients that nothing is to happen to."""

    one: DatagramPeer
    two: DatagramPeer

    def __init__(self, root: Path, switch: VSwitch, stack: AsyncExitStack) -> None:
        self.root = root
        self.path = root / "lan.vde"
        self.switch = switch
        self.stack = stack
        self._numbers = count()

    async def plug(self, *, version: int = 3, kind: int = 0, description: bytes = b"test") -> DatagramPeer:
        """A well-behaved client."""
        path = self.root / f"client{next(self._numbers)}"
        peer = await vde_plug(self.path, path, version=version, kind=kind, description=description)
        self.stack.callback(peer.close)
        return peer

    async def call(self, data: bytes = b"") -> trio.SocketStream:
        """A control connection on which something was said, to somebody or nobody."""
        ctl = await self.stack.enter_async_context(await trio.open_unix_socket(self.path / "ctl"))
        with suppress(trio.BrokenResourceError):
            await ctl.send_all(data)
        return ctl

    async def own_socket(self, address: bytes) -> trio.socket.SocketType:
        sock = self.stack.enter_context(trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        if address:
            await sock.bind(address)
        return sock

    def ports(self) -> set[str]:
        return up(self.switch) - {"lab.200", "lab.201"}

    async def check_works(self) -> None:
        """The two clients are in touch, and nobody else is there."""
        for sender, receiver, src, dst in ((self.one, self.two, 200, 201), (self.two, self.one, 201, 200)):
            data = frame(mac(dst), mac(src), payload=os.urandom(8))
            await sender.send(data)
            while await receiver.receive(1) != [data]:
                pass
        check_balance(self.switch)


@asynccontextmanager
async def serving(root: Path, **parameters: object) -> AsyncIterator[Lan]:
    """Ends with a look at what is left."""
    before = Counter(descriptors().values())
    async with VSwitch() as switch:
        async with AsyncExitStack() as stack:
            lan = Lan(root, switch, stack)
            await switch.attach(f"vde://{lan.path}", name="lab", **parameters)
            lan.one, lan.two = [await lan.plug(kind=number << 8) for number in (200, 201)]
            yield lan
            await until(lambda: not lan.ports())
            await lan.check_works()
            names = sorted(path.name.partition(".")[0] for path in lan.path.iterdir())
            assert names == ["200", "201", "ctl"]
        await until(lambda: not switch.ports())
    assert not lan.path.exists()
    assert Counter(descriptors().values()) - before == Counter()


async def hung_up(ctl: trio.SocketStream) -> bool:
    """Waits until the switch closes a control connection, on which it has said nothing."""
    with trio.fail_after(TIMEOUT_S):
        try:
            return not await ctl.receive_some(4096)
        except trio.BrokenResourceError:  # what we have sent was not read any more
            return True


async def reply_on(ctl: trio.SocketStream) -> bytes:
    """The path of the socket that the switch has for a client."""
    with trio.fail_after(TIMEOUT_S):
        reply = await ctl.receive_some(4096)
    assert reply[:2] == struct.pack("=H", socket.AF_UNIX)
    assert len(reply) == 2 + SUN_PATH
    return reply[2:].rstrip(b"\0")


GOOD = vde_request(b"/dev/null")
WRONG: dict[str, tuple[bytes, str]] = {
    "http": (b"GET / HTTP/1.1\r\n\r\n", "not a VDE request"),
    "other byte order": (GOOD[:4][::-1] + GOOD[4:], "not a VDE request"),
    "zeros": (bytes(200), "not a VDE request"),
    "version 2": (vde_request(b"/x", version=2), "version 2"),
    "version 4": (vde_request(b"/x", version=4), "version 4"),
    "version 5": (vde_request(b"/x", version=5), "version 5"),
    "version 2**32 - 1": (vde_request(b"/x", version=2**32 - 1), "version 4294967295"),
    "type 2": (vde_request(b"/x", kind=2), "type 0x2"),
    "type 255": (vde_request(b"/x", kind=255), "type 0xff"),
    "port 65536": (vde_request(b"/x", kind=65536 << 8), "type 0x1000000"),
    "IPv4": (struct.pack("=IIIH", MAGIC, 3, 0, socket.AF_INET) + b"\1" * SUN_PATH, "family 2"),
    "no family": (struct.pack("=IIIH", MAGIC, 3, 0, 0) + b"\1" * SUN_PATH, "family 0"),
    "version 1, wrong family": (struct.pack("=II6xH", MAGIC, 0, 7) + b"\1" * SUN_PATH, "family 7"),
    "version 1, cut off": (vde_request(b"/x", version=1, description=b"")[:-1], "in the middle"),
    "cut off": (vde_request(b"/x", description=b"")[:-1], "in the middle"),
    "one byte": (GOOD[:1], "in the middle"),
    "nothing": (b"", "without a request"),
    "missing": (vde_request(b"/nonexistent/socket"), "/nonexistent/socket: No such file"),
    "not terminated": (vde_request(b"/" + b"x" * (SUN_PATH - 1)), "xxx: AF_UNIX path too long"),
    "relative and missing": (vde_request(b"nonexistent.sock"), "nonexistent.sock: No such file"),
    "no socket": (vde_request(b"/dev/null"), "/dev/null: Connection refused"),
    "nobody's abstract name": (vde_request(b"\0vswitch/nobody"), "vswitch/nobody: Connection refused"),
    "control characters": (vde_request(b"/\x1b[31m\n"), "/\\x1b[31m\\n: No such file"),
    "not UTF-8": (vde_request(b"/\xff"), "/\\udcff: No such file"),
    "port over the limit": (vde_request(b"/x", kind=257 << 8), "port 257, and there are 256"),
    "port taken": (vde_request(b"/x", kind=200 << 8), "port 200, which is taken"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_request_is_turned_away_and_nobody_else_notices(
    directory: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    data, said = WRONG[name]
    async with serving(directory) as lan:
        ctl = await lan.call(data)
        await ctl.send_eof()
        assert await hung_up(ctl)
        assert lan.ports() == set()
        assert said in caplog.text
        assert caplog.text.count("turned away") == 1


async def test_a_client_whose_socket_is_a_stream_socket_is_turned_away(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(directory) as lan:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.bind(bytes(directory / "stream.sock"))
            stream.listen()
            assert await hung_up(await lan.call(vde_request(stream.getsockname().encode())))
        assert "stream.sock: Protocol wrong type for socket" in caplog.text


async def test_a_client_cannot_give_another_ports_socket_for_its_own(directory: Path) -> None:
    """Neither the switch's own sockets nor one that has another for its only peer."""
    async with serving(directory) as lan:
        (its,) = lan.path.glob("200.*")
        assert await hung_up(await lan.call(vde_request(bytes(its))))
        assert await hung_up(await lan.call(vde_request(lan.one.sock.getsockname().encode())))


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("cut", [1, 4, 7, 8, 13, 60, 120])
async def test_a_request_may_come_in_pieces(directory: Path, version: int, cut: int) -> None:
    async with serving(directory) as lan:
        sock = await lan.own_socket(bytes(directory / "pieces"))
        request = vde_request(bytes(directory / "pieces"), version=version, description=b"")
        ctl = await lan.call(request[:cut])
        await lan.check_works()  # by then the beginning has been read
        assert lan.ports() == set()
        await ctl.send_all(request[cut:])
        await sock.connect(await reply_on(ctl))
        await sock.send(frame(BROADCAST, mac(1)))
        assert await lan.one.receive(1) == [frame(BROADCAST, mac(1))]
        assert lan.ports() == {"lab.1"}
        ctl.socket.close()


async def test_a_request_byte_by_byte(directory: Path) -> None:
    async with serving(directory) as lan:
        await lan.own_socket(bytes(directory / "pieces"))
        ctl = await lan.call()
        for byte in vde_request(bytes(directory / "pieces"), description=b"late"):
            await ctl.send_all(bytes([byte]))
        await reply_on(ctl)
        assert lan.ports() == {"lab.1"}
        ctl.socket.close()


async def test_a_request_that_is_never_finished_is_given_up_in_time(
    directory: Path, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(directory) as lan:
        silent, begun = await lan.call(), await lan.call(GOOD[:20])
        await lan.check_works()
        clock.jump(HANDSHAKE_S / 2)
        await lan.check_works()
        assert "turned away" not in caplog.text
        await begun.send_all(GOOD[20:21])  # which gives it no more time
        await lan.check_works()
        clock.jump(HANDSHAKE_S / 2)
        for ctl in (silent, begun):
            assert await hung_up(ctl)
        assert "its request did not come in time" in caplog.text


async def test_too_many_unfinished_requests_do_not_keep_anybody_out_for_long(
    directory: Path, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(directory) as lan:
        clock.rate = 0
        unfinished = [await lan.call(GOOD[:20]) for _ in range(HANDSHAKES_MAX)]
        for _ in range(3):
            assert await hung_up(await lan.call(GOOD))
        clock.rate = 1
        assert "too many have not said yet what they want" in caplog.text
        assert caplog.text.count("turned away") == 1
        await lan.check_works()
        clock.jump(HANDSHAKE_S)
        for ctl in unfinished:
            assert await hung_up(ctl)
        async with await lan.plug():
            assert lan.ports() == {"lab.1"}


async def test_clients_get_the_ports_they_ask_for_and_others_the_lowest_that_is_free(directory: Path) -> None:
    async with serving(directory) as lan:
        fifth = await lan.plug(kind=5 << 8)
        management = await lan.plug(kind=1)
        old = await lan.plug(version=1)
        assert lan.ports() == {"lab.5", "lab.0", "lab.1"}
        second, last = await lan.plug(), await lan.plug(kind=256 << 8)
        assert lan.ports() == {"lab.5", "lab.0", "lab.1", "lab.2", "lab.256"}
        for kind in (1, 2 << 8, 5 << 8, 256 << 8, 257 << 8, 65535 << 8):
            assert await hung_up(await lan.call(vde_request(b"/x", kind=kind)))
        old.close()
        await until(lambda: lan.ports() == {"lab.5", "lab.0", "lab.2", "lab.256"})
        first = await lan.plug()
        assert "lab.1" in lan.ports()
        await first.send(frame(BROADCAST, mac(1)))
        for peer in (fifth, management, second, last):
            assert await peer.receive(1) == [frame(BROADCAST, mac(1))]
        for peer in (fifth, management, second, last, first):
            peer.close()


async def test_there_are_as_many_ports_as_the_limit_says(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with VSwitch() as switch, AsyncExitStack() as stack:
        lan = Lan(directory, switch, stack)
        await switch.attach(f"vde://{lan.path}?limit=2", name="lab")
        one, two = await lan.plug(), await lan.plug()
        await lan.own_socket(bytes(directory / "third"))
        assert await hung_up(await lan.call(vde_request(bytes(directory / "third"))))
        assert "all 2 ports are taken or reserved (limit=)" in caplog.text
        assert await hung_up(await lan.call(vde_request(bytes(directory / "third"), kind=3 << 8)))
        two.close()
        await until(lambda: up(switch) == {"lab.1"})
        two = await lan.plug()
        await one.send(frame(BROADCAST, mac(1)))
        assert await two.receive(1) == [frame(BROADCAST, mac(1))]


async def test_a_client_gets_the_vlans_of_its_port_and_none_that_is_for_others(directory: Path) -> None:
    async with VSwitch() as switch, AsyncExitStack() as stack:
        lan = Lan(directory, switch, stack)
        lab = await switch.attach(f"vde://{lan.path}?limit=4", name="lab")
        assert isinstance(lab.endpoint, VdeSwitch)
        console = Console(lab.endpoint)
        for line in (b"vlan/create 10", b"port/create 1", b"port/create 2", b"port/setvlan 1 10", b"port/setvlan 2 10"):
            assert b"".join(console.answer(line)) == b"1000 Success\n"
        other, one = await lan.plug(), await lan.plug(kind=1 << 8)
        assert up(switch) == {"lab.3", "lab.1"}
        for _ in range(2):
            async with await lan.plug(kind=2 << 8) as two:
                await one.send(frame(BROADCAST, mac(1)))
                assert await two.receive(1) == [frame(BROADCAST, mac(1))]
                await two.send(frame(mac(1), mac(2)))
                assert await one.receive(1) == [frame(mac(1), mac(2))]
            await until(lambda: up(switch) == {"lab.3", "lab.1"})
        last = await lan.plug()
        assert up(switch) == {"lab.3", "lab.1", "lab.4"}
        assert await hung_up(await lan.call(vde_request(b"/x")))
        await last.send(frame(BROADCAST, mac(4)))
        assert await other.receive(1) == [frame(BROADCAST, mac(4))]
        assert {port.name: port.vlan.access for port in switch.ports()} == {"lab.3": 1, "lab.1": 10, "lab.4": 1}
        check_balance(switch)


async def test_a_client_does_not_get_a_name_that_another_endpoint_has(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(directory) as lan:
        here, there = socket.socketpair()
        with here:
            other = await lan.switch.attach(there, name="lab.3")
            await lan.own_socket(bytes(directory / "third"))
            assert await hung_up(await lan.call(vde_request(bytes(directory / "third"), kind=3 << 8)))
            assert "there is a port 'lab.3' already" in caplog.text
            assert lan.ports() == {"lab.3"}
            await other.detach()


ADDRESSES: dict[str, tuple[Callable[[Path], bytes], Callable[[bytes], bytes]]] = {
    "path": (lambda root: bytes(root / "own.sock"), lambda name: name),
    "path with rubbish after it": (lambda root: bytes(root / "own.sock"), lambda name: name + b"\0rubbish"),
    "abstract": (lambda root: b"\0" + bytes(root), lambda name: name),
    "abstract, padded": (lambda root: (b"\0" + bytes(root)).ljust(SUN_PATH, b"\0"), lambda name: name),
}


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("name", ADDRESSES)
async def test_a_client_may_have_any_sort_of_address(directory: Path, name: str, version: int) -> None:
    bound, written = ADDRESSES[name]
    async with serving(directory) as lan:
        sock = await lan.own_socket(bound(directory))
        ctl = await lan.call(vde_request(written(bound(directory)), version=version))
        await sock.connect(await reply_on(ctl))
        await sock.send(frame(BROADCAST, mac(1)))
        assert await lan.one.receive(1) == [frame(BROADCAST, mac(1))]
        await lan.one.send(frame(mac(1), mac(200)))
        with trio.fail_after(TIMEOUT_S):
            assert await sock.recv(4096) == frame(mac(1), mac(200))
        ctl.socket.close()


@pytest.mark.parametrize("family", [socket.AF_UNSPEC, socket.AF_UNIX])
async def test_a_client_whose_socket_has_no_name_can_send_only(directory: Path, family: int) -> None:
    """What is for it is dropped, and it stays."""
    async with serving(directory) as lan:
        sock = await lan.own_socket(b"")
        trap = await lan.own_socket(bytes(SUN_PATH))  # what no name must not be taken for
        ctl = await lan.call(struct.pack("=IIIH", MAGIC, 3, 0, family) + bytes(SUN_PATH))
        await sock.connect(await reply_on(ctl))
        for number in range(3):
            await sock.send(frame(BROADCAST, mac(1), payload=bytes([number])))
            assert await lan.one.receive(1) == [frame(BROADCAST, mac(1), payload=bytes([number]))]
            await lan.one.send(frame(mac(1), mac(200)))
            await lan.check_works()
        (port,) = [port for port in lan.switch.ports() if port.name == "lab.1"]
        assert port.up
        assert port.drops["unreachable"] >= 3
        with pytest.raises(BlockingIOError):
            os.read(trap.fileno(), 1)
        ctl.socket.close()


async def test_a_client_that_is_killed_leaves_nothing_in_the_directory(directory: Path) -> None:
    async with serving(directory) as lan:
        path = lan.path / f".{os.getpid():05d}-00000"
        client = await vde_plug(lan.path, path)
        assert lan.ports() == {"lab.1"}
        client.vanish()
        await until(lambda: lan.ports() == set())
        assert not path.exists()


async def test_a_client_that_goes_on_without_its_socket_is_unplugged_with_the_next_frame(directory: Path) -> None:
    async with serving(directory) as lan:
        client = await lan.plug()
        client.sock.close()
        await lan.one.send(frame(BROADCAST, mac(200)))
        assert client.ctl is not None
        assert await hung_up(client.ctl)
        assert lan.ports() == set()


async def test_a_client_that_talks_on_the_control_connection_is_not_listened_to_for_ever(directory: Path) -> None:
    async with serving(directory) as lan:
        client = await lan.plug()
        assert client.ctl is not None
        await client.ctl.send_all(b"hello?\n" * 100)
        await client.send(frame(BROADCAST, mac(1)))
        assert await lan.one.receive(1) == [frame(BROADCAST, mac(1))]
        with trio.fail_after(TIMEOUT_S), pytest.raises(trio.BrokenResourceError):
            await client.ctl.send_all(bytes(100 * CHATTER_MAX))
        await until(lambda: lan.ports() == set())


async def test_a_client_that_does_not_take_its_reply_is_plugged_in_all_the_same(directory: Path) -> None:
    async with serving(directory) as lan:
        sock = await lan.own_socket(bytes(directory / "hasty"))
        ctl = await lan.call(vde_request(bytes(directory / "hasty")))
        await until(lambda: lan.ports() == {"lab.1"})
        await lan.one.send(frame(BROADCAST, mac(200)))
        with trio.fail_after(TIMEOUT_S):
            assert await sock.recv(4096) == frame(BROADCAST, mac(200))
        ctl.socket.close()


async def test_a_client_that_leaves_before_its_reply_is_gone(directory: Path) -> None:
    async with serving(directory) as lan:
        await lan.own_socket(bytes(directory / "hasty"))
        for _ in range(20):
            ctl = await lan.call(vde_request(bytes(directory / "hasty")))
            ctl.socket.close()
            await lan.check_works()


async def test_nobody_else_can_send_to_a_clients_port(directory: Path) -> None:
    async with serving(directory) as lan:
        (its,) = lan.path.glob("200.*")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger, pytest.raises(PermissionError):
            stranger.sendto(frame(BROADCAST, mac(66)), bytes(its))


async def test_what_a_client_calls_itself_is_its_peer_and_safe_to_show(directory: Path) -> None:
    async with serving(directory) as lan:
        client = await lan.plug(description=b"QEMU \x1b[31m\xff\n user=me")
        (port,) = [port for port in lan.switch.ports() if port.name == "lab.1"]
        assert port.peer is not None
        assert port.peer.isprintable()
        assert port.peer.startswith("QEMU ")
        client.close()
        nameless = await lan.plug(description=b"")
        await until(lambda: lan.ports() == {"lab.2"} or lan.ports() == {"lab.1"})
        (port,) = [port for port in lan.switch.ports() if port.name not in ("lab.200", "lab.201")]
        assert f"pid {os.getpid()}" in (port.peer or "")
        nameless.close()


# Another user


@pytest.fixture
def several_users(directory: Path) -> None:
    """Another user may enter the directory, and make sockets there."""
    require(os.geteuid() == 0, "only root can act as another user")
    directory.chmod(0o777)


def others_call(path: Path, data: bytes) -> trio.SocketStream:
    """Another user's control connection."""
    sock = socket.socket(socket.AF_UNIX)
    with ExitStack() as stack:
        stack.callback(sock.close)
        with another_user():
            sock.connect(bytes(path / "ctl"))
        sock.send(data)
        stack.pop_all()
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def others_socket(path: Path) -> socket.socket:
    with another_user():
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(bytes(path))
    return sock


@pytest.mark.usefixtures("several_users")
async def test_another_user_cannot_plug_in_unless_told_so(directory: Path) -> None:
    async with serving(directory) as lan:
        with pytest.raises(PermissionError):
            others_call(lan.path, GOOD)
        lan.path.chmod(0o777)  # so that it is the socket itself that keeps them out
        with pytest.raises(PermissionError):
            others_call(lan.path, GOOD)


@pytest.mark.usefixtures("several_users")
async def test_another_user_cannot_plug_in_where_a_group_may(directory: Path) -> None:
    async with serving(directory, mode="0660", dirmode="0777") as lan:
        with pytest.raises(PermissionError):
            others_call(lan.path, GOOD)


@pytest.mark.usefixtures("several_users")
async def test_another_users_client_gets_a_socket_that_it_may_send_to(directory: Path) -> None:
    async with serving(directory, mode="0666", dirmode="0777") as lan:
        path = lan.path / ".00001-00000"
        with others_socket(path) as sock:
            ctl = others_call(lan.path, vde_request(bytes(path)))
            its = await reply_on(ctl)
            assert os.stat(its).st_uid == NOBODY
            with another_user():
                sock.connect(its)
                sock.send(frame(BROADCAST, mac(1)))
            assert await lan.one.receive(1) == [frame(BROADCAST, mac(1))]
            await lan.one.send(frame(mac(1), mac(200)))
            sock.settimeout(TIMEOUT_S)
            await lan.check_works()
            assert sock.recv(4096) == frame(mac(1), mac(200))
            ctl.socket.close()
        path.unlink()


@pytest.mark.usefixtures("several_users")
@pytest.mark.parametrize("trick", ["socket", "link", "hard link", "abstract", "parent link"])
async def test_another_users_client_cannot_have_frames_sent_to_somebody_elses_socket(
    directory: Path, caplog: pytest.LogCaptureFixture, trick: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as victim:
        path = bytes(directory / "victim.sock")
        victim.bind(b"\0" + path if trick == "abstract" else path)
        if trick != "abstract":
            os.chmod(path, 0o777)
        named = {
            "socket": path,
            "link": bytes(directory / "link"),
            "hard link": bytes(directory / "hard"),
            "abstract": b"\0" + path,
            "parent link": bytes(directory / "up" / "victim.sock"),
        }[trick]
        if trick == "link":
            os.symlink(path, named)
        elif trick == "hard link":
            os.link(path, named)
        elif trick == "parent link":
            os.symlink(directory, directory / "up")
        async with serving(directory, mode="0666", dirmode="0777") as lan:
            async with others_call(lan.path, vde_request(named)) as ctl:
                assert await hung_up(ctl)
            await lan.one.send(frame(BROADCAST, mac(200)))
            await lan.check_works()
        assert "turned away a client: cannot connect to its socket" in caplog.text
        with pytest.raises(BlockingIOError):
            victim.recv(4096, socket.MSG_DONTWAIT)


@pytest.mark.usefixtures("several_users")
@pytest.mark.parametrize("family", [socket.AF_UNSPEC, socket.AF_UNIX])
async def test_another_users_client_may_have_a_socket_without_a_name(directory: Path, family: int) -> None:
    async with serving(directory, mode="0666", dirmode="0777") as lan:
        request = struct.pack("=IIIH", MAGIC, 3, 0, family) + bytes(SUN_PATH)
        async with others_call(lan.path, request) as ctl:
            its = await reply_on(ctl)
            with another_user(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(frame(BROADCAST, mac(1)), its)
            assert await lan.one.receive(1) == [frame(BROADCAST, mac(1))]


async def test_a_reply_names_the_socket_as_libvdeplug_reads_it(directory: Path) -> None:
    async with serving(directory) as lan:
        await lan.own_socket(bytes(directory / "own"))
        ctl = await lan.call(vde_request(bytes(directory / "own"), kind=7 << 8))
        with trio.fail_after(TIMEOUT_S):
            reply = await ctl.receive_some(4096)
        (its,) = lan.path.glob("007.*")
        assert reply == sockaddr_un(bytes(its))
        ctl.socket.close()


async def test_a_port_that_is_somebodys_takes_nobody_else(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(directory) as lan:
        console = console_of(lan.switch)
        monkeypatch.setattr(unix_socket, "peer_uid", lambda _: NOBODY)
        for line in ("port/create 5", "port/create 6", "port/setuser 5 0", f"port/setuser 6 {NOBODY}"):
            assert b"".join(console.answer(line.encode())) == b"1000 Success\n"
        assert await hung_up(await lan.call(vde_request(b"", kind=5 << 8)))
        assert f"turned away a client: port 5 is not for uid {NOBODY}" in caplog.text
        assert await reply_on(await lan.call(vde_request(b"", kind=6 << 8)))
        assert lan.ports() == {"lab.6"}
        for line in ("port/setuser 5 ANY", f"port/setgroup 5 {os.getgid()}"):
            assert b"".join(console.answer(line.encode())) == b"1000 Success\n"
        monkeypatch.setattr(vde, "_groups", lambda uid: {os.getgid()} if uid == NOBODY else set())
        fifth = await lan.call(vde_request(b"", kind=5 << 8))
        assert await reply_on(fifth)
        index = next(peer.port.port.index for peer in endpoint_of(lan.switch).peers() if peer.number == 6)
        assert b"".join(console.answer(b"port/epclose 6 %d" % index)) == b"1000 Success\n"
        await until(lambda: lan.ports() == {"lab.5"})
        await fifth.aclose()


def endpoint_of(switch: VSwitch) -> VdeSwitch:
    [name] = switch.attachments
    endpoint = switch.attachments[name].endpoint
    assert isinstance(endpoint, VdeSwitch)
    return endpoint


def console_of(switch: VSwitch) -> Console:
    return Console(endpoint_of(switch))
