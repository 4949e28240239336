"""HTTP/1.1 for an ASGI application on a listening socket; h11 knows the protocol (RFC 9112).

The application sees whole requests only, of a size that is bounded. What it does not speak is refused before: upgrades,
HTTP/2, bodies whose length is not said. A connection that fails ends alone.

A client on a unix socket may pass a descriptor on with a request (SCM_RIGHTS, unix(7)): it is in the scope's
extensions.
"""

import json
import os
import select
import socket
import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import h11
import trio

from vswitch.endpoints.accepting import Acceptor
from vswitch.errors import innermost
from vswitch.supervision import Failures, contain, keep_running

HEAD_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 64 * 1024
RECEIVE_BYTES = 16 * 1024
CONNECTIONS_MAX = 512
REQUEST_S = 10.0  # how long a request may take to come in
IDLE_S = 60.0  # between two requests
LINGER_S = 1.0  # how long to read on, so that the client reads why it was refused
WHY_MAX = 200  # characters of what h11 says, which may repeat all that came
LOOK_S = 0.5  # how often to look whether a client that has nothing more to say is still there

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
Headers = list[tuple[str, str]]


PASSED = "vswitch.passed"  # the extension
_INT = struct.Struct("i")


class Passed:
    """A descriptor that came with a request, if one did. Who takes it has to close it."""

    def __init__(self, client: trio.socket.SocketType) -> None:
        self._client = client
        self._descriptor: int | None = None

    @property
    def pid(self) -> int:
        """The process that has connected, 0 if this system does not say (SO_PEERCRED, unix(7))."""
        if self._client.family != socket.AF_UNIX:
            return 0
        credentials = self._client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 3 * _INT.size)
        (pid,) = _INT.unpack_from(credentials)
        return int(pid)

    def keep(self, descriptor: int) -> None:
        self.close()
        self._descriptor = descriptor

    def take(self) -> int | None:
        descriptor, self._descriptor = self._descriptor, None
        return descriptor

    def close(self) -> None:
        descriptor = self.take()
        if descriptor is not None:
            os.close(descriptor)


