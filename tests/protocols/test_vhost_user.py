"""vhost-user's messages: each request right and wrong, and anything at all."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vhost_user import (
    ENABLED,
    MEGABYTE,
    MEMORY,
    MORE,
    NEED_REPLY,
    NO_FD,
    OFFERED,
    REPLY,
    VERSION,
    Connection,
    Guest,
    addresses,
    number,
    read_reply,
    state,
    table,
)
from vswitch.protocols import vhost_user
from vswitch.protocols.vhost_user import (
    FDS_MAX,
    FEATURES,
    HEADER_SIZE,
    PAYLOAD_MAX,
    PROTOCOL_FEATURES,
    Backend,
    ProtocolError,
    Region,
    Request,
    Session,
)

Message = tuple[int, int, bytes, int]  # request, flags, payload, descriptors


@pytest.fixture
def connection() -> Connection:
    return Connection()


def test_what_is_offered_does_not_change(connection: Connection) -> None:
    """A guest keeps its features when QEMU connects again, perhaps to a newer switch: bits may come, none may go."""
    assert connection.ask(Request.GET_FEATURES) == number(0x17000BB8B) == number(FEATURES)
    assert connection.ask(Request.GET_PROTOCOL_FEATURES) == number(OFFERED)
    assert connection.ask(Request.GET_QUEUE_NUM) == number(1)


def test_features_have_names() -> None:
    assert vhost_user.feature_names(0) == []
    assert vhost_user.feature_names(PROTOCOL_FEATURES) == []
    assert vhost_user.feature_names(
        vhost_user.NET_MRG_RXBUF | vhost_user.RING_EVENT_IDX | vhost_user.VERSION_1 | PROTOCOL_FEATURES
    ) == ["mrg_rxbuf", "event_idx", "version_1"]
    assert len(set(vhost_user.feature_names(FEATURES))) == FEATURES.bit_count() - 1


def test_there_are_no_features_before_they_are_set(connection: Connection) -> None:
    assert connection.session.features == 0
    connection.send(Request.SET_FEATURES, number(PROTOCOL_FEATURES))
    assert connection.session.features == PROTOCOL_FEATURES
    assert connection.guest.calls == [("set_features", PROTOCOL_FEATURES)]


def test_a_front_end_without_protocol_features_has_its_rings_enabled(connection: Connection) -> None:
    connection.send(Request.SET_FEATURES, number(0))
    assert connection.guest.calls == [("set_features", 0), *ENABLED]


def test_features_stay_while_a_ring_runs(connection: Connection) -> None:
    connection.send(Request.SET_FEATURES, number(FEATURES))
    connection.start(1)
    connection.send(Request.SET_FEATURES, number(FEATURES))
    with pytest.raises(ProtocolError, match="features that change while a ring runs"):
        connection.send(Request.SET_FEATURES, number(PROTOCOL_FEATURES))
    assert connection.session.features == FEATURES


def test_the_owner_reset_disables_the_rings_and_forgets_nothing(connection: Connection) -> None:
    connection.send(Request.SET_FEATURES, number(FEATURES))
    connection.start()
    connection.guest.calls.clear()
    connection.send(Request.RESET_OWNER)
    assert connection.guest.calls == [("enable_ring", 0, False), ("enable_ring", 1, False)]
    assert connection.session.features == FEATURES
    connection.send(Request.SET_VRING_KICK, number(0), fds=1)


def test_the_status_is_what_was_set_last(connection: Connection) -> None:
    assert connection.ask(Request.GET_STATUS) == number(0)
    connection.send(Request.SET_STATUS, number(15))
    assert connection.ask(Request.GET_STATUS) == number(15)


def test_memory_comes_in_up_to_eight_regions(connection: Connection) -> None:
    regions = [Region(place * MEGABYTE, MEGABYTE, place * MEGABYTE, 0) for place in (7, 3, 0, 1, 2, 6, 5, 4)]
    payload = table(*regions)
    assert len(payload) == PAYLOAD_MAX
    connection.send(Request.SET_MEM_TABLE, payload, fds=8)
    assert connection.guest.calls == [("set_memory", *regions)]


def test_memory_changes_while_rings_run(connection: Connection) -> None:
    """As it does when a guest gets more of it."""
    connection.send(Request.SET_MEM_TABLE, table(MEMORY), fds=1)
    connection.start()
    connection.send(Request.SET_MEM_TABLE, table(MEMORY, MORE), fds=2)
    assert connection.guest.calls[-1] == ("set_memory", MEMORY, MORE)


def test_a_machine_may_have_memory_in_two_places(connection: Connection) -> None:
    """QEMU's malta has its first 256 MiB at 0 and at 0x80000000."""
    again = Region(0x8000_0000, MEGABYTE, MEMORY.user_address, 0)
    connection.send(Request.SET_MEM_TABLE, table(MEMORY, again), fds=2)
    assert connection.guest.calls == [("set_memory", MEMORY, again)]


