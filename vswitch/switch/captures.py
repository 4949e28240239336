"""What passes through a switch, for those who want to see it."""

import logging
from collections.abc import AsyncGenerator, Callable

import trio

from vswitch.control import captures, model
from vswitch.control.capture_requests import CaptureRequest, FileRequest
from vswitch.control.captures import LiveCapture, Matches
from vswitch.control.recording import Recording, RecordLimits
from vswitch.edges.capture import Budget
from vswitch.edges.capture_file import CaptureStopped
from vswitch.errors import InputError, RefusedError
from vswitch.ports.ports import Ports
from vswitch.supervision import contain_once_started
from vswitch.switch.attachments import Attachments

log = logging.getLogger("vswitch")


class Captures:
    """Captures of what comes, and the flight recorder's of what has passed, if there are `limits` for one.

    Captures together hold `memory` bytes that are not written yet. Those to files run in `nursery`. `name` is the
    switch's.
    """

    def __init__(
        self,
        name: str,
        ports: Ports,
        attachments: Attachments,
        nursery: trio.Nursery,
        *,
        memory: int,
        limits: RecordLimits | None,
    ) -> None:
        self._name = name
        self._ports = ports
        self._attachments = attachments
        self._nursery = nursery
        self._budget = Budget(memory)
        self._recording = None if limits is None else Recording(ports, limits)

    async def prepare(self, request: CaptureRequest, matches: Matches | None = None) -> LiveCapture:
        """A capture, to be begun with `async with`.

        `matches` says which frames are wanted, in place of the request's filter. It is asked while forwarding waits.
        Raises InputError for a wrong filter, port or value, RefusedError if there is no libpcap for a filter.
        """
        known = {*self._attachments, *(port.name for port in self._ports)}
        for name in request.ports:
            if name not in known:
                there_are = ", ".join(sorted(known)) or "none"
                raise InputError(f"there is no port or endpoint {name!r}; there are {there_are}")
        return await captures.prepare(self._ports, self._budget, request, matches)

    async def write(self, file: FileRequest, capture: LiveCapture) -> None:
        """Have a capture written into files until it is complete or ended; returns when it has begun.

        Raises InputError and RefusedError if the file cannot be had. `capture.done` is set when it is over.
        """
        await self._nursery.start(self._write, file, capture, name=f"the capture to {file.path}")

    async def _write(self, file: FileRequest, capture: LiveCapture, task_status: trio.TaskStatus[None]) -> None:
        async def write(started: Callable[[], None]) -> None:
            try:
                await capture.write(file, started)
            except CaptureStopped as error:
                capture.stopped = str(error)
                log.warning("%s", error)

        try:
            what = f"the capture to {file.path}"
            await contain_once_started(self._ports.failures, what, write, task_status.started)
        finally:
            capture.done.set()

    def recorded(
        self, request: CaptureRequest, matches: Matches | None = None, since: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """What the flight recorder has since a `moment`, as pcapng. Raises RefusedError if there is none."""
        return self._recorder().stream(request, matches, since)

    async def flows(self, since_s: float | None = None, port: str | None = None) -> model.FlowsInfo:
        """Who talked to whom, in the last so many seconds, by a port or endpoint; the last one heard first.

        Raises RefusedError if there is no flight recorder.
        """
        return await self._recorder().flows(since_s, port)

    def moment(self) -> int:
        """Now, for `recorded`. Raises RefusedError if there is no flight recorder."""
        return self._recorder().moment()

    def _recorder(self) -> Recording:
        if self._recording is None:
            raise RefusedError(f"switch {self._name!r} records nothing; start it with --record 60s or --record 64MiB")
        return self._recording
