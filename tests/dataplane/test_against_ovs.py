"""The same frames to this switch and to Open vSwitch: where each goes, its bytes, the order, and the table after.

The intended differences, and what is done about them here. Frames that only this switch drops are given to it alone:
it must drop them and learn nothing from them.

1. VID 4095 is a VLAN to Open vSwitch, a source address with the group bit is forwarded, and one of zeros learned, too.
2. It drops frames to 01-80-C2-00-00-01 … 0F, and to …00, or with its `forward-bpdu` none of them. Here …00 is flooded,
   and the others are by ports with `reserved=forward`.
3. A transparent port is Open vSwitch's native one of VLAN 1. Between two of them no frame is changed here; there, one
   with VID 0 or 1 loses its tag.
4. DEI is kept here wherever a tag is. There it marks that there is a tag, and is lost where a tag is changed or a flood
   passes ports of several kinds.
5. 0x88a8 always starts a tag there, and what came in with VID 0 behind it gets such a tag again. Here it is one while
   there is a customer port (`qinq=`); only then it is among the frames.
6. A customer's tag is payload here, whatever it says. There, one with VID 0 and no priority is taken off, only one such
   tag is known, and an access port takes no frame that has two.
7. When the table is full, both take from the port that has most; which of its entries goes differs.
"""

import os
import random
import struct
from collections.abc import Callable
from contextlib import ExitStack

import msgspec
import pytest

from tests.dataplane.plumbing import FEWER, bridge, check_balance, drops, policed, receive, set_policy, take
from tests.dataplane.rings import Cards
from tests.frames import BROADCAST, frame, mac
from tests.ovs import OpenVSwitch, open_vswitch
from vswitch.ports.policy import Policy

FRAMES = int(os.environ.get("OVS_FRAMES", "100000")) // FEWER  # in all; more of them find more
SEEDS = range(8)
PORTS = 6
BURST_MAX = 12
AGEING_S = 20

C_TAG, S_TAG = 0x8100, 0x88A8
DEI = 0x10  # in a tag's third byte
RESERVED = 0x0180_C200_0000

PLAIN = [
    (Policy(), "vlan_mode=native-untagged tag=1"),
    (Policy(vlan=1), "tag=1"),
    (Policy(vlan=10), "tag=10"),
    (Policy(vlan=20), "tag=20"),
    (Policy(trunk=(10, 20)), "vlan_mode=trunk trunks=10,20"),
    (Policy(trunk="all"), f"vlan_mode=trunk trunks={','.join(map(str, range(1, 4095)))}"),
    (Policy(trunk=(1, 20)), "vlan_mode=trunk trunks=1,20"),
    (Policy(trunk=(20, 30), native=10), "vlan_mode=native-untagged tag=10 trunks=20,30"),
    (Policy(trunk="all", native=1), "vlan_mode=native-untagged tag=1"),
    (Policy(trunk="all", native=20), "vlan_mode=native-untagged tag=20"),
]
CUSTOMERS = [
    (Policy(qinq=10), "vlan_mode=dot1q-tunnel tag=10"),
    (Policy(qinq=20), "vlan_mode=dot1q-tunnel tag=20"),
    (Policy(trunk=(10, 20)), "vlan_mode=trunk trunks=10,20"),
    (Policy(trunk=(20, 30), native=10), "vlan_mode=native-untagged tag=10 trunks=20,30"),
    (Policy(), "vlan_mode=native-untagged tag=1"),
]

Kind = tuple[Policy, str]


