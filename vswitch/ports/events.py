"""What happens to a LAN and what is wrong with it: said in the log, kept for those who come late, and followed."""

import heapq
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterable
from itertools import takewhile

import trio

from vswitch.errors import printable
from vswitch.ports.event import KINDS, Event

KEPT = 64  # of each code, so that one that comes often does not push out the others
RECENT = 64  # of all codes together, for those who follow
SUBJECTS_MAX = 4096  # whose last event is remembered
TEXT_MAX = 1000

log = logging.getLogger("vswitch")


class Events:
    """A switch's, the last KEPT of each code."""

    def __init__(self) -> None:
        self._number = 0
        self.counts = dict.fromkeys(KINDS, 0)  # of each code, those that were left out included
        self._kept: dict[str, deque[Event]] = {code: deque(maxlen=KEPT) for code in KINDS}
        self._limits: OrderedDict[tuple[str, str], _Limit] = OrderedDict()
        self._recent: deque[Event] = deque(maxlen=RECENT)  # of all codes, in order
        self._news = trio.Event()

    def say(self, code: str, subject: str, text: str, *, ports: Iterable[str] = (), mac: str | None = None) -> None:
        """Something happened: log, keep and tell it, unless its subject has caused the same just before."""
        kind = KINDS[code]
        self.counts[code] += 1
        repeats = self._repeats(code, subject, kind.period_s)
        if repeats is None:
            return
        self._number += 1
        event = Event(
            number=self._number,
            time_s=round(time.time(), 3),
            code=code,
            ports=tuple(ports),
            mac=mac,
            text=printable(text[:TEXT_MAX]),
            repeats=repeats,
        )
        self._kept[code].append(event)
        self._recent.append(event)
        more = f" (and {repeats} more before)" if repeats else ""
        log.log(kind.level, "%s%s", event.text, more, extra={"event": event})
        news, self._news = self._news, trio.Event()
        news.set()

    def kept(self, since: int = 0) -> list[Event]:
        """The events that are remembered, after the one with a number, the oldest first."""
        each = ([event for event in events if event.number > since] for events in self._kept.values())
        return list(heapq.merge(*each, key=lambda event: event.number))

    async def follow(self, since: int = 0) -> AsyncGenerator[Event, None]:
        """The same, and then what comes. Whoever is too slow misses some, and can tell by their numbers."""
        while True:
            news = self._news
            for event in self._after(since):
                since = event.number
                yield event
            await news.wait()

    def _after(self, number: int) -> list[Event]:
        """The events after one with a number, looked for where they are likely to be."""
        if self._recent and number >= self._recent[0].number:
            return [*takewhile(lambda event: event.number > number, reversed(self._recent))][::-1]
        return self.kept(number)

    def _repeats(self, code: str, subject: str, period_s: float) -> int | None:
        """How many were left out before this one; None if it is to be left out, too."""
        if not period_s:
            return 0
        now_s = trio.current_time()
        limit = self._limits.setdefault((code, subject), _Limit())
        if now_s < limit.until_s:
            limit.left_out += 1
            return None
        repeats, limit.left_out, limit.until_s = limit.left_out, 0, now_s + period_s
        self._limits.move_to_end((code, subject))
        while len(self._limits) > SUBJECTS_MAX:
            self._limits.popitem(last=False)
        return repeats


class _Limit:
    """Until when one subject is silent, and how often it was since it last spoke."""

    def __init__(self) -> None:
        self.until_s = 0.0
        self.left_out = 0
