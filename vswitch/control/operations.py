"""The operations of the control API, version 1: one table, for the switch that answers and the commands that ask.

A path has its parameters in braces. Every answer carries the version in a header, so that a client of another one can
say so. An error's body is `{"error": TEXT}`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, TypeVar, get_origin
from urllib.parse import quote, urlencode

import msgspec

from vswitch.control import model
from vswitch.control.capture_requests import CaptureRequest, CaptureSummary, FileRequest
from vswitch.control.model import EventsRequest
from vswitch.errors import InputError, MissingError, RefusedError, VSwitchError
from vswitch.ports.event import Event

VERSION = "1"
VERSION_HEADER = "vswitch-api"
CAPTURE_HEADER = "vswitch-capture"  # a capture's number, to end it by
JSON = "application/json"
PCAPNG = "application/x-pcapng"
TOML = "application/toml"
PROMETHEUS = "text/plain; version=0.0.4"
SSE = "text/event-stream"  # server-sent events, of the HTML standard

Q = TypeVar("Q", bound=msgspec.Struct)
T = TypeVar("T")

# What an error of the switch is to a client.
ERRORS: Mapping[type[VSwitchError], HTTPStatus] = {
    MissingError: HTTPStatus.NOT_FOUND,
    InputError: HTTPStatus.BAD_REQUEST,
    RefusedError: HTTPStatus.CONFLICT,
}


@dataclass(frozen=True, eq=False)
class Operation(Generic[T]):
    """One thing to ask of a switch. `query` and `body` are the types of what is asked, `answer` that of the answer."""

    method: str
    path: str
    answer: type[T]
    summary: str
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    media: str = JSON
    is_of_all_versions: bool = False

    @property
    def full_path(self) -> str:
        """With the version, if it is one's."""
        return self.path if self.is_of_all_versions else f"/v{VERSION}{self.path}"

    @property
    def asks_by_name(self) -> bool:
        """Whether what it asks for may be missing; else it is the operation that a switch does not know."""
        return self.query is not None or self.body is not None or "{" in self.path

    def target(self, parameters: Mapping[str, str] | None = None, query: msgspec.Struct | None = None) -> str:
        """What a request for it asks for; `parameters` are those of its path."""
        parameters = parameters or {}
        named = {name: quote(text, safe="", errors="surrogateescape") for name, text in parameters.items()}
        asked = self.full_path.format(**named)
        return asked if query is None else f"{asked}?{write_query(query)}"


