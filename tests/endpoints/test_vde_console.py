"""The management commands of a VDE switch: what a user, or a program that reads the replies, gets to see."""

import os
import pwd
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from trio.testing import MockClock

from tests.frames import BROADCAST, frame, mac
from tests.vde2 import real_switch
from tests.waiting import until
from vswitch.dataplane.frame import VLAN_ZERO
from vswitch.dataplane.mac_table import mac_key
from vswitch.endpoints.url import parse
from vswitch.endpoints.vde.console import BANNER, COMMANDS, Console
from vswitch.endpoints.vde.managed import VdePeer
from vswitch.endpoints.vde.vlans import Holder, VdePort, VdeVlans
from vswitch.ports.policy import Policy, StaticMac
from vswitch.ports.port import SwitchPort, now_ms
from vswitch.ports.ports import Ports

DATA = r"0000 DATA END WITH '\.'\n(?:(?!\.\n).*\n)*\.\n"
WELL_FORMED = re.compile(rf"(?:{DATA})?1\d\d\d [^\n]+\n")


class Lan:
    """A switch with one VDE endpoint, as far as a console looks."""

    def __init__(self, table_size: int = 8192, /, **parameters: str) -> None:
        self.config = parse("vde:///run/lan", parameters)
        self.ports = Ports(table_size=table_size, ageing_s=300)
        self.vlans = VdeVlans()
        self.started_s = trio.current_time()
        self._peers: list[VdePeer] = []

    def peers(self) -> Sequence[VdePeer]:
        return self._peers

    def plug(self, description: str = "qemu user=ann pid=7", user: str = "ann") -> VdePeer:
        number = self.vlans.lowest_free({peer.number for peer in self._peers})
        policy = self.vlans.policy(number, self.config.policy, self.config.policy)
        port = self.ports.add_numbered("lan", replace(self.config, policy=policy))
        self.vlans = self.vlans.with_port(number, self.vlans.ports.get(number, VdePort()))
        self._peers.append(VdePeer(number, user, description, port))
        return self._peers[-1]

    def learn(self, address: int, port: SwitchPort, vlan: int = 1) -> None:
        self.ports.table.learn(mac_key(vlan, address), port.port.index, now_ms())

    def ask(self, line: str | bytes) -> str:
        data = line.encode() if isinstance(line, str) else line
        return b"".join(Console(self).answer(data)).decode()

    def data(self, line: str) -> list[str]:
        """The lines in the data block of a command that succeeds."""
        reply = self.ask(line)
        assert reply.startswith("0000 DATA END WITH '.'\n")
        assert reply.endswith("\n.\n1000 Success\n")
        return reply.splitlines()[1:-2]

    def unplug(self, peer: VdePeer) -> None:
        self._peers.remove(peer)
        self.ports.remove(peer.port)

    def policies(self) -> list[Policy]:
        return [peer.port.policy for peer in self._peers]

    def close(self) -> None:
        for port in list(self.ports):
            self.ports.remove(port)
        self.ports.close()


@pytest.fixture
async def lan() -> AsyncIterator[Lan]:
    lan = Lan()
    yield lan
    lan.close()


@pytest.mark.parametrize("line", ["", " ", "\t", "\r", "#", "# comment", "  # comment", "#showinfo", "\0showinfo"])
async def test_a_line_that_says_nothing_has_no_reply(lan: Lan, line: str) -> None:
    assert lan.ask(line) == ""


@pytest.mark.parametrize(
    "line", ["version", "port", "port/", "port/show", "SHOWINFO", "hash/getsize", "?", "\xff", "x" * 5000]
)
async def test_what_is_no_command(lan: Lan, line: str) -> None:
    assert lan.ask(line) == "1038 Function not implemented\n"


@pytest.mark.parametrize("line", ["port/showinfo", " \tport/showinfo \r", "port/showinfo of lan", "port/showinfo\0x"])
async def test_blanks_and_what_is_too_much_do_not_matter(lan: Lan, line: str) -> None:
    assert lan.ask(line) == "0000 DATA END WITH '.'\nNumports=256\nHUB=false\ncounters=true\n.\n1000 Success\n"


