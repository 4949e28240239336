"""An internet for guests that a test makes up: what each name stands for, and who answers there.

await lan.user_network()
update = lan.internet.http("example.com", 503)
a = await lan.guest("a", ip="dhcp")
assert not (await a.run("wget http://example.com/")).ok
assert update.requests[0].path == "/"
"""

import inspect
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

import trio

from vswitch import InputError, VSwitch
from vswitch.control.http import Connection, Message, Server
from vswitch.endpoints.user.internet import Handler

NETWORK = "10.0.2.0/24"
OUTSIDE = ipaddress.IPv4Network("198.18.0.0/15")  # where addresses come from: for tests of networks (RFC 2544)


@dataclass(frozen=True)
class Request:
    """What was asked; `path` with its query, names of headers in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes | str = b""
    headers: dict[str, str] = field(default_factory=dict)


Answer = Response | int | str | bytes
"""A response, or its status, or its body."""

Site = Answer | Callable[[Request], Answer | Awaitable[Answer]]
"""What answers: always the same, or a function of what is asked."""


class HttpSite:
    """A server of the made-up internet; `requests` are those that came, the last one last."""

    def __init__(self, name: str, ip: str, port: int) -> None:
        self.name, self.ip, self.port = name, ip, port
        self.requests: list[Request] = []
        self.answer: Site = 404
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<HttpSite {self.name} {self.ip}:{self.port}>"

    async def asked(self, times: int = 1, *, within: float = 10.0) -> list[Request]:
        """Waits until that many requests have come. Raises TooSlowError after `within` seconds."""
        with trio.fail_after(within):
            while len(self.requests) < times:
                await self._changed.wait()
        return list(self.requests)

    async def application(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """As ASGI has it."""
        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(scope["method"], path, headers, (await receive())["body"])
        self.requests.append(request)
        self._changed.set()
        self._changed = trio.Event()
        answer = self.answer(request) if callable(self.answer) else self.answer
        response = _response(await answer if inspect.isawaitable(answer) else answer)
        body = response.body.encode() if isinstance(response.body, str) else response.body
        said = {"content-length": str(len(body)), **{key.lower(): value for key, value in response.headers.items()}}
        pairs = [(key.encode(), value.encode()) for key, value in said.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})


class Internet:
    """What all user networks of a LAN have in place of the internet. Nothing else is there: other names do not exist,
    and nothing gets further."""

    def __init__(self, switch: VSwitch) -> None:
        self._switch = switch
        self._networks: list[str] = []
        self._names: dict[str, str] = {}
        self._handlers: dict[tuple[str, int], Handler] = {}
        self._sites: dict[tuple[str, int], HttpSite] = {}
        self._free = OUTSIDE.hosts()

    def name(self, name: str, ip: str = "") -> str:
        """What a name stands for from now on: an address, or the one it has, or the next one that is free. Answers it.

        Raises InputError for an address that is none."""
        name = name.rstrip(".").lower()
        if ip:
            try:
                ipaddress.ip_address(ip)
            except ValueError:
                raise InputError(f"{ip!r} is no IP address; write one like 203.0.113.5") from None
        if ip or name not in self._names:
            self._names[name] = ip or str(next(self._free))
            for network in self._there():
                self._switch.user_networks.name(name, [self._names[name]], network)
        return self._names[name]

    def http(self, name: str, answer: Site, *, port: int = 80) -> HttpSite:
        """Have HTTP/1.1 served at a name, in the place of what was served there."""
        ip = self.name(name)
        if (site := self._sites.get((ip, port))) is None:
            site = self._sites[ip, port] = HttpSite(name, ip, port)
        site.answer = answer
        server = Server(site.application, [], self._switch.failures, name)
        self._serve(ip, port, partial(_serve_http, server))
        return site

    def tcp(self, name: str, port: int, handler: Handler) -> str:
        """Have an async function take each connection to a name's port, as a trio stream. Answers the address."""
        ip = self.name(name)
        self._serve(ip, port, handler)
        return ip

    def join(self, network: str) -> None:
        """A user network is to have it, too."""
        self._networks.append(network)
        for name, ip in self._names.items():
            self._switch.user_networks.name(name, [ip], network)
        for (ip, port), handler in self._handlers.items():
            self._switch.user_networks.serve(ip, port, handler, network)

    def _serve(self, ip: str, port: int, handler: Handler) -> None:
        self._handlers[ip, port] = handler
        for network in self._there():
            self._switch.user_networks.serve(ip, port, handler, network)

    def _there(self) -> list[str]:
        """Networks that were not detached meanwhile."""
        self._networks = [network for network in self._networks if network in self._switch.attachments]
        return self._networks


class WithInternet:
    """What a `Lan` has of it."""

    switch: VSwitch
    internet: Internet

    async def user_network(self, network: str = NETWORK, **parameters: Any) -> str:
        """Gives guests DHCP, names, and `internet` in the place of the real one. Answers the name of its port.

        `parameters` are those of a `user://` URL (docs/user-network.md). For the real internet, attach such a
        URL. Raises InputError, and RefusedError without libslirp.
        """
        attachment = await self.switch.attach(f"user://{network}", internet=False, **parameters)
        self.internet.join(attachment.name)
        return attachment.name


async def _serve_http(server: Server, stream: trio.SocketStream) -> None:
    await Connection(server, stream.socket).run()


def _response(answer: Answer) -> Response:
    if isinstance(answer, Response):
        return answer
    if isinstance(answer, int):
        return Response(answer, f"{HTTPStatus(answer).phrase}\n" if answer >= 400 else "")
    return Response(body=answer)
