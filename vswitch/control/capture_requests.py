"""What may be asked of captures, as the API has it."""

import math
import os

import msgspec

from vswitch.errors import InputError

SNAPLEN_MAX = 262144  # as edges/capture.py has it, which commands that capture nothing need not load


class CaptureRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is captured. `ports` are names of ports and endpoints, none for all; `filter` is in the pcap language.

    `count` ends the capture after so many frames, 0 never, `duration_s` after so many seconds. Raises InputError if
    something is out of range.
    """

    ports: tuple[str, ...] = ()
    filter: str = ""
    drops: bool = False
    snaplen: int = SNAPLEN_MAX
    count: int = 0
    duration_s: float | None = None
    lossless: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.snaplen <= SNAPLEN_MAX:
            raise InputError(f"a snap length of {self.snaplen} is out of range; 1 to {SNAPLEN_MAX} bytes")
        if not 0 <= self.count < 2**62:
            raise InputError(f"a count of {self.count} is out of range")
        if self.duration_s is not None and not 0 <= self.duration_s < math.inf:
            raise InputError(f"a duration of {self.duration_s:g} s is out of range")


class FileRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where it is written: an absolute path, when a new file is begun (`100MB`, `60s`, `1000frames`), and how many are
    kept; `floor` is how much space is left free, in bytes."""

    path: str
    rotate: tuple[str, ...] = ()
    keep: int | None = None
    floor: int | None = None


class CaptureSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a capture: frames captured, and missed; `stopped` says why it was over before its time."""

    frames: int
    missed: int
    stopped: str | None


def local(request: FileRequest) -> FileRequest:
    """The same, with the path as this system has it."""
    return msgspec.structs.replace(request, path=os.fsdecode(request.path.encode()))
