"""The client's side of the control API: one request to a running switch."""

import http.client
import socket
from pathlib import Path
from typing import TypeVar

import msgspec

from vswitch.control import runtime
from vswitch.endpoints.url import check_name
from vswitch.errors import RefusedError

API_VERSION = "1"
VERSION_HEADER = "vswitch-api"
TIMEOUT_S = 10.0

T = TypeVar("T")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("vswitch", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def find(name: str | None) -> Path:
    """The control socket of the switch `name`, or of the only one that runs. Raises RefusedError."""
    if name is not None:
        check_name(name)
    running = names()
    if name is not None and name in running:
        return runtime.control_path(name)
    if name is not None:
        others = f"; running: {', '.join(running)}" if running else ""
        raise RefusedError(f"no switch {name!r} is running{others}; start one with: vswitch serve --name {name}")
    if not running:
        raise RefusedError("no switch is running; start one with: vswitch serve")
    if len(running) > 1:
        raise RefusedError(f"several switches are running: {', '.join(running)}; choose one with --name")
    return runtime.control_path(running[0])


def names() -> list[str]:
    """The names of this user's switches that run. Raises RefusedError if they cannot be looked for."""
    return [name for name in runtime.names() if _answers(runtime.control_path(name))]


def get(path: Path, resource: str) -> bytes:
    """The JSON at `resource`. Raises RefusedError if the switch does not answer, or not in our version."""
    return _request("GET", path, resource)


def post(path: Path, resource: str) -> bytes:
    """The JSON that posting to `resource` is answered with. Raises RefusedError as `get` does."""
    return _request("POST", path, resource)


def decode(path: Path, body: bytes, kind: type[T]) -> T:
    """An answer of the switch at `path`. Raises RefusedError if it has another form."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RefusedError(f"the switch at {path} answers in another form than this command knows: {error}") from None


def _request(method: str, path: Path, resource: str) -> bytes:
    connection = _UnixConnection(path)
    try:
        connection.request(method, f"/v{API_VERSION}/{resource}")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise RefusedError(f"the switch at {path} does not answer: {str(error)[:200]}") from None
    finally:
        connection.close()
    spoken = response.headers.get(VERSION_HEADER)
    if spoken != API_VERSION:
        raise RefusedError(
            f"the switch at {path} speaks version {spoken or 'unknown'} of the control API, this command version "
            f"{API_VERSION}; use the vswitch that started it, or restart the switch"
        )
    if response.status != http.client.OK:
        raise RefusedError(f"the switch at {path} answered {response.status}: {body[:200].decode(errors='replace')}")
    return body


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
