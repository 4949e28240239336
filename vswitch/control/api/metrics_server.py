"""`GET /metrics` on a TCP address, and nothing else: Prometheus knows no unix sockets."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Protocol

import trio
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from vswitch.control import http
from vswitch.control.api.responses import Prompt
from vswitch.control.config import check_address
from vswitch.control.operations import METRICS
from vswitch.endpoints import inet
from vswitch.endpoints.endpoint import log
from vswitch.endpoints.stream.endpoint import listen_tcp
from vswitch.endpoints.url import parse
from vswitch.supervision import Failures

MAX = 2  # answers that are made and sent at a time


class Measured(Protocol):
    """What is known of a switch here."""

    @property
    def failures(self) -> Failures: ...
    def metrics(self) -> Awaitable[str]: ...


async def serve(switch: Measured, address: str, urls: list[str], started: Callable[[], None]) -> None:
    """Answer until cancelled; `urls` gets where. Raises InputError for an address that is none, and RefusedError."""
    config = parse(f"tcp://{check_address(address)}?insecure=yes")
    limit = trio.CapacityLimiter(MAX)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async with limit:
            response = Prompt(await switch.metrics(), media_type=METRICS.media)
            await response(scope, receive, send)

    router = Router([Route(METRICS.path, _Get(answer))], redirect_slashes=False)
    server = http.Server(router, [], switch.failures, "the metrics socket")
    with ExitStack() as stack:
        socks = [stack.enter_context(sock) for sock in await listen_tcp(config)]
        async with trio.open_nursery() as nursery:
            for sock in socks:
                host, port = sock.getsockname()[:2]
                urls[:] = [f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"]
                if not inet.is_loopback(host):
                    log.warning("anyone who reaches %s may read the metrics", urls[0])
                nursery.start_soon(server.accept, nursery, trio.socket.from_stdlib_socket(sock))
            started()


class _Get:
    """An ASGI application, as starlette takes one for a route."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)
