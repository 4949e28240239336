"""What the TFTP server sends, to a client that is as the RFCs have it, and to others. Time is virtual."""

import os
import secrets
import struct
from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.tftp import TFTP, TFTP_ERROR, TFTP_RRQ, TFTP_WRQ, TFTP_Option, TFTP_Options

from tests.descriptors import descriptors, opened_since
from vswitch.protocols import tftp
from vswitch.services.user_network.folder import Folder
from vswitch.services.user_network.tftp_server import (
    STALL_S,
    TRANSFERS_EACH_MAX,
    TRANSFERS_MAX,
    TRIES_MAX,
    Peer,
    TftpServer,
)

MAC, IP = bytes.fromhex("525400123456"), IPv4Address("10.0.2.15")
PEER = Peer(MAC, IP, 2070, tftp.PORT)
PAYLOAD_MAX = 1472
CONTENT = bytes(range(251)) * 40  # 10,040 bytes: 20 blocks of 512


def ack(block: int) -> bytes:
    return struct.pack("!HH", tftp.ACK, block)


def rrq(name: str = "file", mode: str = "octet", **options: Any) -> bytes:
    said = [TFTP_Option(oname=key, value=str(value)) for key, value in options.items()]
    return bytes(TFTP() / TFTP_RRQ(filename=name.encode(), mode=mode) / TFTP_Options(options=said))


def data(block: int, blksize: int = 512) -> bytes:
    return struct.pack("!HH", tftp.DATA, block) + CONTENT[(block - 1) * blksize : block * blksize]


class Bench:
    """A server, what it has sent that was not taken yet, and all that it has sent."""

    def __init__(self, root: Path, payload_max: int = PAYLOAD_MAX) -> None:
        self.sent: list[tuple[Peer, bytes]] = []
        self.log: list[bytes] = []
        self.folder = Folder(root)
        self.server = TftpServer(self.folder, payload_max=payload_max, send=self._send)

    def _send(self, peer: Peer, payload: bytes) -> None:
        self.sent.append((peer, payload))
        self.log.append(payload)

    def close(self) -> None:
        self.server.close()
        self.folder.close()

    def take(self) -> list[bytes]:
        payloads = [payload for _, payload in self.sent]
        self.sent.clear()
        return payloads

    def ask(self, payload: bytes, peer: Peer = PEER, now_s: float = 0.0) -> Peer:
        """Answers who has got an answer, and so the port that it is from."""
        assert self.server.receive(peer, payload, now_s)
        return self.sent[-1][0]

    def say(self, peer: Peer, payload: bytes, now_s: float = 0.0) -> list[bytes]:
        assert self.server.receive(peer, payload, now_s)
        return self.take()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(CONTENT)
    return root


@pytest.fixture
def bench(root: Path) -> Iterator[Bench]:
    before = descriptors()
    bench = Bench(root)
    yield bench
    bench.close()
    assert opened_since(before) == {}


def refusal(payloads: list[bytes]) -> int:
    (payload,) = payloads
    packet = TFTP(payload)
    assert packet[TFTP_ERROR].errormsg
    return int(packet[TFTP_ERROR].errorcode)


def agreed(payloads: list[bytes]) -> dict[str, str]:
    (payload,) = payloads
    packet = TFTP(payload)
    assert packet.op == tftp.OACK
    return {option.oname.decode(): option.value.decode() for option in packet[TFTP_Options].options}


def test_a_file_is_sent_block_by_block_from_a_port_of_its_own(bench: Bench) -> None:
    peer = bench.ask(rrq())
    assert 49152 <= peer.server_port <= 65535
    assert bench.take() == [data(1)]
    for block in range(1, 20):
        assert bench.say(peer, ack(block)) == [data(block + 1)]
    assert bench.say(peer, ack(20)) == []
    assert bench.server.due_s is None
    assert not bench.server.receive(peer, ack(20), 0.0), "it is over"