async def test_ports_are_printed_as_vde_switch_does(lan: Lan) -> None:
    lan.plug()
    counters = lan.plug("", "1000").port.port
    counters.rx_frames, counters.rx_bytes, counters.tx_frames, counters.tx_bytes = 1, 64, 10**10, 2**60
    lan.ports.add("other", "other", parse("tcp://127.0.0.1:1234"))
    second = [
        "Port 0002 untagged_vlan=0000 ACTIVE - Unnamed Allocatable",
        " Current User: 1000 Access Control: (User: NONE - Group: NONE)",
        " IN:  pkts          1          bytes                   64",
        " OUT: pkts 10000000000          bytes  1152921504606846976",
        f"  -- endpoint ID {counters.index:04d} module unix prog   : ",
    ]
    assert lan.data("port/print") == lan.data("port/allprint")
    assert len(lan.data("port/print")) == 10
    assert lan.data("port/print")[4].endswith(" module unix prog   : qemu user=ann pid=7")
    assert lan.data("port/print")[5:] == lan.data("port/print 2") == lan.data("port/print 0002") == second


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("port/print 3", "1006 No such device or address"),
        ("port/print 0", "1006 No such device or address"),
        ("port/print 99999", "1006 No such device or address"),
        ("port/print x", "1022 Invalid argument: a number from 0 to 99999 is needed"),
        ("port/print -1", "1022 Invalid argument: a number from 0 to 99999 is needed"),
        ("port/print \u0661", "1022 Invalid argument: a number from 0 to 99999 is needed"),
        ("port/print " + "9" * 4000, "1022 Invalid argument: a number from 0 to 99999 is needed"),
        ("vlan/print 7", "1006 No such device or address"),
        ("vlan/print 4095", "1022 Invalid argument: a number from 0 to 4094 is needed"),
        ("vlan/allprint 7", "1006 No such device or address"),
        ("port/allprint 3", "1006 No such device or address"),
        ("hash/find", "1022 Invalid argument: write an address like 52:54:00:12:34:56"),
        ("hash/find 52:54:00:12:34", "1022 Invalid argument: write an address like 52:54:00:12:34:56"),
        ("hash/find 52:54.00:12:34:56", "1022 Invalid argument: write an address like 52:54:00:12:34:56"),
        ("hash/find 52:54:00:12:34:56", "1019 No such device"),
        ("hash/find 52:54:00:12:34:56 4095", "1022 Invalid argument: a number from 0 to 4094 is needed"),
    ],
)
async def test_a_question_without_an_answer_has_an_empty_block_and_a_code(lan: Lan, line: str, reply: str) -> None:
    lan.plug()
    assert lan.ask(line) == f"0000 DATA END WITH '.'\n.\n{reply}\n"


@pytest.mark.parametrize(
    "line", ["port/sethub", "port/sethub 2", "port/sethub x", "hash/setexpire 0", "hash/setexpire"]
)
async def test_a_wrong_value_changes_nothing(lan: Lan, line: str) -> None:
    assert re.fullmatch(r"1022 Invalid argument: a number from \d to \d+ is needed\n", lan.ask(line))
    assert not lan.ports.bridge.hub
    assert lan.ports.table.ageing == 300_000


async def test_stations_are_printed_as_vde_switch_does(lan: Lan, mock_clock: MockClock) -> None:
    peer = lan.plug()
    lan.learn(mac(1), peer.port)
    mock_clock.jump(3.9)
    lan.learn(mac(2), peer.port, vlan=10)
    home = lan.ports.table.home(mac_key(1, mac(1)))
    first = f"Hash: {home:04d} Addr: 52:54:00:00:00:01 VLAN 0000 to port: 001  age 3 secs"
    assert first in lan.data("hash/print")
    assert len(lan.data("hash/print")) == 2
    for line in ("52:54:00:00:00:01", "52.54.0.0.0.1", "52:54:0:0:0:1 0", " 52:54:00:00:00:01 1"):
        assert lan.data(f"hash/find {line}") == [first]
    assert "VLAN 0010 to port: 001  age 0 secs" in lan.data("hash/find 52:54:00:00:00:02 10")[0]
    assert lan.ask("hash/find 52:54:00:00:00:02").endswith("1019 No such device\n")


async def test_a_station_behind_another_endpoint_is_on_no_port_of_this_one(lan: Lan) -> None:
    lan.learn(mac(1), lan.ports.add("web", "web", parse("tcp://127.0.0.1:1234")))
    [line] = lan.data("hash/print")
    assert line.endswith(" to port: 000  age 0 secs  (web)")


async def test_a_large_table_comes_in_portions() -> None:
    lan = Lan(100_000)
    peer = lan.plug()
    for number in range(100_000):
        lan.learn(number, peer.port)
    portions = list(Console(lan).answer(b"hash/print"))
    assert max(map(len, portions)) < 50_000
    assert b"".join(portions).count(b"\nHash: ") == 100_000
    for number in (0, 99_999, 50_000):
        [line] = lan.data("hash/find " + number.to_bytes(6).hex(":"))
        assert number.to_bytes(6).hex(":") in line
    lan.close()