DOCUMENT = Operation(
    "GET", "/openapi.json", dict[str, Any], "What there is to ask, as OpenAPI has it", is_of_all_versions=True
)
STATUS = Operation("GET", "/status", model.Status, "Who the switch is, and its totals")
PORTS = Operation("GET", "/ports", list[model.PortInfo], "Every port, in the order they came")
MACS = Operation("GET", "/macs", list[model.MacInfo], "The MAC table, by VLAN and address")
VLANS = Operation("GET", "/vlans", list[model.VlanInfo], "The VLANs that ports have by their policies")
ENDPOINTS = Operation("GET", "/endpoints", list[model.EndpointInfo], "Every endpoint, in the order they came")
EVENTS = Operation("GET", "/events", list[Event], "What happened, and what is wrong", query=EventsRequest)
FOLLOW_EVENTS = Operation(
    "GET", "/events/stream", bytes, "The same, and then what comes, as it comes", query=EventsRequest, media=SSE
)
METRICS = Operation(
    "GET", "/metrics", bytes, "The counters as Prometheus reads them", media=PROMETHEUS, is_of_all_versions=True
)
INTERNALS = Operation("GET", "/internals", model.Internals, "How often the data plane took its rare paths")
LOG = Operation("GET", "/log", model.LogInfo, "What is logged")
SET_LOG = Operation("PUT", "/log", model.LogInfo, "Log more, or less", body=model.LogInfo)
FAILURES = Operation("GET", "/failures", list[model.FailureInfo], "What has failed beside forwarding")
CAPTURE = Operation("GET", "/capture", bytes, "Frames as they come", query=CaptureRequest, media=PCAPNG)
CAPTURE_TO_FILES = Operation(
    "POST",
    "/capture",
    CaptureSummary,
    "The same into files, until this request ends: an empty line when it has begun, the answer when it is over",
    query=CaptureRequest,
    body=FileRequest,
)
END_CAPTURE = Operation(
    "DELETE",
    "/captures/{number}",
    model.Nothing,
    "End one of these, whose number was in a header",
)
RECORDING = Operation("GET", "/recording", bytes, "What the flight recorder has", query=CaptureRequest, media=PCAPNG)
NEXT_GUEST = Operation(
    "POST",
    "/endpoints/{name}/guests",
    model.GuestInfo,
    "An address for one more guest that is going to be plugged in",
)
ATTACH = Operation("POST", "/endpoints", model.EndpointInfo, "Attach an endpoint", body=model.AttachRequest)
DETACH = Operation("DELETE", "/endpoints/{name}", model.Nothing, "Take an endpoint out, with its ports")
SET = Operation(
    "PATCH", "/ports/{name}", model.PolicyInfo, "Change what a port, or an endpoint, goes by", body=model.SetRequest
)
TRACE = Operation("POST", "/trace", model.Trace, "What would become of a frame", body=model.TraceRequest)
FLOWS = Operation(
    "GET", "/flows", model.FlowsInfo, "Who talked to whom, and what became of it", query=model.FlowsRequest
)
PIN = Operation("POST", "/macs", model.Nothing, "Have a station be behind a port", body=model.PinRequest)
FORGET = Operation("DELETE", "/macs/{mac}", model.Dropped, "Drop what is known of a station", query=model.ForgetRequest)
FLUSH = Operation("DELETE", "/macs", model.Dropped, "Drop what was learned", query=model.FlushRequest)
PARTITIONS = Operation("GET", "/partitions", list[model.PartitionInfo], "What is parted")
PART = Operation("POST", "/partitions", model.PartitionInfo, "Part islands of ports", body=model.PartitionRequest)
HEAL = Operation("DELETE", "/partitions/{number}", model.Nothing, "Undo a partition")
LEASES = Operation("GET", "/leases", list[model.LeaseInfo], "The guests that have an address of a user network")
NAT = Operation("GET", "/nat", list[model.NatInfo], "What passes the NAT of each user network, and what is dropped")
FORWARDS = Operation("GET", "/forwards", list[model.ForwardInfo], "What leads from this machine to guests")
FORWARD = Operation(
    "POST", "/forwards", model.ForwardInfo, "Have a port of this machine lead to a guest's", body=model.ForwardRequest
)
UNFORWARD = Operation(
    "DELETE", "/forwards/{forward}", model.Nothing, "Take a forward back", query=model.UnforwardRequest
)
SAVED = Operation("GET", "/configuration", bytes, "The switch as it is, as a configuration file", media=TOML)
RELOAD = Operation(
    "POST",
    "/reload",
    list[model.ChangeInfo],
    "Read the configuration file again, and become as it says",
    query=model.ReloadRequest,
)

OPERATIONS: tuple[Operation[Any], ...] = (
    *(
        DOCUMENT,
        STATUS,
        PORTS,
        MACS,
        VLANS,
        ENDPOINTS,
        EVENTS,
        FOLLOW_EVENTS,
        METRICS,
        INTERNALS,
        LOG,
        SET_LOG,
        FAILURES,
    ),
    *(CAPTURE, CAPTURE_TO_FILES, END_CAPTURE, RECORDING, NEXT_GUEST, TRACE, FLOWS),
    *(ATTACH, DETACH, SET, PIN, FORGET, FLUSH, PARTITIONS, PART, HEAL),
    *(LEASES, NAT, FORWARDS, FORWARD, UNFORWARD, SAVED, RELOAD),
)


def status_of(error: VSwitchError) -> HTTPStatus:
    """The status of an answer that is an error."""
    return next((status for kind, status in ERRORS.items() if isinstance(error, kind)), HTTPStatus.CONFLICT)


def error_of(status: int) -> type[VSwitchError] | None:
    """The error of the switch that has a status, the other way round; None for what is not the switch's."""
    return next((kind for kind, its in ERRORS.items() if its == status), None)


def read_query(kind: type[Q], items: Iterable[tuple[str, str]]) -> Q:
    """What a URL's query says: fields by name, those with several values once for each. Raises InputError."""
    several = {known.name for known in msgspec.structs.fields(kind) if get_origin(known.type) is tuple}
    fields: dict[str, Any] = {}
    for name, value in items:
        if name in several:
            fields.setdefault(name, []).append(value)
        else:
            fields[name] = value
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"the query asks for what there is not: {error}") from None


def write_query(query: msgspec.Struct) -> str:
    """The other way round."""
    known = {it.name: (getattr(query, it.name), it.default) for it in msgspec.structs.fields(query)}
    fields = {name: value for name, (value, usual) in known.items() if value not in (usual, ())}
    return urlencode(fields, doseq=True, errors="surrogateescape")


def read_body(kind: type[Q], body: bytes) -> Q:
    """What a request's body says. Raises InputError."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the body does not say what is asked for: {error}") from None