@pytest.mark.parametrize("size", [0, 511, 512, 513, 1024])
def test_the_last_block_is_shorter_or_empty(bench: Bench, root: Path, size: int) -> None:
    (root / "short").write_bytes(CONTENT[:size])
    peer = bench.ask(rrq("short"))
    contents = [bench.take()[0][4:]]
    while len(contents[-1]) == 512:
        contents += [payload[4:] for payload in bench.say(peer, ack(len(contents)))]
    assert b"".join(contents) == CONTENT[:size]
    assert bench.say(peer, ack(len(contents))) == []
    assert bench.server.due_s is None


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ({"blksize": 1432, "tsize": 0}, {"blksize": "1432", "tsize": "10040"}),
        ({"tsize": 0, "blksize": 8}, {"tsize": "10040", "blksize": "8"}),
        ({"blksize": 65464}, {"blksize": "1468"}),
        ({"BlkSize": 1468, "multicast": ""}, {"blksize": "1468"}),
        ({"timeout": 255, "windowsize": 1}, {"timeout": "255", "windowsize": "1"}),
        ({"windowsize": 65535}, {"windowsize": "64"}),
        ({"tsize": ""}, {"tsize": "10040"}),
    ],
)
def test_options_are_agreed(bench: Bench, asked: dict[str, Any], answered: dict[str, str]) -> None:
    peer = bench.ask(rrq(**asked))
    said = agreed(bench.take())
    assert said == answered
    assert list(said) == list(answered), "in the client's order"
    assert bench.say(peer, ack(1)) == [], "no block is under way yet"
    assert bench.say(peer, ack(0))[0] == data(1, int(answered.get("blksize", "512")))


def test_where_no_option_is_known_there_is_no_answer_to_options(bench: Bench) -> None:
    bench.ask(rrq(multicast="", rollover=1))
    assert bench.take() == [data(1)]


@pytest.mark.parametrize(
    "asked",
    [
        *({"blksize": 7}, {"blksize": 65465}, {"blksize": "x"}, {"blksize": "-512"}, {"blksize": "9" * 500}),
        *({"timeout": 0}, {"timeout": 256}, {"windowsize": 0}, {"windowsize": 65536}, {"windowsize": ""}),
    ],
    ids=str,
)
def test_a_value_that_none_can_have_is_refused(bench: Bench, asked: dict[str, Any]) -> None:
    bench.ask(rrq(**asked))
    assert refusal(bench.take()) == tftp.OPTION_NEGOTIATION
    assert bench.server.due_s is None


def test_no_datagram_is_larger_than_the_network_takes(root: Path) -> None:
    bench = Bench(root, payload_max=600)
    peer = bench.ask(rrq(blksize=1432))
    bench.take()
    assert [len(payload) for payload in bench.say(peer, ack(0))] == [600]
    bench.close()


@pytest.mark.parametrize("name", ["/file", "///file", "\\file", "\\boot\\..\\boot\\x", "/boot\\x"])
def test_names_may_be_as_boot_loaders_write_them(bench: Bench, root: Path, name: str) -> None:
    (root / "boot").mkdir()
    (root / "boot/x").write_bytes(CONTENT)
    bench.ask(rrq(name))
    assert bench.take() == [data(1)]