@pytest.mark.parametrize("portion_slots", [1, 512])
async def test_a_station_is_found_wherever_it_is_in_a_full_table(
    monkeypatch: pytest.MonkeyPatch, portion_slots: int
) -> None:
    monkeypatch.setattr("vswitch.endpoints.vde.console.PORTION_SLOTS", portion_slots)
    for seed in range(50):
        monkeypatch.setattr(secrets, "randbits", lambda _, seed=seed: seed * 2**55 // 50)
        lan = Lan(8)
        peer = lan.plug()
        for number in range(8):
            lan.learn(mac(number), peer.port)
        for number in range(8):
            assert len(lan.data(f"hash/find 52:54:00:00:00:{number:02}")) == 1
        lan.close()


async def test_a_peer_that_leaves_while_ports_and_stations_are_printed_does_not_matter(lan: Lan) -> None:
    for number in range(10):
        lan.learn(mac(number), lan.plug().port)
    for line in (b"port/print", b"hash/print", b"vlan/print"):
        reply = Console(lan).answer(line)
        found = next(reply)
        for peer in lan._peers[5:]:
            lan.unplug(peer)
        assert WELL_FORMED.fullmatch((found + b"".join(reply)).decode())


async def test_a_hub_can_be_made_of_it_and_back_and_then_it_learns_anew(lan: Lan) -> None:
    lan.learn(mac(1), lan.plug().port)
    assert lan.ask("port/sethub 0") == "1000 Success\n"
    assert len(lan.data("hash/print")) == 1
    assert lan.ask("port/sethub 1") == "1000 Success\n"
    assert lan.ports.bridge.hub
    assert "HUB=true" in lan.data("port/showinfo")
    assert lan.ask("port/sethub 0") == "1000 Success\n"
    assert not lan.ports.bridge.hub
    assert lan.data("hash/print") == []


async def test_the_ageing_time_can_be_set(lan: Lan, mock_clock: MockClock) -> None:
    lan.learn(mac(1), lan.plug().port)
    assert "GC expire 300 secs" in lan.data("hash/showinfo")
    assert "Hash size 8192" in lan.data("hash/showinfo")
    assert lan.ask("hash/setexpire 20") == "1000 Success\n"
    assert "GC expire 20 secs" in lan.data("hash/showinfo")
    mock_clock.jump(20)
    assert lan.data("hash/print") == []


# Ports and VLANs


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("vlan/create 10", "1017 File exists"),
        ("vlan/create 0", "1022 Invalid argument: a number from 1 to 4094 is needed"),
        ("vlan/create 4095", "1022 Invalid argument: a number from 1 to 4094 is needed"),
        ("vlan/remove 11", "1006 No such device or address"),
        ("vlan/remove 10", "1098 Address already in use"),
        ("vlan/remove 20", "1098 Address already in use"),
        ("vlan/remove 0", "1022 Invalid argument: a number from 1 to 4094 is needed"),
        ("vlan/addport 30 1", "1006 No such device or address"),
        ("vlan/addport 10 3", "1006 No such device or address"),
        ("vlan/addport 10", "1022 Invalid argument: a number from 0 to 256 is needed"),
        ("vlan/delport 10 1", "1098 Address already in use"),
        ("vlan/delport 30 1", "1006 No such device or address"),
        ("vlan/delport 10 3", "1006 No such device or address"),
        ("port/setvlan 1 30", "1006 No such device or address"),
        ("port/setvlan 1 1", "1006 No such device or address"),
        ("port/setvlan 3 10", "1006 No such device or address"),
        ("port/setvlan 1 4096", "1022 Invalid argument: a number from 0 to 4095 is needed"),
        ("port/create 1", "1017 File exists"),
        ("port/create 0", "1022 Invalid argument: a number from 1 to 256 is needed"),
        ("port/create 257", "1022 Invalid argument: a number from 1 to 256 is needed"),
        ("port/remove 1", "1098 Address already in use"),
        ("port/remove 3", "1006 No such device or address"),
        ("port/allocatable 3 1", "1006 No such device or address"),
        ("port/allocatable 1", "1022 Invalid argument: a number from 0 to 1 is needed"),
    ],
)
async def test_what_cannot_be_changed_is_refused_and_stays(lan: Lan, line: str, reply: str) -> None:
    lan.plug()
    lan.plug()
    for before in ("vlan/create 10", "vlan/create 20", "port/setvlan 1 10", "vlan/addport 20 2"):
        assert lan.ask(before) == "1000 Success\n"
    vlans, policies = lan.vlans, lan.policies()
    assert lan.ask(line) == f"{reply}\n"
    assert (lan.vlans, lan.policies()) == (vlans, policies)


