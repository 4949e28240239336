"""Stations that move between ports: two guests with one MAC address, or a loop."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vswitch.dataplane.mac_table import KEY_MAC_MASK
from vswitch.ports.policy import listed, mac_text

if TYPE_CHECKING:
    from vswitch.ports.ports import Ports

WINDOW_S = 10.0
MOVES_MIN = 4  # of a station in that time, before anything is said: guests are migrated, and links fail over
QEMU_MAC = 0x525400123456  # what QEMU's first card has unless it is told one: nobody migrates a guest with it
QEMU_MOVES_MIN = 2
LOOP_MOVES = 1000  # guests of one address would hardly be as fast, least of all three and more


class Moves:
    """A switch's."""

    def __init__(self, ports: "Ports") -> None:
        self._ports = ports
        self._seen = ports.table.moves
        self._flapping = Flapping()
        self._called: dict[int, str] = {}  # what the moves of a station were said to be, while they go on

    def look(self, now_s: float) -> None:
        """Say what has been wrong since this was asked last."""
        table = self._ports.table
        self._flapping.note(table.moved(self._seen), table.moves - self._seen, now_s)
        self._seen = table.moves
        found = list(self._flapping.found())
        moving = {station for stations, _, _ in found for station in stations}
        self._called = {station: code for station, code in self._called.items() if station in moving}
        for stations, indices, count in found:
            self._say(stations, indices, count, now_s)

    def _say(self, stations: list[int], indices: frozenset[int], count: int, now_s: float) -> None:
        found = [port for index in sorted(indices) if (port := self._ports.by_index(index)) is not None]
        names = [port.name for port in found]
        since_ms = int((now_s - WINDOW_S) * 1000)
        if len(names) < 2 or any(self._ports.loops.explains(port, since_ms) for port in found):
            return
        say, where = self._ports.events.say, listed(names)
        often = f"{count:,} times within {WINDOW_S:.0f} s"
        if len(stations) > 1:
            moves, is_loop = f"{len(stations)} stations move between {where}, {often}", count >= LOOP_MOVES
            what = "most likely a loop, as they all lead to one LAN; leave one of them connected"
            if not is_loop:
                what = (
                    "guests that are clones of each other, a bond over these ports, or a loop; give each its own (mac=)"
                )
            say("loop" if is_loop else "mac_flap", where, f"{moves}: {what}", ports=names)
            return
        [station] = stations
        mac = mac_text(station)
        is_default = station == QEMU_MAC
        moves = f"{mac} moves between {where}, {often}"
        if len(names) > 2 and count >= LOOP_MOVES and not is_default:
            what = "most likely a loop, as two of them lead to one LAN; leave one of them connected"
            say("loop", where, f"{moves}: {what}", ports=names, mac=mac)
            return
        is_alone = is_default or all(self._ports.table.held(port.port.index) <= 1 for port in found)
        code = self._called.setdefault(station, "duplicate_mac" if is_alone else "mac_flap")
        if code == "duplicate_mac":
            whose = ", which QEMU gives every guest that is told none" if is_default else ""
            what = f"two guests have this MAC address{whose}, or one has a bond over these ports"
            what += "; give each guest its own, with mac= on its -device"
        else:
            what = "two guests have this MAC address, one has a bond over these ports, or there is a loop"
            what += "; give each guest its own (mac=), or take one link out"
        say(code, mac, f"{moves}: {what}", ports=names, mac=mac)


class Flapping:
    """Stations that come back to ports that they have left: several with one MAC address, or one behind a loop."""

    def __init__(self) -> None:
        self._noted: list[tuple[float, int, int, int, float]] = []  # when, key, ports left and now, how many that is

    def note(self, moves: list[tuple[int, int, int]], count: int, now_s: float) -> None:
        """Moves since the last time, the last ones of `count`."""
        self._noted = [noted for noted in self._noted if noted[0] > now_s - WINDOW_S]
        self._noted += [(now_s, *move, count / len(moves)) for move in moves]

    def found(self) -> Iterator[tuple[list[int], frozenset[int], int]]:
        """Stations that move between the same ports, those ports, and how often they did."""
        moves: dict[int, list[tuple[int, int, float]]] = {}
        for _, key, left, now, count in self._noted:
            moves.setdefault(key, []).append((left, now, count))
        groups: dict[frozenset[int], list[int]] = {}
        for key, made in moves.items():
            reached = {now for _, now, _ in made}
            enough = QEMU_MOVES_MIN if key & KEY_MAC_MASK == QEMU_MAC else MOVES_MIN
            if len(made) >= enough and (len(reached) < len(made) or made[0][0] in reached):
                groups.setdefault(frozenset(reached.union(left for left, _, _ in made)), []).append(key)
        for indices, keys in groups.items():
            often = sum(count for key in keys for _, _, count in moves[key])
            yield sorted({key & KEY_MAC_MASK for key in keys}), indices, round(often)
