"""The endpoints that are attached to a switch."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import trio

from vswitch.control import answers, model
from vswitch.endpoints import together
from vswitch.endpoints.carrier import Carrier
from vswitch.endpoints.descriptor import Usable
from vswitch.endpoints.endpoint import Endpoint
from vswitch.endpoints.kinds import create
from vswitch.endpoints.url import EndpointConfig, check_static, parse
from vswitch.endpoints.user.endpoint import UserNetwork
from vswitch.endpoints.user.forward import Forward
from vswitch.endpoints.user.options import UserOptions
from vswitch.errors import InputError, MissingError, RefusedError
from vswitch.ports.policy import Policy, changed
from vswitch.ports.ports import Ports
from vswitch.supervision import contain, contain_once_started, keep_running
from vswitch.values import endpoint_of

LINGER_S, LINGER_MAX_S = 1.0, 10.0


class Attachment:
    """An endpoint that is attached to a switch; what `VSwitch.attach` answers."""

    def __init__(self, endpoint: Endpoint, ports: Ports) -> None:
        self._endpoint = endpoint
        self._ports = ports
        config = endpoint.config
        self.carrier: Carrier | None = None
        if config.qmp is not None:
            self.carrier = Carrier(endpoint.name, config.qmp, config.netdev, ports, lambda: self.config.policy.up)
        self.scope = trio.CancelScope()
        self.carrying = trio.CancelScope()
        self.done = trio.Event()
        self.is_ending = False  # what it was for has ended

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
        return [answers.port_info(port, self._ports.table) for port in self._ports if port.endpoint == self.name]

    def policy_changed(self) -> None:
        """Let the guest know, if it is to."""
        if self.carrier is not None:
            self.carrier.look()

    async def detach(self) -> None:
        """Take the endpoint out, with its ports; returns when nothing of it is left."""
        self.scope.cancel()
        await self.done.wait()


class Attachments:
    """A switch's endpoints by name, in the order they came; each runs in `nursery` until it is detached."""

    def __init__(self, ports: Ports, nursery: trio.Nursery) -> None:
        self._ports = ports
        self._nursery = nursery
        self._attached: dict[str, Attachment] = {}

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self._attached)

    def __contains__(self, name: str) -> bool:
        return name in self._attached

    def __getitem__(self, name: str) -> Attachment:
        """Raises InputError if there is no such endpoint."""
        if name not in self._attached:
            raise MissingError(f"there is no endpoint {name!r}; there are {', '.join(self._attached) or 'none'}")
        return self._attached[name]

    async def attach(
        self,
        target: str | EndpointConfig | socket.socket,
        parameters: Mapping[str, object] | None = None,
        *,
        passed: Usable | None = None,
    ) -> Attachment:
        """What VSwitch.attach does. A socket that was `passed` on for an fd:// goes when its peer does."""
        sock = target if isinstance(target, socket.socket) else passed
        if isinstance(target, socket.socket):
            target = f"fd://{target.fileno()}"
        if isinstance(target, EndpointConfig) and parameters:
            raise InputError(f"{target.url}: is parsed already; parameters {', '.join(parameters)} come too late")
        wanted = parse(target, parameters) if isinstance(target, str) else target
        if wanted.scheme == "fd" and self._has_descriptor(wanted.fd):
            raise InputError(f"{wanted.url}: is in use already")
        wanted.check_paths()
        before = self._attached.get(wanted.name or "")
        if before is not None and before.is_ending:
            await before.detach()
        name = together.name_of(wanted, self._attached)
        together.check_policy(wanted, self.configs(), hub=self._ports.bridge.hub)
        endpoint = create(wanted, name, self._ports, sock)
        endpoint.goes_with_peer = passed is not None
        attachment = self._attached[name] = Attachment(endpoint, self._ports)
        await self._nursery.start(self._run, attachment, name=f"endpoint {name}")
        if attachment.carrier is not None:
            self._nursery.start_soon(self._carry, attachment, attachment.carrier, name=f"the carrier of {name}")
        return attachment

    def end_with(self, name: str, process: int) -> None:
        """Take an endpoint out when a process has ended, whose descriptor (pidfd_open(2)) is closed then.

        What its connections say last still passes, until it has been silent for a moment or its name is wanted again.
        """
        what = f"the process of {name}"
        self._nursery.start_soon(contain, self._ports.failures, what, _end_with, self[name], process, name=what)

    async def detach(self, name: str) -> None:
        """Take an endpoint out, with its ports; returns when nothing of it is left.

        Raises InputError if there is no such endpoint, and RefusedError if a mirror watches it.
        """
        attachment = self[name]
        for other, config in self.configs().items():
            if other != name and any(name in (watched, endpoint_of(watched)) for watched in config.policy.mirror_of):
                raise RefusedError(f"{name} is watched by the mirror {other}; change that first")
        await attachment.detach()

    def set_policy(self, name: str, policy: Policy) -> None:
        """Have an endpoint's ports go by another policy, those it has and those of the peers that come.

        What was set on one of its ports alone stays. Raises InputError, and changes nothing, if there is no such
        endpoint, or the policy does not go with those of others.
        """
        endpoint = self[name].endpoint
        old, wanted = endpoint.config.policy, msgspec.structs.replace(endpoint.config, policy=policy)
        if endpoint.listens:
            check_static(wanted)
        others = {other: config for other, config in self.configs().items() if other != name}
        together.check_policy(wanted, others, hub=self._ports.bridge.hub)
        with self._ports.wiring.transaction() as set_policy:
            for port in [port for port in self._ports if port.endpoint == name]:
                set_policy(port, changed(port.policy, old, policy))
        endpoint.config = wanted
        self[name].policy_changed()

    def set_forwards(self, name: str, wanted: Sequence[Forward]) -> None:
        """Have a user network's forwards be these. Raises InputError, and RefusedError if some cannot be had."""
        endpoint = self[name].endpoint
        if not isinstance(endpoint, UserNetwork):
            raise InputError(f"{name} is no user network; only one has forwards")
        endpoint.set_forwards(wanted)

    def set_rules(self, name: str, wanted: UserOptions) -> None:
        """Have a user network's guests reach what rules say. Raises InputError."""
        endpoint = self[name].endpoint
        if not isinstance(endpoint, UserNetwork):
            raise InputError(f"{name} is no user network; only one has allow= and deny=")
        endpoint.set_rules(wanted.allow, wanted.deny)

    def infos(self) -> list[model.EndpointInfo]:
        """A snapshot of every endpoint."""
        configs = self.configs().items()
        return [model.EndpointInfo(name=name, url=config.absolute().full_url) for name, config in configs]

    def check_mirrors(self) -> None:
        """Raises InputError if a mirror is to watch what is neither an endpoint here nor a port of one."""
        for name in self._attached:
            together.check_mirror(name, self.configs())

    def configs(self) -> dict[str, EndpointConfig]:
        """What each endpoint's next peer meets, by name."""
        return {name: attached.config for name, attached in self._attached.items()}

    async def _run(self, attachment: Attachment, task_status: trio.TaskStatus[None]) -> None:
        endpoint = attachment.endpoint
        try:
            with attachment.scope:
                await contain_once_started(
                    self._ports.failures,
                    f"endpoint {endpoint.name}",
                    endpoint.run,
                    task_status.started,
                    again=endpoint.can_start_again,
                )
        finally:
            del self._attached[endpoint.name]
            attachment.carrying.cancel()
            if attachment.carrier is not None:
                attachment.carrier.close()
            attachment.done.set()

    async def _carry(self, attachment: Attachment, carrier: Carrier) -> None:
        with attachment.carrying:
            await keep_running(self._ports.failures, f"the carrier of {attachment.name}", carrier.run)

    def _has_descriptor(self, fd: int) -> bool:
        socks = [attached.endpoint.sock for attached in self._attached.values()]
        given = [sock.fileno() for sock in socks if sock is not None]
        return fd in given or self._ports.has_descriptor(fd)


async def _end_with(attachment: Attachment, process: int) -> None:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_after, process, attachment, name=f"the process of {attachment.name}, awaited")
            await attachment.done.wait()
            nursery.cancel_scope.cancel()
    finally:
        os.close(process)


async def _end_after(process: int, attachment: Attachment) -> None:
    await trio.lowlevel.wait_readable(process)
    attachment.is_ending = True
    with trio.move_on_after(LINGER_MAX_S):
        before, said = -1, _frames_from(attachment)
        while said != before:
            await trio.sleep(LINGER_S)
            before, said = said, _frames_from(attachment)
    attachment.scope.cancel()


def _frames_from(attachment: Attachment) -> int:
    return sum(port.rx_frames for port in attachment.ports)
