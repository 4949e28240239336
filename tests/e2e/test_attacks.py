"""What hostile guests try on a LAN that `vswitch serve` runs: it fails, it is counted, and others go on.

scapy makes the frames. Stations are plain sockets; a station that hears nothing is one that has nothing to read once
the switch has accounted for every frame.
"""

import itertools
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
    fragment6,
)
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw

from tests.cli.program import Home, connect
from tests.frames import framed, unframed
from tests.waiting import until

ATTACKER, VICTIM, OWNER = "52:54:00:00:00:66", "52:54:00:00:00:01", "52:54:00:00:00:02"
ALL, ALL_NODES = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
ATTACKERS_IP, VICTIMS_IP, OWNERS_IP = "10.0.0.66", "10.0.0.1", "10.0.0.2"
ATTACKERS_IP6, OWNERS_IP6 = "fd00::66", "fd00::2"
ATTACKERS_LINK_LOCAL, OWNERS_LINK_LOCAL = "fe80::5054:ff:fe00:66", "fe80::5054:ff:fe00:2"
EXPERIMENTAL = 0x88B5  # an EtherType that means nothing to anybody


@pytest.fixture
def home(directory: Path) -> Home:
    return Home(directory)


class Outcome(NamedTuple):
    """What became of some frames: what each station heard, and how many were dropped, by reason."""

    heard: dict[str, list[bytes]]
    drops: dict[str, int]


class Lan:
    """Stations on a switch in a process of its own; nothing moves but what a test sends."""

    def __init__(self, home: Home, stations: dict[str, socket.socket]) -> None:
        self.home = home
        self._stations = stations
        self._streams = {name: bytearray() for name in stations}  # as far as heard
        self._drops: dict[str, Counter[str]] = {name: Counter() for name in stations}
        self._sent = 0
        self._heard = 0

    def send(self, name: str, *frames: Packet | bytes) -> Outcome:
        """Has a station send frames; answers when the switch has forwarded or dropped each of them."""
        self._stations[name].sendall(framed(map(bytes, frames)))
        self._sent += len(frames)
        until(self._is_over, "every frame is accounted for")
        heard = {station: unframed(bytes(stream)) for station, stream in self._streams.items() if stream}
        for stream in self._streams.values():
            stream.clear()
        self._heard += sum(map(len, heard.values()))
        assert self.totals()["tx_frames"] == self._heard
        drops = {port["name"]: Counter(port["drops"]) for port in self.home.get("ports")}
        new = {port: dict(drops[port] - self._drops[port]) for port in drops if drops[port] != self._drops[port]}
        self._drops = drops
        assert new.keys() <= {name}, "drops are counted on the port that the frames came in by"
        return Outcome(heard, new.get(name, {}))

    def _is_over(self) -> bool:
        totals = self.totals()
        for name, sock in self._stations.items():  # what the switch has sent by now can be read by now
            self._streams[name] += read_all(sock)
        return (totals["rx_frames"], totals["queued_frames"]) == (self._sent, 0)

    def totals(self) -> dict[str, Any]:
        """The switch's totals, which balance at any moment."""
        totals: dict[str, Any] = self.home.get("status")["totals"]
        out = totals["tx_frames"] + totals["queued_frames"] + sum(totals["drops"].values())
        assert totals["rx_frames"] + totals["copies"] == out
        return totals


@contextmanager
def lan(home: Home, *options: str, **policies: str) -> Iterator[Lan]:
    """A LAN with a station on a port of each policy."""
    paths = {name: home.root / f"{name}.sock" for name in policies}
    urls = [f"unix://{paths[name]}?single&name={name}&{policy}" for name, policy in policies.items()]
    with home.serve(*options, *urls) as serving, ExitStack() as stack:
        stations = {name: stack.enter_context(connect(f"unix://{path}")) for name, path in paths.items()}
        until(lambda: all(port["up"] for port in home.get("ports")), "every station is plugged in")
        yield Lan(home, stations)
        assert serving.stop() == 0
        assert "Traceback" not in serving.log


