"""VSwitch: the one object that puts the parts together."""

import logging
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self

import msgspec
import trio

from vswitch.control import answers, api, captures, config, model
from vswitch.control.capture_requests import CaptureRequest, FileRequest
from vswitch.control.captures import LiveCapture, Matches
from vswitch.control.recording import Recording, RecordLimits, check_fits
from vswitch.dataplane import compiled
from vswitch.edges.capture import Budget
from vswitch.edges.capture_file import CaptureStopped
from vswitch.endpoints.endpoint import Endpoint
from vswitch.endpoints.guests.qemu import guest_mac, next_mac
from vswitch.endpoints.kinds import create
from vswitch.endpoints.processes import PeerProcesses
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import InputError, RefusedError
from vswitch.ports import forwarding
from vswitch.ports.partition import Partition
from vswitch.ports.policy import Policy, goes_with_hub, mac_text, query
from vswitch.ports.port import now_ms
from vswitch.ports.ports import Ports
from vswitch.supervision import Failures, contain_once_started
from vswitch.values import check_name
from vswitch.version import __version__

HANDED_OUT_MAX = 65536  # addresses that are remembered

log = logging.getLogger("vswitch")


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


class VSwitch:
    """A learning Ethernet switch, running while its `async with` block does.

        async with VSwitch() as switch:
            lab = await switch.attach("tcp://127.0.0.1:0")
            print(lab.url)

    `ageing_s` is how long a silent station stays in the MAC table (seconds), `table_size` how many it holds. A
    `hub` learns nothing: it repeats every frame, whatever it says, to all other ports. With `record` it keeps in memory
    what passed last; captures together hold `capture_memory` bytes that are not written yet.
    All tasks and descriptors belong to the block and are gone when it ends. Raises InputError for a name or
    value that cannot be right.
    """

    def __init__(
        self,
        name: str = config.NAME_DEFAULT,
        *,
        ageing_s: float = config.AGEING_DEFAULT_S,
        table_size: int = config.TABLE_SIZE_DEFAULT,
        hub: bool = False,
        record: RecordLimits | None = None,
        capture_memory: int = captures.BUDGET_DEFAULT,
    ) -> None:
        self.name = check_name(name)
        self._ageing_s = config.check_ageing(ageing_s)
        self._table_size = config.check_table_size(table_size)
        self._hub = hub
        self._record = None if record is None else check_fits(record)
        self._recording: Recording | None = None
        self._capture_budget = Budget(captures.check_budget(capture_memory))
        self._endpoints: dict[str, Endpoint] = {}
        self._guests: dict[str, int] = {}  # by endpoint, how many were told an address
        self._handed_out: dict[str, None] = {}  # addresses, the last one last
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
        self._ports = Ports(table_size=self._table_size, ageing_s=self._ageing_s, hub=self._hub)
        if self._record is not None:
            self._recording = Recording(self._ports, self._record)
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as data_plane:
                forwarding.start(self._ports, data_plane)
                async with trio.open_nursery() as beside:
                    self._nursery = beside
                    self._running = True
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
        sock = target if isinstance(target, socket.socket) else None
        if isinstance(target, socket.socket):
            target = f"fd://{target.fileno()}"
        if isinstance(target, EndpointConfig) and parameters:
            raise InputError(f"{target.url}: is parsed already; parameters {', '.join(parameters)} come too late")
        wanted = parse(target, parameters) if isinstance(target, str) else target
        if wanted.scheme == "fd" and self._has_descriptor(wanted.fd):
            raise InputError(f"{wanted.url}: is in use already")
        wanted.check_paths()
        name = self._free_name(wanted)
        self._check_policy(wanted)
        endpoint = create(wanted, name, self._ports, sock)
        self._endpoints[name] = endpoint
        attachment: Attachment = await self._nursery.start(self._run_endpoint, endpoint, name=f"endpoint {name}")
        return attachment

    async def serve_control(self, path: str) -> None:
        """Answer the control API on a unix socket at `path`; returns when it listens. Raises RefusedError."""
        await self._nursery.start(self._serve_control, path, name="the control socket")

    async def _serve_control(self, path: str, task_status: trio.TaskStatus[None]) -> None:
        serve = partial(api.serve, self, path)
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
        return [answers.port_info(port) for port in self._ports]

    async def macs(self) -> list[model.MacInfo]:
        """The MAC table, by VLAN and address."""
        return await answers.macs(self._ports, now_ms())

    def vlans(self) -> list[model.VlanInfo]:
        """The VLANs that ports have by their policies."""
        return answers.vlans(self._ports)

    def set_policy(self, port: str, policy: Policy) -> None:
        """Have a port go by another policy from now on. What was learned on it stays if its VLANs, and sticky, do.

        Raises InputError if there is no such port, or the policy does not go with those of other ports.
        """
        found = next((known for known in self._ports if known.name == port), None)
        if found is None:
            raise InputError(f"there is no port {port!r}; there are {', '.join(p.name for p in self._ports) or 'none'}")
        self._ports.wiring.set_policy(found, policy)

    def set_up(self, name: str, up: bool) -> None:
        """Have a port, or all ports of an endpoint, take part or not; the rest of its policy stays.

        Raises InputError if there is none of that name.
        """
        ports = [port for port in self._ports if port.is_one_of((name,))]
        for port in ports:
            self._ports.wiring.set_policy(port, msgspec.structs.replace(port.policy, up=up))
        if not ports:
            raise InputError(f"there is no port {name!r}; there are {', '.join(p.name for p in self._ports) or 'none'}")

    def part(self, *islands: Iterable[str], rest: bool = False) -> Callable[[], None]:
        """Have nothing pass between islands, whatever their VLANs, until what this answers is called.

        An island is names of ports, or of endpoints with all their ports, also of those that come later. Ports in none
        reach all islands; with `rest` they are one more. Partitions add up. Raises InputError on a hub.
        """
        if self._hub:
            raise InputError("a hub repeats every frame to all ports; make a VSwitch without hub=True to part it")
        partition = Partition(islands, rest)
        self._ports.wiring.part(partition)
        return lambda: self._ports.wiring.heal(partition)

    def _check_policy(self, wanted: EndpointConfig) -> None:
        """Whether an endpoint's policy goes with this switch. Raises InputError."""
        if self._hub and not goes_with_hub(wanted.policy):
            raise InputError(f"{wanted.url}: this switch is a hub, which goes by no VLANs or policies; leave them out")
        for name, other in self._endpoints.items():
            theirs = other.config.policy
            if wanted.policy.qinq and theirs.qinq and wanted.policy.tpid != theirs.tpid:
                raise InputError(f"{wanted.url}: tpid: all qinq ports have the same; {name} has 0x{theirs.tpid:04x}")

    def check_mirrors(self) -> None:
        """Raises InputError if a mirror is to watch what is neither an endpoint here nor a port of one."""
        for endpoint in self._endpoints.values():
            for name in endpoint.config.policy.mirror_of:
                if name == endpoint.name:
                    raise InputError(f"{endpoint.url}: mirror_of: names the mirror itself; name the ports to watch")
                if name not in self._endpoints and name.rpartition(".")[0] not in self._endpoints:
                    known = ", ".join(self._endpoints)
                    raise InputError(f"{endpoint.url}: mirror_of: there is no endpoint {name!r}; there are {known}")

    async def capture(self, request: CaptureRequest, matches: Matches | None = None) -> LiveCapture:
        """A capture, to be begun with `async with`.

        `matches` says which frames are wanted, in place of the request's filter. It is asked while forwarding waits.
        Raises InputError for a wrong filter, port or value, RefusedError if there is no libpcap for a filter.
        """
        known = {*self._endpoints, *(port.name for port in self._ports)}
        for name in request.ports:
            if name not in known:
                there_are = ", ".join(sorted(known)) or "none"
                raise InputError(f"there is no port or endpoint {name!r}; there are {there_are}")
        return await captures.prepare(self._ports, self._capture_budget, request, matches)

    def recorded(
        self, request: CaptureRequest, matches: Matches | None = None, since: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """What the flight recorder has since a `moment`, as pcapng. Raises RefusedError if there is none."""
        return self._recorder().stream(request, matches, since)

    def moment(self) -> int:
        """Now, for `recorded`. Raises RefusedError if there is no flight recorder."""
        return self._recorder().moment()

    def _recorder(self) -> Recording:
        if self._recording is None:
            raise RefusedError(f"switch {self.name!r} records nothing; start it with --record 60s or --record 64MiB")
        return self._recording

    async def capture_to(self, file: FileRequest, capture: LiveCapture) -> None:
        """Have a capture written into files until it is complete or ended; returns when it has begun.

        Raises InputError and RefusedError if the file cannot be had. `capture.done` is set when it is over.
        """
        await self._nursery.start(self._write_capture, file, capture, name=f"the capture to {file.path}")

    async def _write_capture(self, file: FileRequest, capture: LiveCapture, task_status: trio.TaskStatus[None]) -> None:
        async def write(started: Callable[[], None]) -> None:
            try:
                await capture.write(file, started)
            except CaptureStopped as error:
                capture.stopped = str(error)
                log.warning("%s", error)

        try:
            await contain_once_started(self.failures, f"the capture to {file.path}", write, task_status.started)
        finally:
            capture.done.set()

    def endpoints(self) -> list[model.EndpointInfo]:
        """The endpoints, in the order they came."""
        return [model.EndpointInfo(name=name, url=self._full_url(known)) for name, known in self._endpoints.items()]

    def _full_url(self, endpoint: Endpoint) -> str:
        """An endpoint's URL with the policy that its next peer meets."""
        url = endpoint.config.absolute().url
        parameters = ["single=yes"] if endpoint.config.single else []
        if (policy := self._policy_of(endpoint)) != Policy():
            parameters.append(query(policy))
        return url + ("&" if "?" in url else "?") + "&".join(parameters) if parameters else url

    def _policy_of(self, endpoint: Endpoint) -> Policy:
        """The policy that an endpoint's next peer meets. A port that stays may have been given another one."""
        itself = (port.policy for port in self._ports if port.name == port.endpoint == endpoint.name)
        return next(itself, endpoint.config.policy)

    async def next_guest(self, endpoint: str) -> str:
        """A MAC address for one more guest of an endpoint: not in the MAC table, and never handed out before.

        Where the policy names the stations, it is one of them: the next in order, or when all have been handed out, the
        one that was longest ago. Raises InputError if there is no such endpoint.
        """
        if endpoint not in self._endpoints:
            raise InputError(f"there is no endpoint {endpoint!r}; there are {', '.join(self._endpoints) or 'none'}")
        stations = await self.macs()
        taken = {station.mac for station in stations if not (station.static and station.port == endpoint)}
        mac = self._named_mac(self._endpoints[endpoint], taken) or self._new_mac(endpoint, taken)
        self._handed_out.pop(mac, None)
        self._handed_out[mac] = None
        if len(self._handed_out) > HANDED_OUT_MAX:
            del self._handed_out[next(iter(self._handed_out))]
        return mac

    def _named_mac(self, endpoint: Endpoint, taken: set[str]) -> str | None:
        """The station of an endpoint's policy whose turn it is.

        None if it names none, or if others may come as well and all of its have been handed out.
        """
        policy = self._policy_of(endpoint)
        named = [mac_text(mac) for mac in policy.stations]
        if policy.senders is None and endpoint.config.scheme == "mcast":  # whose many guests share a port
            named = [mac for mac in named if mac not in taken and mac not in self._handed_out]
        free = [mac for mac in named if mac not in taken]
        return next_mac(free or named, self._handed_out) if named else None

    def _new_mac(self, endpoint: str, taken: set[str]) -> str:
        while True:
            number = self._guests[endpoint] = self._guests.get(endpoint, 0) + 1
            mac = guest_mac(self.name, endpoint, str(number))
            if mac not in taken and mac not in self._handed_out:
                return mac

    async def _run_endpoint(self, endpoint: Endpoint, task_status: trio.TaskStatus[Attachment]) -> None:
        attachment = Attachment(endpoint, self._ports)
        again = endpoint.sock is None  # else its socket is closed with it
        try:
            with attachment.scope:
                await contain_once_started(
                    self.failures,
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

    def _free_name(self, wanted: EndpointConfig) -> str:
        """The name asked for, or the kind and the lowest number that is free."""
        if wanted.name is not None:
            if wanted.name in self._endpoints:
                raise InputError(f"there is an endpoint {wanted.name!r} already; give this one another name=")
            return wanted.name
        number = 1
        while f"{wanted.scheme}{number}" in self._endpoints:
            number += 1
        return f"{wanted.scheme}{number}"


def is_cancelled(error: BaseException) -> bool:
    """Whether an error, alone or in a group, is trio's way of ending a block."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled) is not None
    return isinstance(error, trio.Cancelled)
