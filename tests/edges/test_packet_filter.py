"""What a filter lets pass: by pcap-filter(7), by tcpdump, and whatever people write and guests send."""

import gc
import shutil
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, LLC, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Raw

from tests.needs import require
from vswitch.edges import packet_filter
from vswitch.edges.packet_filter import EXPRESSION_BYTES_MAX, SNAPLEN_MAX, PacketFilter, is_available
from vswitch.errors import InputError, RefusedError

MAC, OTHER_MAC, ALL = "52:54:00:00:00:01", "52:54:00:00:00:02", "ff:ff:ff:ff:ff:ff"
ETHER = Ether(src=MAC, dst=OTHER_MAC)
ARP_REQUEST = ARP(hwsrc=MAC, psrc="192.0.2.1", pdst="192.0.2.2")

FRAMES = {
    "arp": bytes(Ether(src=MAC, dst=ALL) / ARP_REQUEST),
    "dns": bytes(ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1024, dport=53) / Raw(b"query")),
    "syn": bytes(ETHER / IP(src="192.0.2.1", dst="198.51.100.1") / TCP(sport=1025, dport=80, flags="S")),
    "ack": bytes(ETHER / IP(src="198.51.100.1", dst="192.0.2.1") / TCP(sport=80, dport=1025, flags="A")),
    "fragment": bytes(ETHER / IP(src="192.0.2.1", dst="192.0.2.2", proto=17, frag=3) / Raw(struct.pack("!HH", 53, 53))),
    "ping": bytes(ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / ICMP() / Raw(bytes(1400))),
    "ping6": bytes(ETHER / IPv6(src="2001:db8::1", dst="2001:db8::2") / ICMPv6EchoRequest()),
    "multicast": bytes(
        Ether(src=MAC, dst="01:00:5e:00:00:fb") / IP(src="192.0.2.1", dst="224.0.0.251") / UDP(sport=5353, dport=5353)
    ),
    "stp": bytes(Dot3(src=MAC, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP()),
    "arp in 10": bytes(Ether(src=MAC, dst=ALL) / Dot1Q(vlan=10) / ARP_REQUEST),
    "dns in 20": bytes(ETHER / Dot1Q(vlan=20) / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1024, dport=53)),
    "arp in 20, 10": bytes(Ether(src=MAC, dst=ALL) / Dot1AD(vlan=20) / Dot1Q(vlan=10) / ARP_REQUEST),
    "a source port cut off": bytes(ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=53, dport=9))[:35],
    "header": bytes(ETHER)[:12] + b"\x08\x06",
    "half a type": bytes(ETHER)[:12] + b"\x08",
    "nothing": b"",
}
IPV4 = {"dns", "syn", "ack", "fragment", "ping", "multicast", "a source port cut off"}
EXPRESSIONS = {
    "": set(FRAMES),
    " \n": set(FRAMES),
    "1 = 1": set(FRAMES),
    "arp": {"arp", "header"},
    "ether proto 0x0806": {"arp", "header"},
    "ip": IPV4,
    "ip6": {"ping6"},
    "not ip": set(FRAMES) - IPV4 - {"half a type", "nothing"},
    "udp": {"dns", "fragment", "multicast", "a source port cut off"},
    "tcp": {"syn", "ack"},
    "tcp\nor\ticmp": {"syn", "ack", "ping"},
    "port 53": {"dns"},
    "udp src port 53": set(),
    "tcp dst port 80": {"syn"},
    "portrange 50-60": {"dns"},
    "tcp[tcpflags] & tcp-syn != 0": {"syn"},
    "ip[6:2] & 0x1fff != 0": {"fragment"},
    "host 192.0.2.2": {"arp", "dns", "fragment", "ping", "a source port cut off"},
    "src host 198.51.100.1": {"ack"},
    "net 198.51.100.0/24 and not tcp port 81": {"syn", "ack"},
    "net 2001:db8::/32": {"ping6"},
    "ip6[40] == 128": {"ping6"},
    "ether broadcast": {"arp", "arp in 10", "arp in 20, 10"},
    "ether multicast": {"arp", "arp in 10", "arp in 20, 10", "multicast", "stp"},
    "ip multicast": {"multicast"},
    f"ether src {MAC}": set(FRAMES) - {"nothing"},
    f"ether dst {OTHER_MAC}": set(FRAMES) - {"arp", "multicast", "stp", "arp in 10", "arp in 20, 10", "nothing"},
    "stp": {"stp"},
    "len > 1000": {"ping"},
    "less 14": {"header", "half a type", "nothing"},
    "vlan": {"arp in 10", "dns in 20", "arp in 20, 10"},
    "vlan 10": {"arp in 10"},
    "vlan 10 and arp": {"arp in 10"},
    "arp or (vlan 10 and arp)": {"arp", "header", "arp in 10"},
    "vlan and port 53": {"dns in 20"},
    "vlan 20 and vlan 10 and arp": {"arp in 20, 10"},
    "ether[13] = 0": IPV4 | {"dns in 20", "arp in 10"},
}

