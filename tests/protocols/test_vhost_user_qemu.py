"""What QEMU sends as vhost-user's front end, from its start to its guest's reboot."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.vhost_user import ENABLED, MEGABYTE, NEED_REPLY, Connection, number, read_reply
from vswitch.protocols import vhost_user
from vswitch.protocols.vhost_user import Region, Request

Message = tuple[int, int, bytes, int]  # request, flags, payload, descriptors


@pytest.fixture
def connection() -> Connection:
    return Connection()


class Qemu(NamedTuple):
    """What a QEMU has sent, as it was recorded: request, flags, descriptors and payload of each message."""

    connects: str
    driver_starts: str
    driver_stops: str
    memory: Region
    rings: list[tuple[int, int, int]]  # descriptors, available, used
    entries: int

    @property
    def reboots(self) -> str:
        """Rings are enabled time and again: by the reset, the BIOS, and the driver."""
        return self.driver_stops + 3 * self.connects[self.connects.index("18 ") :]


QEMU_7_2 = Qemu(
    connects="""
        1 1 0    15 1 0    16 1 0 1900010000000000    17 1 0    3 1 0    1 1 0
        13 1 1 0000000000000000    14 1 1 0000000000000000    13 1 1 0100000000000000    14 1 1 0100000000000000
        18 1 0 0000000001000000    18 1 0 0100000001000000
    """,
    driver_starts="""
        18 1 0 0000000001000000    18 1 0 0100000001000000
        2 1 0 83bb007001000000    40 1 0    39 1 0 0800000000000000
        5 9 1 01000000000000000000000000000000000000100000000000f0fffb467f00000000000000000000
        8 1 0 0000000000010000    10 1 0 0000000000000000
        9 1 0 000000000000000000b05901477f000040c25901477f000000c05901477f000040d2590500000000
        12 1 1 0000000000000000    13 1 1 0000000000000000
        8 1 0 0100000000010000    10 1 0 0100000000000000
        9 1 0 01000000000000000090860b477f000040a2860b477f000000a0860b477f000040b2860f00000000
        12 1 1 0100000000000000    13 1 1 0100000000000000
        40 1 0    39 1 0 0f00000000000000
    """,
    driver_stops="39 1 0 0000000000000000    11 1 0 0000000000000000    11 1 0 0100000000000000 ",
    memory=Region(0, 256 * MEGABYTE, 0x7F46FBFFF000, 0),
    rings=[(0x7F470159B000, 0x7F470159C000, 0x7F470159C240), (0x7F470B869000, 0x7F470B86A000, 0x7F470B86A240)],
    entries=256,
)
QEMU_10_0 = Qemu(
    connects=QEMU_7_2.connects.replace("18 1 0", "18 9 0"),
    driver_starts="""
        18 9 0 0000000001000000    18 9 0 0100000001000000
        2 1 0 83bb007001000000    40 1 0    39 1 0 0800000000000000
        5 9 1 01000000000000000000000000000000000000100000000000f0ffd3b27f00000000000000000000
        8 1 0 0000000000040000    10 1 0 0000000000000000
        9 1 0 000000000000000000f087e3b27f0000403888e3b27f0000003088e3b27f00004048880f00000000
        12 1 1 0000000000000000    13 1 1 0000000000000000
        8 1 0 0100000000040000    10 1 0 0100000000000000
        9 1 0 010000000000000000f088e3b27f0000403889e3b27f0000003089e3b27f00004048890f00000000
        12 1 1 0100000000000000    13 1 1 0100000000000000
        40 1 0    39 1 0 0f00000000000000
    """,
    driver_stops="11 1 0 0000000000000000    11 1 0 0100000000000000    39 1 0 0000000000000000 ",
    memory=Region(0, 256 * MEGABYTE, 0x7FB2D3FFF000, 0),
    rings=[(0x7FB2E387F000, 0x7FB2E3883000, 0x7FB2E3883840), (0x7FB2E388F000, 0x7FB2E3893000, 0x7FB2E3893840)],
    entries=1024,
)
LINUX_TAKES, IPXE_TAKES = "83bb007001000000", "0000004001000000"
LEGACY_TAKES = "83bb007000000000"
LINUX = 0x17000BB83  # all but the MTU
SETS_MTU = "20 9 0 7805000000000000 "


def messages(recorded: str) -> Iterator[Message]:
    words = recorded.split()
    while words:
        request, flags, fds = (int(word) for word in words[:3])
        del words[:3]
        has_payload = words and len(words[0]) >= 16
        yield request, flags, bytes.fromhex(words.pop(0)) if has_payload else b"", fds


def replay(connection: Connection, recorded: str) -> list[tuple[object, ...]]:
    """What the backend is told. Each message must have the answer that its sender waits for."""
    connection.guest.calls.clear()
    for request, flags, payload, fds in messages(recorded):
        reply = connection.send(request, payload, fds, flags)
        if Request(request).name.startswith("GET_"):
            assert len(read_reply(request, reply)) == 8
        elif flags & NEED_REPLY:
            assert read_reply(request, reply) == number(0)
        else:
            assert reply == b""
    return connection.guest.calls


def started(qemu: Qemu) -> list[tuple[object, ...]]:
    """What a backend is told when the guest's driver starts."""
    told: list[tuple[object, ...]] = [*ENABLED, ("set_features", LINUX), ("set_status", 8), ("set_memory", qemu.memory)]
    for ring, addresses in enumerate(qemu.rings):
        told += [
            ("set_ring_size", ring, qemu.entries),
            ("set_ring_base", ring, 0),
            ("set_ring_addresses", ring, *addresses),
            ("set_kick", ring, True),
            ("set_call", ring, True),
        ]
    return [*told, ("set_status", 15)]