class Pair:
    """Both switches, with the same ports."""

    def __init__(self, kinds: list[Kind], ovs: OpenVSwitch) -> None:
        self.policies = [policy for policy, _ in kinds]
        self.settings = [settings for _, settings in kinds]
        self.ovs = ovs
        self.ours = policed(*self.policies, ageing_ms=AGEING_S * 1000)
        self.now_ms = 0
        self.frames = 0

    def set_port(self, number: int, kind: Kind) -> None:
        """Give a port other VLANs; both forget what they have learned there."""
        policy, settings = kind
        if settings != self.settings[number]:
            self.policies[number], self.settings[number] = policy, settings
            self.ovs.set_port(name(number), settings)
            set_policy(self.ours, self.ours.ports[number], policy)
            self.ours.table.forget_port(number)

    def pass_time(self, seconds: int) -> None:
        self.ovs.pass_time(seconds)
        self.now_ms += 1000 * seconds

    def burst(self, source: int, frames: list[bytes]) -> None:
        """The frames come in as one chunk here, one by one there; what comes out must be the same."""
        expected: list[list[bytes]] = [[] for _ in self.policies]
        refused: dict[str, int] = {}
        for data in frames:
            why = self.refuses(source, data)
            if why is not None:
                refused[why] = refused.get(why, 0) + 1
                continue
            for egress, sent in self.ovs.send(name(source), data).items():
                expected[number(egress)].append(self.allowing(source, number(egress), data, sent))
        before = drops(self.ours.ports[source])
        self.frames += len(frames)
        assert self.exchange(source, frames) == expected, (source, self.policies, frames)
        after = drops(self.ours.ports[source])
        for why in ("runt", "bad_source", "reserved"):
            assert after.get(why, 0) - before.get(why, 0) == refused.get(why, 0)
        check_balance(self.ours)

    def exchange(self, source: int, frames: list[bytes]) -> list[list[bytes]]:
        """What each port sends of what comes in here by one of them."""
        receive(self.ours, source, frames, self.now_ms)
        return [take(port) for port in self.ours.ports]

    def check_tables(self) -> None:
        ours = {(vlan, address, name(port)) for vlan, address, port, _ in self.ours.table.entries(self.now_ms)}
        assert ours == self.ovs.table()

    def refuses(self, source: int, data: bytes) -> str | None:
        """Why this switch alone drops a frame (differences 1 and 2), or that no Ethernet header fits."""
        if len(data) < 14:
            return "runt"
        policy = self.policies[source]
        is_tag = struct.unpack_from("!H", data, 12)[0] in (C_TAG, S_TAG) and policy.qinq is None
        if is_tag and (len(data) < 18 or struct.unpack_from("!H", data, 14)[0] & 0xFFF == 4095):
            return "bad_tag"
        dst, src = int.from_bytes(data[:6]), int.from_bytes(data[6:12])
        takes_it = self.ours.ports[source].vlans.classify(vid(data) if is_tag else 4096) > 0
        if not takes_it:
            return None  # which both drop
        if src == 0 or src >> 40 & 1:
            return "bad_source"
        if RESERVED < dst <= RESERVED + 15 and policy.reserved == "drop":
            return "reserved"
        return None

    def allowing(self, source: int, egress: int, data: bytes, sent: bytes) -> bytes:
        """What is to come out here where that came out there (differences 3 and 4)."""
        if self.ours.ports[source].plain and self.ours.ports[egress].plain:
            return data
        is_customer = self.policies[source].qinq is not None
        if has_tag(data) and has_tag(sent) and len(sent) == len(data) and not is_customer:
            return sent[:14] + bytes([sent[14] & ~DEI | data[14] & DEI]) + sent[15:]
        return sent


class PairWithCards(Pair):
    """Guests by vhost-user are at all ports of ours."""

    def __init__(self, kinds: list[Kind], ovs: OpenVSwitch) -> None:
        super().__init__(kinds, ovs)
        self.cards = Cards(self.ours)

    def exchange(self, source: int, frames: list[bytes]) -> list[list[bytes]]:
        return self.cards.exchange(source, frames, self.now_ms)


def name(port: int) -> str:
    return f"p{port}"


def number(port: str) -> int:
    return int(port[1:])


def vid(data: bytes) -> int:
    return int.from_bytes(data[14:16]) & 0xFFF


def has_tag(data: bytes) -> bool:
    return struct.unpack_from("!H", data, 12)[0] in (C_TAG, S_TAG)


def plain_frame(rng: random.Random) -> bytes:
    """Any frame: known and unknown stations, groups, tags, two of them, cut off ones, runts."""
    data = addressed(rng)
    for _ in range(rng.choice([0, 0, 1, 1, 1, 2])):
        data = data[:12] + struct.pack("!HH", C_TAG, tci(rng)) + data[12:]
    if rng.random() < 0.05:
        return data[: rng.randrange(1, 30)]
    return data


def customer_frame(rng: random.Random) -> bytes:
    """At most one tag of a customer's, and over it, as on a trunk, perhaps a service tag (difference 6)."""
    data = addressed(rng)
    if rng.random() < 0.5:
        data = data[:12] + struct.pack("!HH", C_TAG, rng.randrange(8) << 13 | rng.choice([5, 10, 20])) + data[12:]
    return data


def service_frame(rng: random.Random) -> bytes:
    data = customer_frame(rng)
    if not has_tag(data) or rng.random() < 0.9:
        data = data[:12] + struct.pack("!HH", rng.choice([C_TAG, S_TAG]), rng.choice([10, 20, 30])) + data[12:]
    return data


