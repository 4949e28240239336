"""How answers are sent: whole or as a stream, to clients that may read slowly, or no more."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import msgspec
import trio
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from vswitch.control.operations import JSON, VERSION, VERSION_HEADER

STALL_S = 10.0  # how long a client may take no more of an answer, but for captures


class Prompt(Response):
    """An answer that is taken without a long pause, or cut off."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            with trio.move_on_after(STALL_S) as stall:
                await send(message)
            if stall.cancelled_caught:
                raise trio.BrokenResourceError("the client reads nothing")

        await super().__call__(scope, receive, send_soon)


class Stream(StreamingResponse):
    """Closes what it streams at once, also when the client goes before its end."""

    def __init__(self, stream: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(stream, headers=headers, media_type=media_type)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._stream):
            await super().__call__(scope, receive, send)


class PromptStream(Prompt, Stream):
    """Both."""


def json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of a moment."""
    headers = {VERSION_HEADER: VERSION, **(headers or {})}
    return Prompt(msgspec.json.encode(content), status, headers, JSON)


async def begun(stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """A stream whose first portion is there already: what is wrong with it raises an error here, not in its middle."""
    first = await anext(stream)

    async def whole() -> AsyncGenerator[bytes, None]:
        async with aclosing(stream):
            yield first
            async for portion in stream:
                yield portion

    return whole()