async def test_ports_have_the_vlans_that_they_are_given(lan: Lan) -> None:
    lan.plug()
    lan.plug()
    for line, first, second in (
        ("port/setvlan 1 0", Policy(), Policy()),
        ("vlan/create 10", Policy(vlan=1), Policy(vlan=1)),
        ("port/setvlan 1 10", Policy(vlan=10), Policy(vlan=1)),
        ("vlan/create 4094", Policy(vlan=10), Policy(vlan=1)),
        ("vlan/addport 4094 1", Policy(trunk=(4094,), native=10), Policy(vlan=1)),
        ("vlan/addport 10 1", Policy(trunk=(4094,), native=10), Policy(vlan=1)),
        ("vlan/addport 10 2", Policy(trunk=(4094,), native=10), Policy(trunk=(10,), native=1)),
        ("vlan/addport 4094 2", Policy(trunk=(4094,), native=10), Policy(trunk=(10, 4094), native=1)),
        ("port/setvlan 1 4095", Policy(trunk=(4094,)), Policy(trunk=(10, 4094), native=1)),
        ("vlan/delport 4094 1", Policy(trunk=()), Policy(trunk=(10, 4094), native=1)),
        ("port/setvlan 2 10", Policy(trunk=()), Policy(trunk=(4094,), native=10)),
        ("vlan/delport 4094 2", Policy(trunk=()), Policy(vlan=10)),
        ("port/setvlan 2 0", Policy(trunk=()), Policy(vlan=1)),
        ("vlan/addport 0 2", Policy(trunk=()), Policy(vlan=1)),
        ("port/setvlan 2 10", Policy(trunk=()), Policy(vlan=10)),
        ("vlan/addport 0 2", Policy(trunk=()), Policy(trunk=(1,), native=10)),
        ("vlan/create 1", Policy(trunk=()), Policy(trunk=(0,), native=10)),
        ("vlan/addport 1 2", Policy(trunk=()), Policy(trunk=(0, 1), native=10)),
        ("port/setvlan 2 1", Policy(trunk=()), Policy(trunk=(0,), native=1)),
        ("port/setvlan 2 0", Policy(trunk=()), Policy(trunk=(), native=0)),
        ("vlan/remove 1", Policy(trunk=()), Policy(vlan=1)),
        ("vlan/remove 10", Policy(trunk=()), Policy(vlan=1)),
        ("vlan/remove 4094", Policy(trunk=()), Policy()),
        ("port/setvlan 1 0", Policy(), Policy()),
    ):
        assert lan.ask(line) == "1000 Success\n", line
        assert lan.policies() == [first, second], line


async def test_where_all_ports_are_the_consoles_vlan_0_is_one_for_itself(lan: Lan) -> None:
    lan.vlans = lan.vlans._replace(alone=True)
    peer = lan.plug()
    for line, policy, vlan in (
        ("port/setvlan 1 0", Policy(), 1),
        ("vlan/create 10", Policy(trunk=(), native=0), VLAN_ZERO),
        ("vlan/addport 10 1", Policy(trunk=(10,), native=0), VLAN_ZERO),
        ("port/setvlan 1 10", Policy(trunk=(), native=10), 10),
        ("vlan/addport 0 1", Policy(trunk=(0,), native=10), VLAN_ZERO),
        ("port/setvlan 1 4095", Policy(trunk=(0,)), VLAN_ZERO),
        ("port/setvlan 1 0", Policy(trunk=(), native=0), VLAN_ZERO),
        ("vlan/remove 10", Policy(), 1),
    ):
        assert lan.ask(line) == "1000 Success\n", line
        assert lan.policies() == [policy], line
        lan.learn(mac(1), peer.port, vlan)
        shown = f"VLAN {0 if vlan in (1, VLAN_ZERO) else vlan:04d} to port: 001"
        assert all(shown in line for line in lan.data("hash/print")), line
        assert shown in lan.data(f"hash/find 52:54:00:00:00:01 {vlan % VLAN_ZERO if vlan > 1 else 0}")[0], line


@pytest.mark.parametrize(
    "given",
    [
        Policy(trunk=(30, 40), native=50, isolated=True),
        Policy(trunk="all", isolated=True),
        Policy(vlan=30, isolated=True),
        Policy(qinq=30, isolated=True),
    ],
)
async def test_what_else_the_url_and_others_have_set_stays(lan: Lan, given: Policy) -> None:
    lan.config = replace(lan.config, policy=given)
    peer = lan.plug()
    assert lan.policies() == [given]
    lan.ports.wiring.set_policy(peer.port, replace(given, up=False))
    assert lan.ask("vlan/create 10") == "1000 Success\n"
    assert lan.policies() == [Policy(vlan=1, isolated=True, up=False)]
    assert lan.ask("vlan/remove 10") == "1000 Success\n"
    assert lan.policies() == [replace(given, up=False)]


