"""Captures for tests: taken apart block by block by what shares no code with what wrote them, and as others read them.

`read` is strict: it fails on whatever draft-ietf-opsawg-pcapng does not allow, or a capture of ours does not have.
"""

import hashlib
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.needs import require

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
COMMENT = 1
IN, OUT = 1, 2
SWITCH = "(switch)"
TOOL_TIMEOUT_S = 20.0

FIELDS = [
    "interface_id",
    "interface_name",
    "interface_description",
    "time_epoch",
    "cap_len",
    "len",
    "packet_flags_direction",
    "packet_id",
    "drop_count",
    "comment",
    "md5_hash",
]


class Packet(NamedTuple):
    """A packet block; `length` is the whole frame's, `missed` what was dropped by the capture before it."""

    port: str
    direction: int
    data: bytes
    length: int
    time_ns: int
    id: int | None
    comment: str
    missed: int
    interface: int


class Interface(NamedTuple):
    name: str
    description: str
    snaplen: int
    filter: str


class Statistics(NamedTuple):
    received: int
    missed: int
    time_ns: int


@dataclass
class Read:
    """A section. The first interface is the switch itself; `statistics` are by interface."""

    application: str = ""
    interfaces: list[Interface] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    statistics: dict[int, Statistics] = field(default_factory=dict)

    @property
    def ports(self) -> list[Interface]:
        return self.interfaces[1:]

    def at(self, port: str, direction: int | None = None) -> list[Packet]:
        return [packet for packet in self.packets if packet.port == port and direction in (None, packet.direction)]

    def frames(self, port: str, direction: int) -> list[bytes]:
        return [packet.data for packet in self.at(port, direction)]

    def check_statistics(self) -> None:
        """Each interface has its own, and they account for every frame."""
        assert sorted(self.statistics) == list(range(len(self.interfaces)))
        captured = Counter(packet.interface for packet in self.packets)
        said = Counter[int]()
        for packet in self.packets:
            said[packet.interface] += packet.missed
        for interface, counted in self.statistics.items():
            assert counted.received == captured[interface] + counted.missed
            assert said[interface] <= counted.missed


def whole(content: bytes) -> bytes:
    """Content as far as its last whole block."""
    at = 0
    while len(content) - at >= 12 and at + (size := struct.unpack_from("<I", content, at + 4)[0]) <= len(content):
        at += size
    return content[:at]


