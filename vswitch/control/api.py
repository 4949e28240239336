"""The control API: HTTP on a unix socket that only this user can open.

    GET  /v1/status                  model.Status
    GET  /v1/ports                   list of model.PortInfo
    GET  /v1/macs                    list of model.MacInfo
    GET  /v1/vlans                   list of model.VlanInfo
    GET  /v1/endpoints               list of model.EndpointInfo
    GET  /v1/failures                list of model.FailureInfo
    GET  /v1/capture                 pcapng, as it comes; the query has what is captured (CaptureRequest)
    POST /v1/capture                 the same into the files that the body says (FileRequest), which ends with
                                     this request; a line when it has begun, and CaptureSummary at the end
    GET  /v1/recording               what the flight recorder has, as pcapng, with the same query
    DELETE /v1/captures/ID           end one of them, whose id was in the header `vswitch-capture`
    POST /v1/endpoints/NAME/guests   model.GuestInfo: one more guest is going to be plugged in

Every answer carries the API's version in a header, so that a client of another version can say so. An error's body is
`{"error": TEXT}`: 400 for what is asked wrongly, 409 for what the moment refuses.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Protocol

import msgspec
import trio
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from vswitch.control import answers, capture_requests, captures, http, model
from vswitch.control.client import API_VERSION as VERSION
from vswitch.control.client import CAPTURE_HEADER, VERSION_HEADER
from vswitch.endpoints import unix_socket
from vswitch.errors import InputError, RefusedError, printable
from vswitch.supervision import Failures

ANSWERS_MAX = 4  # of those that may be large, made and sent at a time
CAPTURES_MAX = 256  # fewer than connections: others get answers, too
RECORDINGS_MAX = 2  # likewise; each keeps the recorder's memory as it was when it began
STALL_S = 10.0  # how long a client may take no more of an answer, but for captures


class Captures(Protocol):
    """What the API knows of a switch's captures."""

    async def prepare(self, request: capture_requests.CaptureRequest) -> captures.LiveCapture: ...
    async def write(self, file: capture_requests.FileRequest, capture: captures.LiveCapture) -> None: ...
    def recorded(self, request: capture_requests.CaptureRequest) -> AsyncGenerator[bytes, None]: ...


class Stations(Protocol):
    """What the API knows of a switch's stations."""

    async def next_guest(self, endpoint: str) -> str: ...


class Switch(Protocol):
    """What the API knows of a switch."""

    @property
    def captures(self) -> Captures: ...
    @property
    def stations(self) -> Stations: ...
    @property
    def failures(self) -> Failures: ...
    def status(self) -> model.Status: ...
    async def find_processes(self) -> None: ...
    def ports(self) -> list[model.PortInfo]: ...
    async def macs(self) -> list[model.MacInfo]: ...
    def vlans(self) -> list[model.VlanInfo]: ...
    def endpoints(self) -> list[model.EndpointInfo]: ...


