"""Each policy by the real program: what guests send, what arrives, and what the program says of it."""

import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.cli.program import Home, check_refused, connect
from tests.frames import BROADCAST, frame, framed, mac
from tests.waiting import until

MULTICAST, NOBODY, LLDP = 0x0100_5E00_0001, mac(99), 0x0180_C200_000E
ONE = "52:54:00:00:00:01"  # as mac(1) is written


class Guest:
    """A guest on a unix socket, in QEMU's framing."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stream = sock.makefile("rb")

    def send(self, *frames: bytes) -> None:
        self._sock.sendall(framed(frames))

    def receive(self, count: int) -> list[bytes]:
        """The next `count` frames."""
        return [self._stream.read(int.from_bytes(self._stream.read(4))) for _ in range(count)]


@contextmanager
def plugged_in(home: Home, *sockets: str) -> Iterator[list[Guest]]:
    """A guest on each of these; there are no others."""
    with ExitStack() as stack:
        until(lambda: not peers(home), "the guests before are gone")
        guests = [Guest(stack.enter_context(connect(f"unix://{home.root}/{name}.sock"))) for name in sockets]
        until(lambda: len(peers(home)) == len(sockets), "the guests are plugged in")
        yield guests


def urls(parameters: Mapping[str, str]) -> list[str]:
    """Endpoints by their names and policies."""
    return [f"unix://{name}.sock?single=yes&name={name}&{policy}" for name, policy in parameters.items()]


def ports(home: Home) -> dict[str, Any]:
    return {port["name"]: port for port in home.get("ports")}


def peers(home: Home) -> list[str]:
    return [port["peer"] for port in home.get("ports") if port["peer"] is not None]


def check_balance(status: dict[str, Any]) -> None:
    totals = status["totals"]
    gone = totals["tx_frames"] + totals["queued_frames"] + sum(totals["drops"].values())
    assert totals["rx_frames"] + totals["copies"] == gone


def rows(table: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]


# Two guests, and a policy for one of them


def to_all(packet: Packet) -> bytes:
    return bytes(Ether(src=ONE, dst="ff:ff:ff:ff:ff:ff") / packet)


HELLO, HELLO_2 = frame(BROADCAST, mac(1)), frame(BROADCAST, mac(2))
TO_ALL, TO_NOBODY = frame(MULTICAST, mac(1)), frame(NOBODY, mac(1))
NEIGHBOUR = frame(LLDP, mac(1))
LONG, LONGER = frame(BROADCAST, mac(1), 100), frame(BROADCAST, mac(1), 101)
SHORT = frame(BROADCAST, mac(1), 20)
OWN_ARP, FOREIGN_ARP = (to_all(ARP(hwsrc=ONE, psrc=address, pdst="10.0.0.9")) for address in ("10.0.0.1", "10.0.0.2"))
DISCOVER = to_all(IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP() / DHCP())
OFFER = to_all(IP(src="10.0.0.1", dst="255.255.255.255") / UDP(sport=67, dport=68) / BOOTP(op=2) / DHCP())
ROUTER = to_all(IPv6(src="fe80::1", dst="ff02::1") / ICMPv6ND_RA())


class Case(NamedTuple):
    """What two ports have for policies, what is sent by the first and arrives at the other, and what each drops."""

    policies: tuple[str, str]
    sent: list[bytes]
    arrives: list[bytes]
    drops: Mapping[str, int] = {}
    drops_out: Mapping[str, int] = {}


CASES = [
    Case(("", ""), [NEIGHBOUR, HELLO], [HELLO], {"reserved": 1}),
    Case(("reserved=forward", ""), [NEIGHBOUR, HELLO], [NEIGHBOUR, HELLO]),
    Case(("up=no", ""), [HELLO], [], {"port_down": 1}),
    Case(("", "up=no"), [HELLO], [], {"no_destination": 1}),
    Case(("isolated", ""), [HELLO], [HELLO]),
    Case(("isolated", "isolated"), [HELLO], [], {"no_destination": 1}),
    Case(("isolated", "isolated&static=52:54:00:00:00:63"), [TO_NOBODY], [], {"isolated": 1}),
    Case(("rate=1fps", ""), [HELLO, TO_ALL, TO_NOBODY], [HELLO], {"rate_limit": 2}),
    Case(("rate=2fps&burst=1500ms", ""), [HELLO] * 5, [HELLO] * 3, {"rate_limit": 2}),
    Case(("rate=1bit/s", ""), [LONG, SHORT], [LONG], {"rate_limit": 1}),
    Case(("storm_broadcast=1fps", ""), [HELLO, HELLO, TO_ALL, TO_ALL], [HELLO, TO_ALL, TO_ALL], {"storm": 1}),
    Case(("storm_multicast=1fps", ""), [TO_ALL, TO_ALL, HELLO, HELLO], [TO_ALL, HELLO, HELLO], {"storm": 1}),
    Case(("storm_unknown=1fps", ""), [TO_NOBODY, TO_NOBODY, HELLO], [TO_NOBODY, HELLO], {"storm": 1}),
    Case(("max_frame=100", ""), [LONGER, LONG], [LONG], {"too_long": 1}),
    Case(("", "max_frame=100"), [LONGER, LONG], [LONG], {}, {"too_long": 1}),
    Case(("", "pad=yes"), [SHORT, LONG], [SHORT.ljust(60, b"\0"), LONG]),
    Case(("max_macs=1", ""), [HELLO, HELLO_2, TO_ALL], [HELLO, TO_ALL], {"max_macs": 1}),
    Case((f"locked&static={ONE}", ""), [HELLO_2, HELLO], [HELLO], {"locked": 1}),
    Case((f"allow_mac={ONE}", ""), [HELLO_2, HELLO], [HELLO], {"spoofed_mac": 1}),
    Case(("allow_ip=10.0.0.1", ""), [FOREIGN_ARP, OWN_ARP, HELLO], [OWN_ARP, HELLO], {"spoofed_ip": 1}),
    Case(("dhcp_server=no", ""), [OFFER, DISCOVER, ROUTER], [DISCOVER, ROUTER], {"dhcp_server": 1}),
    Case(("router=no", ""), [ROUTER, OFFER], [OFFER], {"router": 1}),
    Case(("", ""), [OFFER, ROUTER, FOREIGN_ARP, HELLO_2, LONGER], [OFFER, ROUTER, FOREIGN_ARP, HELLO_2, LONGER]),
]


@pytest.fixture(scope="module")
def cases() -> Iterator[Home]:
    """One switch for all cases: each has a VLAN of its own, by its number, with a port for each end."""
    ends = {
        f"{end}{vlan}": f"vlan={vlan}&{policy}"
        for vlan, case in enumerate(CASES, 1)
        for end, policy in zip("ab", case.policies, strict=True)
    }
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as root:
        home = Home(Path(root))
        with home.serve(*urls(ends)):
            yield home


@pytest.mark.parametrize(
    ("vlan", "case"), [pytest.param(vlan, case, id=" to ".join(case.policies)) for vlan, case in enumerate(CASES, 1)]
)
def test_a_port_does_what_its_policy_says(cases: Home, vlan: int, case: Case) -> None:
    one, other = f"a{vlan}", f"b{vlan}"
    with plugged_in(cases, one, other) as (sender, receiver):
        sender.send(*case.sent)
        until(lambda: ports(cases)[one]["rx_frames"] == len(case.sent), "the frames are in")
        assert receiver.receive(len(case.arrives)) == case.arrives
        shown = ports(cases)
        assert (shown[one]["drops"], shown[other]["drops"]) == (case.drops, case.drops_out)
        assert shown[other]["tx_frames"] == len(case.arrives)
        assert [shown[name]["up"] for name in (one, other)] == ["up=no" not in policy for policy in case.policies]
        check_balance(cases.get("status"))


# Three guests and more


@contextmanager
def serve(home: Home, endpoints: Mapping[str, str]) -> Iterator[list[Guest]]:
    """A switch with these endpoints, by name and policy, and a guest on each."""
    with home.serve(*urls(endpoints)), plugged_in(home, *endpoints) as guests:
        yield guests
        check_balance(home.get("status"))


def tagged(frame: bytes, vlan: int, tpid: int = 0x8100) -> bytes:
    return frame[:12] + tpid.to_bytes(2) + vlan.to_bytes(2) + frame[12:]


VLANS = ("web", "db", "uplink", "mixed")
VLAN_URLS = ("vlan=10", "vlan=20", "trunk=10,20,30", "trunk=10&native=20")
VLAN_TOML = """
[[endpoint]]
url = "unix://web.sock?single"
name = "web"
vlan = 10

