"""Capture files made of blocks by hand, and what is to be found in them."""

import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from vswitch.edges.capture_file import NONE, CaptureFile, Rotation
from vswitch.errors import RefusedError

NOW_S = 1_795_363_200.0  # 2026-11-22 16:00:00 UTC
NOW_TEXT = time.strftime("%Y%m%d%H%M%S", time.localtime(NOW_S))
MIB = 2**20

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6


def block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


def packet(content: bytes, interface: int = 0) -> bytes:
    padding = bytes(-len(content) % 4)
    return block(PACKET, struct.pack("<IIIII", interface, 0, 0, len(content), len(content)) + content + padding)


ONE_INTERFACE = block(INTERFACE, struct.pack("<HHI", 1, 0, 0))
HEADER = block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)) + ONE_INTERFACE
TRAILER = block(STATISTICS, struct.pack("<III", 0, 0, 0))
FRAME = packet(b"\xff" * 60)  # 92 bytes
AROUND = len(HEADER) + len(TRAILER)


def blocks_of(content: bytes) -> list[bytes]:
    """The blocks of a file; fails unless it ends with a whole one."""
    found = []
    while content:
        assert len(content) >= 12, "a begun block"
        size = struct.unpack_from("<I", content, 4)[0]
        assert len(content) >= size, "a begun block"
        assert content[size - 4 : size] == content[4:8]
        found.append(content[:size])
        content = content[size:]
    return found


def packets_of(content: bytes) -> list[bytes]:
    return [found for found in blocks_of(content) if found[:4] == struct.pack("<I", PACKET)]


def begin(path: Path, rotation: Rotation = NONE, floor: int | None = 0, now_s: float = NOW_S) -> CaptureFile:
    return CaptureFile(str(path), HEADER, lambda: TRAILER, now_s, rotation, floor)


def refused(path: Path | str, rotation: Rotation = NONE) -> str:
    with pytest.raises(RefusedError) as caught:
        begin(Path(path), rotation)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    return message


def files(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def name(number: int, later_s: float = 0) -> str:
    return f"lan_{number:05}_{time.strftime('%Y%m%d%H%M%S', time.localtime(NOW_S + later_s))}.pcapng"


class Ended(NamedTuple):
    status: int
    output: bytes


def in_child(work: Callable[[], bytes]) -> Ended:
    """What a child process of ours answers; it may change its limits, its user and its mounts."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(readable)
            with open(writable, "wb") as output:
                output.write(work())
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    os.close(writable)
    with open(readable, "rb") as output:
        answer = output.read()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), answer)