LIBPCAPS_WORDS = {
    "bogus": "syntax error",
    "host": "syntax error",
    "tcp and and": "syntax error",
    "(" * EXPRESSION_BYTES_MAX: "syntax error",
    "host \xe4": "syntax error",
    "ip and arp": "expression rejects all packets",
    "port 65536": "illegal port number 65536 > 65535",
    "port no-such-port": "unknown port 'no-such-port'",
    "net 10.0.0.0/33": "mask length must be <= 32",
    "vlan 4096": "VLAN tag 4096 greater than maximum 4095",
    "ip broadcast": "netmask not known",
    "ether[0] / 0 = 1": "division by zero",
    "ether[0:3] = 1": "data size must be 1, 2, or 4",
    "type mgt": "802.11 link-layer types supported only on 802.11",
}
# Nothing that is a name, or a test would ask DNS. One a line, they would be a page.
WORDS = """
    ip ip6 arp tcp udp icmp host net port portrange src dst and or not ( ) [ ] : + - * / & << > = != ether proto
    protochain vlan mpls pppoes geneve len broadcast multicast inbound ifindex less stp 0 1 6 80 80-90 65536 10.0.0.1
    10.0.0.0/8 ::1 52:54:0:0:0:1 0xffffffff tcpflags tcp-syn mask 255.0.0.0
""".split()  # noqa: SIM905
CLAUSES = ["tcp", "arp", "vlan 3", "port 80", "host 10.0.0.1", "tcp[13] & 7 != 0", "ip6", "len > 60"]


@pytest.fixture(autouse=True)
def libpcap() -> None:
    require(is_available(), "libpcap not found: install the package libpcap0.8")


@pytest.fixture
def fresh() -> Iterator[None]:
    """libpcap is looked for anew, in the test and after it."""
    packet_filter._libpcap.cache_clear()
    yield
    packet_filter._libpcap.cache_clear()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_matches_what_the_expression_says(expression: str) -> None:
    made = PacketFilter(expression)
    assert {name for name, frame in FRAMES.items() if made.matches(frame) is True} == EXPRESSIONS[expression]
    assert {made.matches(frame) for frame in FRAMES.values()} <= {True, False}
    assert made.expression == expression


def test_ports_have_names() -> None:
    require(Path("/etc/services").exists(), "/etc/services not found: install the package netbase")
    made = PacketFilter("port domain")
    assert {name for name, frame in FRAMES.items() if made.matches(frame)} == EXPRESSIONS["port 53"]


def savefile(frames: list[bytes]) -> bytes:
    """A pcap file; the n-th frame is of second n."""
    records = [struct.pack("=4I", n, 0, len(frame), len(frame)) + frame for n, frame in enumerate(frames)]
    return struct.pack("=I2H4I", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1) + b"".join(records)