@pytest.mark.parametrize("mode", ["OCTET", "Octet"])
def test_a_mode_may_be_in_capitals(bench: Bench, mode: str) -> None:
    bench.ask(rrq(mode=mode))
    assert bench.take() == [data(1)]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (rrq("none"), tftp.NOT_FOUND),
        (rrq("/"), tftp.NOT_FOUND),
        (rrq("../root/file"), tftp.NOT_FOUND),
        (rrq("folder"), tftp.ACCESS_VIOLATION),
        (rrq(mode="netascii"), tftp.ILLEGAL),
        (rrq(mode="mail"), tftp.ILLEGAL),
        (bytes(TFTP() / TFTP_WRQ(filename="file")), tftp.ACCESS_VIOLATION),
    ],
    ids=range(7),
)
def test_what_cannot_be_had_is_refused_from_where_it_was_asked(
    bench: Bench, root: Path, request_: bytes, code: int
) -> None:
    (root / "folder").mkdir()
    assert bench.ask(request_) == msgspec.structs.replace(PEER, server_port=bench.sent[0][0].server_port)
    assert refusal(bench.take()) == code
    assert bench.server.due_s is None
    assert (root / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\7xx", b"\0\1file", tftp.data(1, b"x"), tftp.oack({b"x": 1})])
def test_what_is_malformed_is_dropped(bench: Bench, payload: bytes) -> None:
    peer = bench.ask(rrq())
    bench.take()
    assert not bench.server.receive(PEER, payload, 0.0)
    assert not bench.server.receive(peer, payload, 0.0)
    assert bench.take() == []
    assert bench.say(peer, ack(1)) == [data(2)], "the transfer goes on"


def test_a_stranger_to_a_transfer_gets_an_error_and_does_not_disturb_it(bench: Bench) -> None:
    peer = bench.ask(rrq())
    bench.take()
    changes: list[dict[str, Any]] = [
        {"mac": bytes(6)},
        {"ip": IPv4Address("10.0.2.16")},
        {"ip": IPv6Address("fec0::2")},
        {"port": 1},
        {"server_port": peer.server_port ^ 1},
        {"server_port": tftp.PORT},
    ]
    for change in changes:
        other = msgspec.structs.replace(peer, **change)
        assert not bench.server.receive(other, ack(1), 0.0)
        assert bench.sent[0][0] == other
        assert refusal(bench.take()) == tftp.UNKNOWN_TID
        assert not bench.server.receive(other, tftp.error(0, "stop"), 0.0)
        assert bench.take() == [], "an error is never answered by one"
    assert bench.say(peer, ack(1)) == [data(2)]


def test_an_error_ends_a_transfer(bench: Bench) -> None:
    peer = bench.ask(rrq(tsize=0))
    bench.take()
    assert bench.say(peer, tftp.error(tftp.OPTION_NEGOTIATION, "too large")) == []
    assert bench.server.due_s is None


def test_a_request_at_the_port_of_a_transfer_ends_it(bench: Bench) -> None:
    peer = bench.ask(rrq())
    bench.take()
    assert refusal(bench.say(peer, rrq())) == tftp.ILLEGAL
    assert bench.server.due_s is None


def test_what_is_not_acknowledged_is_sent_again_a_few_times(bench: Bench) -> None:
    peer = bench.ask(rrq(), now_s=10.0)
    assert bench.say(peer, ack(1), now_s=10.5) == [data(1), data(2)]
    for again in range(1, TRIES_MAX):
        due_s = bench.server.due_s
        assert due_s == 10.5 + again
        bench.server.tick(due_s - 0.01)
        assert bench.take() == []
        bench.server.tick(due_s)
        assert bench.take() == [data(2)]
    bench.server.tick(10.5 + TRIES_MAX)
    assert bench.take() == []
    assert bench.server.due_s is None, "it has given up"


def test_who_is_slow_but_there_is_not_given_up(bench: Bench) -> None:
    peer, now_s = bench.ask(rrq(timeout=3)), 0.0
    for block in range(20):
        for _ in range(TRIES_MAX - 1):
            assert bench.server.due_s == now_s + 3
            now_s += 3
            bench.server.tick(now_s)
        assert len(bench.take()) == TRIES_MAX - (block > 0)
        assert bench.server.receive(peer, ack(block), now_s)
        assert bench.take() == [data(block + 1)]


def test_an_acknowledgement_that_is_not_new_sends_nothing(bench: Bench) -> None:
    """The Sorcerer's Apprentice Syndrome, RFC 1123, 4.2.3.1."""
    peer = bench.ask(rrq())
    bench.take()
    for block in range(1, 6):
        assert bench.say(peer, ack(block)) == [data(block + 1)]
        for stale in (block, block - 1, block + 2, 0, 65535):
            assert bench.say(peer, ack(stale)) == []


def test_a_window_goes_on_from_what_is_acknowledged(bench: Bench) -> None:
    """RFC 7440, 4."""
    peer = bench.ask(rrq(windowsize=4))
    bench.take()
    assert bench.say(peer, ack(0)) == [data(block) for block in (1, 2, 3, 4)]
    assert bench.say(peer, ack(4)) == [data(block) for block in (5, 6, 7, 8)]
    assert bench.say(peer, ack(6)) == [data(block) for block in (7, 8, 9, 10)], "7 was lost"
    assert bench.say(peer, ack(6)) == []
    assert bench.say(peer, ack(11)) == [], "that was not sent yet"
    bench.server.tick(1.0)
    assert bench.take() == [data(block) for block in (7, 8, 9, 10)]
    bench.say(peer, ack(10))
    bench.say(peer, ack(14))
    assert bench.say(peer, ack(18)) == [data(19), data(20)]
    assert bench.say(peer, ack(20)) == []
    assert bench.server.due_s is None


def test_a_request_that_is_repeated_is_answered_from_the_same_port(bench: Bench) -> None:
    peer = bench.ask(rrq(tsize=0))
    assert bench.ask(rrq(tsize=0), now_s=0.5) == peer
    first, second = bench.take()
    assert first == second
    assert bench.server.due_s == 1.5
    for _ in range(TRIES_MAX):
        bench.ask(rrq(tsize=0), now_s=0.5)
    bench.server.tick(1.5)
    assert bench.say(peer, ack(0))[-1] == data(1), "who repeats it is there"


@pytest.mark.parametrize("another", [rrq(), rrq("other"), rrq(tsize=0)])
def test_who_asks_again_begins_again(bench: Bench, root: Path, another: bytes) -> None:
    (root / "other").write_bytes(CONTENT)
    old = bench.ask(rrq())
    bench.say(old, ack(1))
    new = bench.ask(another)
    assert new.server_port != old.server_port
    bench.take()
    assert not bench.server.receive(old, ack(2), 0.0)
    assert refusal(bench.take()) == tftp.UNKNOWN_TID
    assert bench.server.receive(new, ack(0), 0.0)
    bench.ask(rrq("none"))
    assert bench.server.due_s is None, "even if it gets nothing"


def test_ports_in_use_are_not_drawn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([7, 7, 7, 8, 7, 8, 9, 7])
    monkeypatch.setattr(secrets, "randbelow", lambda _: next(numbers))
    peers = [bench.ask(rrq(), Peer(MAC, IP, port, tftp.PORT)) for port in (1, 2, 3)]
    assert [peer.server_port - 49152 for peer in peers] == [7, 8, 9]
    assert bench.ask(rrq(), Peer(bytes(6), IP, 4, tftp.PORT)).server_port == 49159, "another's do not matter"


def test_a_station_has_its_share_of_transfers(bench: Bench) -> None:
    for port in range(TRANSFERS_EACH_MAX):
        bench.ask(rrq(), Peer(MAC, IP, port, tftp.PORT))
    bench.take()
    peer = Peer(MAC, IPv4Address("10.0.2.16"), 99, tftp.PORT)
    bench.ask(rrq(), peer)
    assert refusal(bench.take()) == tftp.ALLOCATION_EXCEEDED
    bench.ask(rrq("file", blksize=8), Peer(MAC, IP, 0, tftp.PORT))
    assert agreed(bench.take()) == {"blksize": "8"}, "its own place is free"
    bench.ask(rrq(), Peer(bytes(6), IP, 99, tftp.PORT))
    assert bench.take() == [data(1)]
    for tries in range(TRIES_MAX):
        bench.server.tick(1.0 + tries)
    bench.take()
    bench.ask(rrq(), peer)
    assert bench.take() == [data(1)]


def test_all_together_have_a_bound(bench: Bench) -> None:
    for number in range(TRANSFERS_MAX):
        bench.ask(rrq(), Peer(number.to_bytes(6, "big"), IP, 1, tftp.PORT))
        assert bench.take() == [data(1)]
    bench.ask(rrq(), PEER)
    assert refusal(bench.take()) == tftp.ALLOCATION_EXCEEDED


def test_a_file_that_becomes_shorter_is_an_error(bench: Bench, root: Path) -> None:
    peer = bench.ask(rrq())
    bench.take()
    os.truncate(root / "file", 600)
    assert refusal(bench.say(peer, ack(1))) == tftp.UNDEFINED
    assert bench.server.due_s is None


def test_a_file_that_becomes_longer_is_sent_as_it_was(bench: Bench, root: Path) -> None:
    (root / "log").write_bytes(b"old")
    peer = bench.ask(rrq("log", tsize=0))
    assert agreed(bench.take()) == {"tsize": "3"}
    with (root / "log").open("ab") as file:
        file.write(b"new")
    assert bench.say(peer, ack(0)) == [tftp.data(1, b"old")]


def test_block_numbers_begin_again(bench: Bench, root: Path) -> None:
    """More than 65,535 blocks of 512 bytes, of which the last few are known from others."""
    size = 65540 * 512 + 5
    with (root / "large").open("wb") as file:
        file.seek(65533 * 512)
        file.write(CONTENT)
        file.truncate(size)
    expected = memoryview((root / "large").read_bytes())
    peer, at, block = bench.ask(rrq("large", windowsize=64, tsize=0)), 0, 0
    assert agreed(bench.take())["tsize"] == str(size)
    while at < size:
        payloads = bench.say(peer, ack(block % 65536))
        for payload in payloads:
            block += 1
            assert payload[:4] == struct.pack("!HH", tftp.DATA, block % 65536)
            assert payload[4:] == expected[at : at + 512]
            at += len(payload) - 4
    assert bench.say(peer, ack(block % 65536)) == []
    assert bench.server.due_s is None


class Client:
    """Reads a file as RFC 1350 and 7440 have it. `content` is None until it has it all."""

    RETRY_S = 1.7
    TRIES_MAX = 20

    def __init__(self, send: Callable[[Peer, bytes], None], blksize: int, window: int) -> None:
        self._send, self._blksize, self._window = send, blksize, window
        self._peer = PEER
        self._blocks: list[bytes] = []
        self._unacknowledged = 0
        self._told_of_gap = False
        self._tries = 0
        self.content: bytes | None = None
        self.is_over = False
        self._last = rrq(blksize=blksize, windowsize=window) if window > 1 else rrq()
        self.due_s = 0.0

    def _say(self, payload: bytes, now_s: float) -> None:
        self._last, self.due_s = payload, now_s + self.RETRY_S
        self._send(self._peer, payload)

    def _acknowledge(self, now_s: float) -> None:
        self._unacknowledged = 0
        self._say(ack(len(self._blocks) % 65536), now_s)

    def retry(self, now_s: float) -> None:
        self._tries += 1
        self.is_over |= self._tries > self.TRIES_MAX
        if not self.is_over:
            self._say(self._last, now_s)

    def receive(self, peer: Peer, payload: bytes, now_s: float) -> None:
        if self._peer.server_port == tftp.PORT:
            self._peer = peer  # the first that answers
        if peer != self._peer:
            return
        opcode, number = struct.unpack_from("!HH", payload)
        if opcode == tftp.ERROR:
            self.is_over = True
        elif opcode == tftp.OACK:
            if not self._blocks:
                self._acknowledge(now_s)
        elif self.content is None and number == (len(self._blocks) + 1) % 65536:
            self._told_of_gap = False
            self._blocks.append(payload[4:])
            self._unacknowledged += 1
            if len(payload) - 4 < self._blksize:
                self.content = b"".join(self._blocks)
            if self._unacknowledged == self._window or self.content is not None:
                self._acknowledge(now_s)
        elif (len(self._blocks) - number) % 65536 == self._unacknowledged:  # our acknowledgement was lost, perhaps
            self._say(self._last, now_s)
        elif (len(self._blocks) - number) % 65536 > 32768 and not self._told_of_gap:  # one before it was lost
            self._told_of_gap = True
            self._acknowledge(now_s)


LOST, ONCE, TWICE, LATE = range(4)
TURNS_MAX = 5000


def transfer(bench: Bench, blksize: int, window: int, fates: list[int]) -> Client:
    """Goes on until both have ended. Each datagram has the next fate; after the last, all arrive."""
    way: deque[tuple[Peer, bytes]] = deque()
    late: deque[tuple[Peer, bytes]] = deque()  # until nothing else is under way
    left = deque(fates)

    def carry(peer: Peer, payload: bytes) -> None:
        fate = left.popleft() if left else ONCE
        way.extend([(peer, payload)] * (fate != LOST) + [(peer, payload)] * (fate == TWICE))
        late.extend([(peer, payload)] * (fate == LATE))

    client, now_s = Client(carry, blksize, window), 0.0
    client.retry(now_s)
    for _ in range(TURNS_MAX):
        if not way:
            way.extend(late)
            late.clear()
        if way:
            peer, payload = way.popleft()
            if payload[1] in (tftp.RRQ, tftp.ACK):
                bench.server.receive(peer, payload, now_s)
                for answer in bench.sent:
                    carry(*answer)
                bench.sent.clear()
            else:
                client.receive(peer, payload, now_s)
            continue
        waiting_s = client.due_s if client.content is None and not client.is_over else None
        due_s = [due_s for due_s in (waiting_s, bench.server.due_s) if due_s is not None]
        if not due_s:
            return client
        now_s = max(now_s, min(due_s))
        bench.server.tick(now_s)
        for answer in bench.sent:
            carry(*answer)
        bench.sent.clear()
        if waiting_s is not None and waiting_s <= now_s:
            client.retry(now_s)
    raise AssertionError("it does not end")


@pytest.mark.parametrize(("blksize", "window"), [(512, 1), (512, 4), (1004, 3)])
def test_whatever_is_lost_or_doubled_a_file_arrives_or_nothing_does(bench: Bench, blksize: int, window: int) -> None:
    @given(st.lists(st.sampled_from([LOST, ONCE, ONCE, ONCE, TWICE, LATE]), max_size=80))
    def check(fates: list[int]) -> None:
        client = transfer(bench, blksize, window, fates)
        assert client.content in (None, CONTENT)
        assert bench.server.due_s is None
        if LATE not in fates and fates.count(LOST) < TRIES_MAX:
            assert client.content == CONTENT

    check()


@pytest.mark.parametrize(("blksize", "window"), [(512, 1), (512, 4)])
def test_if_every_datagram_comes_twice_no_more_are_sent(bench: Bench, blksize: int, window: int) -> None:
    assert transfer(bench, blksize, window, [ONCE, *[TWICE] * 500]).content == CONTENT
    blocks = [payload for payload in bench.log if payload[1] == tftp.DATA]
    assert sorted(blocks) == sorted(data(block) for block in range(1, 21))


def test_whoever_is_gone_is_given_up(bench: Bench) -> None:
    assert transfer(bench, 512, 1, [ONCE] * 5 + [LOST] * 500).content is None


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40), st.sampled_from(["", "ack", "name", "options"]))))
def test_no_bytes_raise(tmp_path_factory: pytest.TempPathFactory, said: list[tuple[int, bytes, str]]) -> None:
    root = tmp_path_factory.getbasetemp()
    (root / "file").write_bytes(CONTENT)
    bench = Bench(root)
    for step, (port, payload, kind) in enumerate(said):
        known = [peer for peer, _ in bench.sent]
        peer = known[-1] if known and kind == "ack" else Peer(MAC, IP, port, tftp.PORT)
        start = {"": b"", "ack": b"\0\4", "name": b"\0\1", "options": b"\0\1file\0octet\0"}[kind]
        bench.server.receive(peer, start + payload, step * 0.3)
        bench.server.tick(step * 0.3)
    bench.close()


def test_a_transfer_that_gets_nowhere_ends_whatever_its_timeout(bench: Bench) -> None:
    bench.ask(rrq(timeout=255))
    for now_s in (10.0, STALL_S - 0.1):
        bench.server.tick(now_s)
        assert bench.server.due_s == STALL_S
    bench.server.tick(STALL_S)
    assert bench.server.due_s is None