def read_all(sock: socket.socket) -> bytes:
    """What can be read at once."""
    found = b""
    while select.select([sock], [], [], 0)[0]:
        data = sock.recv(1 << 18)
        assert data, "the switch closed the connection"
        found += data
    return found


def frame(src: str, dst: str = ALL, payload: Packet | None = None) -> Packet:
    """A frame of a station; without a payload, one that only says that it is there."""
    if payload is None:
        return Ether(src=src, dst=dst, type=EXPERIMENTAL) / Raw(bytes(46))
    return Ether(src=src, dst=dst) / payload


# VLANs

Tag = tuple[type[Packet], int]  # IEEE 802.1Q's C-tag or S-tag, and its VID
C0, C1, C10, C20 = [(Dot1Q, vid) for vid in (0, 1, 10, 20)]
S0, S10, S20 = [(Dot1AD, vid) for vid in (0, 10, 20)]


def tagged(stack: Sequence[Tag], number: int = 0) -> Packet:
    """A broadcast of the attacker's behind a stack of tags, outermost first; it ends with its number."""
    packet = Ether(src=ATTACKER, dst=ALL)
    for kind, vid in stack:
        packet /= kind(vlan=vid)
    packet.lastlayer().type = EXPERIMENTAL
    return packet / Raw(number.to_bytes(46))


VICTIMS_VLAN = 20
# Of each attacker: from the VID of the outermost tag, None without one, to the VLAN that a frame travels in. Others are
# dropped. Only a transparent port is in the victim's VLAN, as in all; it is for peers that may be.
HOPS: list[tuple[dict[str, str], list[Tag], dict[str, dict[int | None, int]]]] = [
    (
        {"access": "vlan=1", "native": "trunk=10&native=1", "transparent": "", "victim": "vlan=20"},
        [C0, C1, C10, C20],
        {
            "access": {None: 1, 0: 1},
            "native": {None: 1, 0: 1, 1: 1, 10: 10},
            "transparent": {None: 1, 0: 1, 1: 1, 10: 10, 20: 20},
        },
    ),
    (
        {"customer": "qinq=100", "access": "vlan=1", "trunk": "trunk=10", "victim": "qinq=20"},
        [C0, C20, S0, S10, S20],
        {
            "customer": {None: 100, 0: 100, 10: 100, 20: 100},
            "access": {None: 1, 0: 1},
            "trunk": {10: 10},
        },
    ),
]


@pytest.mark.parametrize(("ports", "tags", "attackers"), HOPS, ids=["VLANs", "service VLANs"])
def test_no_stack_of_tags_hops_into_a_vlan_that_a_port_does_not_carry(
    home: Home, ports: dict[str, str], tags: list[Tag], attackers: dict[str, dict[int | None, int]]
) -> None:
    """Every stack of up to three tags is tried; a trunk hears in which VLAN the switch has it."""
    every = list(itertools.chain.from_iterable(itertools.product(tags, repeat=size) for size in range(4)))
    with lan(home, **ports, witness="trunk=1,10,20,100") as switch:
        for attacker, travels in attackers.items():
            heard, drops = switch.send(attacker, *(tagged(stack, number) for number, stack in enumerate(every)))
            outermost = [stack[0][1] if stack else None for stack in every]
            passes = {number: travels[vid] for number, vid in enumerate(outermost) if vid in travels}
            assert {number_of(data): vlan_of(data) for data in heard["witness"]} == passes, attacker
            assert drops.get("vlan", 0) == sum(drops.values()) == len(every) - len(passes), attacker
            reached = {number_of(data) for data in heard.get("victim", [])}
            assert reached == {number for number, vlan in passes.items() if vlan == VICTIMS_VLAN}, attacker


def number_of(data: bytes) -> int:
    return int.from_bytes(data[-2:])


