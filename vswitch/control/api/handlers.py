"""What answers an operation, and what it knows of a switch."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from vswitch.control import captures, model
from vswitch.control.capture_requests import CaptureRequest, FileRequest
from vswitch.control.changes import Change
from vswitch.control.operations import Operation
from vswitch.supervision import Failures


class Asked(NamedTuple):
    """What a client asks of an operation, in the types that the operation has for it."""

    parameters: Mapping[str, str]
    query: Any
    body: Any


Handler = Callable[[Asked], Awaitable[object]]  # answers what is sent as JSON, or a response
Handlers = Mapping[Operation[Any], Handler]


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