def blocks(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the body of each block; the content has to end with a whole one."""
    while content:
        kind, size = struct.unpack_from("<II", content)
        assert 12 <= size <= len(content), "a begun block"
        assert size % 4 == 0, "a block that is not padded"
        assert content[size - 4 : size] == content[4:8], "a block of two lengths"
        yield kind, content[8 : size - 4]
        content = content[size:]


def options(data: bytes) -> dict[int, bytes]:
    """Options by their codes; each may be there once, and the last says that it is the last."""
    found: dict[int, bytes] = {}
    while True:
        code, size = struct.unpack_from("<HH", data)
        if code == 0:
            assert (size, len(data)) == (0, 4), "something behind the end of the options"
            return found
        end = 4 + size + -size % 4
        assert end <= len(data), "an option that is cut off"
        assert data[4 + size : end] == bytes(-size % 4), "padding that is not zero"
        assert code not in found
        found[code] = data[4 : 4 + size]
        data = data[end:]


def parse(content: bytes) -> Read:
    """The capture that `content` is."""
    read = Read()
    for number, (kind, body) in enumerate(blocks(content)):
        assert (kind == SECTION) is (number == 0), "a section is what a capture starts with"
        if kind == SECTION:
            assert struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
            read.application = options(body[16:])[4].decode()
        elif kind == INTERFACE:
            link_type, reserved, snaplen = struct.unpack_from("<HHI", body)
            said = options(body[8:])
            assert (link_type, reserved, said[9]) == (1, 0, b"\x09"), "Ethernet, in nanoseconds"
            kind_and_filter = said.get(11, b"\0")
            assert kind_and_filter[0] == 0, "a filter in pcap's language"
            assert (said[2].decode() == SWITCH) is (not read.interfaces), "the switch comes first"
            read.interfaces.append(Interface(said[2].decode(), said[3].decode(), snaplen, kind_and_filter[1:].decode()))
        elif kind == PACKET:
            read.packets.append(_packet(body, read.interfaces))
        else:
            assert kind == STATISTICS, f"a block of kind {kind}"
            interface, upper, lower = struct.unpack_from("<III", body)
            assert interface < len(read.interfaces), "statistics of an interface that there is not"
            assert interface not in read.statistics
            said = options(body[12:])
            assert struct.unpack("<II", said[3]) == (upper, lower)
            received, missed = (int.from_bytes(said[code], "little") for code in (4, 5))
            read.statistics[interface] = Statistics(received, missed, upper << 32 | lower)
    return read


def _packet(body: bytes, interfaces: list[Interface]) -> Packet:
    interface, upper, lower, captured, length = struct.unpack_from("<5I", body)
    assert interface < len(interfaces), "a packet of a port that there is not yet"
    assert captured == min(length, interfaces[interface].snaplen)
    end = 20 + captured + -captured % 4
    assert body[20 + captured : end] == bytes(-captured % 4)
    said = options(body[end:])
    assert all(len(said[code]) == size for code, size in ((2, 4), (4, 8), (5, 8)) if code in said)
    if interface:
        assert said[2][0] in (IN, OUT)
    else:
        assert (length, said[2][0]) == (0, 0), "a frame of no port"
        assert said[COMMENT], "a mark that says nothing"
    assert said[2][1:] == bytes(3)
    return Packet(
        port=interfaces[interface].name,
        direction=said[2][0],
        data=body[20 : 20 + captured],
        length=length,
        time_ns=upper << 32 | lower,
        id=int.from_bytes(said[5], "little") if 5 in said else None,
        comment=said.get(COMMENT, b"").decode(),
        missed=int.from_bytes(said.get(4, b""), "little"),
        interface=interface,
    )


def read(path: Path, *, cut_off: bool = False) -> Read:
    """The capture in a file. scapy, tshark and capinfos have to read the same of it, packet by packet, tcpdump as many.

    `cut_off` allows for its end in the middle of a block.
    """
    content = path.read_bytes()
    read = parse(whole(content) if cut_off else content)
    check_tshark(tshark_lines("-r", str(path), may_fail=cut_off), read)
    _check_scapy(path, read)
    if not cut_off or whole(content) == content:
        check_capinfos(capinfos(str(path)), read)
        assert tool("tcpdump", "-r", str(path), "--count").split()[0] == str(len(read.packets))
    return read


def tool(*arguments: str, stdin: bytes = b"", may_fail: bool = False) -> str:
    """What one of Wireshark's tools prints."""
    require(shutil.which(arguments[0]), f"{arguments[0]} is not installed")
    done = subprocess.run(arguments, input=stdin, capture_output=True, timeout=TOOL_TIMEOUT_S)
    assert may_fail or done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def tshark_lines(*arguments: str, stdin: bytes = b"", may_fail: bool = False) -> list[str]:
    """A line a packet, for `check_tshark`."""
    return tool(*tshark_command(*arguments), stdin=stdin, may_fail=may_fail).splitlines()


def tshark_command(*arguments: str) -> list[str]:
    shown = [argument for name in FIELDS for argument in ("-e", f"frame.{name}")]
    return ["tshark", "-Q", "-n", "-o", "frame.generate_md5_hash:TRUE", *arguments, "-T", "fields", *shown]


def check_tshark(lines: list[str], read: Read) -> None:
    expected = []
    for packet in read.packets:
        seconds, rest = divmod(packet.time_ns, 10**9)
        expected.append(
            {
                "interface_id": str(packet.interface),
                "interface_name": packet.port,
                "interface_description": read.interfaces[packet.interface].description,
                "time_epoch": f"{seconds}.{rest:09}",
                "cap_len": str(len(packet.data)),
                "len": str(packet.length),
                "packet_flags_direction": f"0x{packet.direction:08x}",
                "packet_id": "" if packet.id is None else str(packet.id),
                "drop_count": str(packet.missed or ""),
                "comment": packet.comment,
                "md5_hash": hashlib.md5(packet.data).hexdigest(),
            }
        )
    assert [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in lines] == expected


def capinfos(path: str, stdin: bytes = b"") -> str:
    return tool("capinfos", "-M", path, stdin=stdin)


def check_capinfos(shown: str, read: Read) -> None:
    """What capinfos counts, and says of each interface."""
    told = [line.strip().replace("  ", " ") for line in shown.splitlines()]
    values = [tuple(part.strip() for part in line.replace("=", ":", 1).split(":", 1)) for line in told if line]
    packets = Counter(packet.interface for packet in read.packets)
    assert [value[1] for value in values if value[0] == "Number of packets"] == [
        str(len(read.packets)),
        *(str(packets[interface]) for interface in range(len(read.interfaces))),
    ]
    assert ("Capture application", read.application) in values
    for key, expected in {
        "Name": [interface.name for interface in read.interfaces],
        "Description": [interface.description for interface in read.interfaces],
        "Capture length": [str(interface.snaplen) for interface in read.interfaces],
        "Time precision": ["nanoseconds (9)"] * len(read.interfaces),
        "Number of stat entries": [str(int(number in read.statistics)) for number in range(len(read.interfaces))],
        "Filter string": [interface.filter for interface in read.interfaces if interface.filter],
    }.items():
        assert [value[1] for value in values if value[0] == key] == expected


def _check_scapy(path: Path, read: Read) -> None:
    from scapy.data import MTU
    from scapy.utils import RawPcapNgReader

    with RawPcapNgReader(str(path)) as reader:
        found: list[tuple[bytes, Any]] = list(reader)
    assert len(found) == len(read.packets)
    for (data, said), packet in zip(found, read.packets, strict=True):
        assert (data, said.wirelen, said.direction) == (packet.data[:MTU], packet.length, packet.direction)
        assert (said.tshigh << 32 | said.tslow, said.tsresol) == (packet.time_ns, 10**9)
        assert said.ifname.decode() == packet.port
        assert said.comments == ([packet.comment.encode()] if packet.comment else None)
