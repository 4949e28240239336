"""The HTTP server by itself, with applications of the tests: what it speaks, what it refuses, and what it bounds."""

import gc
import json
import logging
import socket
import tempfile
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.descriptors import descriptors, opened_since
from tests.peers import TIMEOUT_S, until
from vswitch.control import http
from vswitch.control.http import Application, Message, Server
from vswitch.supervision import Failures

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HEAD_OF_A_REQUEST = b"POST /here HTTP/1.1\r\nHost: a\r\n"
REQUEST = b"GET /here?x=y HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hints: list[int] = field(default_factory=list)  # the statuses that came before it

    @property
    def error(self) -> str:
        """What a refusal says."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-server"] == "test"
        return str(json.loads(self.body)["error"])


class Client:
    """Says bytes, and reads answers; every wait is bounded."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._held = b""

    async def say(self, data: bytes) -> None:
        with trio.fail_after(TIMEOUT_S):
            await self.stream.send_all(data)

    async def more(self) -> bytes:
        """What comes next; nothing at the end, or if it was hung up on while it sent."""
        with trio.fail_after(http.IDLE_S + TIMEOUT_S):
            try:
                return bytes(await self.stream.receive_some())
            except trio.BrokenResourceError:
                return b""

    async def rest(self) -> bytes:
        """All that comes until the server hangs up."""
        found, self._held = self._held, b""
        while data := await self.more():
            found += data
        return found

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer, to a request of this method."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        parser.send(h11.EndOfMessage())
        data, self._held = self._held, b""
        answer = Answer(0)
        while True:
            if data:
                parser.receive_data(data)
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await self.more()
                if not data:
                    parser.receive_data(b"")
                continue
            data = b""
            if isinstance(event, h11.InformationalResponse):
                answer.hints.append(event.status_code)
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                answer.body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage), event
                self._held = parser.trailing_data[0]
                return answer

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        await self.say(data)
        return await self.answer(method)


@dataclass
class Service:
    """A running server: where, and what has failed in it."""

    path: str
    failures: Failures

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with await trio.open_unix_socket(self.path) as stream:
            yield Client(stream)


@asynccontextmanager
async def serving(application: Application) -> AsyncIterator[Service]:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        service = Service(f"{directory}/socket", Failures())
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(service.path)
            listener.listen()
            async with trio.open_nursery() as nursery:
                server = Server(application, [("x-server", "test")], service.failures, "the test")
                nursery.start_soon(server.accept, nursery, listener)
                yield service
                nursery.cancel_scope.cancel()


async def start(send: Send, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})