def seconds(file: bytes) -> Iterator[int]:
    at = 24
    while at < len(file):
        second, _, size, _ = struct.unpack_from("=4I", file, at)
        yield second
        at += 16 + size


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_agrees_with_tcpdump(expression: str) -> None:
    tcpdump = shutil.which("tcpdump")
    require(tcpdump, "tcpdump not found: install the package tcpdump")
    assert tcpdump is not None
    frames = [frame[:size] for frame in FRAMES.values() for size in range(0, len(frame) + 1, 3)] + [*FRAMES.values()]
    command = [tcpdump, "-r", "-", "-w", "-", expression]
    done = subprocess.run(command, input=savefile(frames), capture_output=True, check=True)
    made = PacketFilter(expression)
    assert [n for n, frame in enumerate(frames) if made.matches(frame)] == list(seconds(done.stdout))


@pytest.mark.parametrize("expression", LIBPCAPS_WORDS, ids=lambda expression: expression[:20])
def test_a_wrong_expression_is_told_in_libpcaps_own_words(expression: str) -> None:
    with pytest.raises(InputError) as caught:
        PacketFilter(expression)
    text = str(caught.value)
    assert LIBPCAPS_WORDS[expression] in text
    assert repr(expression[:20])[1:-1] in text
    assert len(text) < 400


@pytest.mark.parametrize("expression", ["inbound", "tcp and outbound", "ifindex 1", "not (arp or inbound)"])
def test_what_only_a_kernel_knows_is_turned_away(expression: str) -> None:
    with pytest.raises(InputError, match="inbound"):
        PacketFilter(expression)


def test_offsets_before_the_frame_are_turned_away_and_those_before_a_header_are_not() -> None:
    with pytest.raises(InputError, match="negative offsets"):
        PacketFilter("ether[-1] = 0")
    assert PacketFilter("ip[-1] = 0").matches(FRAMES["dns"])  # the EtherType's last byte