def vlan_of(data: bytes) -> int:
    """The VLAN of the outermost tag."""
    return int.from_bytes(data[14:16]) & 0xFFF


def test_a_double_tag_stays_in_its_vlan_on_a_trunk_that_tags_every_vlan(home: Home) -> None:
    """Where the native VLAN loses its tag, the tag below is the first: so guests are not to be in a native VLAN."""
    with lan(home, attacker="vlan=1", victim="vlan=20", trunk="trunk=1,20", native="trunk=20&native=1") as switch:
        heard, drops = switch.send("attacker", tagged([C0, C20]))
        assert heard == {"trunk": [bytes(tagged([C1, C20]))], "native": [bytes(tagged([C20]))]}
        assert drops == {}


# Addresses


def flood(count: int) -> list[bytes]:
    """Frames from as many random addresses, to others, half of them with random tags: macof, and worse."""
    dice = random.Random(1)
    addresses = dice.sample(range(1 << 40), 2 * count)
    plain, in_vlan = bytes(Ether() / IP(dst=VICTIMS_IP) / TCP()), bytes(Ether() / Dot1Q() / IP(dst=VICTIMS_IP) / TCP())
    frames = []
    for number, (source, destination) in enumerate(zip(addresses[:count], addresses[count:], strict=True)):
        head = (0x02 << 40 | destination).to_bytes(6) + (0x06 << 40 | source).to_bytes(6)
        if number % 2:
            frames.append(head + plain[12:])
        else:
            frames.append(head + in_vlan[12:14] + dice.randint(1, 4094).to_bytes(2) + in_vlan[16:])
    return frames


def test_a_flood_of_addresses_evicts_its_own_and_nobody_elses(home: Home) -> None:
    with lan(home, "--table-size", "1024", victim="", attacker="", owner="") as switch:
        switch.send("victim", frame(VICTIM))
        switch.send("owner", frame(OWNER))
        frames = flood(20_000)
        heard, drops = switch.send("attacker", *frames)
        assert (heard, drops) == ({"victim": frames, "owner": frames}, {})
        status = home.get("status")
        assert (status["macs"], status["mac_evictions"], status["mac_moves"]) == (1024, 20_000 + 2 - 1024, 0)
        for name, source, other, destination in (
            ("victim", VICTIM, "owner", OWNER),
            ("owner", OWNER, "victim", VICTIM),
        ):
            said = frame(source, destination)
            assert switch.send(name, said) == ({other: [bytes(said)]}, {})


def test_a_flood_of_addresses_ends_at_the_number_a_port_may_have(home: Home) -> None:
    with lan(home, attacker="max_macs=8", victim="") as switch:
        frames = flood(2000)
        assert switch.send("attacker", *frames) == ({"victim": frames[:8]}, {"max_macs": 1992})
        assert switch.send("attacker", *frames) == ({"victim": frames[:8]}, {"max_macs": 1992})
        assert [entry["port"] for entry in home.get("macs")] == ["attacker"] * 8


STEALING = [
    frame(VICTIM),
    frame(VICTIM, OWNER),
    frame(VICTIM, VICTIM),
    frame(VICTIM, OWNER, Dot1Q(vlan=1, type=EXPERIMENTAL)),
]


@pytest.mark.parametrize(
    ("attacker", "victim", "reason"),
    [
        (f"allow_mac={ATTACKER}", "", "spoofed_mac"),
        ("", "sticky", "sticky"),
        ("", f"static={VICTIM}", "sticky"),
        ("locked", "", "locked"),
    ],
)
def test_frames_for_a_victim_are_not_stolen_by_its_address(home: Home, attacker: str, victim: str, reason: str) -> None:
    with lan(home, attacker=attacker, victim=victim, owner="") as switch:
        switch.send("owner", frame(OWNER))
        if not victim.startswith("static"):  # else nobody needs to have heard of it
            switch.send("victim", frame(VICTIM))
        assert switch.send("attacker", *STEALING) == ({}, {reason: len(STEALING)})
        for_victim = frame(OWNER, VICTIM)
        assert switch.send("owner", for_victim) == ({"victim": [bytes(for_victim)]}, {})
        assert home.get("status")["mac_moves"] == 0


