"""The control API: HTTP on a unix socket that only this user can open.

What there is to ask is in `operations.py`; here is who answers: `looking`, `following`, `changing`, `capturing`.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import trio
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from vswitch.control import http, operations
from vswitch.control.api import responses
from vswitch.control.api.capturing import Capturing
from vswitch.control.api.changing import Changing
from vswitch.control.api.following import Following
from vswitch.control.api.handlers import Asked, Handler, Switch
from vswitch.control.api.looking import Looking
from vswitch.control.operations import VERSION, VERSION_HEADER, Operation
from vswitch.endpoints import unix_socket
from vswitch.errors import InputError, VSwitchError, printable

ANSWERS_MAX = 4  # of those that may be large, made and sent at a time
CHANGES_MAX = 4  # likewise; some wait for the system
RECORDINGS_MAX = 2  # likewise; each keeps the recorder's memory as it was when it began


class Api:
    """The API as an ASGI application."""

    def __init__(self, switch: Switch) -> None:
        self.handlers = {
            operation: handler
            for room in (Looking(switch), Following(switch), Changing(switch), Capturing(switch))
            for operation, handler in room.handlers.items()
        }
        answers, changes = trio.CapacityLimiter(ANSWERS_MAX), trio.CapacityLimiter(CHANGES_MAX)
        limits = {
            operations.CAPTURE: trio.CapacityLimiter(inf),
            operations.CAPTURE_TO_FILES: trio.CapacityLimiter(inf),
            operations.FOLLOW_EVENTS: trio.CapacityLimiter(inf),
            operations.RECORDING: trio.CapacityLimiter(RECORDINGS_MAX),
            operations.FLOWS: trio.CapacityLimiter(RECORDINGS_MAX),
        }
        resources: dict[str, dict[str, _Method]] = {}
        for operation, handler in self.handlers.items():
            usual = answers if operation.method == "GET" else changes
            method = _Method(operation, handler, limits.get(operation, usual))
            resources.setdefault(operation.full_path, {})[operation.method] = method
        routes = [Route(path, _Resource(methods), methods=list(methods)) for path, methods in resources.items()]
        router = Router(routes, redirect_slashes=False)
        self._app = ExceptionMiddleware(router, {HTTPException: _refuse})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # or starlette answers 404 and 405 itself
        await self._app(scope, receive, send)


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
                raise HTTPException(operations.status_of(error), str(error)) from None
            response = answer if isinstance(answer, Response) else responses.json(answer)
            await response(scope, receive, send)


async def _read(operation: Operation[Any], request: Request) -> Asked:
    """Raises InputError."""
    query, body = operation.query, operation.body
    return Asked(
        request.path_params,
        None if query is None else operations.read_query(query, request.query_params.multi_items()),
        None if body is None else operations.read_body(body, await request.body()),
        request.scope["extensions"][http.PASSED],
    )


async def serve(switch: Switch, path: str, started: Callable[[], None]) -> None:
    """Answer on a unix socket at `path` until cancelled. Raises RefusedError if it cannot listen there."""
    server = http.Server(Api(switch), [(VERSION_HEADER, VERSION)], switch.failures, "the control socket")
    async with trio.open_nursery() as connections:
        accept = partial(server.accept, connections)
        await unix_socket.keep_bound(path, server.name, accept, started, prepare=partial(_make_directory, path))


async def serve_on(switch: Switch, sock: socket.socket, started: Callable[[], None]) -> None:
    """The same on a socket that listens already."""
    server = http.Server(Api(switch), [(VERSION_HEADER, VERSION)], switch.failures, "the control socket")
    with trio.socket.from_stdlib_socket(sock.dup()) as listener:
        async with trio.open_nursery() as connections:
            started()
            await server.accept(connections, listener)


def listening(fd: int) -> socket.socket:
    """A descriptor that was passed on, as the control socket. Raises InputError if it is none."""
    try:
        sock = socket.socket(fileno=fd)
        listens = sock.family == socket.AF_UNIX and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise InputError(f"the control socket, descriptor {fd}: {error.strerror}") from None
    if not listens:
        sock.detach()
        raise InputError(f"the control socket, descriptor {fd}: not a unix socket that listens")
    os.set_inheritable(fd, False)
    return sock


def _make_directory(path: str) -> None:
    with suppress(OSError):  # it is there, or bind will say what is wrong
        Path(path).parent.mkdir(mode=0o700)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    text = error.detail if error.detail != phrase else f"{phrase}: {request.method} {request.scope['path']}"
    return responses.json({"error": printable(text)}, error.status_code, error.headers)
