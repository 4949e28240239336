"""What may be asked of captures, as the API has it: types, and how a URL's query and a body say them."""

import math
import os
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

import msgspec

from vswitch.edges.capture import SNAPLEN_MAX
from vswitch.errors import InputError


class CaptureRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is captured. `ports` are names of ports and endpoints, none for all; `filter` is in the pcap language.

    `count` ends the capture after so many frames, 0 never, `duration_s` after so many seconds.
    """

    ports: tuple[str, ...] = ()
    filter: str = ""
    drops: bool = False
    snaplen: int = SNAPLEN_MAX
    count: int = 0
    duration_s: float | None = None
    lossless: bool = False


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


def check(request: CaptureRequest) -> CaptureRequest:
    """Raises InputError if something in it is out of range."""
    if not 1 <= request.snaplen <= SNAPLEN_MAX:
        raise InputError(f"a snap length of {request.snaplen} is out of range; 1 to {SNAPLEN_MAX} bytes")
    if not 0 <= request.count < 2**62:
        raise InputError(f"a count of {request.count} is out of range")
    if request.duration_s is not None and not 0 <= request.duration_s < math.inf:
        raise InputError(f"a duration of {request.duration_s:g} s is out of range")
    return request


def read_query(items: Iterable[tuple[str, str]]) -> CaptureRequest:
    """A request as a URL's query has it: its fields by name, `ports` once for each. Raises InputError."""
    fields: dict[str, Any] = {}
    for name, value in items:
        if name == "ports":
            fields.setdefault(name, []).append(value)
        else:
            fields[name] = value
    try:
        return check(msgspec.convert(fields, CaptureRequest, strict=False))
    except msgspec.ValidationError as error:
        raise InputError(f"the query asks for what there is not: {error}") from None


def read_file(body: bytes) -> FileRequest:
    """Raises InputError."""
    try:
        request = msgspec.json.decode(body, type=FileRequest)
        return msgspec.structs.replace(request, path=os.fsdecode(request.path.encode()))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"the body does not say a file: {error}") from None


def write_query(request: CaptureRequest) -> str:
    """The other way round."""
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    fields = {name: value for name, value in fields.items() if value not in (None, "", ())}
    return urlencode(fields, doseq=True, errors="surrogateescape")
