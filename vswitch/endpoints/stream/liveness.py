"""TCP peers that die without a word: a host that loses its power or its cable sends no end (RFC 9293 3.8.4).

While nothing is on its way, keepalive finds out. Data that nobody acknowledges the system would send again for a
quarter of an hour. TCP_USER_TIMEOUT is no way out: it also ends a connection to a guest that is only paused, whose QEMU
reads nothing but acknowledges each probe. So TCP_INFO is asked whether anything has come back.
"""

import socket
import struct
from collections.abc import Callable

import trio

LOOK_S = 2.0
SILENT_MS = 10_000  # how long nothing may come back of what is sent again
KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 3, socket.TCP_KEEPCNT: 3}  # 14 s together

_INFO = struct.Struct("=BBBB52xI")  # Linux include/uapi/linux/tcp.h, tcp_info: state, …, retransmits, probes, …
DEAD = "its host does not answer"


def keep_alive(sock: socket.socket) -> None:
    """Have the system ask a silent peer whether it is there. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Pulse:
    """What was seen of some connections when they were looked at last."""

    def __init__(self) -> None:
        self._unanswered: set[socket.socket] = set()

    def dead(self, socks: list[socket.socket]) -> list[socket.socket]:
        """Those that what is sent to goes unanswered, now as when this was asked before, and for long enough."""
        silent = {sock: _silent_ms(sock) for sock in socks if sock.family != socket.AF_UNIX}
        unanswered = {sock for sock, silent_ms in silent.items() if silent_ms >= 0}
        dead = [sock for sock in unanswered & self._unanswered if silent[sock] >= SILENT_MS]
        self._unanswered = unanswered
        return dead


async def watch(socks: Callable[[], list[socket.socket]], lose: Callable[[socket.socket], None]) -> None:
    """Look at connections now and then, and lose those that are dead, until cancelled."""
    pulse = Pulse()
    while True:
        await trio.sleep(LOOK_S)
        for sock in pulse.dead(socks()):
            lose(sock)


async def death(sock: socket.socket) -> str:
    """Returns when the peer of a connection is dead, and says so."""
    pulse = Pulse()
    while not pulse.dead([sock]):  # noqa: ASYNC110 (nothing tells)
        await trio.sleep(LOOK_S)
    return DEAD


def _silent_ms(sock: socket.socket) -> int:
    """For how long nothing has come back of what was sent again; -1 if nothing was."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    except OSError:
        return -1
    _, _, retransmits, probes, last_ack_recv_ms = _INFO.unpack(info)
    return int(last_ack_recv_ms) if retransmits or probes else -1
