"""What guests say reaches no terminal, log, metric or event as it is: names in DHCP, LLDP and payloads are hostile."""

import json
import re
import struct

from tests.cli.program import Home, connect
from tests.frames import BROADCAST, framed, mac
from tests.waiting import until

HOSTILE = '\x1b]0;owned\x07\x1b[2J\r\nfake: line\u202egnp.exe{x="1"}\'\u2028\x9b31m'.encode()
SAFE = re.compile(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*")


def ethernet(destination: int, kind: int, payload: bytes, source: int = 1) -> bytes:
    return destination.to_bytes(6) + mac(source).to_bytes(6) + kind.to_bytes(2) + payload


def udp(source: int, destination: int, payload: bytes) -> bytes:
    datagram = struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    return ethernet(BROADCAST, 0x0800, head + datagram)


def dhcp(kind: int, hostname: bytes) -> bytes:
    bootp = struct.pack(
        "!BBBBIHH16s16s64s128s", kind, 1, 6, 0, 7, 0, 0, bytes(16), mac(1).to_bytes(6), HOSTILE, HOSTILE
    )
    options = b"\x63\x82\x53\x63\x35\x01\x01" + bytes([12, len(hostname)]) + hostname + b"\xff"
    return bootp + options


def dns(name: bytes) -> bytes:
    labels = b"".join(bytes([len(part)]) + part for part in (name[at : at + 60] for at in range(0, len(name), 60)))
    return struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!H", kind << 9 | len(value)) + value


FRAMES = [
    udp(68, 67, dhcp(1, HOSTILE)),
    *[udp(67, 68, dhcp(2, HOSTILE))] * 4,
    udp(5353, 5353, dns(HOSTILE)),
    ethernet(
        BROADCAST, 0x88CC, tlv(1, b"\x07" + HOSTILE) + tlv(2, b"\x07" + HOSTILE) + tlv(5, HOSTILE) + tlv(6, HOSTILE)
    ),
    ethernet(BROADCAST, 0x88B5, HOSTILE),
    HOSTILE,
    HOSTILE[:13],
    ethernet(BROADCAST, 0x0806, HOSTILE),
    ethernet(BROADCAST, 0x86DD, HOSTILE * 2),
    *(ethernet(BROADCAST, 0x88B5, HOSTILE, source=number) for number in (1, 2, 1, 2)),
]


def check_safe(text: str, where: str) -> None:
    assert SAFE.fullmatch(text), (where, [c for c in text if not SAFE.fullmatch(c)])
    assert "fake: line" not in [line[:10] for line in text.splitlines()], where


def test_nothing_that_a_guest_says_gets_out_as_it_is(home: Home) -> None:
    urls = (f"unix://{home.root}/lan.sock?name=lab&dhcp_server=no&vlan=10", "--record", "1MiB")
    with home.serve(*urls) as serving:
        lab = serving.urls["lab"]
        with connect(lab) as guest, connect(lab) as other:
            until(lambda: len(home.get("ports")) == 2, "both are plugged in")
            guest.sendall(framed(FRAMES))
            other.sendall(framed(FRAMES[-4:]))
            until(lambda: sum(port["rx_frames"] for port in home.get("ports")) == len(FRAMES) + 4, "all have come in")
            until(lambda: "drops:" in home.run("events").stdout, "the drops are told of")
            for command in (
                *(["status"], ["ports"], ["macs"], ["vlans"], ["events"], ["flows"], ["metrics"]),
                *(["trace", "lab.1", frame.hex()] for frame in FRAMES),
            ):
                done = home.run(*command)
                assert done.returncode == 0, done.stderr
                check_safe(done.stdout + done.stderr, " ".join(command)[:20])
            for resource in ("events", "flows", "ports"):
                check_safe(json.dumps(home.get(resource), ensure_ascii=False), resource)
        serving.wait_said("lab.1 down")
        check_safe(serving.log, "the log")
