"""What `vswitch capture --text` prints: lines for streams made by hand, whatever their pieces."""

import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from vswitch.cli.capturing.pcapng_text import BLOCK_MAX, TextCapture
from vswitch.errors import RefusedError

A, B, ALL = "52:54:00:00:00:01", "52:54:00:00:00:02", "ff:ff:ff:ff:ff:ff"
NOON_NS = 1_700_000_000_123_456_789  # 22:13:20 in Greenwich


@pytest.fixture(autouse=True)
def somewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place one and a half hours east of Greenwich."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-1:30")
        time.tzset()
        yield
    time.tzset()


# A stream, made by hand so that every option is as wanted.


def block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + size + body + size


def options(*given: tuple[int, bytes]) -> bytes:
    packed = b"".join(struct.pack("<HH", code, len(v)) + v + bytes(-len(v) % 4) for code, v in given)
    return packed + bytes(4) if given else b""


def section(major: int = 1) -> bytes:
    return block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, major, 0, -1))


def interface(name: str | None, link_type: int = 1, resolution: bytes = b"\x09") -> bytes:
    named = [(2, name.encode()), (3, b"tcp://127.0.0.1:1234")] if name is not None else []
    return block(1, struct.pack("<HHI", link_type, 0, 0) + options(*named, (9, resolution)))


def packet(
    number: int, frame: bytes, *more: tuple[int, bytes], length: int | None = None, ticks: int = NOON_NS
) -> bytes:
    stamp = struct.pack("<III", number, ticks >> 32, ticks & 0xFFFF_FFFF)
    lengths = struct.pack("<II", len(frame), len(frame) if length is None else length)
    return block(6, stamp + lengths + frame + bytes(-len(frame) % 4) + options(*more))


def statistics(number: int, *counts: tuple[int, int]) -> bytes:
    stamp = struct.pack("<III", number, NOON_NS >> 32, NOON_NS & 0xFFFF_FFFF)
    return block(5, stamp + options(*((code, struct.pack("<Q", count)) for code, count in counts)))


def flags(direction: int) -> tuple[int, bytes]:
    return 2, struct.pack("<I", direction)


def comment(text: str) -> tuple[int, bytes]:
    return 1, text.encode()


def dropped(frames: int) -> tuple[int, bytes]:
    return 4, struct.pack("<Q", frames)


def printed(stream: bytes) -> list[str]:
    capture = TextCapture()
    lines = capture.feed(stream)
    capture.finish()
    return lines


# Lines.

ARP_FRAME = bytes(Ether(src=A, dst=ALL) / Dot1Q(vlan=10) / ARP(hwsrc=A, psrc="10.0.0.1", pdst="10.0.0.2")) + bytes(14)
ARP_SAID = f"{A} > {ALL}  vlan 10  ARP who has 10.0.0.2? tell 10.0.0.1  60"


def test_a_line_has_columns() -> None:
    stream = section() + interface("web") + interface("db")
    stream += packet(0, ARP_FRAME, flags(1)) + packet(1, ARP_FRAME, flags(2)) + packet(0, ARP_FRAME)
    stream += packet(0, ARP_FRAME, flags(1), dropped(3), (5, bytes(8)), comment("dropped: vlan"))
    assert printed(stream) == [
        f"23:43:20.123456  web  in   {ARP_SAID}",
        f"23:43:20.123456  db   out  {ARP_SAID}",
        f"23:43:20.123456  web  -    {ARP_SAID}",
        f"23:43:20.123456  web  in   {ARP_SAID}  (3 before it not captured)  dropped: vlan",
    ]


def test_the_length_is_that_of_the_frame_and_not_of_what_was_captured() -> None:
    long = Ether(src=A, dst=B) / IP() / TCP(flags="PA", seq=100) / Raw(bytes(1400))
    (line,) = printed(section() + interface("web") + packet(0, bytes(long)[:60], length=1454))
    assert line.endswith("[P.] seq 100 len 1400  1454")


