"""Answers that carry frames."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count

import msgspec
from starlette.responses import Response

from vswitch.control import captures, model, operations
from vswitch.control.api.handlers import Asked, Handlers, Switch
from vswitch.control.api.responses import PromptStream, Stream, begun
from vswitch.control.capture_requests import local
from vswitch.control.operations import CAPTURE_HEADER, VERSION, VERSION_HEADER
from vswitch.errors import MissingError, RefusedError

CAPTURES_MAX = 256  # fewer than connections: others get answers, too


class Capturing:
    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._running: dict[str, captures.LiveCapture] = {}
        self._numbers = count(1)

    @property
    def handlers(self) -> Handlers:
        return {
            operations.CAPTURE: self._capture,
            operations.CAPTURE_TO_FILES: self._capture_to_files,
            operations.END_CAPTURE: self._end_capture,
            operations.RECORDING: self._recording,
        }

    async def _recording(self, asked: Asked) -> Response:
        recorded = await begun(self._switch.captures.recorded(asked.query))  # a filter may be wrong
        return PromptStream(recorded, operations.RECORDING.media, {VERSION_HEADER: VERSION})

    async def _capture(self, asked: Asked) -> Response:
        live = await self._prepared(asked)
        return self._running_one(live, live.stream(), operations.CAPTURE.media)

    async def _capture_to_files(self, asked: Asked) -> Response:
        live = await self._prepared(asked)
        await self._switch.captures.write(local(asked.body), live)

        async def stream() -> AsyncGenerator[bytes, None]:
            yield b"\n"
            await live.done.wait()
            yield msgspec.json.encode(live.summary()) + b"\n"

        return self._running_one(live, stream(), operations.CAPTURE_TO_FILES.media)

    async def _prepared(self, asked: Asked) -> captures.LiveCapture:
        if len(self._running) >= CAPTURES_MAX:
            raise RefusedError(f"{CAPTURES_MAX} captures run already; end some")
        return await self._switch.captures.prepare(asked.query)

    def _running_one(self, live: captures.LiveCapture, stream: AsyncGenerator[bytes, None], media: str) -> Response:
        """The answer of a capture, which can be ended by its number meanwhile, and ends with the answer."""
        number = str(next(self._numbers))
        self._running[number] = live

        async def until_ended() -> AsyncGenerator[bytes, None]:
            try:
                async with aclosing(stream):
                    async for portion in stream:
                        yield portion
            finally:
                live.end()
                del self._running[number]

        return Stream(until_ended(), media, {VERSION_HEADER: VERSION, CAPTURE_HEADER: number})

    async def _end_capture(self, asked: Asked) -> model.Nothing:
        live = self._running.get(asked.parameters["number"])
        if live is None:
            raise MissingError("there is no such capture")
        live.end()
        return model.Nothing()