async def tell(send: Send, body: bytes, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answers what it was asked."""
    message = await receive()
    assert (message["type"], message["more_body"]) == ("http.request", False)
    query = scope["query_string"].decode()
    body = f"{scope['method']} {scope['path']} {query} {len(message['body'])}".encode()
    await start(send, (b"content-length", str(len(body)).encode()))
    await tell(send, body)


class Ticker:
    """An application whose answer goes on until the client is gone."""

    def __init__(self) -> None:
        self.ended = trio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end, receive, nursery.cancel_scope)
            await start(send)
            try:
                while True:
                    await tell(send, b"tick", more=True)
                    await trio.sleep(0.1)
            finally:
                self.ended.set()

    async def _end(self, receive: Receive, scope: trio.CancelScope) -> None:
        assert (await receive())["type"] == "http.disconnect"
        scope.cancel()


async def test_a_connection_is_used_again() -> None:
    async with serving(echo) as service, service.client() as client:
        for _ in range(3):
            answer = await client.ask(REQUEST)
            assert (answer.status, answer.body) == (200, b"GET /here x=y 0")


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_requests_may_come_before_the_answers_and_in_any_pieces(size: int) -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % number for number in range(20))
    async with serving(echo) as service, service.client() as client:
        for at in range(0, len(requests), size):
            await client.say(requests[at : at + size])
        for number in range(20):
            assert (await client.answer()).body == b"GET /%d  3" % number


async def test_close_is_said_and_done_when_it_is_asked_for() -> None:
    async with serving(echo) as service, service.client() as client:
        answer = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_head_is_answered_without_a_body() -> None:
    async with serving(echo) as service, service.client() as client:
        for _ in range(2):
            answer = await client.ask(b"HEAD /here HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD")
            assert (answer.status, answer.headers["content-length"], answer.body) == (200, "13", b"")
        assert (await client.ask(REQUEST)).status == 200


@pytest.mark.parametrize("header", [b"Upgrade: websocket", b"Content-Length: 65537", b"Transfer-Encoding: chunked"])
async def test_head_is_refused_without_a_body(header: bytes) -> None:
    async with serving(echo) as service, service.client() as client:
        answer = await client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n\r\n", "HEAD")
        assert answer.status in (411, 413, 501)
        assert await client.rest() == b""
        assert service.failures.total == 0


async def test_a_refusal_after_a_head_has_its_body() -> None:
    async with serving(echo) as service, service.client() as client:
        await client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD")
        answer = await client.ask(b"nonsense\r\n\r\n")
        assert "nonsense" in answer.error


async def test_the_head_of_an_answer_that_goes_on_is_all_that_is_made_of_it() -> None:
    ticker = Ticker()
    async with serving(ticker) as service, service.client() as client:
        answer = await client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD")
        assert answer.status == 200
        assert await client.rest() == b""
        assert ticker.ended.is_set()
        assert service.failures.total == 0


async def test_http_1_0_gets_its_answer_to_the_end_of_the_connection() -> None:
    async with serving(echo) as service, service.client() as client:
        await client.say(b"GET /here HTTP/1.0\r\n\r\n")
        assert (await client.rest()).endswith(b"\r\n\r\nGET /here  0")


async def test_http_1_0_gets_a_stream_without_chunks() -> None:
    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        await start(send)
        await tell(send, b"one ", more=True)
        await tell(send, b"two")

    async with serving(stream) as service:
        async with service.client() as client:
            await client.say(b"GET / HTTP/1.0\r\n\r\n")
            answer = await client.rest()
            assert b"chunked" not in answer
            assert answer.endswith(b"\r\n\r\none two")
        async with service.client() as client:
            answer_of_1_1 = await client.ask(REQUEST)
            assert (answer_of_1_1.headers["transfer-encoding"], answer_of_1_1.body) == ("chunked", b"one two")


async def test_who_waits_to_be_told_to_go_on_is_told() -> None:
    async with serving(echo) as service, service.client() as client:
        await client.say(HEAD_OF_A_REQUEST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.more()).startswith(b"HTTP/1.1 100 ")
        assert (await client.ask(b"abc")).body == b"POST /here  3"
        assert (await client.ask(REQUEST)).status == 200


async def test_who_waits_with_what_is_too_long_is_not_told_to_go_on() -> None:
    async with serving(echo) as service, service.client() as client:
        answer = await client.ask(HEAD_OF_A_REQUEST + b"Content-Length: 65537\r\nExpect: 100-continue\r\n\r\n")
        assert (answer.status, answer.hints) == (413, [])


async def test_a_body_of_64_kib_passes() -> None:
    async with serving(echo) as service, service.client() as client:
        for _ in range(2):
            answer = await client.ask(HEAD_OF_A_REQUEST + b"Content-Length: 65536\r\n\r\n" + bytes(65536))
            assert answer.body == b"POST /here  65536"


@pytest.mark.parametrize("length", [b"65537", b"9" * 20])
async def test_a_longer_one_is_refused_before_it_is_sent(length: bytes) -> None:
    async with serving(echo) as service, service.client() as client:
        answer = await client.ask(HEAD_OF_A_REQUEST + b"Content-Length: " + length + b"\r\n\r\n")
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert "65536" in answer.error
        assert await client.rest() == b""


async def test_who_sends_it_all_the_same_reads_why_not(autojump_clock: MockClock) -> None:
    async with serving(echo) as service, service.client() as client:
        await client.say(HEAD_OF_A_REQUEST + b"Content-Length: 1000000\r\n\r\n" + bytes(1_000_000))
        assert (await client.answer()).status == 413
        assert await client.rest() == b""


REFUSED = {
    "chunks": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 411),
    "chunks and a length": (HEAD_OF_A_REQUEST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    "another coding": (HEAD_OF_A_REQUEST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "a web socket": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 501),
    "a web socket and a byte": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n\x81", 501),
    "an upgrade to nothing": (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade:\r\n\r\n", 501),
    "a tunnel": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 505),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "no version": (b"GET /\r\n\r\n", 400),
    "a TLS hello": (bytes.fromhex("1603010200010001fc0303") + bytes(500), 400),
    "zeros": (bytes(100), 400),
    "words": (b"how do you do\r\n\r\n", 400),
    "an empty line": (b"\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "a long body": (HEAD_OF_A_REQUEST + b"Content-Length: 65537\r\n\r\n" + bytes(100_000), 413),
    "a negative length": (HEAD_OF_A_REQUEST + b"Content-Length: -1\r\n\r\n", 400),
    "a length of many digits": (HEAD_OF_A_REQUEST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "two lengths": (HEAD_OF_A_REQUEST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "a header without a name": (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
    "a NUL in a header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
    "a long header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000, 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 6000, 431),
    "a long first line": (b"GET /" + b"x" * 40_000, 431),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_the_application_does_not_speak_does_not_reach_it(name: str, autojump_clock: MockClock) -> None:
    async def never(scope: Message, receive: Receive, send: Send) -> None:
        raise AssertionError("it was asked")

    data, status = REFUSED[name]
    async with serving(never) as service, service.client() as client:
        answer = await client.ask(data)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert 0 < len(answer.error) <= http.WHY_MAX
        assert await client.rest() == b""
        assert service.failures.total == 0


async def test_what_came_before_nonsense_is_answered() -> None:
    async with serving(echo) as service, service.client() as client:
        await client.say(REQUEST + b"nonsense\r\n\r\n" + REQUEST)
        assert [(await client.answer()).status for _ in range(2)] == [200, 400]
        assert await client.rest() == b""


async def test_a_slow_request_is_given_up(autojump_clock: MockClock) -> None:
    async with serving(echo) as service:
        for slow in (b"G", REQUEST[:20], HEAD_OF_A_REQUEST + b"Content-Length: 3\r\n\r\nab"):
            async with service.client() as client:
                answer = await client.ask(slow)
                assert answer.status == 408
                assert "in time" in answer.error


async def test_so_is_one_that_comes_drop_by_drop(autojump_clock: MockClock) -> None:
    async with serving(echo) as service, service.client() as client:
        for _ in range(int(http.REQUEST_S)):
            await client.say(b"x")
            await trio.sleep(1)
        assert (await client.answer()).status == 408
        assert await client.rest() == b""


async def test_an_idle_connection_is_closed(autojump_clock: MockClock) -> None:
    async with serving(echo) as service, service.client() as client:
        await trio.sleep(http.IDLE_S - 1)
        assert (await client.ask(REQUEST)).status == 200
        with trio.move_on_after(http.IDLE_S - 1) as still_open:
            await client.stream.receive_some()
        assert still_open.cancelled_caught
        assert await client.rest() == b""


async def test_of_too_many_connections_the_one_that_waits_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 3)
    async with (
        serving(echo) as service,
        service.client() as halfway,
        service.client() as used,
        service.client() as unused,
    ):
        await halfway.say(REQUEST[:-1])
        await used.ask(REQUEST)
        await wait_all_tasks_blocked()
        async with service.client() as more:
            assert (await more.ask(REQUEST)).status == 200
            assert await halfway.rest() == b""
            assert (await used.ask(REQUEST)).status == 200
            await wait_all_tasks_blocked()
            async with service.client() as still_more:
                assert (await still_more.ask(REQUEST)).status == 200
                assert await unused.rest() == b""
                assert (await used.ask(REQUEST)).status == 200


async def test_connections_that_are_answered_stay(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 1)
    async with serving(Ticker()) as service, service.client() as client:
        await client.say(REQUEST)
        assert b"tick" in await client.more()
        async with service.client() as more:
            assert await more.rest() == b""
        for _ in range(3):
            assert b"tick" in await client.more()


@pytest.mark.parametrize("cut", [REQUEST[:10], HEAD_OF_A_REQUEST + b"Content-Length: 3\r\n\r\nab"])
async def test_a_request_that_is_cut_short_is_refused(cut: bytes) -> None:
    async with serving(echo) as service:
        async with service.client() as client:
            await client.say(cut)
            await client.stream.send_eof()
            assert (await client.answer()).status == 400
            assert await client.rest() == b""
        async with service.client() as client:
            await client.say(cut)
        await wait_all_tasks_blocked()
        assert service.failures.total == 0


async def test_nothing_is_kept_of_clients_that_are_gone() -> None:
    async with serving(echo) as service:
        await wait_all_tasks_blocked()
        before = descriptors()
        for data in (b"", b"G", REQUEST, REQUEST * 50, *[data for data, _ in REFUSED.values()]):
            async with service.client() as client:
                await client.say(data)
        await until(lambda: opened_since(before) == {})
        gc.collect()
        assert not any(isinstance(kept, http.Connection) for kept in gc.get_objects())
        assert service.failures.total == 0


async def test_a_client_that_has_nothing_more_to_say_gets_its_answers(autojump_clock: MockClock) -> None:
    async def later(scope: Message, receive: Receive, send: Send) -> None:
        await trio.sleep(5)
        await echo(scope, receive, send)

    async with serving(later) as service, service.client() as client:
        await client.say(REQUEST * 2)
        await client.stream.send_eof()
        for _ in range(2):
            assert (await client.answer()).status == 200
        assert await client.rest() == b""


@pytest.mark.parametrize("said", [b"", REQUEST, b"x" * 100_000], ids=["nothing", "a request", "more than is read"])
@pytest.mark.parametrize("half_closed", [False, True])
async def test_an_answer_goes_on_until_the_client_is_gone(
    said: bytes, half_closed: bool, autojump_clock: MockClock
) -> None:
    ticker = Ticker()
    async with serving(ticker) as service:
        async with service.client() as client:
            await client.say(REQUEST + said)
            if half_closed:
                await client.stream.send_eof()
            for _ in range(50):
                assert b"tick" in await client.more()
        with trio.fail_after(TIMEOUT_S):
            await ticker.ended.wait()
        assert service.failures.total == 0


async def test_an_application_that_fails_is_a_500_with_a_reference(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await start(send)
        raise ValueError("broken")

    async with serving(fail) as service:
        for target in (b"/", b"/late"):  # its answer had begun, but nothing of it was sent
            async with service.client() as client:
                answer = await client.ask(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
                assert (answer.status, answer.headers["connection"]) == (500, "close")
                failure = service.failures.kept()[-1]
                assert failure.reference in answer.error
                assert await client.rest() == b""
        assert service.failures.total == 2
    (first, *_) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert first.startswith("GET on the test has failed: ValueError: broken (reference ")


async def test_one_that_fails_within_its_answer_ends_the_connection() -> None:
    async def fail(scope: Message, receive: Receive, send: Send) -> None:
        await start(send)
        await tell(send, b"half", more=True)
        async with trio.open_nursery():
            raise ValueError("broken")

    async with serving(fail) as service:
        async with service.client() as client:
            await client.say(REQUEST)
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"4\r\nhalf\r\n")  # no last chunk: it is not whole
        assert service.failures.total == 1
        assert "broken" in service.failures.kept()[0].error


async def test_a_client_that_goes_while_the_server_ends_is_no_failure() -> None:
    async def until_cancelled(scope: Message, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                raise trio.BrokenResourceError from None  # as from a send at that moment

    async with serving(until_cancelled) as service, service.client() as client:
        await client.say(REQUEST)
        await wait_all_tasks_blocked()
    assert service.failures.total == 0


async def test_one_that_answers_nothing_is_hung_up_on() -> None:
    async def ignore(scope: Message, receive: Receive, send: Send) -> None:
        await receive()

    async with serving(ignore) as service, service.client() as client:
        await client.say(REQUEST)
        assert await client.rest() == b""


async def test_a_fault_of_the_server_itself_ends_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    check = http._check

    def fault(request: h11.Request) -> None:
        if request.method == b"FROB":
            raise ValueError("a fault")
        check(request)

    monkeypatch.setattr(http, "_check", fault)
    async with serving(echo) as service, service.client() as other:
        await other.ask(REQUEST)
        async with service.client() as client:
            await client.say(b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await client.rest() == b""
        assert service.failures.total == 1
        assert service.failures.kept()[0].what == "a connection to the test"
        assert (await other.ask(REQUEST)).status == 200


async def test_a_descriptor_that_is_passed_on_is_the_applications_or_closed() -> None:
    taken: list[int] = []

    async def take(scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] == "/take":
            taken.append(scope["extensions"][http.PASSED].take())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    before = descriptors()
    async with serving(take) as service, service.client() as client:
        number = client.stream.socket.fileno()
        for path in (b"/take", b"/leave", b"/leave"):
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [number] * 3).tobytes())]
            await client.stream.socket.sendmsg([b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path], passed)
            assert (await client.answer()).status == 200
        with socket.socket(fileno=taken[0]) as same:
            assert same.getpeername() == client.stream.socket.getpeername()
    assert opened_since(before) == {}
