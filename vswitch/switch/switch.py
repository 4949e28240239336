"""VSwitch: the one object that puts the parts together."""

import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self

import trio

from vswitch.control import answers, api, config, metrics, model, tracing
from vswitch.control.api import metrics_server
from vswitch.control.captures import BUDGET_DEFAULT, check_budget
from vswitch.control.recording import RecordLimits, check_fits
from vswitch.dataplane import compiled
from vswitch.endpoints.processes import PeerProcesses
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import MissingError
from vswitch.ports import forwarding
from vswitch.ports.events import Events
from vswitch.ports.port import now_ms
from vswitch.ports.ports import Ports
from vswitch.supervision import Failures, contain_once_started, is_cancelled
from vswitch.switch.attachments import Attachment, Attachments
from vswitch.switch.captures import Captures
from vswitch.switch.configuration import Configuration
from vswitch.switch.policies import Policies
from vswitch.switch.stations import Stations
from vswitch.switch.user_networks import UserNetworks
from vswitch.values import check_name
from vswitch.version import __version__

log = logging.getLogger("vswitch")


class VSwitch:
    """A learning Ethernet switch, running while its `async with` block does.

        async with VSwitch() as switch:
            lab = await switch.attach("tcp://127.0.0.1:0")
            print(lab.url)

    `ageing_s` is how long a silent station stays in the MAC table (seconds), `table_size` how many it holds. A
    `hub` learns nothing: it repeats every frame, whatever it says, to all other ports. With `record` it keeps in memory
    what passed last; captures together hold `capture_memory` bytes that are not written yet.

    Within the block it has a facet for each area: `attachments`, `configuration`, `policies`, `stations`, `captures`,
    `user_networks`.
    All tasks and descriptors belong to the block and are gone when it ends. Raises InputError for a name or
    value that cannot be right.
    """

    policies: Policies
    stations: Stations
    captures: Captures
    attachments: Attachments
    configuration: Configuration
    user_networks: UserNetworks

    def __init__(
        self,
        name: str = config.NAME_DEFAULT,
        *,
        ageing_s: float = config.AGEING_DEFAULT_S,
        table_size: int = config.TABLE_SIZE_DEFAULT,
        hub: bool = False,
        record: RecordLimits | None = None,
        capture_memory: int = BUDGET_DEFAULT,
    ) -> None:
        self.name = check_name(name)
        self._ageing_s = config.check_ageing(ageing_s)
        self._table_size = config.check_table_size(table_size)
        self._hub = hub
        self._record = None if record is None else check_fits(record)
        self._capture_memory = check_budget(capture_memory)
        self._processes = PeerProcesses()
        self._running = False

    async def __aenter__(self) -> Self:
        self._life: AbstractAsyncContextManager[None] = self._live()
        await self._life.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._life.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        """Forwarding has a nursery of its own. What talks to peers and clients is in another inside it, and ends first.

        No task in either raises an error: what fails is contained, and starts again if it must always run.
        """
        if not compiled():
            log.warning("the data plane runs uncompiled, at a small part of its speed; reinstall to compile it")
        self._started_s = trio.current_time()
        self._started_at_s = time.time()
        self._ports = Ports(table_size=self._table_size, ageing_s=self._ageing_s, hub=self._hub, switch=self.name)
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as data_plane:
                forwarding.start(self._ports, data_plane)
                async with trio.open_nursery() as beside:
                    self._put_together(beside)
                    try:
                        yield
                    except BaseException as raised:
                        if is_cancelled(raised):
                            raise
                        error = raised  # the block's own: as it is, not in a group
                    finally:
                        self._running = False
                        beside.cancel_scope.cancel()
                data_plane.cancel_scope.cancel()
        finally:
            self._ports.close()
        if error is not None:
            raise error

    def _put_together(self, nursery: trio.Nursery) -> None:
        """The facets, whose tasks run in a nursery."""
        self._nursery = nursery
        self.attachments = Attachments(self._ports, nursery)
        fixed = config.SwitchConfig(
            name=self.name,
            table_size=self._table_size,
            capture_memory=self._capture_memory,
            record=self._record,
        )
        self.configuration = Configuration(self._ports, self.attachments, fixed)
        self.policies = Policies(self._ports, self.attachments)
        self.stations = Stations(self.name, self._ports, self.attachments, self.policies)
        self.user_networks = UserNetworks(self.attachments)
        memory, limits = self._capture_memory, self._record
        self.captures = Captures(self.name, self._ports, self.attachments, nursery, memory=memory, limits=limits)
        self._running = True

    @property
    def events(self) -> Events:
        """What happened to its guests, and what is wrong."""
        return self._ports.events

    @property
    def failures(self) -> Failures:
        """What has failed beside forwarding, and did not stop it."""
        return self._ports.failures

    async def attach(self, target: str | EndpointConfig | socket.socket, **parameters: object) -> Attachment:
        """Let peers in by `target`; returns when they can come, and runs on until detached.

        `target` is an endpoint URL, a parsed one, or a connected or listening stream socket, which belongs to
        the switch unless it is refused; `parameters` are URL parameters (`name="lab"`). Raises InputError for what is
        written wrongly and RefusedError for what the system refuses.
        """
        if not self._running:
            raise RuntimeError("this VSwitch is not running; attach within its `async with` block")
        return await self.attachments.attach(target, parameters)

    async def serve_control(self, path: str, fd: int | None = None) -> None:
        """Answer the control API on a unix socket at `path`, or on one that listens already; returns when it does.

        Raises InputError for a descriptor that is no such socket, and RefusedError.
        """
        await self._nursery.start(self._serve_control, path, fd, name="the control socket")

    async def _serve_control(self, path: str, fd: int | None, task_status: trio.TaskStatus[None]) -> None:
        with ExitStack() as stack:
            serve = partial(api.serve, self, path)
            if fd is not None:
                serve = partial(api.serve_on, self, stack.enter_context(api.listening(fd)))
            await contain_once_started(self.failures, "the control socket", serve, task_status.started, again=True)

    async def told_to_stop(self) -> None:
        """Wait until a peer that may do so, such as a VDE management client, tells the switch to end."""
        await self._ports.shutdown.wait()

    def status(self) -> model.Status:
        """Who this switch is, and its totals."""
        return model.Status(
            name=self.name,
            version=__version__,
            compiled=compiled(),
            uptime_s=round(trio.current_time() - self._started_s, 3),
            ports=len(self._ports),
            macs=self._ports.table.live(now_ms()),
            mac_moves=self._ports.table.moves,
            mac_evictions=self._ports.table.evictions,
            pid=os.getpid(),
            failures=self.failures.total,
            totals=answers.totals(self._ports),
        )

    async def find_processes(self) -> None:
        """Have `ports` say which processes the peers on this machine are, once for each; takes a second at most."""
        await self._processes.find(self._ports)

    def ports(self) -> list[model.PortInfo]:
        """A snapshot of every port, in the order they came."""
        return [answers.port_info(port, self._ports.table) for port in self._ports]

    def internals(self) -> model.Internals:
        """How often the data plane took its rare paths."""
        return answers.internals(self._ports)

    async def metrics(self) -> str:
        """The counters as Prometheus reads them."""
        nat = await self.user_networks.nat()
        return await metrics.metrics(self._ports, self.name, self._started_at_s, nat)

    async def serve_metrics(self, address: str) -> str:
        """Answer `GET /metrics` on a TCP address, like 127.0.0.1:9160, for as long as the switch runs; answers the URL.

        Raises InputError and RefusedError.
        """
        url: str = await self._nursery.start(self._serve_metrics, address, name="the metrics socket")
        return url

    async def _serve_metrics(self, address: str, task_status: trio.TaskStatus[str]) -> None:
        urls: list[str] = []
        serve = partial(metrics_server.serve, self, address, urls)
        what = "the metrics socket"
        await contain_once_started(self.failures, what, serve, lambda: task_status.started(urls[0]), again=True)

    def endpoints(self) -> list[model.EndpointInfo]:
        """A snapshot of every endpoint, in the order they came."""
        return self.attachments.infos()

    async def macs(self) -> list[model.MacInfo]:
        """The MAC table, by VLAN and address."""
        return await self.stations.macs()

    def trace(self, port: str, frame: bytes) -> model.Trace:
        """What would become of a frame that came in by a port; nothing is sent, learned or counted.

        Raises InputError if there is none of that name.
        """
        found = self._ports.named(port)
        if found is None:
            there_are = ", ".join(each.name for each in self._ports) or "none"
            raise MissingError(f"there is no port {port!r}; there are {there_are}")
        return tracing.trace(self._ports, found, frame, now_ms())

    def vlans(self) -> list[model.VlanInfo]:
        """The VLANs that ports have by their policies."""
        return answers.vlans(self._ports)
