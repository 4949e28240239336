"""Ports that drop frames: with their main reason, and what to do."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vswitch.dataplane.drops import BAD_SOURCE, DROP_REASONS, QUEUE_FULL, TOO_LONG
from vswitch.pace import Pace
from vswitch.ports.policy import listed
from vswitch.ports.port import SwitchPort
from vswitch.ports.reasons import REASONS

if TYPE_CHECKING:
    from vswitch.ports.ports import Ports

WINDOW_S = 10.0
DROPS_MIN = 3  # of one port in that time, before anything is said: a guest may once send what goes nowhere
PORTS_MAX = 4  # that get events of their own for the same at a time
PORTION = 64  # ports
STALLED_S = 2.0  # how long a guest may take nothing
UNUSUAL = [at for at, reason in enumerate(DROP_REASONS) if not REASONS[reason].usual]


class Drops:
    """A switch's: what its ports have dropped, and since when."""

    def __init__(self, ports: "Ports") -> None:
        self._ports = ports
        self._seen: dict[int, _Seen] = {}  # by a port's serial
        self._found: dict[str, list[tuple[str, str]]] = {}  # by code: ports, and what is wrong

    async def look(self, now_s: float) -> None:
        """Say what has been wrong since this was asked last."""
        before, self._seen = self._seen, {}
        pace = Pace()
        for number, port in enumerate(list(self._ports)):
            if number % PORTION == 0:
                await pace.pause()
            dropped = port.port.dropped
            if not dropped:  # the usual case, and there may be thousands
                continue
            seen = before.get(port.port.serial)
            if seen is None:
                seen = _Seen(now_s, [0] * len(DROP_REASONS))
            elif now_s - seen.since_s > WINDOW_S and dropped == seen.dropped:
                seen = _Seen(now_s, list(port.port.drops))
            self._seen[port.port.serial] = seen
            if dropped != seen.dropped or seen.stalls:
                self._look_at(port, seen, now_s)
                seen.dropped = dropped
        for code, found in self._found.items():
            self._say(code, found)
        self._found = {}

    def _look_at(self, port: SwitchPort, seen: "_Seen", now_s: float) -> None:
        drops = port.port.drops
        if self._look_at_stall(port, seen, now_s):
            return
        made = {at: drops[at] - seen.drops[at] for at in UNUSUAL if drops[at] > seen.drops[at]}
        for at, (code, least, text) in _OWN.items():
            if made.get(at, 0) >= least:
                self._find(port, code, text.format(frames=f"{made[at]:,}"))
                seen.drops[at] = drops[at]
            made.pop(at, None)
        if sum(made.values()) >= DROPS_MIN:
            main = max(made, key=lambda at: made[at])
            frames, reason = sum(made.values()), REASONS[DROP_REASONS[main]]
            within_s = max(1, round(now_s - seen.since_s))
            most = f"{made[main]:,} as {DROP_REASONS[main]}" if len(made) > 1 else DROP_REASONS[main]
            what = f"dropped {frames:,} frames within {within_s} s ({most}): {reason.about}; {reason.advice}"
            self._find(port, "drops", what)
        if now_s - seen.since_s >= WINDOW_S or sum(made.values()) >= DROPS_MIN:
            seen.since_s, seen.drops = now_s, list(drops)

    def _look_at_stall(self, port: SwitchPort, seen: "_Seen", now_s: float) -> bool:
        """Whether a port's guest takes nothing, so that its queue overflows, or may do so."""
        data = port.port
        before, seen.sent = seen.sent, data.tx_bytes
        seen.stalls = (
            data.blocked and data.drops[QUEUE_FULL] > seen.drops[QUEUE_FULL] and before in (None, data.tx_bytes)
        )
        if not seen.stalls or before is None:
            seen.sent_s = now_s
            return seen.stalls
        if now_s - seen.sent_s >= STALLED_S:
            waiting = f"{data.queued_frames:,} frames wait for it"
            lost = f"{data.drops[QUEUE_FULL] - seen.drops[QUEUE_FULL]:,} were dropped (queue_full)"
            what = f"its guest takes nothing: {waiting}, and {lost}; it is paused or hangs: have it go on, or unplug it"
            self._find(port, "stalled", what)
            seen.drops = list(data.drops)
        return True

    def _find(self, port: SwitchPort, code: str, what: str) -> None:
        self._found.setdefault(code, []).append((port.name, what))

    def _say(self, code: str, found: list[tuple[str, str]]) -> None:
        """An event for each port, or for all together where one cause has met many, like a flood of long frames."""
        if len(found) <= PORTS_MAX:
            for name, what in found:
                self._ports.events.say(code, name, f"{name}: {what}", ports=[name])
            return
        names = [name for name, _ in found]
        text = f"{len(found)} ports ({listed(names)}), as {found[0][0]}: {found[0][1]}"
        self._ports.events.say(code, f"{len(found)} ports", text, ports=names[:PORTS_MAX])


class _Seen:
    """How a port was when it was looked at."""

    def __init__(self, since_s: float, drops: list[int]) -> None:
        self.since_s = since_s
        self.drops = drops
        self.dropped = -1
        self.sent: int | None = None  # bytes
        self.sent_s = since_s
        self.stalls = False


def _own() -> Iterator[tuple[int, tuple[str, int, str]]]:
    """Reasons with a code of their own, how many frames it takes, and the text."""
    bad, long = REASONS["bad_source"], REASONS["too_long"]
    yield BAD_SOURCE, ("bad_source", 1, f"drops what it gets: {bad.about} (bad_source); {bad.advice}")
    yield TOO_LONG, ("too_long", 1, f"dropped {{frames}} frames: {long.about} (too_long); {long.advice}")


_OWN = dict(_own())
