"""The control API: HTTP on a unix socket that only this user can open.

What there is to ask is in `operations.py`; here is who answers.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from http import HTTPStatus
from itertools import count
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import trio
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from vswitch.control import answers, captures, http, model, operations
from vswitch.control.capture_requests import CaptureRequest, FileRequest, local
from vswitch.control.changes import Change
from vswitch.control.operations import CAPTURE_HEADER, VERSION, VERSION_HEADER, Operation
from vswitch.endpoints import unix_socket
from vswitch.errors import InputError, RefusedError, VSwitchError, printable
from vswitch.supervision import Failures

ANSWERS_MAX = 4  # of those that may be large, made and sent at a time
CAPTURES_MAX = 256  # fewer than connections: others get answers, too
RECORDINGS_MAX = 2  # likewise; each keeps the recorder's memory as it was when it began
STALL_S = 10.0  # how long a client may take no more of an answer, but for captures


class Captures(Protocol):
    """What the API knows of a switch's captures."""

    async def prepare(self, request: CaptureRequest) -> captures.LiveCapture: ...
    async def write(self, file: FileRequest, capture: captures.LiveCapture) -> None: ...
    def recorded(self, request: CaptureRequest) -> AsyncGenerator[bytes, None]: ...


class Stations(Protocol):
    """What the API knows of a switch's stations."""

    async def next_guest(self, endpoint: str) -> str: ...


class Configuration(Protocol):
    """What the API knows of a switch's configuration."""

    async def reload(self, *, dry_run: bool) -> Sequence[Change]: ...


class Switch(Protocol):
    """What the API knows of a switch."""

    @property
    def captures(self) -> Captures: ...
    @property
    def configuration(self) -> Configuration: ...
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


class Asked(NamedTuple):
    """What a client asks of an operation, in the types that the operation has for it."""

    parameters: Mapping[str, str]
    query: Any
    body: Any


Handler = Callable[[Asked], Awaitable[object]]  # answers what is sent as JSON, or a response