def test_frames_for_a_station_go_where_it_was_heard_last_if_nothing_forbids_it(home: Home) -> None:
    """What the tests above would see if their policies did nothing."""
    with lan(home, attacker="", victim="", owner="") as switch:
        switch.send("owner", frame(OWNER))
        switch.send("victim", frame(VICTIM))
        switch.send("attacker", *STEALING)
        for_victim = frame(OWNER, VICTIM)
        assert switch.send("owner", for_victim) == ({"attacker": [bytes(for_victim)]}, {})
        assert home.get("status")["mac_moves"] == 1


# Who believes whom


def check_told(switch: Lan, lies: dict[str, Packet], reason: str, truths: dict[str, Packet]) -> None:
    """The attacker's lies are heard by nobody and counted; what else it may say reaches whom it would anyway."""
    for name, lie in lies.items():
        assert switch.send("attacker", lie) == ({}, {reason: 1}), name
    for name, truth in truths.items():
        told = [bytes(truth)]
        assert switch.send("attacker", truth) == ({"victim": told, "owner": told}, {}), name


def arp(dst: str = ALL, **fields: Any) -> Packet:
    return frame(ATTACKER, dst, ARP(**{"hwsrc": ATTACKER, "psrc": OWNERS_IP, "pdst": VICTIMS_IP, **fields}))


def test_arp_does_not_claim_the_address_of_another(home: Home) -> None:
    reply: dict[str, Any] = {"op": 2, "hwdst": VICTIM}
    lie = arp()[ARP]
    lies = {
        "gratuitous request": arp(pdst=OWNERS_IP),
        "gratuitous reply": arp(op=2, pdst=OWNERS_IP),
        "reply": arp(VICTIM, **reply),
        "reply in the owner's name": frame(OWNER, VICTIM, ARP(**reply, hwsrc=OWNER, psrc=OWNERS_IP)),
        "reply that names nobody's MAC address": arp(VICTIM, **reply, hwsrc="00:00:00:00:00:00"),
        "request": arp(),
        "request to the victim alone": arp(VICTIM),
        "priority tag": frame(ATTACKER, ALL, Dot1Q(vlan=0, prio=7) / lie),
        "tag of the same VLAN": frame(ATTACKER, ALL, Dot1Q(vlan=1) / lie),
        "two tags": frame(ATTACKER, ALL, Dot1AD(vlan=0) / Dot1Q(vlan=0) / lie),
        "SNAP": Dot3(src=ATTACKER, dst=ALL) / LLC() / SNAP(code=0x0806) / lie,
        "SNAP behind a tag": frame(ATTACKER, ALL, Dot1Q(vlan=0, type=36) / LLC() / SNAP(code=0x0806) / lie),
        "cut off": Raw(bytes(arp())[:40]),
    }
    truths = {
        "request": arp(psrc=ATTACKERS_IP),
        "gratuitous": arp(op=2, psrc=ATTACKERS_IP, pdst=ATTACKERS_IP),
        "probe": arp(psrc="0.0.0.0", pdst=ATTACKERS_IP),
    }
    with lan(home, attacker=f"allow_ip={ATTACKERS_IP}", victim="", owner="") as switch:
        check_told(switch, lies, "spoofed_ip", truths)
        owners = frame(OWNER, ALL, ARP(op=2, hwsrc=OWNER, psrc=OWNERS_IP, pdst=OWNERS_IP))
        assert switch.send("owner", owners) == ({"victim": [bytes(owners)], "attacker": [bytes(owners)]}, {})


def ip6(payload: Packet, src: str = ATTACKERS_LINK_LOCAL, mac: str = ATTACKER) -> Packet:
    return frame(mac, ALL_NODES, IPv6(src=src, dst="ff02::1", hlim=255) / payload)