def test_columns_widen_with_the_longest_name_so_far() -> None:
    stream = section() + interface("db") + packet(0, ARP_FRAME, flags(1))
    stream += interface("web.12") + packet(0, ARP_FRAME, flags(1))
    stream += interface("n" * 63) + packet(0, ARP_FRAME, flags(1)) + packet(2, ARP_FRAME, flags(1))
    assert [line.removesuffix(ARP_SAID).removeprefix("23:43:20.123456  ") for line in printed(stream)] == [
        "db  in   ",
        "db      in   ",
        "db                in   ",
        f"{'n' * 63}  in   ",
    ]


def test_the_switch_itself_takes_no_room() -> None:
    (line,) = printed(section() + interface("(switch)") + interface("db") + packet(1, ARP_FRAME, flags(1)))
    assert line == f"23:43:20.123456  db  in   {ARP_SAID}"


def test_names_and_comments_cannot_command_a_terminal() -> None:
    stream = section() + interface("we\x1b[2Jb") + packet(0, ARP_FRAME, flags(1), comment("drop\nped\x9b"))
    (line,) = printed(stream)
    assert line == f"23:43:20.123456  we\\x1b[2Jb  in   {ARP_SAID}  drop\\nped\\x9b"


def test_an_interface_without_a_name_has_its_number() -> None:
    stream = section() + interface("web") + interface(None) + packet(1, ARP_FRAME, flags(1))
    assert printed(stream) == [f"23:43:20.123456  web  in   {ARP_SAID}".replace("web", "if1")]


@pytest.mark.parametrize(
    ("resolution", "ticks", "shown"),
    [
        (b"\x09", 1_700_000_000_999_999_999, "23:43:20.999999"),
        (b"\x06", 1_700_000_000_123_456, "23:43:20.123456"),
        (b"\x00", 1_700_000_000, "23:43:20.000000"),
        (b"\x81", 1_700_000_000 << 1 | 1, "23:43:20.500000"),
        (b"\x00", 1 << 63, "??:??:??.??????"),
        (b"\x00", 1 << 57, "??:??:??.??????"),
    ],
)
def test_time_is_in_units_of_the_interface(resolution: bytes, ticks: int, shown: str) -> None:
    stream = section() + interface("web", resolution=resolution) + packet(0, ARP_FRAME, flags(1), ticks=ticks)
    assert printed(stream) == [f"{shown}  web  in   {ARP_SAID}"]


def test_without_a_resolution_time_is_in_microseconds() -> None:
    stream = section() + block(1, struct.pack("<HHI", 1, 0, 0))
    (line,) = printed(stream + packet(0, ARP_FRAME, ticks=1_700_000_000_123_456))
    assert line.startswith("23:43:20.123456  if0  ")


def test_what_is_not_ethernet_is_not_read_as_such() -> None:
    stream = section() + interface("web", link_type=113) + packet(0, ARP_FRAME, flags(1))
    assert printed(stream) == ["23:43:20.123456  web  in   link type 113  60"]


def test_frames_that_were_not_captured_are_told_at_the_end() -> None:
    stream = section() + interface("web") + interface("db")
    assert printed(stream + statistics(0, (4, 345), (5, 0)) + statistics(1, (4, 7))) == []
    assert printed(stream + statistics(1, (4, 345), (5, 12))) == [
        "23:43:20.123456  db   -    12 of 345 frames not captured"
    ]


def test_blocks_that_are_not_known_are_skipped_and_a_section_starts_anew() -> None:
    stream = (
        section()
        + interface("web")
        + block(0x0BAD, b"some bytes")
        + block(0x0BAD, b"")
        + packet(0, ARP_FRAME, flags(1))
    )
    (line,) = printed(stream)
    again = section() + interface("db") + packet(0, ARP_FRAME, flags(1))
    assert printed(stream + again) == [line, line.replace("web", "db ")]


# Pieces.

FRAMES = [ARP_FRAME, bytes(Ether() / IP() / UDP() / DNS()), bytes(60), b""]
STREAM = (
    section()
    + interface("web")
    + b"".join(packet(0, frame, flags(1), comment("dropped: vlan")) for frame in FRAMES)
    + interface("a longer name")
    + packet(1, ARP_FRAME, flags(2))
    + statistics(0, (4, 7), (5, 1))
)