@pytest.mark.skipif(struct.pack("=H", 1) != b"\1\0", reason="the messages were recorded with the least byte first")
@pytest.mark.parametrize("qemu", [QEMU_7_2, QEMU_10_0], ids=["7.2.22", "10.0.13"])
class TestQemu:
    def test_starts(self, connection: Connection, qemu: Qemu) -> None:
        told = replay(connection, qemu.connects)
        assert told == [(call, ring, True) for ring in (0, 1) for call in ("set_call", "set_error")] + ENABLED
        assert replay(connection, qemu.driver_starts) == started(qemu)
        assert connection.session.features == LINUX
        assert connection.guest.running == {0: True, 1: True}

    @pytest.mark.parametrize("times", [1, 3])
    def test_reboots(self, connection: Connection, qemu: Qemu, times: int) -> None:
        replay(connection, qemu.connects + qemu.driver_starts)
        for _ in range(times):
            told = replay(connection, qemu.reboots)
            assert sorted(told[:3]) == [("set_status", 0), ("stop_ring", 0), ("stop_ring", 1)]
            assert told[3:] == 3 * ENABLED
            assert replay(connection, qemu.driver_starts) == started(qemu)

    def test_stops_and_goes_on(self, connection: Connection, qemu: Qemu) -> None:
        """QMP's `stop` and `cont`, and `set_link`."""
        replay(connection, qemu.connects + qemu.driver_starts + qemu.driver_stops)
        assert connection.guest.running == {0: False, 1: False}
        assert replay(connection, qemu.driver_starts) == started(qemu)

    def test_connects_again_while_the_driver_runs(self, connection: Connection, qemu: Qemu) -> None:
        """As it begins: there is nothing left of the first session, and the driver has noticed nothing."""
        replay(Connection(), qemu.connects + qemu.driver_starts)
        replay(connection, qemu.connects)
        assert replay(connection, qemu.driver_starts) == started(qemu)

    def test_boots_by_network_and_then_a_system_with_an_old_driver(self, connection: Connection, qemu: Qemu) -> None:
        replay(connection, qemu.connects + qemu.driver_starts.replace(LINUX_TAKES, IPXE_TAKES))
        assert vhost_user.feature_names(connection.session.features) == ["version_1"]
        replay(connection, qemu.reboots + qemu.driver_starts.replace(LINUX_TAKES, LEGACY_TAKES))
        assert connection.session.features == LINUX & ~vhost_user.VERSION_1

    def test_has_an_mtu(self, connection: Connection, qemu: Qemu) -> None:
        """`host_mtu=1400`: before each start of the driver."""
        replay(connection, qemu.connects)
        assert replay(connection, SETS_MTU + qemu.driver_starts) == [("set_mtu", 1400), *started(qemu)]