def addressed(rng: random.Random) -> bytes:
    dst = rng.choice([mac(rng.randrange(1, 12))] * 6 + [BROADCAST, 0x0100_5E00_0001, 0, RESERVED + rng.randrange(20)])
    src = rng.choice([mac(rng.randrange(1, 12))] * 20 + [0, BROADCAST, 0x0300_0000_0001])
    return frame(dst, src, rng.choice([14, 14, 60, 60, 60, 300]), payload=rng.randbytes(rng.randrange(8)))


def tci(rng: random.Random) -> int:
    return rng.choice([0, 0, rng.randrange(16) << 12]) | rng.choice([0, 1, 10, 10, 20, 20, 30, 99, 4094, 4095])


def run(pair: Pair, kinds: list[Kind], any_frame: Callable[[int], bytes], rng: random.Random, frames: int) -> None:
    """Bursts from any port, while time passes and ports change."""
    while pair.frames < frames:
        source = rng.randrange(PORTS)
        pair.burst(source, [any_frame(source) for _ in range(rng.randrange(1, BURST_MAX))])
        if rng.random() < 0.1:
            pair.check_tables()
        if rng.random() < 0.02:
            pair.pass_time(rng.choice([1, 5, AGEING_S - 1, AGEING_S]))
        if rng.random() < 0.01:
            pair.set_port(rng.randrange(PORTS), rng.choice(kinds))
    pair.check_tables()


def open_pair(
    kinds: list[Kind], rng: random.Random, stack: ExitStack, *, vlan_limit: int = 1, pair: type[Pair] = Pair
) -> Pair:
    """Both switches, with any of these ports."""
    chosen = [rng.choice(kinds) for _ in range(PORTS)]
    settings = {name(number): text for number, (_, text) in enumerate(chosen)}
    ovs = open_vswitch(settings, ageing_s=AGEING_S, forward_bpdu=True, vlan_limit=vlan_limit)
    return pair(chosen, stack.enter_context(ovs))


@pytest.mark.parametrize("seed", SEEDS)
def test_forwards_like_open_vswitch(seed: int) -> None:
    rng = random.Random(seed)
    forwarding = [(msgspec.structs.replace(policy, reserved="forward"), settings) for policy, settings in PLAIN]
    kinds = [rng.choice(pair) for pair in zip(PLAIN, forwarding, strict=True)]
    with ExitStack() as stack:
        run(open_pair(kinds, rng, stack), kinds, lambda _: plain_frame(rng), rng, FRAMES * 3 // 4 // len(SEEDS))


def test_forwards_like_open_vswitch_between_guests_by_vhost_user() -> None:
    rng = random.Random(1)
    with ExitStack() as stack:
        pair = open_pair(PLAIN, rng, stack, pair=PairWithCards)
        assert isinstance(pair, PairWithCards)
        stack.callback(pair.cards.close)
        run(pair, PLAIN, lambda _: plain_frame(rng), rng, FRAMES // 4 // len(SEEDS))


@pytest.mark.parametrize("seed", SEEDS)
def test_customers_tags_ride_under_service_tags_like_open_vswitchs(seed: int) -> None:
    rng = random.Random(seed)
    with ExitStack() as stack:
        pair = open_pair(CUSTOMERS, rng, stack, vlan_limit=2)

        def any_frame(source: int) -> bytes:
            return customer_frame(rng) if pair.policies[source].qinq is not None else service_frame(rng)

        run(pair, CUSTOMERS, any_frame, rng, FRAMES // 4 // len(SEEDS))


def test_a_port_that_floods_a_full_table_evicts_its_own_like_open_vswitchs() -> None:
    with open_vswitch({"p0": "", "p1": ""}, table_size=20) as ovs:
        ours = bridge(2, table_size=20)
        for port, stations in ((0, range(5)), (1, range(100, 200))):
            for station in stations:
                data = frame(BROADCAST, mac(station))
                ovs.send(name(port), data)
                receive(ours, port, [data])
        held = {name(port): {address for _, address, at, _ in ours.table.entries(0) if at == port} for port in (0, 1)}
        theirs = {port: {address for _, address, at in ovs.table() if at == port} for port in ("p0", "p1")}
        assert held["p0"] == theirs["p0"] == {mac(station) for station in range(5)}
        assert len(held["p1"]) == len(theirs["p1"]) == 15
