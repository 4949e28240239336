"""Answers that go on until the client has enough."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.responses import Response

from vswitch.control import model, operations
from vswitch.control.api.handlers import Asked, Handlers, Switch
from vswitch.control.api.responses import PromptStream, begun
from vswitch.control.operations import VERSION, VERSION_HEADER
from vswitch.errors import RefusedError

FOLLOWERS_MAX = 64  # fewer than connections: others get answers, too


class Following:
    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._followers = 0

    @property
    def handlers(self) -> Handlers:
        return {operations.FOLLOW_EVENTS: self._events}

    async def _events(self, asked: Asked) -> Response:
        lines = await begun(self._lines(asked.query))  # there may be too many
        return PromptStream(lines, operations.SSE, {VERSION_HEADER: VERSION})

    async def _lines(self, query: model.EventsRequest) -> AsyncGenerator[bytes, None]:
        if self._followers >= FOLLOWERS_MAX:
            raise RefusedError(f"{FOLLOWERS_MAX} clients follow events already; end some")
        self._followers += 1
        try:
            yield b":\n\n"  # a comment: so that the client has an answer at once
            async with aclosing(self._switch.events.follow(query.since)) as events:
                async for event in events:
                    if not query.code or event.code in query.code:
                        yield b"id: %d\ndata: %s\n\n" % (event.number, msgspec.json.encode(event))
        finally:
            self._followers -= 1
