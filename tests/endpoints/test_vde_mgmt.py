"""The management socket of a VDE switch: sessions, and the programs that people use on it."""

import os
import pty
import re
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.endpoints.test_vde_console import Lan
from tests.frames import mac
from tests.peers import TIMEOUT_S
from tests.vde2 import program, real_switch
from vswitch.endpoints.vde import mgmt
from vswitch.endpoints.vde.mgmt import CLIENTS_MAX, LINE_BYTES_MAX, RECEIVE_BYTES, Lines
from vswitch.errors import RefusedError, only

PROMPT = b"\nvde$ "
END = b"9999 END OF SESSION"
SHOWINFO = b"0000 DATA END WITH '.'\nNumports=256\nHUB=false\ncounters=true\n.\n1000 Success\n"


class Client:
    """A connection to a management socket; every wait is bounded."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, data: bytes) -> None:
        with trio.fail_after(TIMEOUT_S):
            await self.stream.send_all(data)

    async def until(self, end: bytes) -> bytes:
        """What comes up to `end`, which is left out."""
        with trio.fail_after(TIMEOUT_S):
            while end not in self._received:
                data = await self.stream.receive_some(65536)
                assert data, f"hung up; before came {self._received!r}"
                self._received += data
        found, _, self._received = self._received.partition(end)
        return found

    async def rest(self) -> bytes:
        """What comes until the other end hangs up."""
        with trio.fail_after(TIMEOUT_S):
            try:
                while data := await self.stream.receive_some(65536):
                    self._received += data
            except trio.BrokenResourceError:
                pass  # what we have sent was not read any more
        return self._received

    async def ask(self, data: bytes) -> bytes:
        await self.send(data)
        return await self.until(PROMPT)


class Served:
    """A lan with a management socket."""

    def __init__(self, lan: Lan, nursery: trio.Nursery) -> None:
        self.lan = lan
        self.nursery = nursery
        assert lan.config.mgmt is not None
        self.path = lan.config.mgmt

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with await trio.open_unix_socket(self.path) as stream:
            client = Client(stream)
            await client.until(PROMPT)
            yield client

    async def connect(self, stack: AsyncExitStack) -> Client:
        return await stack.enter_async_context(self.client())


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        yield Path(directory)


async def _serve(lan: Lan, task_status: trio.TaskStatus[None]) -> None:
    await mgmt.serve(lan, task_status.started)


@asynccontextmanager
async def serving(path: Path, **parameters: str) -> AsyncIterator[Served]:
    lan = Lan(mgmt=str(path), **parameters)
    with ExitStack() as stack:
        stack.callback(lan.close)
        async with trio.open_nursery() as nursery:
            await nursery.start(_serve, lan)
            yield Served(lan, nursery)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def served(root: Path) -> AsyncIterator[Served]:
    async with serving(root / "m") as served:
        yield served


async def test_a_session_from_greeting_to_logout(served: Served) -> None:
    async with await trio.open_unix_socket(served.path) as stream:
        client = Client(stream)
        assert re.fullmatch(rb"VDE switch V\.2\.3\.2 \(vswitch .*\)\n", await client.until(PROMPT))
        assert await client.ask(b"port/showinfo\n") == SHOWINFO
        assert await client.ask(b"\n") == b""
        assert await client.ask(b"nonsense\n") == b"1038 Function not implemented\n"
        await client.send(b"logout\n")
        assert await client.rest() == END


async def test_a_command_needs_no_newline_and_further_lines_are_further_commands(served: Served) -> None:
    async with served.client() as client:
        assert await client.ask(b"port/showinfo") == SHOWINFO
        assert await client.ask(b"port/showinfo\r\nport/sethub 0\nnonsense") == SHOWINFO
        assert await client.until(PROMPT) == b"1000 Success\n"
        assert await client.until(PROMPT) == b"1038 Function not implemented\n"


async def test_a_client_that_says_no_more_still_gets_its_replies(served: Served) -> None:
    async with served.client() as client:
        await client.send(b"port/showinfo")
        await client.stream.send_eof()
        assert await client.rest() == SHOWINFO + PROMPT


async def test_what_is_kept_for_more_to_come_is_a_command_when_nothing_comes(served: Served) -> None:
    async with served.client() as client:
        await client.send(b"port/showinfo".rjust(RECEIVE_BYTES, b"\n"))
        await client.stream.send_eof()
        assert SHOWINFO in await client.rest()


async def test_many_commands_in_one_go_lose_nothing(served: Served) -> None:
    async with served.client() as client:
        many = 3 * RECEIVE_BYTES // len(b"port/sethub 0\n")
        await client.send(b"port/sethub 0\n" * many)
        for _ in range(many):
            assert await client.until(PROMPT) == b"1000 Success\n"


async def test_shutdown_ends_the_session_and_tells_the_switch(root: Path) -> None:
    async with serving(root / "m") as served, served.client() as client, served.client() as other:

        async def stop_when_told() -> None:
            await served.lan.ports.shutdown.wait()
            served.nursery.cancel_scope.cancel()

        served.nursery.start_soon(stop_when_told)
        with trio.CancelScope(shield=True):
            await client.send(b"shutdown\n")
            assert await client.rest() == END
            assert await other.rest() == b""
    assert served.lan.ports.shutdown.is_set()


async def test_garbage_is_answered_and_the_next_command_too(served: Served) -> None:
    async with served.client() as client:
        for garbage in (bytes(5000), b"\xff" * 20000, bytes(range(256)) * 40, b"x" * RECEIVE_BYTES):
            await client.send(garbage + b"\nport/sethub 0\n")
            await client.until(b"1000 Success" + b"\n" + PROMPT)
        assert await client.ask(b"port/showinfo\n") == SHOWINFO


async def test_each_client_has_its_own_session(served: Served) -> None:
    async with AsyncExitStack() as stack:
        clients = [await served.connect(stack) for _ in range(CLIENTS_MAX)]
        for client in reversed(clients):
            assert await client.ask(b"port/showinfo") == SHOWINFO
        await clients[0].send(b"logout")
        assert await clients[0].rest() == END
        for client in clients[1:]:
            assert await client.ask(b"port/showinfo") == SHOWINFO


async def test_one_too_many_takes_the_place_of_the_one_silent_longest(served: Served) -> None:
    async with AsyncExitStack() as stack:
        clients = [await served.connect(stack) for _ in range(CLIENTS_MAX)]
        await clients[0].ask(b"\n")
        newcomers = [await served.connect(stack) for _ in range(2)]
        for silent in clients[1:3]:
            assert await silent.rest() == b""
        for client in [clients[0], *clients[3:], *newcomers]:
            assert await client.ask(b"port/showinfo") == SHOWINFO


async def test_those_who_have_left_take_no_place(served: Served) -> None:
    async with served.client() as first:
        for number in range(2 * CLIENTS_MAX):
            async with served.client() as client:
                if number % 2:
                    await client.send(b"port/showinfo\n")  # and leave without reading the reply
        assert await first.ask(b"port/showinfo") == SHOWINFO


async def test_a_client_that_does_not_read_is_not_read_from_and_holds_up_nobody(root: Path) -> None:
    async with serving(root / "m") as served, served.client() as deaf, served.client() as other:
        peer = served.lan.plug()
        for number in range(8000):
            served.lan.learn(mac(number), peer.port)
        taken = 0

        async def send_on_and_on() -> None:
            nonlocal taken
            while True:
                await deaf.stream.send_all(b"hash/print\n" * 100)
                taken += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_on_and_on)
            await wait_all_tasks_blocked()  # both ends can only wait for each other
            assert taken < 1000, "more than two socket buffers hold"
            assert (await other.ask(b"hash/print\n")).count(b"Hash: ") == 8000
            nursery.cancel_scope.cancel()


async def test_others_get_their_turn_while_a_large_table_is_printed(root: Path) -> None:
    async with serving(root / "m") as served, served.client() as client:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            before = turns
            await client.ask(b"hash/print\n")
            assert turns - before >= served.lan.ports.table.slots() // 512
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("mode", ["0600", "0660", "0666"])
async def test_its_permissions_are_those_asked_for(root: Path, mode: str) -> None:
    before = os.umask(0o077)
    try:
        async with serving(root / "m", mgmtmode=mode) as served:
            assert stat.S_IMODE(os.lstat(served.path).st_mode) == int(mode, 8)
    finally:
        os.umask(before)


async def test_nothing_is_left_of_it(root: Path) -> None:
    async with AsyncExitStack() as stack:
        async with serving(root / "m") as served:
            clients = [await served.connect(stack) for _ in range(3)]
            await clients[0].send(b"hash/print\n" * 50)
        for client in clients:
            await client.rest()
        assert os.listdir(root) == []


async def test_what_is_at_its_path_stays(root: Path) -> None:
    path = root / "m"
    path.write_text("precious")
    with pytest.raises(ExceptionGroup) as caught:
        async with serving(path):
            pass
    refused = only(caught.value)
    assert isinstance(refused, RefusedError)
    assert "not a socket" in str(refused)
    assert path.read_text() == "precious"


@given(st.lists(st.binary(max_size=RECEIVE_BYTES) | st.just(b"x" * RECEIVE_BYTES), max_size=10))
def test_lines_are_cut_and_little_is_kept(reads: list[bytes]) -> None:
    lines = Lines()
    found = []
    for data in reads:
        found += list(lines.cut(data))
        assert len(lines._rest) <= LINE_BYTES_MAX
    found += list(lines.cut(b""))
    assert b"".join(found) == b"".join(reads).replace(b"\n", b"")
    assert not any(b"\n" in line for line in found)


def test_a_line_that_a_full_read_cuts_in_two_is_one() -> None:
    lines = Lines()
    start = b"#" * (RECEIVE_BYTES - 5) + b"\nport"
    assert list(lines.cut(start)) == [start[:-5]]
    assert list(lines.cut(b"/print 3\nshow")) == [b"port/print 3", b"show"]
    assert list(lines.cut(b"")) == []


class Program:
    """A program of vde2's on a terminal of its own."""

    def __init__(self, terminal: int, process: trio.Process) -> None:
        self._terminal = terminal
        self.process = process
        self._seen = b""

    async def until(self, end: bytes) -> bytes:
        """What it prints up to `end`."""
        with trio.fail_after(TIMEOUT_S):
            while end not in self._seen:
                await trio.lowlevel.wait_readable(self._terminal)
                self._seen += os.read(self._terminal, 65536)
        found, _, self._seen = self._seen.partition(end)
        return found

    def type(self, text: bytes) -> None:
        os.write(self._terminal, text)

    async def ended(self) -> int:
        with trio.fail_after(TIMEOUT_S):
            return await self.process.wait()


