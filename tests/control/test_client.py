"""The client's side, against servers that are not what they should be."""

import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from vswitch import cli
from vswitch.control import client, operations, runtime
from vswitch.errors import InputError, RefusedError

JSON = b"application/json"


def response(body: bytes = b"{}", *, status: bytes = b"200 OK", version: bytes | None = b"1") -> bytes:
    spoken = b"" if version is None else b"vswitch-api: " + version + b"\r\n"
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n%s" % (status, len(body), spoken, body)


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where control sockets are looked for; nobody waits long for one."""
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as root:
        monkeypatch.setenv("XDG_RUNTIME_DIR", root)
        monkeypatch.setenv("VSWITCH_PATH", "")
        monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
        yield runtime.make_directory()


Serve = Callable[..., None]


@pytest.fixture
def serve(directory: Path) -> Iterator[Serve]:
    """Puts a server behind the control socket `default` that answers everybody with the same bytes."""
    with ExitStack() as stack:

        def serve(answer: bytes | None) -> None:
            listener = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
            listener.bind(str(directory / "default.ctl"))
            listener.listen()
            thread = threading.Thread(target=answer_all, args=(listener, answer))
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)

        yield serve


def answer_all(listener: socket.socket, answer: bytes | None) -> None:
    """`answer` None: never. Ends when the listener is shut down."""
    with ExitStack() as connections:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.enter_context(connection)
            if answer is not None:
                try:
                    if connection.recv(65536):
                        connection.sendall(answer)
                    connection.close()
                except OSError:
                    continue


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (response(version=b"2"), ["version 2", "version 1", "restart"]),
        (response(version=b"0"), ["version 0", "version 1"]),
        (response(version=None), ["version", "1"]),
        (response(status=b"404 Not Found", version=b"2"), ["version 2", "version 1"]),
        (response(status=b"500 Internal Server Error"), ["500"]),
        (response(status=b"404 Not Found", body=b'{"error":"no such thing"}'), ["404", "no such thing"]),
        (response(b'{"name":"x"}'), ["form"]),
        (response(b"[]"), ["form"]),
        (response(b"no json"), ["form"]),
        (response(b"\xff\xfe"), ["form"]),
        (response(b"\x1b[31m", status=b"500 Oops"), ["500"]),
        (response(version=b"\x1b[31m"), ["version"]),
        (b"", ["does not answer"]),
        (b"\x00" * 1000, ["does not answer"]),
        (b"SSH-2.0-OpenSSH_9.2\x1b[31m\r\n", ["does not answer"]),
        (b"HTTP/1.1 \xff\xfe\r\n\r\n", ["does not answer"]),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"\r\n", ["does not answer"]),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", ["does not answer"]),
        (b"HTTP/1.1 200 OK\r\nvswitch-api: 1\r\ncontent-length: 100\r\n\r\nshort", ["does not answer"]),
        (b"HTTP/1.1 200 OK\r\nvswitch-api: 1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", ["does not answer"]),
        (None, ["does not answer"]),
    ],
    ids=lambda value: repr(value)[-40:] if isinstance(value, bytes | None) else "",
)
@pytest.mark.parametrize("command", ["status", "ports", "macs"])
def test_a_server_that_does_not_fit_is_one_line(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    answer: bytes | None,
    said: list[str],
) -> None:
    if answer == response(b"[]") and command != "status":
        answer = response(b"[3]")  # an empty list would be right
    serve(answer)
    monkeypatch.setattr(sys, "argv", ["vswitch", command])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vswitch: ")
    assert captured.err.endswith("\n")
    assert captured.err[:-1].isprintable()
    assert len(captured.err) < 1000
    for words in said:
        assert words in captured.err
    assert caught.value.code == 1


def test_json_of_another_version_is_not_passed_on_either(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    serve(response(b"[]", version=b"2"))
    monkeypatch.setattr(sys, "argv", ["vswitch", "ports", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("body", [b"\xff\xfe", b"no json", b"", b"[3]", b"{}"])
def test_what_is_not_the_promised_json_is_not_passed_on_either(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], body: bytes
) -> None:
    serve(response(body))
    monkeypatch.setattr(sys, "argv", ["vswitch", "ports", "--json"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err[:-1].isprintable()
    assert "form" in captured.err
    assert caught.value.code == 1


def test_an_answer_that_fits_is_passed_on(serve: Serve, directory: Path) -> None:
    serve(response(b"[]"))
    assert client.ask(directory / "default.ctl", operations.PORTS) == b"[]"


def test_a_server_too_busy_to_accept_does_not_hang_the_client(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(str(directory / "default.ctl"))
        listener.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(str(directory / "default.ctl"))
            except BlockingIOError:
                break
        failed: list[Exception] = []

        def ask() -> None:
            try:
                client.ask(client.find(None), operations.STATUS)
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(5)
        hangs = thread.is_alive()
        listener.close()  # which lets it go
        thread.join(5)
    assert not hangs
    assert isinstance(failed[0], RefusedError)


def test_what_is_no_socket_is_no_switch(directory: Path) -> None:
    (directory / "default.ctl").write_text("")
    with pytest.raises(RefusedError, match="no switch is running"):
        client.find(None)
    with pytest.raises(RefusedError, match="'default'"):
        client.find("default")


def test_the_usual_places_are_looked_in(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    uid = os.geteuid()
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    monkeypatch.delenv("VSWITCH_PATH")
    elsewhere = [Path(f"/run/user/{uid}/vswitch"), Path(f"/var/tmp/vswitch-{uid}"), Path(f"/tmp/vswitch-{uid}")]
    assert runtime.places() == [directory, *elsewhere]
    monkeypatch.delenv("TMPDIR")
    del elsewhere[1]
    assert runtime.places() == [directory, *elsewhere]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "\0", "x" * 64])
def test_what_cannot_be_a_name_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError):
        client.find(name)


def test_a_name_too_long_for_a_socket_is_just_not_running(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    deep = directory / ("d" * 60)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises((RefusedError, InputError)):
        client.find("x" * 63)
