"""VDE's requests and replies, byte by byte."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.protocols import vde
from vswitch.protocols.vde import SUN_PATH, BadRequest, Request

MAGIC = 0xFEEDFACE
V1_SIZE = 4 + 4 + 6 + 2 + SUN_PATH
V3_SIZE = 4 + 4 + 4 + 2 + SUN_PATH
PATH = b"/run/lan.vde/.00001-00000"


def v1(kind: int = 0, path: bytes = PATH, family: int = socket.AF_UNIX, description: bytes = b"") -> bytes:
    return struct.pack("=II6sH108s", MAGIC, kind, bytes(6), family, path) + description


def v3(
    kind: int = 0, path: bytes = PATH, family: int = socket.AF_UNIX, description: bytes = b"", version: int = 3
) -> bytes:
    return struct.pack("=IIIH108s", MAGIC, version, kind, family, path) + description


def padded(path: bytes) -> bytes:
    return path.ljust(SUN_PATH, b"\0")


def outcome(data: bytes) -> Request | str | None:
    """The request, or why it is none."""
    try:
        return vde.parse_request(data)
    except BadRequest as error:
        return str(error)


HEADS = st.builds(
    struct.pack,
    st.just("=III"),
    st.just(MAGIC),
    st.integers(0, 5) | st.integers(0, 2**32 - 1),
    st.integers(0, 1) | st.integers(0, 2**32 - 1),
)
PATHS = st.binary(max_size=SUN_PATH - 1)
TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=vde.DESCRIPTION_MAX // 4)


@given(st.binary(max_size=400) | st.builds(lambda head, rest: head + rest, HEADS, st.binary(max_size=400)))
def test_any_bytes_are_a_request_or_the_beginning_of_one_or_no_vde(data: bytes) -> None:
    found = outcome(data)
    if found is None:
        assert len(data) < V1_SIZE
    elif isinstance(found, Request):
        assert found.port is None or 0 <= found.port <= vde.PORT_MAX
        assert len(found.path) == SUN_PATH
        assert "\0" not in found.description
        assert len(found.description) <= 4 * vde.DESCRIPTION_MAX
        for address in vde.addresses(found.path):
            assert 0 < len(address) <= SUN_PATH or found.path[:1] != b"\0"


@given(st.binary(max_size=400) | st.builds(lambda path: struct.pack("=H108s", socket.AF_UNIX, path), st.binary()))
def test_any_bytes_are_a_reply_or_not(data: bytes) -> None:
    try:
        path = vde.parse_reply(data)
    except BadRequest:
        return
    assert path
    assert b"\0" not in path


@given(st.binary(max_size=200), st.data())
def test_more_bytes_never_make_a_bad_request_good(data: bytes, draw: st.DataObject) -> None:
    """What is refused is refused at once, and what is whole stays what it is but for its description."""
    whole = draw.draw(st.sampled_from([data, v3(description=data), v1(description=data)]))
    cut = draw.draw(st.integers(0, len(whole)))
    early, late = outcome(whole[:cut]), outcome(whole)
    if isinstance(early, str):
        assert early == late
    elif early is not None:
        assert isinstance(late, Request)
        assert early[:2] == late[:2]


@given(st.integers(0, vde.PORT_MAX), PATHS, TEXTS)
def test_what_we_ask_for_is_understood(port: int, path: bytes, description: str) -> None:
    asked = vde.request(port, path, description)
    assert vde.parse_request(asked) == Request(port or None, padded(path), description)
    assert asked[:V3_SIZE] == v3(port << 8, path)


@given(PATHS.map(lambda path: path.replace(b"\0", b"x")).filter(bool))
def test_what_we_reply_is_understood(path: bytes) -> None:
    reply = vde.reply(path)
    assert len(reply) == 110
    assert vde.parse_reply(reply) == path


@pytest.mark.parametrize("length", [SUN_PATH, SUN_PATH + 1, 500])
def test_a_path_that_does_not_fit_is_a_mistake_of_ours(length: int) -> None:
    with pytest.raises(ValueError, match=str(length)):
        vde.request(0, b"x" * length, "")
    with pytest.raises(ValueError, match=str(length)):
        vde.reply(b"x" * length)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (v3(), Request(None, padded(PATH), "")),
        (v3(description=b"QEMU user=root pid=1"), Request(None, padded(PATH), "QEMU user=root pid=1")),
        (v3(description=b"one\0two"), Request(None, padded(PATH), "one")),
        (v3(description=b"\xff\x1b"), Request(None, padded(PATH), "\\xff\x1b")),
        (v3(description=b"x" * 1000), Request(None, padded(PATH), 256 * "x")),
        (v3(kind=5 << 8), Request(5, padded(PATH), "")),
        (v3(kind=65535 << 8), Request(65535, padded(PATH), "")),
        (v3(kind=1), Request(0, padded(PATH), "")),
        (v3(kind=1 | 7 << 8), Request(0, padded(PATH), "")),
        (v1(description=b"pid=1"), Request(None, padded(PATH), "pid=1")),
        (v1(kind=1), Request(0, padded(PATH), "")),
        (v3(path=b"", family=socket.AF_UNSPEC), Request(None, bytes(SUN_PATH), "")),
        (v3(path=b"x" * SUN_PATH), Request(None, b"x" * SUN_PATH, "")),
    ],
)
def test_a_request_says_what_it_wants(data: bytes, found: Request) -> None:
    assert vde.parse_request(data) == found


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not a VDE request"),
        (b"\0", "not a VDE request"),
        (struct.pack(">I", MAGIC), "not a VDE request"),
        (v3(version=2), "version 2"),
        (v3(version=4), "version 4"),
        (v3(version=5), "version 5"),
        (v3(version=2**32 - 1), "version 4294967295"),
        (v3(kind=2), "type 0x2"),
        (v3(kind=0xFF), "type 0xff"),
        (v3(kind=65536 << 8), "type 0x1000000"),
        (v3(family=socket.AF_INET), "family 2"),
        (v3(family=socket.AF_UNSPEC), "family 0"),
        (v1(family=socket.AF_INET6), "family 10"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(data: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        vde.parse_request(data)


@pytest.mark.parametrize("whole", [v1(), v3()], ids=["v1", "v3"])
def test_a_request_is_whole_when_its_address_is(whole: bytes) -> None:
    for size in range(len(whole)):
        assert vde.parse_request(whole[:size]) is None
    assert vde.parse_request(whole) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        vde.reply(b"/a")[:-1],
        vde.reply(b"/a") + b"\0",
        struct.pack("=H108s", socket.AF_INET, b"/a"),
        struct.pack("=H108s", socket.AF_UNIX, b""),
        struct.pack("=H108s", socket.AF_UNIX, b"\0abstract"),
    ],
)
def test_a_reply_that_names_no_socket_is_none(data: bytes) -> None:
    with pytest.raises(BadRequest):
        vde.parse_reply(data)


@pytest.mark.parametrize(
    ("path", "addresses"),
    [
        (PATH, [PATH]),
        (padded(PATH), [PATH]),
        (PATH + b"\0rest", [PATH]),
        (b"x" * SUN_PATH, [b"x" * SUN_PATH]),
        (padded(b"\0name"), [padded(b"\0name"), b"\0name"]),
        (padded(b"\0a\0b"), [padded(b"\0a\0b"), b"\0a\0b"]),
        (bytes(SUN_PATH), []),
    ],
)
def test_an_address_is_a_path_or_an_abstract_name_of_either_length(path: bytes, addresses: list[bytes]) -> None:
    assert vde.addresses(path) == addresses