class Api:
    """The API as an ASGI application."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._running: dict[str, captures.LiveCapture] = {}
        self._numbers = count(1)
        answers = trio.CapacityLimiter(ANSWERS_MAX)
        limits = {
            operations.CAPTURE: trio.CapacityLimiter(inf),
            operations.CAPTURE_TO_FILES: trio.CapacityLimiter(inf),
            operations.RECORDING: trio.CapacityLimiter(RECORDINGS_MAX),
        }
        resources: dict[str, dict[str, _Method]] = {}
        for operation, handler in self._handlers().items():
            method = _Method(operation, handler, limits.get(operation, answers))
            resources.setdefault(f"/v{VERSION}{operation.path}", {})[operation.method] = method
        routes = [Route(path, _Resource(methods), methods=list(methods)) for path, methods in resources.items()]
        router = Router(routes, redirect_slashes=False)
        self._app = ExceptionMiddleware(router, {HTTPException: _refuse})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # or starlette answers 404 and 405 itself
        await self._app(scope, receive, send)

    def _handlers(self) -> dict[Operation[Any], Handler]:
        return {
            operations.STATUS: self._status,
            operations.PORTS: self._ports,
            operations.MACS: self._macs,
            operations.VLANS: self._vlans,
            operations.ENDPOINTS: self._endpoints,
            operations.FAILURES: self._failures,
            operations.CAPTURE: self._capture,
            operations.CAPTURE_TO_FILES: self._capture_to_files,
            operations.END_CAPTURE: self._end_capture,
            operations.RECORDING: self._recording,
            operations.NEXT_GUEST: self._next_guest,
            operations.RELOAD: self._reload,
        }

    async def _status(self, asked: Asked) -> model.Status:
        return self._switch.status()

    async def _ports(self, asked: Asked) -> list[model.PortInfo]:
        await self._switch.find_processes()
        return self._switch.ports()

    async def _macs(self, asked: Asked) -> list[model.MacInfo]:
        return await self._switch.macs()

    async def _vlans(self, asked: Asked) -> list[model.VlanInfo]:
        return self._switch.vlans()

    async def _endpoints(self, asked: Asked) -> list[model.EndpointInfo]:
        return self._switch.endpoints()

    async def _failures(self, asked: Asked) -> list[model.FailureInfo]:
        return [answers.failure_info(failure) for failure in self._switch.failures.kept()]

    async def _next_guest(self, asked: Asked) -> model.GuestInfo:
        return model.GuestInfo(mac=await self._switch.stations.next_guest(asked.parameters["name"]))

    async def _reload(self, asked: Asked) -> list[model.ChangeInfo]:
        changes = await self._switch.configuration.reload(dry_run=asked.query.dry_run)
        return [answers.change_info(change) for change in changes]

    async def _recording(self, asked: Asked) -> Response:
        recorded = self._switch.captures.recorded(asked.query)
        first = await anext(recorded)  # a filter may be wrong

        async def stream() -> AsyncGenerator[bytes, None]:
            async with aclosing(recorded):
                yield first
                async for portion in recorded:
                    yield portion

        return _PromptStream(stream(), operations.RECORDING.media, {VERSION_HEADER: VERSION})

    async def _capture(self, asked: Asked) -> Response:
        live = await self._prepared(asked)
        return self._running_one(live, live.stream(), operations.CAPTURE.media)

    async def _capture_to_files(self, asked: Asked) -> Response:
        live = await self._prepared(asked)
        await self._switch.captures.write(local(asked.body), live)

        async def stream() -> AsyncGenerator[bytes, None]:
            yield b"\n"
            await live.done.wait()
            yield msgspec.json.encode(live.summary()) + b"\n"

        return self._running_one(live, stream(), operations.CAPTURE_TO_FILES.media)

    async def _prepared(self, asked: Asked) -> captures.LiveCapture:
        if len(self._running) >= CAPTURES_MAX:
            raise RefusedError(f"{CAPTURES_MAX} captures run already; end some")
        return await self._switch.captures.prepare(asked.query)

    def _running_one(self, live: captures.LiveCapture, stream: AsyncGenerator[bytes, None], media: str) -> Response:
        """The answer of a capture, which can be ended by its number meanwhile, and ends with the answer."""
        number = str(next(self._numbers))
        self._running[number] = live

        async def until_ended() -> AsyncGenerator[bytes, None]:
            try:
                async with aclosing(stream):
                    async for portion in stream:
                        yield portion
            finally:
                live.end()
                del self._running[number]

        return _Stream(until_ended(), media, {VERSION_HEADER: VERSION, CAPTURE_HEADER: number})

    async def _end_capture(self, asked: Asked) -> model.Nothing:
        live = self._running.get(asked.parameters["number"])
        if live is None:
            raise InputError("there is no such capture")
        live.end()
        return model.Nothing()


class _Method(NamedTuple):
    """An operation, who answers it, and how many such answers are made and sent at a time: that bounds their memory."""

    operation: Operation[Any]
    handler: Handler
    limit: trio.CapacityLimiter


class _Resource:
    """What there is at one path, as an ASGI application: an operation for each method."""

    def __init__(self, methods: dict[str, _Method]) -> None:
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation, handler, limit = self._methods["GET" if scope["method"] == "HEAD" else scope["method"]]
        async with limit:
            try:
                answer = await handler(await _read(operation, Request(scope, receive)))
            except VSwitchError as error:
                raise HTTPException(operation.status_of(error), str(error)) from None
            response = answer if isinstance(answer, Response) else _json(answer)
            await response(scope, receive, send)


async def _read(operation: Operation[Any], request: Request) -> Asked:
    """Raises InputError."""
    query, body = operation.query, operation.body
    return Asked(
        request.path_params,
        None if query is None else operations.read_query(query, request.query_params.multi_items()),
        None if body is None else operations.read_body(body, await request.body()),
    )


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


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    text = error.detail if error.detail != phrase else f"{phrase}: {request.method} {request.scope['path']}"
    return _json({"error": printable(text)}, error.status_code, error.headers)


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    headers = {VERSION_HEADER: VERSION, **(headers or {})}
    return _Prompt(msgspec.json.encode(content), status, headers, operations.JSON)