async def test_vlans_that_do_not_go_with_other_endpoints_are_refused_and_nothing_is_changed() -> None:
    lan = Lan(vlan="20")
    given = lan.config.policy
    lan.plug()
    lan.ports.wiring.set_policy(lan.plug().port, replace(given, static=(StaticMac(mac(1), None),)))
    lan.ports.add("web", "web", parse("tcp://127.0.0.1:1234?single=yes&vlan=1&static=52:54:00:00:00:01"))
    reply = "1016 Device or resource busy: static: 52:54:00:00:00:01 is behind web already\n"
    assert lan.ask("vlan/create 10") == reply
    assert lan.policies() == [given, replace(given, static=(StaticMac(mac(1), None),))]
    assert [line for line in lan.data("vlan/print") if line.startswith("VLAN")] == ["VLAN 0000"]
    lan.close()


async def test_stations_of_a_port_that_changes_its_vlan_are_forgotten(lan: Lan) -> None:
    one, two = lan.plug(), lan.plug()
    assert lan.ask("vlan/create 10") == "1000 Success\n"
    lan.learn(mac(1), one.port)
    lan.learn(mac(2), two.port)
    assert lan.ask("port/setvlan 1 10") == "1000 Success\n"
    [line] = lan.data("hash/print")
    assert "Addr: 52:54:00:00:00:02 VLAN 0000 to port: 002" in line


async def test_a_port_that_is_made_is_for_those_who_ask_for_it(lan: Lan) -> None:
    assert lan.ask("port/create 1") == "1000 Success\n"
    assert lan.plug().number == 2
    assert lan.data("port/createauto") == ["Port 0003"]
    assert "Port 0003 untagged_vlan=0000 INACTIVE - NOT Unnamed Allocatable" in lan.data("port/allprint 3")
    assert lan.plug().number == 4
    assert lan.ask("port/allocatable 3 1") == "1000 Success\n"
    peer = lan.plug()
    assert peer.number == 3
    lan.unplug(peer)
    assert lan.data("port/createauto") == ["Port 0003"]
    assert lan.ask("port/remove 3") == "1000 Success\n"
    assert lan.ask("port/print 3").endswith("1006 No such device or address\n")
    assert lan.plug().number == 3


async def test_a_port_keeps_its_vlans_when_its_client_goes(lan: Lan) -> None:
    peer = lan.plug()
    for line in ("vlan/create 10", "port/setvlan 1 10"):
        assert lan.ask(line) == "1000 Success\n"
    lan.unplug(peer)
    assert lan.data("vlan/print") == ["VLAN 0000", "VLAN 0010"]
    assert lan.data("vlan/allprint 10") == ["VLAN 0010", " -- Port 0001 tagged=0 active=0 status=Learning"]
    assert lan.ask("vlan/remove 10") == "1098 Address already in use\n"
    assert lan.ask("port/remove 1") == "1000 Success\n"
    assert lan.ask("vlan/remove 10") == "1000 Success\n"


async def test_there_are_no_more_ports_than_the_limit_says() -> None:
    lan = Lan(limit="1")
    assert lan.data("port/createauto") == ["Port 0001"]
    assert lan.ask("port/createauto").endswith("\n.\n1028 No space left on device\n")
    lan.close()


async def test_who_and_where_it_is(mock_clock: MockClock) -> None:
    lan = Lan(mgmt="/run/lan.mgmt", mgmtmode="0660", mode="0666", limit="32")
    mock_clock.jump(61.5)
    first, blank, process, management = lan.data("showinfo")
    assert first.startswith("VDE switch V.2.3.2 (vswitch ")
    assert blank == ""
    assert re.fullmatch(r"pid \d+ MAC 00:00:00:00:00:00 uptime 61", process)
    assert management == "mgmt /run/lan.mgmt perm 0660"
    assert lan.data("ds/showinfo") == ["ctl dir /run/lan", "std mode 0666"]
    assert lan.data("port/showinfo")[0] == "Numports=32"
    lan.close()


async def test_help_lists_every_command(lan: Lan) -> None:
    lines = lan.data("help")
    assert lines[0] == "COMMAND PATH       SYNTAX          HELP"
    assert lines[1] == "------------       --------------  ------------"
    listed = [line.split()[0] for line in lines[2:]]
    assert {"help", "logout", "shutdown", "showinfo", "port/print", "hash/print", "vlan/print"} < set(listed)
    for name in listed:
        if lines[2 + listed.index(name)][19:].startswith("===="):
            assert lan.ask(name).startswith("1038 ")
        else:
            assert not lan.ask(name).startswith(("1038 ", "1095 "))
    assert set(listed) == set(COMMANDS)


async def test_help_is_for_what_starts_as_asked(lan: Lan) -> None:
    found = [line.split()[0] for line in lan.data("help port/s")[2:]]
    assert found == [f"port/{name}" for name in ("showinfo", "setnumports", "sethub", "setvlan", "setuser", "setgroup")]
    assert len(lan.data("help hash")) == 2 + 8
    assert len(lan.data("help nothing")) == 2