def advertisement(target: str, **flags: Any) -> Packet:
    return ICMPv6ND_NA(**{"tgt": target, "R": 0, "S": 0, "O": 0, **flags}) / ICMPv6NDOptDstLLAddr(lladdr=ATTACKER)


def test_neighbour_discovery_does_not_claim_the_address_of_another(home: Home) -> None:
    solicitation = ICMPv6ND_NS(tgt="fd00::1") / ICMPv6NDOptSrcLLAddr(lladdr=ATTACKER)
    overriding = advertisement(OWNERS_IP6, O=1)
    lies = {
        "unsolicited": ip6(advertisement(OWNERS_IP6)),
        "overriding": ip6(overriding),
        "solicited": ip6(advertisement(OWNERS_IP6, S=1), OWNERS_IP6),
        "solicited and overriding": ip6(advertisement(OWNERS_IP6, S=1, O=1)),
        "of a router": ip6(advertisement(OWNERS_LINK_LOCAL, R=1, O=1), OWNERS_LINK_LOCAL),
        "from the owner's address": ip6(advertisement(ATTACKERS_IP6), OWNERS_IP6),
        "solicitation from the owner's": ip6(solicitation, OWNERS_IP6),
        "solicitation that keeps an address": ip6(ICMPv6ND_NS(tgt=OWNERS_IP6), "::"),
        "router solicitation from the owner's": ip6(ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=ATTACKER), OWNERS_IP6),
        "behind headers": ip6(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / overriding),
        "atomic fragment": ip6(IPv6ExtHdrFragment() / overriding),
        "priority tag": frame(ATTACKER, ALL_NODES, Dot1Q(vlan=0) / ip6(overriding)[IPv6]),
        "SNAP": Dot3(src=ATTACKER, dst=ALL_NODES) / LLC() / SNAP(code=0x86DD) / ip6(overriding)[IPv6],
    }
    truths = {
        "its own": ip6(advertisement(ATTACKERS_IP6, O=1), ATTACKERS_IP6),
        "its link-local": ip6(advertisement(ATTACKERS_LINK_LOCAL, S=1, O=1)),
        "looking for the owner": ip6(ICMPv6ND_NS(tgt=OWNERS_IP6)),
    }
    with lan(home, attacker=f"allow_ip={ATTACKERS_IP6}", victim="", owner="") as switch:
        check_told(switch, lies, "spoofed_ip", truths)


def test_who_has_neither_the_mac_nor_the_ip_address_of_another_does_not_get_its_link_local_one(home: Home) -> None:
    """A link-local address follows from a MAC address, so allow_ip alone leaves it to whoever takes that."""
    policy = f"allow_ip={ATTACKERS_IP6}&allow_mac={ATTACKER}"
    with lan(home, attacker=policy, victim="", owner="") as switch:
        claim = advertisement(OWNERS_LINK_LOCAL, O=1)
        assert switch.send("attacker", ip6(claim, OWNERS_LINK_LOCAL)) == ({}, {"spoofed_ip": 1})
        assert switch.send("attacker", ip6(claim, OWNERS_LINK_LOCAL, OWNER)) == ({}, {"spoofed_mac": 1})


def dhcp(kind: str, src: str = ATTACKER, dst: str = ALL) -> Packet:
    server = kind in ("offer", "ack", "nak")
    ports = UDP(sport=67, dport=68) if server else UDP(sport=68, dport=67)
    message = BOOTP(op=2 if server else 1) / DHCP(options=[("message-type", kind), ("router", ATTACKERS_IP), "end"])
    return frame(src, dst, IP(src=ATTACKERS_IP if server else "0.0.0.0", dst="255.255.255.255") / ports / message)


