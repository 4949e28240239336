"""What the process of a user network counts. It is asked when somebody looks, and answers in several words.

Nobody waits for it long, and nothing that it says is taken for granted: it may hang, end, or be in a guest's hands.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Annotated

import msgspec
import trio

from vswitch.endpoints.user.leases import Mac
from vswitch.endpoints.user.reasons import REASONS

ANSWER_S = 5.0
GUESTS_MAX = 1024
SERVICES = ("dhcp", "dns", "tftp")

Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]  # which every reader of JSON understands
Numbers = Annotated[dict[Annotated[str, msgspec.Meta(max_length=30)], Number], msgspec.Meta(max_length=50)]


class Traffic(msgspec.Struct, frozen=True, array_like=True):
    """Frames of guests to the NAT, and of the NAT to them, and drops by reason."""

    out_frames: Number = 0
    out_bytes: Number = 0
    in_frames: Number = 0
    in_bytes: Number = 0
    drops: Numbers = {}


class Guest(msgspec.Struct, frozen=True, array_like=True):
    mac: Mac
    ip: Annotated[str, msgspec.Meta(max_length=45, pattern="^[0-9a-f:.]*$")]
    connections: Number
    traffic: Traffic


class Rest(msgspec.Struct, frozen=True, array_like=True):
    """What is of no guest, or of guests that are known no more; and what was served to all."""

    others: Traffic
    served: Numbers


class Counted(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A piece of the answer to the question of a number; the last one has the rest."""

    number: int
    guests: list[Guest]
    rest: Rest | None


class Counts(msgspec.Struct, frozen=True):
    """All that a process has counted since it started, so many seconds ago."""

    age_s: float
    guests: list[Guest]
    others: Traffic
    served: dict[str, int]


class Counters:
    def __init__(self) -> None:
        self._say: Callable[[bytes], Awaitable[None]] | None = None  # to the process that there is
        self._since_s = 0.0
        self._number = 0
        self._question: _Question | None = None

    @contextmanager
    def of(self, say: Callable[[bytes], Awaitable[None]]) -> Iterator[None]:
        """Within it, there is a process that may be asked."""
        self._say, self._since_s = say, trio.current_time()
        try:
            yield
        finally:
            self._say = None
            if self._question is not None:
                self._question.over.set()
                self._question = None

    async def ask(self) -> Counts | None:
        """None if there is no process, or none that answers in time. Who asks meanwhile gets the same answer."""
        question, say = self._question, self._say
        if say is None:
            return None
        is_asked = question is not None and trio.current_time() < question.until_s
        if question is None or not is_asked:
            self._number += 1
            question = self._question = _Question(self._number)
        with trio.move_on_at(question.until_s):
            if not is_asked:
                with suppress(OSError):  # it has just ended
                    await say(json.dumps(["count", question.number]).encode())
            await question.over.wait()
        if question.rest is None:
            return None
        age_s = trio.current_time() - self._since_s
        served = {service: question.rest.served.get(service, 0) for service in SERVICES}
        return Counts(age_s, question.guests, question.rest.others, served)

    def heard(self, said: Counted) -> None:
        """What comes too late is nobody's. Raises ValueError for more guests than there can be."""
        question = self._question
        if question is None or said.number != question.number:
            return
        question.guests += said.guests
        if len(question.guests) > GUESTS_MAX:
            raise ValueError("more guests than there can be")
        if said.rest is not None:
            question.rest = said.rest
            question.over.set()
            self._question = None


class _Question:
    def __init__(self, number: int) -> None:
        self.number = number
        self.until_s = trio.current_time() + ANSWER_S
        self.guests: list[Guest] = []
        self.rest: Rest | None = None
        self.over = trio.Event()


def known(drops: Mapping[str, int]) -> dict[str, int]:
    """Those for a reason that there is."""
    return {reason: drops[reason] for reason in REASONS if drops.get(reason)}