class Api:
    """The API as an ASGI application."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._running: dict[str, captures.LiveCapture] = {}
        self._numbers = count(1)
        self._answers = trio.CapacityLimiter(ANSWERS_MAX)
        self._recordings = trio.CapacityLimiter(RECORDINGS_MAX)
        routes = [
            Route(f"/v{VERSION}{path}", endpoint, methods=methods)
            for methods, path, endpoint in (
                (["GET"], "/status", self._brief(self._status)),
                (["GET"], "/ports", self._brief(self._ports)),
                (["GET"], "/macs", self._brief(self._macs)),
                (["GET"], "/vlans", self._brief(self._vlans)),
                (["GET"], "/endpoints", self._brief(self._endpoints)),
                (["GET"], "/failures", self._brief(self._failures)),
                (["GET"], "/recording", _Brief(self._recording, self._recordings)),
                (["GET", "POST"], "/capture", self._capture),
                (["DELETE"], "/captures/{number}", self._brief(self._end_capture)),
                (["POST"], "/endpoints/{name}/guests", self._brief(self._next_guest)),
            )
        ]
        handlers = {HTTPException: _refuse, InputError: _refuse, RefusedError: _refuse}
        self._app = ExceptionMiddleware(Router(routes, redirect_slashes=False), handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # or starlette answers 404 and 405 itself
        await self._app(scope, receive, send)

    def _brief(self, answer: Callable[[Request], Awaitable[Response]]) -> "_Brief":
        return _Brief(answer, self._answers)

    async def _status(self, request: Request) -> Response:
        return _json(self._switch.status())

    async def _ports(self, request: Request) -> Response:
        await self._switch.find_processes()
        return _json(self._switch.ports())

    async def _macs(self, request: Request) -> Response:
        return _json(await self._switch.macs())

    async def _vlans(self, request: Request) -> Response:
        return _json(self._switch.vlans())

    async def _endpoints(self, request: Request) -> Response:
        return _json(self._switch.endpoints())

    async def _failures(self, request: Request) -> Response:
        return _json([answers.failure_info(failure) for failure in self._switch.failures.kept()])

    async def _next_guest(self, request: Request) -> Response:
        try:
            mac = await self._switch.stations.next_guest(request.path_params["name"])
        except InputError as error:
            raise HTTPException(HTTPStatus.NOT_FOUND, str(error)) from None
        return _json(model.GuestInfo(mac=mac))

    async def _recording(self, request: Request) -> Response:
        recorded = self._switch.captures.recorded(_wanted(request))
        first = await anext(recorded)  # a filter may be wrong

        async def stream() -> AsyncGenerator[bytes, None]:
            async with aclosing(recorded):
                yield first
                async for portion in recorded:
                    yield portion

        return _PromptStream(stream(), "application/x-pcapng", {VERSION_HEADER: VERSION})

    async def _capture(self, request: Request) -> Response:
        if len(self._running) >= CAPTURES_MAX:
            raise RefusedError(f"{CAPTURES_MAX} captures run already; end some")
        live = await self._switch.captures.prepare(_wanted(request))
        if request.method == "POST":
            await self._switch.captures.write(capture_requests.read_file(await request.body()), live)
        number = str(next(self._numbers))
        self._running[number] = live

        async def stream() -> AsyncGenerator[bytes, None]:
            try:
                if request.method == "POST":
                    yield b"\n"
                    await live.done.wait()
                    yield msgspec.json.encode(live.summary()) + b"\n"
                else:
                    async with aclosing(live.stream()) as portions:
                        async for portion in portions:
                            yield portion
            finally:
                live.end()
                del self._running[number]

        kind = "application/json" if request.method == "POST" else "application/x-pcapng"
        return _Stream(stream(), kind, {VERSION_HEADER: VERSION, CAPTURE_HEADER: number})

    async def _end_capture(self, request: Request) -> Response:
        live = self._running.get(request.path_params["number"])
        if live is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "there is no such capture")
        live.end()
        return _json({})


class _Brief:
    """An endpoint that makes and sends few answers at a time, so that what they hold is bounded."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]], answers: trio.CapacityLimiter) -> None:
        self._answer = answer
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._answers:
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send)


class _Prompt(Response):
    """An answer that is taken without a long pause, or cut off."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            with trio.move_on_after(STALL_S) as stall:
                await send(message)
            if stall.cancelled_caught:
                raise trio.BrokenResourceError("the client reads nothing")

        await super().__call__(scope, receive, send_soon)


class _Stream(StreamingResponse):
    """Closes what it streams at once, also when the client goes before its end."""

    def __init__(self, stream: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(stream, headers=headers, media_type=media_type)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._stream):
            await super().__call__(scope, receive, send)


class _PromptStream(_Prompt, _Stream):
    """Both."""


async def serve(switch: Switch, path: str, started: Callable[[], None]) -> None:
    """Answer on a unix socket at `path` until cancelled. Raises RefusedError if it cannot listen there."""
    server = http.Server(Api(switch), [(VERSION_HEADER, VERSION)], switch.failures, "the control socket")
    async with trio.open_nursery() as connections:
        accept = partial(server.accept, connections)
        await unix_socket.keep_bound(path, server.name, accept, started, prepare=partial(_make_directory, path))


def _make_directory(path: str) -> None:
    with suppress(OSError):  # it is there, or bind will say what is wrong
        Path(path).parent.mkdir(mode=0o700)


def _wanted(request: Request) -> capture_requests.CaptureRequest:
    return capture_requests.read_query(request.query_params.multi_items())


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        text = f"{phrase}: {request.method} {request.scope['path']}" if error.detail == phrase else error.detail
        return _json({"error": printable(text)}, error.status_code, error.headers)
    status = HTTPStatus.BAD_REQUEST if isinstance(error, InputError) else HTTPStatus.CONFLICT
    return _json({"error": str(error)}, status)


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    headers = {VERSION_HEADER: VERSION, **(headers or {})}
    return _Prompt(msgspec.json.encode(content), status, headers, "application/json")