LAST = (1 << 63) - MEGABYTE


@pytest.mark.parametrize(
    ("payload", "fds", "says"),
    [
        (b"", 0, "a memory table of 0 bytes"),
        (table(MEMORY)[:7], 1, "a memory table of 7 bytes"),
        (table(), 0, "a memory table of 0 regions; 1 to 8 are possible"),
        (table(MEMORY, count=9), 1, "a memory table of 9 regions; 1 to 8 are possible"),
        (table(MEMORY, count=0xFFFFFFFF), 1, "a memory table of 4294967295 regions"),
        (table(MEMORY, count=2), 2, "a memory table of 2 regions in 40 bytes"),
        (table(MEMORY, MORE, count=1), 1, "a memory table of 1 regions in 72 bytes"),
        (table(MEMORY) + b"\0", 1, "a memory table of 1 regions in 41 bytes"),
        (table(MEMORY), 0, "SET_MEM_TABLE with 0 descriptors instead of 1"),
        (table(MEMORY), 2, "SET_MEM_TABLE with 2 descriptors instead of 1"),
        (table(MEMORY, MORE), 1, "SET_MEM_TABLE with 1 descriptors instead of 2"),
        (table(Region(0x1000, 0, 0, 0)), 1, "an empty memory region at 0x1000"),
        (table(Region(LAST + 1, MEGABYTE, 0, 0)), 1, "a memory region of 0x100000 bytes beyond the last address"),
        (table(Region(0, MEGABYTE, LAST + 1, 0)), 1, "beyond the last address"),
        (table(Region(0, MEGABYTE, 0, LAST + 1)), 1, "beyond the last address"),
        (table(Region((1 << 64) - 1, 2, 0, 0)), 1, "beyond the last address"),
        (table(Region(0, (1 << 64) - 1, 0, 0)), 1, "beyond the last address"),
        (table(MEMORY, MEMORY), 2, "memory regions that overlap at 0x0"),
        (table(MORE, Region(0, MEGABYTE + 1, 0, 0)), 2, "memory regions that overlap at 0x100000"),
        (table(Region(0, 4 * MEGABYTE, 0, 0), MORE), 2, "memory regions that overlap at 0x100000"),
    ],
)
def test_a_wrong_memory_table_is_refused(connection: Connection, payload: bytes, fds: int, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        connection.send(Request.SET_MEM_TABLE, payload, fds)
    assert connection.guest.calls == []


def test_regions_may_be_up_to_the_last_address(connection: Connection) -> None:
    connection.send(Request.SET_MEM_TABLE, table(Region(LAST, MEGABYTE, LAST, LAST)), fds=1)


@pytest.mark.parametrize("entries", [1, 2, 256, 1024])
def test_a_ring_has_a_power_of_two_entries(connection: Connection, entries: int) -> None:
    connection.send(Request.SET_VRING_NUM, state(1, entries))
    assert connection.guest.calls == [("set_ring_size", 1, entries)]


@pytest.mark.parametrize("entries", [0, 3, 255, 1023, 1025, 2048, 0x8000_0000, 0xFFFF_FFFF])
def test_other_sizes_of_a_ring_are_refused(connection: Connection, entries: int) -> None:
    with pytest.raises(ProtocolError, match=f"a ring of {entries} entries; powers of two up to 1024"):
        connection.send(Request.SET_VRING_NUM, state(0, entries))


def test_a_ring_stops_and_starts_again(connection: Connection) -> None:
    connection.start()
    assert connection.ask(Request.GET_VRING_BASE, state(0, 99)) == state(0, 0x1234)
    connection.start()
    assert connection.ask(Request.GET_VRING_BASE, state(1, 0)) == state(1, 0x1235)
    assert connection.guest.running == {0: True, 1: False}


@pytest.mark.parametrize(
    ("request_", "payload", "what"),
    [
        (Request.SET_VRING_NUM, state(0, 256), "size"),
        (Request.SET_VRING_ADDR, addresses(0), "addresses"),
        (Request.SET_VRING_BASE, state(0, 0), "base"),
    ],
)
def test_a_running_ring_stays_as_it_is(connection: Connection, request_: int, payload: bytes, what: str) -> None:
    connection.start(0)
    with pytest.raises(ProtocolError, match=f"the {what} of ring 0 changed while it runs"):
        connection.send(request_, payload)


def test_a_running_ring_gets_other_descriptors(connection: Connection) -> None:
    """As it does when the guest masks and unmasks its interrupt."""
    connection.start(0)
    connection.guest.calls.clear()
    connection.send(Request.SET_VRING_CALL, number(NO_FD))
    connection.send(Request.SET_VRING_CALL, number(0), fds=1)
    connection.send(Request.SET_VRING_KICK, number(0), fds=1)
    assert connection.guest.calls == [("set_call", 0, False), ("set_call", 0, True), ("set_kick", 0, True)]


@pytest.mark.parametrize("lacking", [Request.SET_VRING_NUM, Request.SET_VRING_ADDR])
def test_a_ring_starts_when_it_has_a_size_and_addresses(connection: Connection, lacking: int) -> None:
    for request, payload in ((Request.SET_VRING_NUM, state(0, 256)), (Request.SET_VRING_ADDR, addresses(0))):
        if request != lacking:
            connection.send(request, payload)
    connection.send(Request.SET_VRING_NUM, state(1, 256))
    connection.send(Request.SET_VRING_ADDR, addresses(1))
    with pytest.raises(ProtocolError, match="ring 0 started before it has a size and addresses"):
        connection.send(Request.SET_VRING_KICK, number(0), fds=1)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (addresses(0, descriptors=0x1008), "descriptors at 0x1008"),
        (addresses(0, available=0x1001), "available at 0x1001"),
        (addresses(0, used=0x1002), "used at 0x1002"),
        (addresses(0, descriptors=1 << 63), "descriptors at 0x8000000000000000"),
        (addresses(0, flags=1), "a ring with flags 0x1; none are offered"),  # VHOST_VRING_F_LOG
    ],
)
def test_wrong_addresses_are_refused(connection: Connection, payload: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        connection.send(Request.SET_VRING_ADDR, payload)


@pytest.mark.parametrize("request_", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
@pytest.mark.parametrize(
    ("value", "fds", "says"),
    [
        (0, 0, "with 0 descriptors instead of 1"),
        (0, 2, "with 2 descriptors instead of 1"),
        (NO_FD, 1, "with 1 descriptors instead of 0"),
        (2, 1, "ring 2; there are 2"),
        (0xFF | NO_FD, 0, "ring 255; there are 2"),
        (0x200, 1, "ring number 0x200"),
        (1 << 63 | NO_FD, 0, "ring number 0x8000000000000100"),
    ],
)
def test_a_descriptor_is_for_one_ring(connection: Connection, request_: int, value: int, fds: int, says: str) -> None:
    connection.start(0)
    with pytest.raises(ProtocolError, match=says):
        connection.send(request_, number(value), fds)


@pytest.mark.parametrize("request_", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
def test_a_ring_may_do_without_a_descriptor(connection: Connection, request_: int) -> None:
    connection.start(1)
    connection.send(request_, number(1 | NO_FD))
    name, ring, has_fd = connection.guest.calls[-1]
    assert (name, ring, has_fd) in [(f"set_{what}", 1, False) for what in ("kick", "call", "error")]


NUMBERS = [Request.SET_FEATURES, Request.SET_PROTOCOL_FEATURES, Request.NET_SET_MTU, Request.SET_STATUS]
DESCRIPTORS = [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR]
STATES = [Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.GET_VRING_BASE, Request.SET_VRING_ENABLE]
SIZES = {
    **dict.fromkeys([*NUMBERS, *DESCRIPTORS, *STATES], 8),
    Request.SET_VRING_ADDR: 40,
    **dict.fromkeys((Request.GET_FEATURES, Request.SET_OWNER, Request.RESET_OWNER), 0),
    **dict.fromkeys((Request.GET_PROTOCOL_FEATURES, Request.GET_QUEUE_NUM, Request.GET_STATUS), 0),
}


def test_each_request_has_a_size() -> None:
    assert {*SIZES, Request.SET_MEM_TABLE} == set(Request)


@pytest.mark.parametrize("request_", SIZES, ids=[Request(request).name for request in SIZES])
@pytest.mark.parametrize("surplus", [-1, 1, 8])
def test_a_request_of_another_size_is_refused(connection: Connection, request_: Request, surplus: int) -> None:
    size = SIZES[request_] + surplus
    if size < 0:
        return
    with pytest.raises(ProtocolError, match=f"{request_.name} of {size} bytes instead of {SIZES[request_]}"):
        connection.send(request_, bytes(size), fds=int(request_ in DESCRIPTORS))


@pytest.mark.parametrize("request_", sorted(set(SIZES) - set(DESCRIPTORS)))
def test_a_request_without_descriptors_has_none(connection: Connection, request_: Request) -> None:
    with pytest.raises(ProtocolError, match=f"{request_.name} with 1 descriptors instead of 0"):
        connection.send(request_, bytes(SIZES[request_]), fds=1)
    assert connection.guest.calls == []


@pytest.mark.parametrize("request_", STATES)
@pytest.mark.parametrize("ring", [2, 256, 0xFFFF_FFFF])
def test_there_are_two_rings(connection: Connection, request_: int, ring: int) -> None:
    with pytest.raises(ProtocolError, match=f"ring {ring}; there are 2"):
        connection.send(request_, state(ring, 1))


@pytest.mark.parametrize(
    ("request_", "payload", "says"),
    [
        (Request.SET_FEATURES, number(FEATURES | 1 << 26), "features 0x4000000, which are not offered"),  # F_LOG_ALL
        (Request.SET_FEATURES, number(1 << 63), "features 0x8000000000000000, which are not offered"),
        (Request.SET_PROTOCOL_FEATURES, number(OFFERED | 2), "protocol features 0x2, which are not offered"),
        (Request.SET_VRING_ADDR, addresses(2), "ring 2; there are 2"),
        (Request.SET_VRING_BASE, state(0, 0x10000), "a ring that goes on at entry 65536; at most 65535"),
        (Request.SET_VRING_ENABLE, state(0, 2), "a ring enabled by 2; 0 and 1 are possible"),
        (Request.SET_STATUS, number(0x100), "a device status of 0x100"),
        (Request.NET_SET_MTU, number(67), "an MTU of 67; 68 to 65535 are possible"),
        (Request.NET_SET_MTU, number(65536), "an MTU of 65536"),
    ],
)
def test_values_out_of_range_are_refused(connection: Connection, request_: int, payload: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        connection.send(request_, payload)
    assert connection.guest.calls == []


def test_who_asks_for_a_reply_gets_one(connection: Connection) -> None:
    connection.send(Request.SET_PROTOCOL_FEATURES, number(OFFERED))
    reply = connection.send(Request.SET_OWNER, flags=VERSION | NEED_REPLY)
    assert read_reply(Request.SET_OWNER, reply) == number(0)
    reply = connection.send(Request.GET_QUEUE_NUM, flags=VERSION | NEED_REPLY)
    assert read_reply(Request.GET_QUEUE_NUM, reply) == number(1)


@pytest.mark.parametrize("features", [0, OFFERED & ~(1 << 3)])
def test_replies_are_for_those_who_have_negotiated_them(connection: Connection, features: int) -> None:
    connection.send(Request.SET_PROTOCOL_FEATURES, number(features))
    assert connection.send(Request.SET_OWNER, flags=VERSION | NEED_REPLY) == b""


def test_the_last_protocol_features_count(connection: Connection) -> None:
    reply = connection.send(Request.SET_PROTOCOL_FEATURES, number(OFFERED), flags=VERSION | NEED_REPLY)
    assert read_reply(Request.SET_PROTOCOL_FEATURES, reply) == number(0)
    assert connection.send(Request.SET_PROTOCOL_FEATURES, number(0), flags=VERSION | NEED_REPLY) == b""


# SET_LOG_BASE, SEND_RARP, SET_BACKEND_REQ_FD, GET_CONFIG, GET_INFLIGHT_FD, RESET_DEVICE, ADD_MEM_REG, and none at all
UNKNOWN = pytest.mark.parametrize("request_", [6, 19, 21, 24, 31, 34, 37, 0, 44, 0xFFFF_FFFF])


@UNKNOWN
def test_an_unknown_request_is_declined_if_a_reply_is_asked_for(connection: Connection, request_: int) -> None:
    connection.send(Request.SET_PROTOCOL_FEATURES, number(OFFERED))
    reply = connection.send(request_, number(0), flags=VERSION | NEED_REPLY)
    assert read_reply(request_, reply) == number(1)
    assert connection.ask(Request.GET_QUEUE_NUM) == number(1)


@UNKNOWN
@pytest.mark.parametrize(("fds", "flags"), [(0, VERSION), (1, VERSION), (1, VERSION | NEED_REPLY)])
def test_an_unknown_request_else_ends_the_session(connection: Connection, request_: int, fds: int, flags: int) -> None:
    connection.send(Request.SET_PROTOCOL_FEATURES, number(OFFERED))
    with pytest.raises(ProtocolError, match=f"request {request_}, which is not offered"):
        connection.send(request_, number(0), fds, flags)


def test_an_mtu_that_is_too_large_is_declined() -> None:
    connection = Connection(mtu=1500)
    connection.send(Request.SET_PROTOCOL_FEATURES, number(OFFERED))
    for mtu, answer in ((1500, 0), (1501, 1), (68, 0), (67, 1)):
        reply = connection.send(Request.NET_SET_MTU, number(mtu), flags=VERSION | NEED_REPLY)
        assert read_reply(Request.NET_SET_MTU, reply) == number(answer)
    assert connection.guest.calls == [("set_mtu", 1500), ("set_mtu", 68)]
    with pytest.raises(ProtocolError, match="an MTU of 9000; 68 to 1500 are possible"):
        connection.send(Request.NET_SET_MTU, number(9000))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"", "a header of 0 bytes"),
        (bytes(11), "a header of 11 bytes"),
        (struct.pack("=III", 1, 0, 0), "a message of version 0; only 1 is known"),
        (struct.pack("=III", 1, 2, 0), "a message of version 2"),
        (struct.pack("=III", 1, VERSION | REPLY, 0), "a message with flags 0x5"),
        (struct.pack("=III", 1, VERSION | 1 << 31, 0), "a message with flags 0x80000001"),
        (
            struct.pack("=III", 5, VERSION, PAYLOAD_MAX + 1),
            f"a message of {PAYLOAD_MAX + 1} bytes; at most {PAYLOAD_MAX}",
        ),
        (struct.pack("=III", 5, VERSION, 0xFFFF_FFFF), "a message of 4294967295 bytes"),
    ],
)
def test_a_wrong_header_is_refused(connection: Connection, header: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        vhost_user.payload_size(header)
    with pytest.raises(ProtocolError, match=says):
        connection.session.receive(header, b"", [])


def test_a_header_says_how_much_follows() -> None:
    assert vhost_user.payload_size(struct.pack("=III", 5, VERSION, PAYLOAD_MAX)) == PAYLOAD_MAX
    assert vhost_user.payload_size(struct.pack("=III", 77, VERSION | NEED_REPLY, 0)) == 0


def test_a_payload_is_as_long_as_its_header_says(connection: Connection) -> None:
    with pytest.raises(ProtocolError, match="a message of 8 bytes that says 7"):
        connection.session.receive(struct.pack("=III", Request.SET_STATUS, VERSION, 7), bytes(8), [])


@pytest.mark.parametrize(
    ("method", "request_", "payload", "fds"),
    [
        ("set_memory", Request.SET_MEM_TABLE, table(MEMORY, MORE), 2),
        ("set_kick", Request.SET_VRING_KICK, number(0), 1),
        ("set_call", Request.SET_VRING_CALL, number(0), 1),
        ("set_error", Request.SET_VRING_ERR, number(0), 1),
    ],
)
def test_what_the_backend_refuses_stays_with_the_caller(method: str, request_: int, payload: bytes, fds: int) -> None:
    connection = Connection(Guest(refuses=method))
    connection.send(Request.SET_PROTOCOL_FEATURES, number(OFFERED))
    connection.send(Request.SET_VRING_NUM, state(0, 256))
    connection.send(Request.SET_VRING_ADDR, addresses(0))
    with pytest.raises(ProtocolError, match="not here"):
        connection.send(request_, payload, fds, VERSION | NEED_REPLY)
    assert connection.guest.taken == []


def test_what_the_backend_refuses_has_not_happened() -> None:
    connection = Connection(Guest(refuses="set_features"))
    with pytest.raises(ProtocolError, match="not here"):
        connection.send(Request.SET_FEATURES, number(FEATURES))
    assert connection.session.features == 0


PLACES = st.sampled_from([0, 1, 0x1000, MEGABYTE, 2 * MEGABYTE, 1 << 63, (1 << 64) - 1]) | st.integers(0, 2**64 - 1)
RINGS = st.sampled_from([0, 0, 0, 1, 1, 1, 2, 0x100, 0x101, 0xFFFF_FFFF])
VALUES = st.sampled_from([0, 1, 3, 256, 1024, 1025, 0xFFFF, 0x10000]) | st.integers(0, 2**32 - 1)
PAYLOADS = st.one_of(
    st.binary(max_size=PAYLOAD_MAX),
    st.builds(number, st.sampled_from([0, 1, FEATURES, OFFERED, NO_FD, NO_FD | 1, 1500]) | st.integers(0, 2**64 - 1)),
    st.builds(state, RINGS, VALUES),
    st.builds(addresses, RINGS, PLACES, PLACES, PLACES, st.integers(0, 1)),
    st.builds(lambda regions: table(*regions), st.lists(st.builds(Region, PLACES, PLACES, PLACES, PLACES), max_size=8)),
)
FLAGS = st.sampled_from([VERSION, VERSION, VERSION | NEED_REPLY, VERSION | NEED_REPLY, VERSION | REPLY, 2])
ANYTHING = st.tuples(st.integers(0, 45), FLAGS, PAYLOADS, st.integers(0, FDS_MAX + 1))


def likely(request: int, *payloads: bytes, fds: int = 0) -> st.SearchStrategy[Message]:
    return st.tuples(
        st.just(request), st.sampled_from([VERSION, VERSION | NEED_REPLY]), st.sampled_from(payloads), st.just(fds)
    )


LIKELY = st.one_of(
    likely(Request.SET_PROTOCOL_FEATURES, number(0), number(OFFERED)),
    likely(Request.SET_FEATURES, number(0), number(PROTOCOL_FEATURES), number(FEATURES)),
    likely(Request.SET_VRING_NUM, state(0, 256), state(1, 1024)),
    likely(Request.SET_VRING_ADDR, addresses(0), addresses(1)),
    likely(Request.SET_VRING_BASE, state(0, 7), state(1, 0xFFFF)),
    likely(Request.GET_VRING_BASE, state(0, 0), state(1, 0)),
    likely(Request.SET_VRING_KICK, number(0), number(1), fds=1),
    likely(Request.SET_VRING_CALL, number(0), number(1), fds=1),
    likely(Request.SET_VRING_CALL, number(NO_FD), number(NO_FD | 1)),
    likely(Request.SET_VRING_ENABLE, state(0, 0), state(0, 1), state(1, 1)),
    likely(Request.SET_MEM_TABLE, table(MEMORY), table(MORE), fds=1),
    likely(Request.SET_MEM_TABLE, table(MEMORY, MORE), fds=2),
    likely(Request.RESET_OWNER, b""),
    likely(Request.NET_SET_MTU, number(1500), number(9000)),
    likely(35, number(0)),
)


METHODS = [name for name in vars(Backend) if not name.startswith("_")]


@given(st.lists(LIKELY, max_size=30), st.lists(ANYTHING | LIKELY, max_size=5), st.sampled_from(METHODS))
def test_whatever_comes_ends_a_session_or_not_and_no_descriptor_is_lost(
    likely: list[Message], any_: list[Message], refuses: str
) -> None:
    """`Connection.send` and `Guest` check each message; a session that is over gets no more."""
    connection = Connection(Guest(refuses=refuses), mtu=1500)
    for request, flags, payload, fds in [*likely, *any_]:
        try:
            reply = connection.send(request, payload, fds, flags)
        except ProtocolError:
            return
        assert len(reply) in (0, HEADER_SIZE + 8)


@given(st.lists(LIKELY, max_size=40))
def test_what_runs_is_what_the_backend_has_running(sent: list[Message]) -> None:
    """A front end that makes mistakes and goes on, which a real one cannot, leaves the backend as it was."""
    connection = Connection(mtu=1500)
    for request, flags, payload, fds in sent:
        calls = len(connection.guest.calls)
        try:
            connection.send(request, payload, fds, flags)
        except ProtocolError:
            assert len(connection.guest.calls) == calls


@given(ANYTHING)
def test_one_message_of_any_kind(message: Message) -> None:
    request, flags, payload, fds = message
    said = ""
    try:
        assert vhost_user.payload_size(struct.pack("=III", request, flags, len(payload))) == len(payload)
        Connection().send(request, payload, fds, flags)
    except ProtocolError as error:
        said = str(error)
    assert len(said) < 120
    assert said.isprintable()


@given(st.binary(max_size=16), st.binary(max_size=40), st.lists(st.integers(3, 99), unique=True, max_size=3))
def test_any_bytes_are_a_message_or_not(header: bytes, payload: bytes, fds: list[int]) -> None:
    guest = Guest()
    try:
        Session(guest).receive(header, payload, fds)
    except ProtocolError:
        assert guest.taken == []
    else:
        assert guest.taken == fds
