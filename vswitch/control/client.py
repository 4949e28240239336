"""The client's side of the control API: one request to a running switch."""

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vswitch.control import operations, runtime
from vswitch.control.operations import CAPTURE_HEADER, VERSION, VERSION_HEADER, Operation
from vswitch.errors import InputError, MissingError, RefusedError
from vswitch.values import check_name

TIMEOUT_S = 10.0
STREAM_BYTES = 1 << 20

T = TypeVar("T")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        super().__init__("vswitch", timeout=TIMEOUT_S)
        self._path = path
        self._descriptor = descriptor

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def send(self, data: Any) -> None:
        """The descriptor goes with the first bytes."""
        if self._descriptor is not None:
            self.connect()
            sent = socket.send_fds(self.sock, [data], [self._descriptor])
            self._descriptor, data = None, data[sent:]
        super().send(data)


def find(name: str | None) -> Path:
    """The control socket of the switch `name`, or of the only one that runs. Raises RefusedError.

    Without a name, one in the directory of this environment is meant; if none runs there, one elsewhere.
    """
    if name is not None:
        check_name(name)
    found = by_name()
    looked = f"looked in {', '.join(map(str, runtime.places()))}"
    if name is not None and name in found:
        return found[name]
    if name is not None:
        others = f"; running: {', '.join(found)}" if found else ""
        raise RefusedError(
            f"no switch {name!r} is running ({looked}){others}; start one with: vswitch serve --name {name}"
        )
    if not found:
        raise RefusedError(f"no switch is running ({looked}); start one with: vswitch serve")
    return only_one(found, "switches")


def only_one(found: dict[str, Path], what: str) -> Path:
    """Which is meant where no name says so, as in `find`. Raises RefusedError if there are several."""
    here = {name: path for name, path in found.items() if path.parent == runtime.directory()}
    meant = here or found
    if len(meant) > 1:
        raise RefusedError(f"several {what} are running: {', '.join(meant)}; choose one with --name")
    return next(iter(meant.values()))


def by_name(is_wanted: Callable[[Path], bool] = lambda path: True) -> dict[str, Path]:
    """Where this user's switches answer; of several with one name, the first that is found.

    Raises RefusedError if they cannot be looked for.
    """
    found: dict[str, Path] = {}
    for path in filter(is_wanted, running()):
        found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def running() -> list[Path]:
    """The control sockets of all this user's switches, in the order of `runtime.places`. Raises as `by_name` does."""
    return [path for path in runtime.control_sockets() if _answers(path)]


def ask(
    path: Path,
    operation: Operation[Any],
    query: msgspec.Struct | None = None,
    body: msgspec.Struct | None = None,
    *,
    descriptor: int | None = None,
    **parameters: str,
) -> bytes:
    """What an operation is answered with; `parameters` are those of its path. A `descriptor` is passed on with it.

    Raises RefusedError if the switch does not answer, or not in our version, InputError if it does not know what is
    asked for.
    """
    connection = _UnixConnection(path, descriptor)
    try:
        connection.request(operation.method, operation.target(parameters, query), _written(body))
        response = connection.getresponse()
        answered = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise RefusedError(f"the switch at {path} does not answer: {str(error)[:200]}") from None
    finally:
        connection.close()
    _check(path, operation, response, answered)
    return answered


def _written(body: msgspec.Struct | None) -> bytes | None:
    """Raises InputError for bytes that are no text."""
    try:
        return None if body is None else msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise InputError(f"{error.object!r} is no text in UTF-8") from None


def call(
    path: Path,
    operation: Operation[T],
    query: msgspec.Struct | None = None,
    body: msgspec.Struct | None = None,
    *,
    descriptor: int | None = None,
    **parameters: str,
) -> T:
    """An operation's answer. Raises as `ask` does, and RefusedError if the answer has another form."""
    return decode(path, operation, ask(path, operation, query, body, descriptor=descriptor, **parameters))


def decode(path: Path, operation: Operation[T], body: bytes) -> T:
    """The answer of the switch at `path`. Raises RefusedError if it has another form."""
    return read(path, operation.answer, body)


def read(path: Path, kind: type[T], body: bytes) -> T:
    """What the switch at `path` says in JSON. Raises RefusedError if it has another form."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RefusedError(f"the switch at {path} answers in another form than this command knows: {error}") from None


class SwitchEnded(RefusedError):
    """The switch has ended before an answer had."""


class Stream:
    """An answer that goes on: an iterable of what comes, until the switch ends it.

    `end` has the switch end it, whatever is on the way still comes. Raises as `ask` does; iterating raises SwitchEnded
    if the answer is cut off, unless it was to end.
    """

    def __init__(
        self, path: Path, operation: Operation[Any], query: msgspec.Struct, body: msgspec.Struct | None = None
    ) -> None:
        self._path = path
        self._told_to_end = False
        self._connection = _UnixConnection(path)
        try:
            self._connection.request(operation.method, operation.target(query=query), _written(body))
            self._response = self._connection.getresponse()
            if self._response.status != http.client.OK:
                _check(path, operation, self._response, self._response.read())
            _check(path, operation, self._response, b"")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise RefusedError(f"the switch at {path} does not answer: {str(error)[:200]}") from None
        except RefusedError:
            self._connection.close()
            raise
        self._connection.sock.settimeout(None)
        self._number = self._response.headers.get(CAPTURE_HEADER)

    def __iter__(self) -> Iterator[bytes]:
        try:
            while data := self._response.read1(STREAM_BYTES):
                yield data
        except (OSError, http.client.HTTPException):
            if not self._told_to_end:
                raise SwitchEnded("the switch has ended") from None
        finally:
            self._connection.close()

    def end(self) -> None:
        self._told_to_end = True
        with suppress(RefusedError):  # it has ended already
            ask(self._path, operations.END_CAPTURE, number=self._number or "")


def _check(path: Path, operation: Operation[Any], response: http.client.HTTPResponse, body: bytes) -> None:
    """Whether a switch of our version has done what was asked. Raises InputError, RefusedError."""
    spoken = response.headers.get(VERSION_HEADER)
    if spoken != VERSION:
        raise RefusedError(
            f"the switch at {path} speaks version {spoken or 'unknown'} of the control API, this command version "
            f"{VERSION}; use the vswitch that started it, or restart the switch"
        )
    if response.status == http.client.OK:
        return
    kind = operations.error_of(response.status)
    if kind is not None and (kind is not MissingError or operation.asks_by_name):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, KeyError):
            raise kind(msgspec.json.decode(body, type=dict[str, str])["error"])
    raise RefusedError(f"the switch at {path} answered {response.status}: {body[:200].decode(errors='replace')}")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # it listens, but is too busy to accept
        except OSError:
            return False
        return True
