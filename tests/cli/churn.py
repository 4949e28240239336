"""Peers that come, flood and go, faster than anybody could see to them all."""

import contextlib
import random
import socket
import time

from tests.cli.program import connect
from tests.frames import BROADCAST, frame, framed, mac


def churn(urls: list[str], *, peers: int, per_s: int, at_a_time: int, seed: int) -> None:
    """So many connections, and so many a second if there is time for it, of which so many are there at a time."""
    chosen = random.Random(seed)
    floods = [_flood(chosen) for _ in range(100)]
    there: list[socket.socket] = []
    come = 0
    begun_s = time.monotonic()
    try:
        while come < peers:
            while come < min(peers, (time.monotonic() - begun_s) * per_s):
                come += 1
                with contextlib.suppress(OSError):  # the listen queue is full, or nobody listens any more
                    there.append(connect(chosen.choice(urls), 1.0))
                    there[-1].setblocking(False)
                    _talk(there[-1], chosen.choice(floods))
                if len(there) > at_a_time:
                    there.pop(chosen.randrange(len(there))).close()
            for peer in chosen.sample(there, min(5, len(there))):
                _talk(peer, chosen.choice(floods))
            time.sleep(0.001)
    finally:
        for peer in there:
            peer.close()


def _flood(chosen: random.Random) -> bytes:
    station = mac(chosen.randrange(2**20))
    return framed([frame(BROADCAST, station, chosen.randrange(60, 1514)) for _ in range(chosen.randrange(1, 400))])


def _talk(peer: socket.socket, flood: bytes) -> None:
    """Sends what the switch takes at once, even in the middle of a frame; reads a little."""
    with contextlib.suppress(OSError):
        peer.send(flood)
    with contextlib.suppress(OSError):
        peer.recv(65536)
