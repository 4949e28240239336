"""The control API: HTTP on a unix socket that only this user can open.

    GET  /v1/status                  model.Status
    GET  /v1/ports                   list of model.PortInfo
    GET  /v1/macs                    list of model.MacInfo
    GET  /v1/vlans                   list of model.VlanInfo
    GET  /v1/endpoints               list of model.EndpointInfo
    POST /v1/endpoints/NAME/guests   model.GuestInfo: one more guest is going to be plugged in

Every answer carries the API's version in a header, so that a client of another version can say so.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

import hypercorn.trio
import msgspec
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vswitch.control import model
from vswitch.control.client import API_VERSION as VERSION
from vswitch.control.client import VERSION_HEADER
from vswitch.endpoints import unix_socket
from vswitch.errors import InputError


class Switch(Protocol):
    """What the API knows of a switch."""

    def status(self) -> model.Status: ...
    def ports(self) -> list[model.PortInfo]: ...
    async def macs(self) -> list[model.MacInfo]: ...
    def vlans(self) -> list[model.VlanInfo]: ...
    def endpoints(self) -> list[model.EndpointInfo]: ...
    async def next_guest(self, endpoint: str) -> str: ...


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
