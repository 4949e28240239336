"""The endpoints that are attached to a switch."""

import socket
from collections.abc import Iterator

import trio

from vswitch.control import answers, model
from vswitch.endpoints import together
from vswitch.endpoints.endpoint import Endpoint
from vswitch.endpoints.kinds import create
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import InputError
from vswitch.ports.policy import Policy, query
from vswitch.ports.ports import Ports
from vswitch.supervision import contain_once_started


class Attachment:
    """An endpoint that is attached to a switch; what `VSwitch.attach` answers."""

    def __init__(self, endpoint: Endpoint, ports: Ports) -> None:
        self._endpoint = endpoint
        self._ports = ports
        self.scope = trio.CancelScope()
        self.done = trio.Event()

    @property
    def name(self) -> str:
        return self._endpoint.name

    @property
    def url(self) -> str:
        """The endpoint's URL, with the port number the system chose where 0 was asked for."""
        return self._endpoint.url

    @property
    def config(self) -> EndpointConfig:
        return self._endpoint.config

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint itself, for what only its kind can do."""
        return self._endpoint

    @property
    def ports(self) -> list[model.PortInfo]:
        """The endpoint's ports as they are now."""
        return [answers.port_info(port) for port in self._ports if port.endpoint == self.name]

    async def detach(self) -> None:
        """Take the endpoint out, with its ports; returns when nothing of it is left."""
        self.scope.cancel()
        await self.done.wait()


class Attachments:
    """A switch's endpoints by name, in the order they came; each runs in `nursery` until it is detached."""

    def __init__(self, ports: Ports, nursery: trio.Nursery) -> None:
        self._ports = ports
        self._nursery = nursery
        self._endpoints: dict[str, Endpoint] = {}

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self._endpoints)

    def __getitem__(self, name: str) -> Endpoint:
        """Raises InputError if there is no such endpoint."""
        if name not in self._endpoints:
            raise InputError(f"there is no endpoint {name!r}; there are {', '.join(self._endpoints) or 'none'}")
        return self._endpoints[name]

    async def attach(self, target: str | EndpointConfig | socket.socket, parameters: dict[str, object]) -> Attachment:
        """What VSwitch.attach does."""
        sock = target if isinstance(target, socket.socket) else None
        if isinstance(target, socket.socket):
            target = f"fd://{target.fileno()}"
        if isinstance(target, EndpointConfig) and parameters:
            raise InputError(f"{target.url}: is parsed already; parameters {', '.join(parameters)} come too late")
        wanted = parse(target, parameters) if isinstance(target, str) else target
        if wanted.scheme == "fd" and self._has_descriptor(wanted.fd):
            raise InputError(f"{wanted.url}: is in use already")
        wanted.check_paths()
        name = together.name_of(wanted, self._endpoints)
        together.check_policy(wanted, self._configs(), hub=self._ports.bridge.hub)
        endpoint = create(wanted, name, self._ports, sock)
        self._endpoints[name] = endpoint
        attachment: Attachment = await self._nursery.start(self._run, endpoint, name=f"endpoint {name}")
        return attachment

    def infos(self) -> list[model.EndpointInfo]:
        """A snapshot of every endpoint."""
        return [model.EndpointInfo(name=name, url=self._full_url(known)) for name, known in self._endpoints.items()]

    def policy_of(self, endpoint: Endpoint) -> Policy:
        """The policy that an endpoint's next peer meets. A port that stays may have been given another one."""
        itself = (port.policy for port in self._ports if port.name == port.endpoint == endpoint.name)
        return next(itself, endpoint.config.policy)

    def check_mirrors(self) -> None:
        """Raises InputError if a mirror is to watch what is neither an endpoint here nor a port of one."""
        for name in self._endpoints:
            together.check_mirror(name, self._configs())

    def _configs(self) -> dict[str, EndpointConfig]:
        return {name: endpoint.config for name, endpoint in self._endpoints.items()}

    def _full_url(self, endpoint: Endpoint) -> str:
        """An endpoint's URL with the policy that its next peer meets."""
        url = endpoint.config.absolute().url
        parameters = ["single=yes"] if endpoint.config.single else []
        if (policy := self.policy_of(endpoint)) != Policy():
            parameters.append(query(policy))
        return url + ("&" if "?" in url else "?") + "&".join(parameters) if parameters else url

    async def _run(self, endpoint: Endpoint, task_status: trio.TaskStatus[Attachment]) -> None:
        attachment = Attachment(endpoint, self._ports)
        again = endpoint.sock is None  # else its socket is closed with it
        try:
            with attachment.scope:
                await contain_once_started(
                    self._ports.failures,
                    f"endpoint {endpoint.name}",
                    endpoint.run,
                    lambda: task_status.started(attachment),
                    again=again,
                )
        finally:
            del self._endpoints[endpoint.name]
            attachment.done.set()

    def _has_descriptor(self, fd: int) -> bool:
        given = [endpoint.sock.fileno() for endpoint in self._endpoints.values() if endpoint.sock is not None]
        return fd in given or self._ports.has_descriptor(fd)