[[endpoint]]
url = "unix://db.sock?name=db&vlan=20"
single = true

[[endpoint]]
url = "unix://uplink.sock?single&name=uplink"
trunk = [10, 20, 30]

[[endpoint]]
url = "unix://mixed.sock?single&name=mixed"
trunk = 10
native = 20

[[endpoint]]
url = "unix://tap.sock?single&name=tap"
mirror_of = "db"
"""


@pytest.fixture
def vlans(home: Home, request: pytest.FixtureRequest) -> Iterator[Home]:
    """Two access ports and two trunks."""
    (home.root / "lan.toml").write_text(VLAN_TOML)
    by_url = urls(dict(zip(VLANS, VLAN_URLS, strict=True)))
    with home.serve(*by_url if request.param == "URLs" else ["--config", "lan.toml"]):
        yield home


@pytest.mark.parametrize("vlans", ["URLs", "TOML"], indirect=True)
def test_frames_cross_between_access_ports_and_trunks_and_stay_in_their_vlan(vlans: Home) -> None:
    answer = frame(mac(1), mac(3))
    with plugged_in(vlans, *VLANS) as (web, db, uplink, mixed):
        web.send(tagged(HELLO, 10), HELLO)
        assert uplink.receive(1) == mixed.receive(1) == [tagged(HELLO, 10)]
        uplink.send(answer, tagged(answer, 40), tagged(answer, 20), tagged(answer, 0x6000 | 10))
        assert db.receive(1) == mixed.receive(1) == [answer]  # in VLAN 20 nobody knows where station 1 is
        assert web.receive(1) == [answer]
        mixed.send(HELLO_2)
        assert db.receive(1) == [HELLO_2]
        assert uplink.receive(1) == [tagged(HELLO_2, 20)]
        shown = ports(vlans)
        assert [shown[name]["tx_frames"] for name in VLANS] == [1, 2, 2, 2]
        assert [shown[name]["drops"] for name in VLANS] == [{"vlan": 1}, {}, {"vlan": 2}, {}]
        check_balance(vlans.ask("status"))


@pytest.mark.parametrize("vlans", ["TOML"], indirect=True)
def test_what_vlans_there_are_is_shown(vlans: Home) -> None:
    assert {port["name"]: port["vlan"] for port in vlans.ask("ports")} == {
        "web": {"mode": "access", "access": 10, "native": None, "tagged": []},
        "db": {"mode": "access", "access": 20, "native": None, "tagged": []},
        "uplink": {"mode": "trunk", "access": None, "native": None, "tagged": [10, 20, 30]},
        "mixed": {"mode": "trunk", "access": None, "native": 20, "tagged": [10]},
        "tap": {"mode": "transparent", "access": None, "native": None, "tagged": "all"},
    }
    assert vlans.ask("vlans") == [
        {"vlan": 10, "untagged": ["web"], "tagged": ["uplink", "mixed"]},
        {"vlan": 20, "untagged": ["db", "mixed"], "tagged": ["uplink"]},
        {"vlan": 30, "untagged": [], "tagged": ["uplink"]},
    ]
    assert rows(vlans.run("vlans").stdout) == [
        ["VLAN", "UNTAGGED", "TAGGED"],
        ["10", "web", "uplink, mixed"],
        ["20", "db, mixed", "uplink"],
        ["30", "-", "uplink"],
    ]
    shown = [row[3] for row in rows(vlans.run("ports").stdout)]
    assert shown == ["VLAN", "10", "20", "trunk 10,20,30", "trunk 10 native 20", "-"]


def test_where_no_port_names_a_vlan_none_is_shown(home: Home) -> None:
    with home.serve(*urls({"web": "isolated", "tap": "mirror_of=web"})):
        assert home.get("vlans") == []
        assert rows(home.run("vlans").stdout) == [["VLAN", "UNTAGGED", "TAGGED"]]


@pytest.mark.parametrize(("parameter", "tpid"), [("", 0x88A8), ("&tpid=0x9100", 0x9100)])
def test_what_a_customer_sends_is_under_the_service_tag_with_its_own_tag_kept(
    home: Home, parameter: str, tpid: int
) -> None:
    parameters = {"one": f"qinq=100{parameter}", "other": f"qinq=200{parameter}", "core": "trunk=all"}
    with serve(home, parameters) as (one, other, core):
        one.send(tagged(HELLO, 5), HELLO)
        assert core.receive(2) == [tagged(tagged(HELLO, 5), 100, tpid), tagged(HELLO, 100, tpid)]
        for vlan, customer in ((100, one), (200, other)):
            core.send(tagged(tagged(HELLO_2, vlan), vlan, tpid))
            assert customer.receive(1) == [tagged(HELLO_2, vlan)]
        assert [ports(home)[name]["tx_frames"] for name in parameters] == [1, 1, 2]
        assert ports(home)["one"]["vlan"] == {"mode": "qinq", "access": 100, "native": None, "tagged": []}
        assert ports(home)["core"]["vlan"]["tagged"] == "all"


def test_isolated_ports_reach_the_others_only(home: Home) -> None:
    with serve(home, {"one": "isolated", "other": "isolated", "uplink": ""}) as (one, other, uplink):
        one.send(HELLO)
        assert uplink.receive(1) == [HELLO]
        other.send(HELLO_2, frame(mac(1), mac(2)))
        assert uplink.receive(1) == [HELLO_2]
        until(lambda: ports(home)["other"]["drops"] == {"isolated": 1}, "the frame between them is dropped")
        uplink.send(answer := frame(mac(1), mac(3)))
        assert one.receive(1) == [answer]
        assert ports(home)["other"]["tx_frames"] == 0


def test_a_mirror_gets_what_comes_in_what_goes_out_or_both(home: Home) -> None:
    mirrors = {mode: f"mirror_of=web&mirror={mode}" for mode in ("in", "out", "both")}
    with serve(home, {"web": "rate=1fps", "db": "", **mirrors}) as (web, db, of_in, of_out, of_both):
        request, answer = frame(mac(2), mac(1)), frame(mac(1), mac(2))
        db.send(HELLO_2)
        assert web.receive(1) == of_out.receive(1) == of_both.receive(1) == [HELLO_2]
        web.send(request, request)
        assert db.receive(1) == [request]
        assert of_in.receive(2) == of_both.receive(2) == [request, request]  # also what is dropped
        db.send(answer)
        assert web.receive(1) == of_out.receive(1) == of_both.receive(1) == [answer]
        of_both.send(HELLO)
        until(lambda: ports(home)["both"]["drops"] == {"mirror": 1}, "what a mirror sends is dropped")
        assert [ports(home)[mode]["tx_frames"] for mode in mirrors] == [2, 2, 4]
        assert home.get("status")["totals"]["copies"] == 8
        assert [station["port"] for station in home.get("macs")] == ["web", "db"]


def test_a_mirror_of_a_listener_has_all_its_guests(home: Home) -> None:
    endpoints = ["unix://lan.sock?name=lab", *urls({"tap": "mirror_of=lab&mirror=in"})]
    with home.serve(*endpoints), plugged_in(home, "tap", "lan", "lan") as (tap, one, other):
        for guest, hello in ((one, HELLO), (other, HELLO_2)):
            guest.send(hello)
            assert tap.receive(1) == [hello]


def test_stations_stay_where_they_are_static_or_were_learned_to_stick(home: Home) -> None:
    parameters = {"web": f"static={ONE}", "db": "sticky", "vm": ""}
    with serve(home, parameters) as (web, db, vm):
        (static,) = home.ask("macs")
        assert static == {"mac": ONE, "vlan": 1, "port": "web", "age_s": None, "static": True}
        assert rows(home.run("macs").stdout)[1] == [ONE, "1", "web", "static"]
        vm.send(hello := frame(mac(1), mac(3)))
        assert web.receive(1) == [hello]  # and nobody else, though station 1 has never said a word
        db.send(HELLO_2)
        assert web.receive(1) == vm.receive(1) == [HELLO_2]
        vm.send(HELLO, HELLO_2, answer := frame(mac(2), mac(3)))
        assert db.receive(1) == [answer]
        assert [ports(home)[name]["drops"] for name in parameters] == [{}, {}, {"sticky": 2}]
        assert [(station["port"], station["static"]) for station in home.get("macs")] == [
            ("web", True),
            ("db", False),
            ("vm", False),
        ]


# What is written wrongly


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unix://vm.sock?vlan=4095"], "vlan: '4095' is not a number from 1 to 4094"),
        (["unix://vm.sock?vlan=10&trunk=20"], "vlan and trunk do not go together"),
        (["unix://vm.sock?rate=1000"], "rate: '1000' has no unit; write 1000Mbit/s"),
        (["unix://lan.sock?static=52:54:00:00:00:01"], "static: an address is behind one port"),
        (["unix://tap.sock?name=tap&mirror_of=web"], "mirror_of: there is no endpoint 'web'; there are tap"),
        (urls({"a": f"static={ONE}", "b": f"static={ONE}"}), "static: 52:54:00:00:00:01 is behind a already"),
        (urls({"a": "qinq=10", "b": "qinq=10&tpid=0x9100"}), "tpid: all qinq ports have the same; a has 0x88a8"),
        (["--table-size", "1", *urls({"a": f"static={ONE},52:54:00:00:00:02"})], "make the MAC table larger"),
        (["--config", "wrong.toml"], "wrong.toml:3: [[endpoint]] 1: unix://vm.sock: native goes with trunk"),
    ],
)
def test_what_is_written_wrongly_is_exit_code_2_and_one_line(home: Home, arguments: list[str], said: str) -> None:
    (home.root / "wrong.toml").write_text('[[endpoint]]\nurl = "unix://vm.sock"\nnative = 10\n')
    check_refused(home, *arguments, code=2, said=said)
    assert not home.control().exists()
    assert not list(home.root.glob("*.sock"))