def test_dhcp_comes_from_its_server_alone(home: Home) -> None:
    offer = dhcp("offer")
    with_options = IP(src=ATTACKERS_IP, dst=VICTIMS_IP, options=[IPOption_Router_Alert()])
    lies = {
        "offer": offer,
        "offer to the victim alone": dhcp("offer", dst=VICTIM),
        "acknowledgement": dhcp("ack"),
        "refusal": dhcp("nak"),
        "in the server's name": dhcp("ack", src=OWNER),
        "from another port": frame(ATTACKER, ALL, IP(dst=VICTIMS_IP) / UDP(sport=6767, dport=68) / offer[BOOTP]),
        "behind options": frame(ATTACKER, ALL, with_options / offer[UDP]),
        "priority tag": frame(ATTACKER, ALL, Dot1Q(vlan=0) / offer[IP]),
        "DHCPv6": ip6(UDP(sport=547, dport=546) / DHCP6_Advertise()),
        "DHCPv6 behind headers": ip6(IPv6ExtHdrHopByHop() / UDP(sport=547, dport=546) / DHCP6_Advertise()),
    }
    guarded = "dhcp_server=no"
    with lan(home, attacker=guarded, victim=guarded, owner="") as switch:
        check_told(switch, lies, "dhcp_server", {"discover": dhcp("discover"), "request": dhcp("request")})
        asked, offered = dhcp("discover", src=VICTIM), dhcp("offer", src=OWNER, dst=VICTIM)
        assert "owner" in switch.send("victim", asked).heard
        assert switch.send("owner", offered) == ({"victim": [bytes(offered)]}, {})

        # What is left of an offer in fragments is nothing without its head.
        head, *rest = (frame(ATTACKER, ALL, part) for part in fragment(offer[IP], 64))  # type: ignore[no-untyped-call]
        heard = list(map(bytes, rest))
        assert len(heard) > 1
        assert switch.send("attacker", head, *rest) == ({"victim": heard, "owner": heard}, {"dhcp_server": 1})


def test_ways_are_shown_by_the_router_alone(home: Home) -> None:
    message = ICMPv6ND_RA(prf=1) / ICMPv6NDOptPrefixInfo(prefix="fd66::") / ICMPv6NDOptSrcLLAddr(lladdr=ATTACKER)
    redirect = ICMPv6ND_Redirect(tgt=ATTACKERS_LINK_LOCAL, dst=OWNERS_IP6)
    redirect4 = IP(src=OWNERS_IP, dst=VICTIMS_IP) / ICMP(type=5, code=1, gw=ATTACKERS_IP) / IP(dst=OWNERS_IP) / UDP()
    lies = {
        "advertisement": ip6(message),
        "in the router's name": ip6(message, OWNERS_LINK_LOCAL, OWNER),
        "behind a hop-by-hop header": ip6(IPv6ExtHdrHopByHop() / message),
        "behind headers": ip6(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / message),
        "atomic fragment": ip6(IPv6ExtHdrFragment() / message),
        "redirect": ip6(redirect, OWNERS_LINK_LOCAL),
        "ICMP redirect": frame(ATTACKER, ALL, redirect4),
        "ICMP advertisement": frame(ATTACKER, ALL, IP(src=ATTACKERS_IP, dst="224.0.0.1") / ICMP(type=9)),
        "priority tag": frame(ATTACKER, ALL_NODES, Dot1Q(vlan=0) / ip6(message)[IPv6]),
        "two tags": frame(ATTACKER, ALL_NODES, Dot1AD(vlan=0) / Dot1Q(vlan=0) / ip6(message)[IPv6]),
        "SNAP": Dot3(src=ATTACKER, dst=ALL_NODES) / LLC() / SNAP(code=0x86DD) / ip6(message)[IPv6],
    }
    with lan(home, attacker="router=no", victim="router=no", owner="") as switch:
        check_told(switch, lies, "router", {"looking for one": ip6(ICMPv6ND_RS())})
        routers = bytes(ip6(message, OWNERS_LINK_LOCAL, OWNER))
        assert switch.send("owner", routers) == ({"attacker": [routers], "victim": [routers]}, {})

        # Neither a fragment that starts with the message, nor one that has only headers before it.
        for padding in (0, 64):
            headers = IPv6ExtHdrFragment(id=1) / IPv6ExtHdrDestOpt(options=PadN(optdata=bytes(padding)))
            packet = ip6(headers / message / Raw(bytes(64)))[IPv6]
            head, *rest = (frame(ATTACKER, ALL_NODES, part) for part in fragment6(packet, 120))  # type: ignore[no-untyped-call]
            heard = list(map(bytes, rest))
            assert heard
            assert switch.send("attacker", head, *rest) == ({"victim": heard, "owner": heard}, {"router": 1})