class Refusal(Exception):
    """A request that is not the application's to see."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Server:
    """Serves an application. `headers` are added to the answers that do not come from it."""

    def __init__(self, application: Application, headers: Headers, failures: Failures, name: str) -> None:
        self.application = application
        self.headers = headers
        self.failures = failures
        self.name = name
        self.waiting: OrderedDict[Connection, None] = OrderedDict()  # for a whole request, the longest first
        self._count = 0

    async def accept(self, nursery: trio.Nursery, listener: trio.socket.SocketType) -> None:
        """Accept until cancelled; connections live in a nursery."""
        acceptor = Acceptor(listener, self.name)
        await keep_running(self.failures, f"accepting on {self.name}", self._accept, acceptor, nursery)

    async def _accept(self, acceptor: Acceptor, nursery: trio.Nursery) -> None:
        what = f"a connection to {self.name}"
        while True:
            client = await acceptor.next()
            if self._count >= CONNECTIONS_MAX and not self._make_room():
                client.close()
            else:
                self._count += 1
                nursery.start_soon(self._contain, what, Connection(self, client), name=what)

    async def _contain(self, what: str, connection: "Connection") -> None:
        try:
            await contain(self.failures, what, connection.run)
        finally:
            self._count -= 1

    def _make_room(self) -> bool:
        """Close the connection whose request is longest in coming."""
        if not self.waiting:
            return False
        connection, _ = self.waiting.popitem(last=False)
        connection.scope.cancel()
        return True


class Connection:
    """One client: its requests, one after the other."""

    def __init__(self, server: Server, client: trio.socket.SocketType) -> None:
        self.scope = trio.CancelScope()
        self._server = server
        self._client = client
        self._stream = trio.SocketStream(client)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._ended = False  # the client sends nothing more
        self._wants_body = True  # of an answer: what it asks is not HEAD
        self._passed = Passed(client)

    async def run(self) -> None:
        try:
            with self._client, self.scope:
                while await self._serve_request():
                    self._http.start_next_cycle()
                await self._linger()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it is gone, perhaps while we end
        finally:
            self._passed.close()
            self._server.waiting.pop(self, None)

    async def _serve_request(self) -> bool:
        """One request and its answer; whether there may be another."""
        self._passed.close()  # of the request before
        try:
            request, body = await self._receive_request()
        except Refusal as refusal:
            await self._refuse(refusal)
            return False
        except EOFError:
            return False
        answer = Answer(self._http, self._stream, self._wants_body)
        try:
            scope = _scope(request, self._passed)
            await self._server.application(scope, Incoming(body, self._gone).receive, answer.send)
        except Exception as error:
            if isinstance(innermost(error), trio.BrokenResourceError):
                return False  # it is gone, or wants nothing more
            reference = self._server.failures.note(f"{request.method.decode()} on {self._server.name}", error)
            if self._http.our_state is h11.SEND_RESPONSE:
                await self._refuse(Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, f"this is a bug, reference {reference}"))
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _receive_request(self) -> tuple[h11.Request, bytes]:
        """A request, with all of its body. Raises Refusal, and EOFError if there is none."""
        self._server.waiting[self] = None
        self._wants_body = True
        with trio.move_on_after(IDLE_S) as idle:
            while not self._http.trailing_data[0]:
                if not await self._read():
                    raise EOFError
        if idle.cancelled_caught:
            raise EOFError
        with trio.move_on_after(REQUEST_S):
            request = await self._next_event()
            if not isinstance(request, h11.Request):
                raise EOFError
            self._wants_body = request.method != b"HEAD"
            _check(request)
            body = bytearray()
            if self._http.they_are_waiting_for_100_continue:
                await self._stream.send_all(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
            while isinstance(event := await self._next_event(), h11.Data):
                body += event.data  # never more than the length that was checked
            self._server.waiting.pop(self, None)
            return request, bytes(body)
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")

    async def _next_event(self) -> object:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise Refusal(error.error_status_hint, str(error)[:WHY_MAX]) from None
            if event is not h11.NEED_DATA:
                return event
            await self._read()

    async def _read(self) -> bool:
        """Hand h11 what comes next; whether there was something."""
        try:
            data, passed, _, _ = await self._client.recvmsg(
                RECEIVE_BYTES, socket.CMSG_LEN(_INT.size), socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise trio.BrokenResourceError from error
        for level, kind, value in passed:  # there is room for one
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._passed.keep(*_INT.unpack(value))
        self._ended = not data
        self._http.receive_data(data)
        return bool(data)

    async def _gone(self) -> None:
        """Returns when the client is gone. One that has only shut down its own side still listens."""
        while not self._ended and len(self._http.trailing_data[0]) <= HEAD_BYTES_MAX:
            await self._read()  # its next requests
        poll = select.poll()
        poll.register(self._client.fileno(), 0)
        while not poll.poll(0):  # noqa: ASYNC110 (POLLHUP and POLLERR, which nothing else says)
            await trio.sleep(LOOK_S)

    async def _refuse(self, refusal: Refusal) -> None:
        body = json.dumps({"error": str(refusal)}).encode()
        headers = [
            *self._server.headers,
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        data = self._http.send(h11.Response(status_code=refusal.status, headers=headers)) or b""
        if self._wants_body:
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        with trio.move_on_after(REQUEST_S):
            await self._stream.send_all(data)

    async def _linger(self) -> None:
        """Read on for a moment: a client that is cut off while it sends does not get to read our answer."""
        with trio.move_on_after(LINGER_S):
            await self._stream.send_eof()
            while not self._ended and await self._stream.receive_some(RECEIVE_BYTES):
                pass


class Incoming:
    """What the application receives: the request's body, and then, some time, that the client is gone."""

    def __init__(self, body: bytes, gone: Callable[[], Awaitable[None]]) -> None:
        self._body: bytes | None = body
        self._gone = gone

    async def receive(self) -> Message:
        if self._body is None:
            await self._gone()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class Answer:
    """What the application sends. Its head goes out with the first of its body: until then, it may fail otherwise."""

    def __init__(self, http: h11.Connection, stream: trio.SocketStream, wants_body: bool) -> None:
        self._http = http
        self._stream = stream
        self._wants_body = wants_body
        self._head: h11.Response | None = None

    async def send(self, message: Message) -> None:
        """Raises BrokenResourceError if the client is gone, and when it wanted no more than the head."""
        if message["type"] == "http.response.start":
            self._head = h11.Response(status_code=message["status"], headers=message.get("headers", []))
            return
        data = b""
        if self._head is not None:
            data = self._http.send(self._head) or b""
            self._head = None
        more = message.get("more_body", False)
        if self._wants_body and (body := message.get("body", b"")):
            data += self._http.send(h11.Data(data=body)) or b""
        if not more or not self._wants_body:
            data += self._http.send(h11.EndOfMessage()) or b""
        if data:
            await self._stream.send_all(data)
        if more and not self._wants_body:
            raise trio.BrokenResourceError("that was the head")


def _check(request: h11.Request) -> None:
    """Raises Refusal for what no application here speaks."""
    headers = dict(request.headers)
    if request.http_version not in (b"1.0", b"1.1"):
        raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this is HTTP/1.1")
    if b"upgrade" in headers or request.method == b"CONNECT":
        raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "this is HTTP/1.1, and stays so")
    if b"transfer-encoding" in headers:
        raise Refusal(HTTPStatus.LENGTH_REQUIRED, "a body needs its length; send Content-Length")
    if int(headers.get(b"content-length", b"0")) > BODY_BYTES_MAX:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is longer than {BODY_BYTES_MAX} bytes")


def _scope(request: h11.Request, passed: Passed) -> Message:
    path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode(),
        "scheme": "http",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": None,
        "server": None,
        "extensions": {PASSED: passed},
    }