@asynccontextmanager
async def on_terminal(*command: str) -> AsyncIterator[Program]:
    master, slave = pty.openpty()
    try:
        process = await trio.lowlevel.open_process(command, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        try:
            yield Program(master, process)
        finally:
            process.kill()
            await process.wait()
    finally:
        os.close(master)


async def test_unixterm(served: Served) -> None:
    async with on_terminal(program("unixterm"), served.path) as terminal:
        await terminal.until(b"vde$ ")
        terminal.type(b"port/showinfo\n")
        assert SHOWINFO.replace(b"\n", b"\r\n") in await terminal.until(b"vde$ ")
        terminal.type(b"logout\n")
        assert await terminal.ended() == 0


async def test_vdeterm_with_its_completion(served: Served) -> None:
    async with on_terminal(program("vdeterm"), served.path) as terminal:
        prompt = f"vde[{served.path}]: ".encode()
        await terminal.until(prompt)
        terminal.type(b"port/showinfo\n")
        await terminal.until(b"Numports=256")
        await terminal.until(b"Success\r\r\n" + prompt)
        terminal.type(b"port/sh\t")  # completed from `help`
        await terminal.until(b"port/showinfo")
        terminal.type(b"\n")
        await terminal.until(b"Numports=256")
        await terminal.until(b"Success\r\r\n" + prompt)
        terminal.type(b"port/epclose 1\n")
        await terminal.until(b"Invalid argument: ")
        await terminal.until(prompt)
        terminal.type(b"logout\n")
        assert await terminal.ended() == 0


@pytest.mark.parametrize("command", ["port/showinfo", "nonsense", "port/print 7"])
async def test_vdecmd_finds_what_it_finds_with_the_real_vde_switch(served: Served, root: Path, command: str) -> None:
    commander = [program("unixcmd"), "-f", "/etc/vde2/vdecmd", "-s"]
    with real_switch(root, "-n", "256") as real:
        outcomes = []
        for path in (served.path, str(real.management)):
            with trio.fail_after(TIMEOUT_S):
                done = await trio.run_process(
                    [*commander, path, command], capture_stdout=True, capture_stderr=True, check=False
                )
            outcomes.append((done.returncode, done.stdout, done.stderr))
    assert outcomes[0] == outcomes[1]
