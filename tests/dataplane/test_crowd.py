"""Many ports and a hostile guest: what one turn may take and hold is bounded."""

import socket

from tests.dataplane.plumbing import FEWER, check_balance
from tests.dataplane.test_links import Switch
from tests.frames import BROADCAST, frame, framed, mac
from vswitch.dataplane.bridge import COPIES_MAX, RECEIVE_MIN

PORTS = 300


def test_one_batch_of_reads_queues_no_more_than_its_bound() -> None:
    """Floods alternate with runts, so that each is a run of its own and is copied for every port."""
    switch = Switch(PORTS, 1 << 20)
    talkers = switch.peers[:3]
    hostile = framed([frame(BROADCAST, mac(1), 18), b""]) * (20_000 // FEWER)
    for talker in talkers:
        talker.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        talker.send(hostile)
    one_read = switch.bridge.receive_max() * PORTS
    assert one_read <= COPIES_MAX + RECEIVE_MIN * PORTS
    while switch.loop.turn(0, 0):
        assert switch.bridge.pool.peak <= switch.bridge.pool.used + COPIES_MAX + one_read
    check_balance(switch.bridge)
    switch.close()


def test_a_read_brings_less_the_more_ports_get_a_copy() -> None:
    few, many = Switch(8), Switch(2000 // 8)
    assert few.bridge.receive_max() > many.bridge.receive_max() >= RECEIVE_MIN
    few.close()
    many.close()