HOSTILE = ["\x1b[31m\x07", "a\n.\n1000 Success\n", "\r\n.", "\udc80\u202e\x00", "\x85\u2028"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_a_client_says_of_itself_is_shown_and_does_no_harm(lan: Lan, text: str) -> None:
    lan.plug(text, text)
    reply = lan.ask("port/print")
    assert WELL_FORMED.fullmatch(reply)
    assert reply.replace("\n", "").isprintable()
    assert len(reply.splitlines()) == 1 + 5 + 2


@pytest.mark.parametrize("line", ["logout", "logout now", "shutdown"])
async def test_the_end_of_a_session_has_no_reply(lan: Lan, line: str) -> None:
    console = Console(lan)
    assert list(console.answer(b"showinfo"))
    assert not console.ended
    assert b"".join(console.answer(line.encode())) == b""
    assert console.ended
    assert lan.ports.shutdown.is_set() == (line == "shutdown")


COMMAND_LINES = st.builds(
    lambda name, between, rest: name.encode() + between + rest,
    st.sampled_from(sorted(COMMANDS)),
    st.sampled_from([b"", b" ", b"\t", b"\0", b" -", b" 1"]),
    st.binary(max_size=40),
)


@settings(max_examples=500)
@given(lines=st.lists(st.binary(max_size=300) | COMMAND_LINES, min_size=1, max_size=5), text=st.text(max_size=128))
def test_whatever_comes_in_a_well_formed_reply_goes_out(lines: list[bytes], text: str) -> None:
    async def ask() -> None:
        lan = Lan(64)
        lan.learn(mac(1), lan.plug(text).port)
        console = Console(lan)
        for line in lines:
            reply = b"".join(console.answer(line)).decode()
            assert reply == "" or WELL_FORMED.fullmatch(reply)
            assert (
                reply != "" or console.ended or not line.split(b"\0")[0].decode(errors="ignore").strip() or b"#" in line
            )
        lan.close()

    trio.run(ask)


SAME_CODE = [
    "help", "help port", "help nothing", "showinfo", "version", "nonsense", "", "# comment", "port", "port/print",
    "port/print 9", "port/allprint", "port/showinfo", "vlan/print", "vlan/print 0",
    "vlan/print 7", "vlan/allprint", "hash/print", "hash/showinfo", "hash/find 52:54:00:00:00:01",
    "hash/find 2:2:2:2:2:2", "hash/find x", "hash/find", "hash/setexpire 100", "ds/showinfo", "hash/getsize",
    "port/sethub 1", "hash/print", "port/sethub 0", "port/showinfo",
]  # fmt: skip
UNUSED = [
    "fstp/showinfo", "fstp/print", "fstp/print 0", "fstp/print 1", "fstp/setfstp 0", "fstp/setfstp 1", "fstp/setfstp",
    "fstp/setedge 0 1 1", "fstp/setedge 0 9 0", "fstp/setedge 0 99 1", "fstp/setedge 5 1 1", "fstp/setedge 5000 1 1",
    "fstp/setedge 0 1", "fstp/setedge 0 1 x", "fstp/setedge", "fstp/bonus 0 1 10", "fstp/bonus 0 1 -5",
    "fstp/bonus 7 1 10", "fstp/bonus 4095 1 10", "fstp/bonus 0 1", "hash/setsize 100", "hash/setsize 0",
    "hash/setsize -1", "hash/setsize x", "hash/setsize", "hash/setgcint 5", "hash/setgcint x", "hash/setgcint",
    "hash/setminper 7", "hash/setminper -1", "hash/setminper", "port/setnumports 64", "port/setnumports 0",
    "port/setnumports -1", "port/setnumports x", "port/setnumports 32", "port/setuser 1 root", "port/setuser 1 nosuch",
    "port/setuser 1 NONE", "port/setuser 1 ANY", "port/setuser 1", "port/setuser", "port/setuser 9 root",
    "port/setuser 99 root", "port/setuser -1 root", "port/setgroup 1 root", "port/setgroup 1 nosuch",
    "port/setgroup 1 NONE", "port/setgroup 1 ANY", "port/setgroup 1", "port/setgroup 9 root", "port/setgroup 99 root",
    "port/resetcounter", "port/resetcounter 1", "port/resetcounter 9", "port/resetcounter 99", "port/resetcounter -1",
    "port/epclose 1", "port/epclose 1 999", "port/epclose 9 1", "port/epclose 99 1", "port/epclose 0 1",
    "port/epclose", "debug/list", "debug/list zzz", "debug/list port", "debug/add", "debug/add zzz", "debug/add port/+",
    "debug/del zzz", "plugin/list", "plugin/list zzz", "plugin/add nosuch", "plugin/add", "plugin/del",
    "plugin/del nosuch", "load", "load /nonexistent", "load /dev/null", "port/setuser 1 root", "port/setgroup 1 root",
    "port/print", "port/allprint", "fstp/print",
]  # fmt: skip
SAME_LINES = [
    "port/print",
    "port/print 1",
    "port/allprint",
    "port/showinfo",
    "vlan/allprint",
    "hash/print",
    "ds/showinfo",
]


def framing(reply: bytes) -> list[str]:
    """A reply's lines, without its data and without what explains a code."""
    lines = re.sub(rb"(?s)'\.'\n.*\n\.\n", b"'.'\n.\n", reply).decode().splitlines()
    return [line.partition(":")[0] for line in lines]


def form(reply: bytes) -> str:
    """A reply with all numbers alike, but for how wide they are."""
    return re.sub(r"\d", "9", re.sub(r"(?<=Addr: )[0-9a-f:]+|/\S+", "…", reply.decode()))


async def test_codes_and_forms_are_those_of_the_real_vde_switch() -> None:
    lan = Lan(64, limit="32")
    lan.learn(mac(1), lan.plug("qemu user=root pid=123", "root").port)
    with (
        tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory,
        real_switch(Path(directory)) as real,
        real.plugged(b"qemu user=root pid=123") as client,
    ):
        station = frame(BROADCAST, mac(1))
        client.send(station)
        counters = lan.peers()[0].port.port
        counters.rx_frames, counters.rx_bytes = 1, len(station)
        until(lambda: b"Addr" in real.ask(b"hash/print")[0], "vde_switch has learned the station")
        for line in SAME_LINES:
            assert form(lan.ask(line).encode()) == form(real.ask(line.encode())[0]), line
        for line in SAME_CODE:
            assert framing(lan.ask(line).encode()) == framing(real.ask(line.encode())[0]), line
    lan.close()


async def test_what_this_switch_has_no_use_for_is_answered_as_by_the_real_vde_switch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lan = Lan(64, limit="32")
    lan.plug("client", pwd.getpwuid(os.geteuid()).pw_name)
    console = Console(lan)
    with (
        tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory,
        real_switch(Path(directory)) as real,
        real.plugged(b"client"),
    ):
        for line in UNUSED * 2:
            there = real.ask(line.encode())[0]
            await console.prepare(line.encode())
            here = b"".join(console.answer(line.encode()))
            if line.startswith("fstp/"):
                assert tree(here) == tree(there), line
            else:
                assert comparable(here) == comparable(there), line
    said = [record.getMessage().partition(":")[0] for record in caplog.records]
    unused = [
        "fstp/setfstp",
        "fstp/setedge, fstp/bonus",
        "hash/setsize",
        "hash/setgcint",
        "hash/setminper",
        "debug/add",
    ]
    assert said == unused, "once each"
    lan.close()


def tree(reply: bytes) -> str:
    """A spanning tree without addresses, whether there is one, and what was set for it."""
    told = r"(?:[0-9a-f]{2}:){5,7}[0-9a-f]{2}|FSTP=\w+|ROOTSWITCH.*|bonusport.*|age \d+|role=\w+"
    return re.sub(told, "…", comparable(reply))


async def test_counters_can_begin_anew(lan: Lan) -> None:
    one, two = lan.plug(), lan.plug()
    one.port.port.rx_frames, one.port.port.rx_bytes, two.port.port.tx_frames = 10, 640, 7
    assert lan.ask("port/resetcounter 1") == "1000 Success\n"
    one.port.port.rx_frames += 1
    assert " IN:  pkts          1          bytes                    0" in lan.data("port/print 1")
    assert any(" OUT: pkts          7 " in line for line in lan.data("port/print 2"))
    assert lan.ask("port/resetcounter") == "1000 Success\n"
    assert "pkts          0" in lan.data("port/print 2")[3]
    assert one.port.port.rx_frames == 11, "the switch counts on"


async def test_no_port_is_left_over_when_there_are_to_be_fewer() -> None:
    lan = Lan(limit="8")
    lan.plug()
    assert lan.ask("port/create 3") == "1000 Success\n"
    assert lan.ask("port/setnumports 2") == "1098 Address already in use\n"
    assert lan.ask("port/setnumports 3") == "1000 Success\n"
    assert lan.data("port/showinfo")[0] == "Numports=3"
    assert lan.ask("port/create 4").startswith("1022 ")
    assert lan.ask("port/setnumports 70000").startswith("1022 ")
    lan.close()


async def test_a_client_is_unplugged_by_its_number_and_that_of_its_endpoint(lan: Lan) -> None:
    unplugged = trio.Event()
    peer = lan.plug()
    lan._peers[0] = peer._replace(unplug=unplugged.set)
    index = peer.port.port.index
    assert lan.ask(f"port/epclose 1 {index + 1}") == "1006 No such device or address\n"
    assert not unplugged.is_set()
    assert lan.ask(f"port/epclose 1 {index}") == "1000 Success\n"
    assert unplugged.is_set()


def test_a_port_is_for_whom_it_was_given_to() -> None:
    user, group = Holder(1000, "ann"), Holder(50, "lab")
    for port, uid, groups, admitted in (
        (VdePort(), 7, set(), True),
        (VdePort(user=user), 1000, set(), True),
        (VdePort(user=user), 7, {1000}, False),
        (VdePort(user=user), 0, set(), True),
        (VdePort(group=group), 7, {50, 51}, True),
        (VdePort(group=group), 50, {7}, False),
        (VdePort(user=user, group=group), 7, {50}, True),
        (VdePort(user=user, group=group), 7, {7}, False),
    ):
        assert port.admits(uid, groups) == admitted


SAME_CHANGES = [
    "vlan/create 10", "vlan/create 10", "vlan/create 0", "vlan/create 4095", "vlan/create -1", "vlan/create x",
    "vlan/create", "vlan/remove 11", "vlan/remove 4095", "vlan/remove 5000", "vlan/print", "vlan/allprint",
    "vlan/addport 10 1", "vlan/delport 10 1", "port/setvlan 1 10", "port/create 1", "port/create 1", "port/create -1",
    "port/create 999", "vlan/print", "vlan/allprint", "port/print", "port/print 1", "port/allprint",
    "port/allprint 1", "port/allprint 9", "vlan/addport 10 1", "vlan/addport 10 1", "vlan/allprint",
    "port/setvlan 1 10", "vlan/allprint", "vlan/addport 10 1", "vlan/delport 10 1", "vlan/remove 10", "(plug in)",
    "port/print", "port/print 2", "vlan/print", "vlan/allprint", "port/setvlan 2 11", "port/setvlan 2 4096",
    "port/setvlan 5 10", "port/setvlan 0 10", "port/setvlan 999 10", "port/setvlan 2", "port/setvlan x",
    "port/setvlan", "port/setvlan 2 x", "port/setvlan 2 -1", "port/setvlan 2 10 4", "vlan/allprint",
    "port/setvlan 2 4095", "port/print", "vlan/allprint", "port/setvlan 2 0", "vlan/create 20", "vlan/addport 10 2",
    "vlan/addport 20 2", "vlan/addport 30 2", "vlan/addport 20 5", "vlan/addport 20 999", "vlan/addport 20",
    "vlan/addport", "vlan/addport x 1", "vlan/addport 20 x", "vlan/addport 4095 2", "vlan/addport -1 2",
    "vlan/allprint", "vlan/print", "vlan/print 20", "vlan/allprint 20", "vlan/print 4095", "vlan/print 11",
    "vlan/allprint 11", "vlan/delport 20 2", "vlan/delport 20 2", "vlan/delport 0 2", "vlan/delport 30 2",
    "vlan/delport 20 5", "vlan/delport 20 999", "vlan/delport 20", "vlan/delport", "vlan/addport 0 2",
    "vlan/addport 20 1", "port/setvlan 1 20", "port/setvlan 1 0", "vlan/allprint", "vlan/remove 20", "vlan/create 20",
    "port/remove 2", "port/remove 1", "port/remove 1", "port/remove 999", "vlan/allprint", "port/createauto",
    "port/createauto", "port/allocatable 1 1", "port/allocatable 1", "port/allocatable 9 1", "port/allocatable 999 1",
    "port/allprint", "(plug in)", "port/allprint", "port/create 4", "(plug in)", "port/allprint", "vlan/allprint",
    "vlan/remove 10", "vlan/delport 10 2", "vlan/remove 10", "vlan/print",
]  # fmt: skip


async def test_vlans_and_ports_are_changed_as_by_the_real_vde_switch() -> None:
    lan, user = Lan(), pwd.getpwuid(os.geteuid()).pw_name
    with (
        tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory,
        real_switch(Path(directory)) as real,
        ExitStack() as clients,
    ):
        for line in SAME_CHANGES:
            if line == "(plug in)":
                lan.plug("client", user)
                clients.enter_context(real.plugged(b"client"))
            else:
                assert comparable(lan.ask(line).encode()) == comparable(real.ask(line.encode())[0]), line
    lan.close()


def comparable(reply: bytes) -> str:
    """A reply without what explains its code, and without the descriptors in it."""
    code = re.sub(r"(?m)^(1\d{3} [^:\n]*):.*$", r"\1", reply.decode())
    return re.sub(r"endpoint ID \d+", "endpoint ID …", code)


async def test_its_greeting_is_that_of_a_vde_switch() -> None:
    assert BANNER.startswith(b"VDE switch V.")
    assert BANNER.endswith(b"\n")
