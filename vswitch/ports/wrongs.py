"""What is plainly wrong in a LAN though nothing fails: the log says it, where its guests only see that little works.

Looked for once a second while frames come in, and never while the LAN is idle.
"""

import logging
from collections.abc import Iterable, Iterator

import trio

from vswitch.dataplane.drops import BAD_SOURCE
from vswitch.dataplane.mac_table import KEY_MAC_MASK
from vswitch.ports.policy import listed
from vswitch.ports.ports import Ports
from vswitch.sparingly import Sparingly

LOOK_PERIOD_S = 1.0
WINDOW_S = 10.0
MOVES_MIN = 4  # of a station in that time, before anything is said: guests are migrated, and links fail over
SAY_AGAIN_S = 60.0

log = logging.getLogger("vswitch")


async def look_for_what_is_wrong(ports: Ports) -> None:
    """Look for it until cancelled."""
    sources, moves = Sparingly(log), Sparingly(log)
    flapping = Flapping()
    seen = ports.table.moves
    while True:
        await ports.worked.wait()
        await trio.sleep(LOOK_PERIOD_S)
        ports.worked = trio.Event()
        look_at_sources(ports, sources)
        now_s = trio.current_time()
        flapping.note(ports.table.moved(seen), ports.table.moves - seen, now_s)
        seen = ports.table.moves
        for stations, indices, count in flapping.found(now_s):
            look_at_moves(ports, moves, stations, indices, count)


def look_at_sources(ports: Ports, sparingly: Sparingly) -> None:
    """Say it once of each port whose frames are dropped as their source is nobody's address.

    A guest with such an address seems to be cut off, and nothing that it can see says why.
    """
    found = [port for port in ports if port.port.drops[BAD_SOURCE] > 0 and not port.warned]
    for port in found:
        port.warned = True
    if found:
        names = listed(port.name for port in found)
        why = "comes from a group address or zero, which can never be answered (bad_source)"
        sparingly.say("%s: drops what %s; give the guest another address, or the port sources=any", names, why)


def look_at_moves(ports: Ports, sparingly: Sparingly, stations: list[int], indices: Iterable[int], count: int) -> None:
    """Say that stations, by their MAC, move between ports, by their index, again and again."""
    names = [port.name for index in sorted(indices) if (port := ports.by_index(index)) is not None]
    if len(names) < 2:
        return
    where = f"{listed(names)}, {count:,} times within {WINDOW_S:.0f} s"
    if len(stations) > 1:
        what = "most likely a loop, as they all lead to one LAN; leave one of them connected"
        sparingly.say("%s stations move between %s: %s", len(stations), where, what)
        return
    mac = stations[0].to_bytes(6).hex(":")
    what = "two guests have this MAC address, or there is a loop; give each its own (mac=), or take one link out"
    sparingly.say("%s moves between %s: %s", mac, where, what)


class Flapping:
    """Stations that come back to ports that they have left: several with one MAC address, or one behind a loop."""

    def __init__(self) -> None:
        self._noted: list[tuple[float, int, int, int, float]] = []  # when, key, ports left and now, how many that is
        self._silent: dict[int, float] = {}  # by key: until when nothing more is said

    def note(self, moves: list[tuple[int, int, int]], count: int, now_s: float) -> None:
        """Moves since the last time, the last ones of `count`."""
        self._noted = [noted for noted in self._noted if noted[0] > now_s - WINDOW_S]
        self._noted += [(now_s, *move, count / len(moves)) for move in moves]
        self._silent = {key: until_s for key, until_s in self._silent.items() if until_s > now_s}

    def found(self, now_s: float) -> Iterator[tuple[list[int], frozenset[int], int]]:
        """Stations that move between the same ports, those ports, and how often they did; each once in a while."""
        moves: dict[int, list[tuple[int, int, float]]] = {}
        for _, key, left, now, count in self._noted:
            moves.setdefault(key, []).append((left, now, count))
        groups: dict[frozenset[int], list[int]] = {}
        for key, made in moves.items():
            reached = {now for _, now, _ in made}
            if key not in self._silent and len(made) >= MOVES_MIN and len(reached) < len(made):
                groups.setdefault(frozenset(reached.union(left for left, _, _ in made)), []).append(key)
        for indices, keys in groups.items():
            self._silent.update(dict.fromkeys(keys, now_s + SAY_AGAIN_S))
            often = sum(count for key in keys for _, _, count in moves[key])
            yield sorted({key & KEY_MAC_MASK for key in keys}), indices, round(often)
