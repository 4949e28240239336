"""The management commands of a VDE switch: what a user, or a program that reads the replies, gets to see."""

import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.frames import BROADCAST, frame, mac
from tests.vde2 import real_switch
from tests.waiting import until
from vswitch.dataplane.mac_table import mac_key
from vswitch.endpoints import vde_console
from vswitch.endpoints.ports import Ports, SwitchPort, now_ms
from vswitch.endpoints.url import parse
from vswitch.endpoints.vde_console import BANNER, COMMANDS, Console, VdePeer

DATA = r"0000 DATA END WITH '\.'\n(?:(?!\.\n).*\n)*\.\n"
WELL_FORMED = re.compile(rf"(?:{DATA})?1\d\d\d [^\n]+\n")


class Lan:
    """A switch with one VDE endpoint, as far as a console looks."""

    def __init__(self, table_size: int = 8192, /, **parameters: str) -> None:
        self.config = parse("vde:///run/lan", parameters)
        self.ports = Ports(table_size=table_size, ageing_s=300)
        self.started_s = trio.current_time()
        self._peers: list[VdePeer] = []

    def peers(self) -> Sequence[VdePeer]:
        return self._peers

    def plug(self, description: str = "qemu user=ann pid=7", user: str = "ann") -> VdePeer:
        number = len(self._peers) + 1
        port = self.ports.add_numbered("lan", self.config)
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
    monkeypatch.setattr(vde_console, "PORTION_SLOTS", portion_slots)
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
            lan.ports.remove(peer.port)
        del lan._peers[5:]
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


async def test_help_lists_every_command_that_does_something(lan: Lan) -> None:
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
    for name in set(COMMANDS) - set(listed):
        assert re.fullmatch(r"1095 Operation not supported: [^\n]+\n", lan.ask(name))


async def test_help_is_for_what_starts_as_asked(lan: Lan) -> None:
    assert [line.split()[0] for line in lan.data("help port/s")[2:]] == ["port/showinfo", "port/sethub"]
    assert len(lan.data("help hash")) == 2 + 5
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


@settings(max_examples=500, deadline=None)
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


async def test_its_greeting_is_that_of_a_vde_switch() -> None:
    assert BANNER.startswith(b"VDE switch V.")
    assert BANNER.endswith(b"\n")