@pytest.mark.parametrize(
    ("expression", "wrong"), [("tcp\0", "NUL"), ("\0", "NUL"), ("host \udcff", "UTF-8"), ("\udcff" * 9999, "UTF-8")]
)
def test_what_is_no_text_for_c_is_an_input_error(expression: str, wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        PacketFilter(expression)


def test_the_length_is_bounded_in_bytes() -> None:
    longest = "arp" + " " * (EXPRESSION_BYTES_MAX - 3)
    assert PacketFilter(longest).matches(FRAMES["arp"])
    for longer in (longest + " ", "\xe4" * (EXPRESSION_BYTES_MAX // 2 + 1)):
        with pytest.raises(
            InputError, match=f"{len(longer.encode())} bytes is too long; at most {EXPRESSION_BYTES_MAX}"
        ):
            PacketFilter(longer)


@pytest.mark.parametrize("snaplen", [1, SNAPLEN_MAX])
def test_snaplen_does_not_change_what_matches(snaplen: int) -> None:
    made = PacketFilter("len > 1000", snaplen)
    assert made.matches(FRAMES["ping"])
    assert not made.matches(FRAMES["dns"])


@pytest.mark.parametrize("snaplen", [0, -1, SNAPLEN_MAX + 1])
def test_a_snaplen_out_of_range_is_an_input_error(snaplen: int) -> None:
    with pytest.raises(InputError, match=f"a snaplen of {snaplen} is out of range"):
        PacketFilter("arp", snaplen)


@pytest.mark.parametrize("names", [[], ["libno-such-pcap.so"], ["libc.so.6"]], ids=["none", "missing", "another's"])
def test_without_libpcap_says_what_to_install(names: list[str], monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(packet_filter, "_library_names", lambda: iter(names))
        assert not is_available()
        with pytest.raises(RefusedError, match=r"install the package libpcap0\.8"):
            PacketFilter("arp")
    assert PacketFilter("arp").matches(FRAMES["arp"]), "libpcap that came later is found"


def test_what_is_not_libpcap_is_passed_over(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    names = ["libno-such-pcap.so", "libc.so.6", *packet_filter._library_names()]
    monkeypatch.setattr(packet_filter, "_library_names", lambda: iter(names))
    assert PacketFilter("arp").matches(FRAMES["arp"])


class Counting:
    """libpcap, its calls counted."""

    def __init__(self, lib: Any) -> None:
        self.calls: Counter[str] = Counter()
        self._lib = lib

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            return getattr(self._lib, name)(*arguments)

        return call


def test_everything_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    ffi, lib = packet_filter._libpcap()
    counting = Counting(lib)
    monkeypatch.setattr(packet_filter, "_libpcap", lambda: (ffi, counting))
    made = PacketFilter("arp")
    assert counting.calls == {"pcap_open_dead": 1, "pcap_compile": 1, "pcap_close": 1}
    assert made.matches(FRAMES["arp"]), "the program outlives what compiled it"
    del made
    gc.collect()
    assert counting.calls["pcap_freecode"] == 1
    for wrong, freed in (("bogus", 1), ("inbound", 2)):
        with pytest.raises(InputError):
            PacketFilter(wrong)
        gc.collect()
        assert counting.calls["pcap_freecode"] == freed, wrong
    assert counting.calls["pcap_open_dead"] == counting.calls["pcap_close"] == 3


async def test_a_worker_thread_can_wait_while_the_event_loop_goes_on() -> None:
    slow = " or ".join(f"portrange {n}-{2 * n}" for n in range(1, 75))  # half a second for the optimizer
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        start = time.monotonic()
        made = await trio.to_thread.run_sync(PacketFilter, slow, abandon_on_cancel=True)
        took = time.monotonic() - start
        nursery.cancel_scope.cancel()
    assert made.matches(FRAMES["dns"])
    assert max(after - before for before, after in pairwise([start, *ticks, start + took])) < took / 2


def judge(expression: str, frames: list[bytes]) -> None:
    """Compiles and runs, or says in one line what is wrong."""
    try:
        made = PacketFilter(expression)
    except InputError:
        return
    for frame in frames:
        assert made.matches(frame) in (True, False)


def test_a_frame_that_ends_too_early_matches_nothing() -> None:
    short = FRAMES["syn"][:35]
    assert PacketFilter("tcp").matches(short)
    assert not PacketFilter("tcp port 81").matches(short)
    assert not PacketFilter("not tcp port 81").matches(short)
    assert PacketFilter("not tcp port 81").matches(FRAMES["syn"])


@settings(max_examples=300)
@given(expression=st.text(max_size=100), frame=st.binary(max_size=100))
def test_any_text_compiles_or_is_an_input_error(expression: str, frame: bytes) -> None:
    judge(expression, [frame])


@settings(max_examples=300)
@given(words=st.lists(st.sampled_from(WORDS), max_size=20), frame=st.binary(max_size=100))
def test_any_words_compile_or_are_an_input_error(words: list[str], frame: bytes) -> None:
    judge(" ".join(words), [frame, *FRAMES.values()])


@settings(max_examples=200)
@given(
    clauses=st.lists(st.sampled_from(CLAUSES), min_size=1, max_size=6),
    frame=st.sampled_from(list(FRAMES.values())) | st.binary(max_size=100),
)
def test_and_or_and_not_are_logic(clauses: list[str], frame: bytes) -> None:
    # A frame that ends before what is asked for ends the program. `vlan` moves what comes after it, so it stands last.
    frame = frame + bytes(100)
    clauses.sort(key=lambda clause: clause.startswith("vlan"))
    each = [PacketFilter(clause).matches(frame) for clause in clauses]
    joined = " or ".join(clauses)
    assert PacketFilter(joined).matches(frame) == any(each)
    assert PacketFilter(f"not ({joined})").matches(frame) == (not any(each))


@given(frame=st.binary(max_size=40), size=st.sampled_from([1, 2, 4]), at=st.integers(0, 40), longer=st.booleans())
def test_reads_what_is_in_the_frame_and_nothing_behind_it(frame: bytes, size: int, at: int, longer: bool) -> None:
    # CPython keeps a zero behind the last byte; who read too far would find it.
    value = int.from_bytes((frame[at:] + bytes(size))[:size])
    inside = at + size <= len(frame)
    assert PacketFilter(f"ether[{at}:{size}] = {value}").matches(frame) == inside
    assert PacketFilter(f"len = {len(frame)}").matches(frame + bytes(longer)) == (not longer)