# What a bridge keeps to itself, and what it keeps apart


def test_what_is_said_to_the_bridge_is_not_forwarded_unless_a_port_asks_for_it(home: Home) -> None:
    """Slow protocols (LACP, 02), port access (03), LLDP (0E): but spanning tree (00), as none runs here."""
    groups = [frame(ATTACKER, f"01:80:c2:00:00:{last:02x}") for last in range(17)]
    beyond = [bytes(groups[0]), bytes(groups[16])]
    with lan(home, attacker="", victim="", open="reserved=forward") as switch:
        heard = {"victim": beyond, "open": beyond}
        assert switch.send("attacker", *groups) == (heard, {"reserved": 15})
        in_vlan = [frame(ATTACKER, group.dst, Dot1Q(vlan=0, type=EXPERIMENTAL) / Raw(bytes(46))) for group in groups]
        assert switch.send("attacker", *in_vlan[1:16]) == ({}, {"reserved": 15})
        every = list(map(bytes, groups))
        assert switch.send("open", *every) == ({"victim": every, "attacker": every}, {})


def test_a_storm_of_broadcasts_is_held_back_and_what_is_for_one_station_is_not(home: Home) -> None:
    with lan(home, attacker="storm_broadcast=50fps&burst=200ms", victim="") as switch:
        switch.send("victim", frame(VICTIM))
        started = time.monotonic()
        heard, drops = switch.send("attacker", *[frame(ATTACKER)] * 1000)
        passed = len(heard["victim"])
        assert 10 <= passed <= 11 + 50 * (time.monotonic() - started)  # a burst, and what may come meanwhile
        assert drops == {"storm": 1000 - passed}
        for_victim = [bytes(frame(ATTACKER, VICTIM))] * 100
        assert switch.send("attacker", *for_victim) == ({"victim": for_victim}, {})


def test_isolated_guests_do_not_reach_each_other_in_any_way(home: Home) -> None:
    groups = [ALL, ALL_NODES, "01:00:5e:00:00:01", "01:80:c2:00:00:00"]
    of_vlan_1: list[list[Tag]] = [[], [C0], [C1], [C0, C1], [C1, C10], [S10], [S10, C1]]  # where the victim is known
    of_others: list[list[Tag]] = [[C10], [C10, C1], [(Dot1Q, 4094)]]
    with lan(home, attacker="isolated", victim="isolated", owner="") as switch:
        for name, mac in (("attacker", ATTACKER), ("victim", VICTIM), ("owner", OWNER)):
            switch.send(name, frame(mac))
        for destination in (*groups, VICTIM, "52:54:00:00:00:99"):
            for stack in of_vlan_1 + of_others:
                packet = tagged(stack)
                packet.dst = destination
                known = destination == VICTIM and stack in of_vlan_1
                expected = ({}, {"isolated": 1}) if known else ({"owner": [bytes(packet)]}, {})
                assert switch.send("attacker", packet) == expected, (destination, stack)

        # Not even in the name of whom both may talk to; and it can talk to both.
        switch.send("attacker", frame(OWNER))
        assert switch.send("victim", frame(VICTIM, OWNER)) == ({}, {"isolated": 1})
        for name, mac in (("attacker", ATTACKER), ("victim", VICTIM)):
            said = frame(OWNER, mac)
            assert switch.send("owner", said) == ({name: [bytes(said)]}, {})
