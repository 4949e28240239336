"""The JSON types of the control API, version 1.

Bytes are frame bytes, without FCS and without length prefix; absent values are null.
"""

from collections import Counter
from typing import Annotated, Any, Literal

import msgspec

from vswitch.errors import InputError

SINCE_MAX_S = 1e9
PID_MAX = 1 << 22  # Linux include/linux/threads.h, PID_MAX_LIMIT


class Vlan(msgspec.Struct, frozen=True):
    """A port's VLAN policy. A transparent port carries every VLAN and changes no frame.

    `access` is the VLAN of an access port, and the service VLAN of a QinQ port.
    """

    mode: Literal["transparent", "access", "trunk", "qinq"] = "transparent"
    access: int | None = None
    native: int | None = None
    tagged: tuple[int, ...] | Literal["all"] = "all"


class Virtio(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver of a card has agreed on whose back end we are, as virtio 1.2 names it."""

    features: list[str]


class PortInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A port. Its state is `blocked` while it is up and takes no part, as there is a loop.

    `virtio` is that of a vhost-user port whose rings run.
    """

    name: str
    endpoint: str
    url: str
    peer: str | None
    up: bool
    state: Literal["down", "blocked", "forwarding"]
    vlan: Vlan
    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    drops: dict[str, int]
    queued_frames: int
    queued_bytes: int
    segmented: int
    checksummed: int
    macs: int
    virtio: Virtio | None


class MacInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A station. A static one has no age."""

    mac: str
    vlan: int
    port: str
    age_s: float | None
    static: bool


class VlanInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A VLAN that a port's policy names, and which ports send its frames with a tag and without."""

    vlan: int
    untagged: list[str]
    tagged: list[str]


class EndpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint. Its URL has absolute paths."""

    name: str
    url: str


class GuestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A guest to be."""

    mac: str


class Nothing(msgspec.Struct, frozen=True):
    """The answer of what has none."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Over all ports, those that are gone included: rx_frames + copies = tx_frames + queued_frames + all drops."""

    rx_frames: int
    copies: int
    tx_frames: int
    queued_frames: int
    drops: dict[str, int]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    version: str
    compiled: bool
    uptime_s: float
    ports: int
    macs: int
    mac_moves: int
    mac_evictions: int
    pid: int
    failures: int = 0
    totals: Totals


class Internals(msgspec.Struct, frozen=True, kw_only=True):
    """How often the data plane took its rare paths: what to look at when a switch is slow."""

    polls: int
    frames_joined: int
    runs_rebuilt: int
    runs_copied: int
    segments_made: int
    batches_bounded: int
    sources_waited: int
    evictions: int
    expiries: int
    queued_bytes: int
    queued_bytes_peak: int


LogLevel = Literal["error", "warning", "info", "debug"]


class LogInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The least of what is logged."""

    level: LogLevel


class FailureInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that did not stop forwarding: what has failed, how often, and where (a traceback)."""

    reference: str
    what: str
    error: str
    count: int
    details: str


class EventsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events after the one with a number, of some codes; none: of all."""

    since: int = 0
    code: tuple[str, ...] = ()


class AttachRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint's URL, with absolute paths, and more parameters, as TOML has them. It goes `with_process`: when the
    process ends that asks, or the one of a PID."""

    url: str
    parameters: dict[str, Any] = {}
    with_process: bool | Annotated[int, msgspec.Meta(ge=1, le=PID_MAX)] = False


class SetRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of a port's policy, as TOML has them; null: what is usual."""

    parameters: dict[str, Any]


class PolicyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint or a port goes by: `parameters` are those that are not as usual. `lasts`: for the next peers,
    too; else it goes with the port's peer."""

    name: str
    parameters: dict[str, str]
    lasts: bool


class TraceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frame in hex, without FCS, that comes in by a port."""

    port: str
    frame: str


Step = Literal["port", "vlan", "addresses", "policy", "learn", "look_up", "egress"]


class TraceStep(msgspec.Struct, frozen=True, kw_only=True):
    """What is done in turn, and what it went by."""

    step: Step
    text: str


class TraceEgress(msgspec.Struct, frozen=True, kw_only=True):
    """A port that the frame is queued at, as it leaves there (hex), or dropped for a reason; `tag` is its tag's VID."""

    port: str
    tag: int | None
    mirror: bool
    reason: str | None
    frame: str


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of a frame: the steps, and the ports it goes to. `reason` is why it goes to none."""

    port: str
    forwarded: bool
    reason: str | None
    steps: list[TraceStep]
    egress: list[TraceEgress]


class FlowsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Flows of the last so many seconds, that came in by or went to a port or endpoint; None: all.

    Raises InputError for a time that is out of range.
    """

    since_s: float | None = None
    port: str | None = None

    def __post_init__(self) -> None:
        if self.since_s is not None and not 0 <= self.since_s <= SINCE_MAX_S:
            raise InputError(f"{self.since_s:g} s are out of range; 0 to {SINCE_MAX_S:g} s")


class FlowInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What came in by a port with the same addresses, VLAN tag and protocol, and what became of it, by port and reason.

    `service` is the lower of two TCP or UDP ports; times are since 1970. Where it went to many ports, `forwarded` has
    some, and `more` counts frames for the others.
    """

    port: str
    source: str
    destination: str
    vlan: int | None
    protocol: str
    source_ip: str | None
    destination_ip: str | None
    service: int | None
    frames: int
    bytes: int
    first_s: float
    last_s: float
    forwarded: dict[str, int]
    more: int
    drops: dict[str, int]


class FlowsInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The flows that were heard last, the very last first; of so many `older` ones there would be more.

    `others` are frames of flows that were too many to tell apart.
    """

    flows: list[FlowInfo]
    older: int
    others: int


class PinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A station that is behind a port whatever is heard; no VLAN: the port's own."""

    mac: str
    port: str
    vlan: int | None = None


class ForgetRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of which VLAN; None: of all."""

    vlan: int | None = None


class FlushRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was learned at which port or endpoint, of which VLAN; None: of all."""

    port: str | None = None
    vlan: int | None = None


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """How many entries of the MAC table are gone."""

    entries: int


class PartitionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names of ports and endpoints between which nothing is to pass; with `rest`, all others are one more island."""

    islands: list[list[str]]
    rest: bool = False


class PartitionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A partition that there is, and the number to heal it by."""

    number: int
    islands: list[list[str]]
    rest: bool


class LeaseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An address of a user network's guest, which is NAME.DOMAIN to others; without a name, that is empty."""

    network: str
    mac: str
    ip: str
    name: str
    domain: str
    port: str
    left_s: float


class NatTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that the NAT took from guests (out) and gave them (in), and what was dropped, by reason."""

    out_frames: int
    out_bytes: int
    in_frames: int
    in_bytes: int
    drops: dict[str, int]


class NatGuest(NatTraffic, frozen=True, kw_only=True):
    """A guest that the NAT knows. Its name is empty if it has no lease."""

    mac: str
    ip: str
    name: str
    connections: int


class NatInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the process of a user network has counted since it started; `age_s` is null if it does not answer.

    `others` are guests that it knows no more, and drops of stations that are none. `served` is how many requests, by
    service.
    """

    network: str
    age_s: float | None
    guests: list[NatGuest]
    others: NatTraffic
    served: dict[str, int]

    @property
    def total(self) -> NatTraffic:
        """Of all guests, and the others."""
        each = [*self.guests, self.others]
        return NatTraffic(
            out_frames=sum(one.out_frames for one in each),
            out_bytes=sum(one.out_bytes for one in each),
            in_frames=sum(one.in_frames for one in each),
            in_bytes=sum(one.in_bytes for one in each),
            drops=dict(sum((Counter(one.drops) for one in each), Counter())),
        )


class ForwardRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A forward as `hostfwd=` has it; `network` is which one, if there are several."""

    forward: str
    network: str | None = None


class UnforwardRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of which network, if several may have it."""

    network: str | None = None


class ForwardInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A forward, with the port that the system chose. `ip` is the guest it leads to, `problem` why it leads nowhere."""

    network: str
    forward: str
    ip: str | None
    problem: str


class ReloadRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With `dry_run`, nothing is changed."""

    dry_run: bool = False


Action = Literal["attach", "detach", "replace", "set_policy", "set_forwards", "set_rules", "adopt", "set_ageing"]


class ChangeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a switch, and how it looks as a diff, a line each."""

    action: Action
    diff: list[str]