def told(pieces: list[bytes]) -> tuple[list[str], str | None]:
    """All lines, and the error, as a program gets them that reads pieces until the end or an error."""
    capture, lines = TextCapture(), []
    try:
        for piece in pieces:
            lines += capture.feed(piece)
        capture.finish()
    except RefusedError as error:
        return lines, str(error)
    return lines, None


def split(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(stream) + 1) for place in places)
    return [stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True)]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_pieces_make_no_difference(places: list[int]) -> None:
    lines, error = told(split(STREAM, places))
    assert (lines, error) == (printed(STREAM), None)
    assert len(lines) == 6


def test_a_line_is_there_with_its_last_byte() -> None:
    capture, early = TextCapture(), section() + interface("web") + packet(0, ARP_FRAME)
    assert capture.feed(early[:-1]) == []
    assert len(capture.feed(early[-1:])) == 1


@given(st.integers(0, len(STREAM) - 1), st.integers(0, 255), st.lists(st.integers(0, len(STREAM)), max_size=5))
def test_pieces_make_no_difference_to_a_broken_stream(at: int, value: int, places: list[int]) -> None:
    broken = STREAM[:at] + bytes([value]) + STREAM[at + 1 :]
    assert told(split(broken, places)) == told([broken])


@given(st.binary(max_size=300), st.booleans())
def test_any_stream_gives_lines_or_is_refused(data: bytes, started: bool) -> None:
    lines, error = told([section() + interface("web") + data if started else data])
    assert all(line.isprintable() for line in lines)
    assert error is None or error.startswith(("not a pcapng stream: ", "the pcapng stream ends"))


@given(st.sampled_from([1, 5, 6]), st.binary(max_size=100))
def test_any_block_gives_lines_or_is_refused(kind: int, body: bytes) -> None:
    start = section() + interface("web")
    lines, error = told([start + block(kind, bytes(4) + body) + packet(0, ARP_FRAME, flags(1))])
    assert all(line.isprintable() for line in lines)
    assert (error is None and lines) or str(error).startswith("not a pcapng stream: ")


WEB = section() + interface("web")
REFUSED = {
    "text": (b"hello", "does not start with a section"),
    "one byte": (b"\x0b", "does not start with a section"),
    "no section": (interface("web"), "does not start with a section"),
    "big-endian": (struct.pack(">IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28), "not little-endian"),
    "version": (section(major=2), "version 2"),
    "short block": (WEB + struct.pack("<III", 6, 8, 8), "a block of 8 bytes"),
    "odd block": (WEB + struct.pack("<III", 6, 33, 0), "a block of 33 bytes"),
    "endless block": (WEB + struct.pack("<III", 6, BLOCK_MAX + 4, 0), f"a block of {BLOCK_MAX + 4} bytes"),
    "lengths that differ": (WEB + packet(0, ARP_FRAME)[:-4] + struct.pack("<I", 16), "another length"),
    "no such interface": (WEB + packet(1, ARP_FRAME), "interface 1 is not described"),
    "statistics of none": (WEB + statistics(1), "interface 1 is not described"),
    "interface of the last section": (WEB + section() + packet(0, ARP_FRAME), "interface 0 is not described"),
    "more captured than there is": (WEB + block(6, struct.pack("<IIIII", 0, 0, 0, 9, 9) + bytes(8)), "within a field"),
    "option": (WEB + block(1, struct.pack("<HHIHH", 1, 0, 0, 2, 9) + bytes(8)), "within a field"),
}


@pytest.mark.parametrize(("stream", "why"), REFUSED.values(), ids=REFUSED)
def test_nonsense_is_refused_and_stays_so(stream: bytes, why: str) -> None:
    capture = TextCapture()
    for _ in range(2):
        with pytest.raises(RefusedError, match=f"not a pcapng stream: .*{why}"):
            capture.feed(stream)
        stream = b""


def test_lines_before_nonsense_are_not_lost() -> None:
    capture = TextCapture()
    assert len(capture.feed(section() + interface("web") + packet(0, ARP_FRAME) + packet(1, ARP_FRAME))) == 1
    with pytest.raises(RefusedError, match="interface 1 is not described"):
        capture.finish()


def test_a_stream_may_be_empty_but_not_end_within_a_block() -> None:
    assert told([]) == ([], None)
    assert told([STREAM[:-1]])[1] == "the pcapng stream ends within a block"
