"""The control API: HTTP on a unix socket that only this user can open.

    GET  /v1/status                  model.Status
    GET  /v1/ports                   list of model.PortInfo
    GET  /v1/macs                    list of model.MacInfo
    GET  /v1/vlans                   list of model.VlanInfo
    GET  /v1/endpoints               list of model.EndpointInfo
    GET  /v1/capture                 pcapng, as it comes; the query has what is captured (captures.CaptureRequest)
    POST /v1/capture                 the same into the files that the body says (captures.FileRequest), which ends with
                                     this request; a line when it has begun, and captures.CaptureSummary at the end
    GET  /v1/recording               what the flight recorder has, as pcapng, with the same query
    DELETE /v1/captures/ID           end one of them, whose id was in the header `vswitch-capture`
    POST /v1/endpoints/NAME/guests   model.GuestInfo: one more guest is going to be plugged in

Every answer carries the API's version in a header, so that a client of another version can say so.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from itertools import count
from typing import Protocol

import hypercorn.trio
import msgspec
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from vswitch.control import captures, model
from vswitch.control.client import API_VERSION as VERSION
from vswitch.control.client import CAPTURE_HEADER, VERSION_HEADER
from vswitch.endpoints import unix_socket
from vswitch.errors import InputError, RefusedError


class Switch(Protocol):
    """What the API knows of a switch."""

    def status(self) -> model.Status: ...
    def ports(self) -> list[model.PortInfo]: ...
    async def macs(self) -> list[model.MacInfo]: ...
    def vlans(self) -> list[model.VlanInfo]: ...
    def endpoints(self) -> list[model.EndpointInfo]: ...
    async def next_guest(self, endpoint: str) -> str: ...
    async def capture(self, request: captures.CaptureRequest) -> captures.LiveCapture: ...
    def recorded(self, request: captures.CaptureRequest) -> AsyncGenerator[bytes, None]: ...
    async def capture_to(self, file: captures.FileRequest, capture: captures.LiveCapture) -> None: ...


def application(switch: Switch) -> Starlette:
    """The API as an ASGI application."""

    async def status(request: Request) -> Response:
        return _json(switch.status())

    async def ports(request: Request) -> Response:
        return _json(switch.ports())

    async def macs(request: Request) -> Response:
        return _json(await switch.macs())

    async def vlans(request: Request) -> Response:
        return _json(switch.vlans())

    async def endpoints(request: Request) -> Response:
        return _json(switch.endpoints())

    async def next_guest(request: Request) -> Response:
        try:
            mac = await switch.next_guest(request.path_params["name"])
        except InputError as error:
            return _json({"error": str(error)}, HTTPStatus.NOT_FOUND)
        return _json(model.GuestInfo(mac=mac))

    running: dict[int, captures.LiveCapture] = {}
    numbers = count(1)

    async def capture(request: Request) -> Response:
        try:
            live = await switch.capture(captures.read_query(request.query_params.multi_items()))
            if request.method == "POST":
                await switch.capture_to(captures.read_file(await request.body()), live)
        except InputError as error:
            return _json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except RefusedError as error:
            return _json({"error": str(error)}, HTTPStatus.CONFLICT)
        number = next(numbers)
        running[number] = live

        async def stream() -> AsyncIterator[bytes]:
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
                del running[number]

        kind = "application/json" if request.method == "POST" else "application/x-pcapng"
        return StreamingResponse(
            stream(), headers={VERSION_HEADER: VERSION, CAPTURE_HEADER: str(number)}, media_type=kind
        )

    async def recording(request: Request) -> Response:
        try:
            recorded = switch.recorded(captures.read_query(request.query_params.multi_items()))
            first = await anext(recorded)  # a filter may be wrong
        except InputError as error:
            return _json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except RefusedError as error:
            return _json({"error": str(error)}, HTTPStatus.CONFLICT)

        async def stream() -> AsyncIterator[bytes]:
            yield first
            async with aclosing(recorded):
                async for portion in recorded:
                    yield portion

        return StreamingResponse(stream(), headers={VERSION_HEADER: VERSION}, media_type="application/x-pcapng")

    async def end_capture(request: Request) -> Response:
        live = running.get(request.path_params["number"])
        if live is None:
            return _json({"error": "there is no such capture"}, HTTPStatus.NOT_FOUND)
        live.end()
        return _json({})

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = error.status_code
        return _json({"error": f"{HTTPStatus(code).phrase}: {request.method} {request.url.path}"}, code, error.headers)

    routes = [
        Route(f"/v{VERSION}/status", status),
        Route(f"/v{VERSION}/ports", ports),
        Route(f"/v{VERSION}/macs", macs),
        Route(f"/v{VERSION}/vlans", vlans),
        Route(f"/v{VERSION}/endpoints", endpoints),
        Route(f"/v{VERSION}/capture", capture, methods=["GET", "POST"]),
        Route(f"/v{VERSION}/recording", recording),
        Route(f"/v{VERSION}/captures/{{number:int}}", end_capture, methods=["DELETE"]),
        Route(f"/v{VERSION}/endpoints/{{name}}/guests", next_guest, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: refuse})


async def serve(switch: Switch, path: str, task_status: trio.TaskStatus[None]) -> None:
    """Answer on a unix socket at `path` until cancelled. Raises RefusedError if it cannot listen there."""
    with unix_socket.bind(path) as sock:
        # hypercorn's own unix: bind removes whatever is at the path; so it gets the descriptor, and closes it.
        config = Config()
        config.bind = [f"fd://{sock.detach()}"]
        config.errorlog = None
        config.backlog = unix_socket.BACKLOG
        config.graceful_timeout = 0.2
        async with trio.open_nursery() as nursery:
            await nursery.start(hypercorn.trio.serve, application(switch), config)
            task_status.started()


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    headers = {VERSION_HEADER: VERSION, **(headers or {})}
    return Response(msgspec.json.encode(content), status, headers, "application/json")
