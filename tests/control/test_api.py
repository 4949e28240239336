"""The control API over its socket: what it answers, and that nothing said to it hurts the switch."""

import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from trio.testing import MockClock

from tests.descriptors import descriptors, opened_since
from tests.frames import BROADCAST, frame, mac
from tests.peers import TIMEOUT_S, Peer, until
from vswitch import RefusedError, VSwitch
from vswitch.control import http
from vswitch.control.api import following, responses

HUGE = 8 << 20


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        yield f"{directory}/default.ctl"


@asynccontextmanager
async def controlled(path: str) -> AsyncIterator[VSwitch]:
    async with VSwitch() as switch:
        await switch.serve_control(path)
        yield switch


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(path: str, target: str = "/v1/status", method: str = "GET", body: bytes = b"") -> Answer:
    """One request on a connection of its own."""
    client = h11.Connection(h11.CLIENT)
    headers = [("Host", "vswitch"), ("Content-Length", str(len(body)))]
    request = client.send(h11.Request(method=method, target=target, headers=headers))
    assert request is not None
    with trio.fail_after(TIMEOUT_S):
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(request + body)
            answer = Answer(0, {}, b"")
            while True:
                event = client.next_event()
                if event is h11.NEED_DATA:
                    client.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Response):
                    answer.status = event.status_code
                    answer.headers = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    answer.body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return answer


async def say(path: str, data: bytes) -> None:
    """Send bytes, for as long as the other end takes them, and wait until it hangs up or has nothing to say."""
    with trio.move_on_after(0.2):
        async with await trio.open_unix_socket(path) as stream:
            try:
                await stream.send_all(data)
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass  # it hung up on us, which is an answer too


async def test_what_it_has(path: str) -> None:
    async with controlled(path) as switch, await Peer.plugged_into(switch, name="guest") as guest:
        await guest.send(frame(BROADCAST, mac(1)))
        await until(lambda: switch.status().macs)
        status = await ask(path)
        assert (status.status, status.json["pid"], status.json["macs"]) == (200, os.getpid(), 1)
        ports = await ask(path, "/v1/ports")
        assert [port["name"] for port in ports.json] == ["guest"]
        macs = await ask(path, "/v1/macs")
        assert [station["mac"] for station in macs.json] == ["52:54:00:00:00:01"]
        for answer in (status, ports, macs):
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["vswitch-api"] == "1"


async def test_endpoints_come_with_urls_that_hold_in_any_directory(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(path).parent)
    async with controlled(path) as switch:
        lab = await switch.attach("tcp://127.0.0.1:0?name=lab")
        await switch.attach("unix://lan.sock")
        assert (await ask(path, "/v1/endpoints")).json == [
            {"name": "lab", "url": lab.url},
            {"name": "unix1", "url": f"unix://{Path(path).parent}/lan.sock"},
        ]
        await lab.detach()
        assert [endpoint["name"] for endpoint in (await ask(path, "/v1/endpoints")).json] == ["unix1"]


async def test_each_guest_to_be_gets_an_address_of_its_own(path: str) -> None:
    async with controlled(path) as switch:
        await switch.attach("tcp://127.0.0.1:0")
        answers = [await ask(path, "/v1/endpoints/tcp1/guests", "POST") for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 5
        assert answers[0].json == {"mac": "52:54:00:c4:00:dd"}
        assert len({answer.json["mac"] for answer in answers}) == 5


async def test_there_are_no_guests_of_an_endpoint_that_is_not_there(path: str) -> None:
    async with controlled(path) as switch:
        await switch.attach("tcp://127.0.0.1:0")
        answer = await ask(path, "/v1/endpoints/lab/guests", "POST")
        assert answer.status == 404
        assert "'lab'" in answer.json["error"]
        assert "tcp1" in answer.json["error"]
        assert (await ask(path, "/v1/endpoints/tcp1/guests")).status == 405


@pytest.mark.parametrize("target", ["/", "/v1", "/v1/", "/v1/nonsense", "/v2/status", "/v1/status/x", "//", "/%00"])
async def test_what_it_does_not_have_is_404_in_json(path: str, target: str) -> None:
    async with controlled(path):
        answer = await ask(path, target)
        assert answer.status == 404
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["vswitch-api"] == "1"
        assert answer.json["error"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FROB"])
@pytest.mark.parametrize("target", ["/v1/status", "/v1/ports", "/v1/vlans", "/v1/failures"])
async def test_another_method_is_405_in_json(path: str, method: str, target: str) -> None:
    async with controlled(path):
        answer = await ask(path, target, method, b"{}")
        assert answer.status == 405
        assert answer.headers["vswitch-api"] == "1"
        assert answer.json["error"]


async def test_a_405_says_which_methods_there_are(path: str) -> None:
    """As RFC 9110, 15.5.6, wants it."""
    async with controlled(path):
        answer = await ask(path, method="POST")
        assert "GET" in answer.headers.get("allow", "")


async def test_a_connection_may_be_used_again(path: str) -> None:
    request = b"GET /v1/ports HTTP/1.1\r\nHost: vswitch\r\n\r\n"
    async with controlled(path):
        with trio.fail_after(TIMEOUT_S):
            async with await trio.open_unix_socket(path) as stream:
                for _ in range(3):
                    await stream.send_all(request)
                    answer = b""
                    while not answer.endswith(b"\r\n\r\n[]"):
                        answer += await stream.receive_some()
                    assert answer.startswith(b"HTTP/1.1 200")


NONSENSE = {
    "nothing": b"",
    "zeros": bytes(100_000),
    "all bytes": bytes(range(256)) * 1000,
    "a frame": bytes([0, 0, 0, 60]) + frame(BROADCAST, mac(1)),
    "a TLS hello": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "half a request": b"GET /v1/status HTTP/1.1\r\nHost",
    "half a line": b"GET /v1/sta",
    "no version": b"GET /v1/status\r\n\r\n",
    "an old version": b"GET /v1/status HTTP/0.9\r\n\r\n",
    "no host": b"GET /v1/status HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "bytes in the path": b"GET /\xff\xfe\x80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a whole URL": b"GET http://[::1/v1/status HTTP/1.1\r\nHost: a\r\n\r\n",
    "a bad host": b"GET /v1/nonsense HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "a bad port": b"POST /v1/status HTTP/1.1\r\nHost: a:99999999\r\nContent-Length: 0\r\n\r\n",
    "no path": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a bad header": b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    "a bad header name": b"GET / HTTP/1.1\r\nHost: a\r\n\x00: 1\r\n\r\n",
    "a bad length": b"POST /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a huge length": b"POST /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "bad chunks": b"POST /v1/status HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an unknown coding": b"POST /v1/status HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    "expectations": b"POST /v1/status HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "broken HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256)) * 10,
    "an upgrade": b"GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: !!!\r\n\r\n",
    "a web socket": b"GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "a broken web socket": b"GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "a huge first line": b"GET /" + b"x" * HUGE,
    "a huge header": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * HUGE,
    "many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * (HUGE // 6),
    "a huge body": b"POST /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % HUGE + bytes(HUGE),
    "many requests": b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n" * 2000,
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_does_not_hurt_the_switch(
    path: str, name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        controlled(path) as switch,
        await Peer.plugged_into(switch) as one,
        await Peer.plugged_into(switch) as two,
    ):
        await say(path, NONSENSE[name])
        assert (await ask(path)).status == 200
        await one.send(frame(BROADCAST, mac(1)))
        assert await two.receive(1) == [frame(BROADCAST, mac(1))]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert "Traceback" not in caplog.text


async def test_nonsense_from_many_at_once_does_not_hurt_the_switch(path: str) -> None:
    async with controlled(path):
        async with trio.open_nursery() as nursery:
            for data in NONSENSE.values():
                nursery.start_soon(say, path, data)
        assert (await ask(path)).status == 200


async def test_clients_that_hang_up_hard_do_not_hurt_the_switch(path: str) -> None:
    request = b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n"
    async with controlled(path):
        for size in (0, 10, len(request)):
            for _ in range(20):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                    client.sendall(request[:size])
                await trio.lowlevel.checkpoint()
        assert (await ask(path)).status == 200


async def test_many_clients_at_once_all_get_their_answers(path: str) -> None:
    found = []

    async def client() -> None:
        found.append((await ask(path)).status)

    async with controlled(path), trio.open_nursery() as nursery:
        for _ in range(80):
            nursery.start_soon(client)
    assert found == [200] * 80


async def test_idle_connections_do_not_keep_others_from_being_answered(path: str) -> None:
    async with controlled(path):
        idle = [await trio.open_unix_socket(path) for _ in range(300)]
        assert (await ask(path)).status == 200
        for stream in idle:
            await stream.aclose()


@pytest.mark.parametrize("number", ["0", "x", "%00", "9" * 5000])
async def test_a_capture_that_is_not_there_cannot_be_ended(path: str, number: str) -> None:
    async with controlled(path) as switch:
        answer = await ask(path, f"/v1/captures/{number}", "DELETE")
        assert (answer.status, answer.json["error"]) == (404, "there is no such capture")
        assert switch.failures.total == 0


async def test_a_head_begins_no_capture_that_goes_on(path: str) -> None:
    async with controlled(path) as switch:
        answer = await ask(path, "/v1/capture", "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        ended = await ask(path, f"/v1/captures/{answer.headers['vswitch-capture']}", "DELETE")
        assert ended.status == 404
        assert switch.failures.total == 0


@pytest.mark.parametrize("target", ["/v1/status", "/v1/nonsense"])
async def test_a_client_that_reads_nothing_is_hung_up_on(path: str, target: str, autojump_clock: MockClock) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()

    async with controlled(path) as switch, await trio.open_unix_socket(path) as stream:
        with trio.move_on_after(1):  # it is full before
            while True:
                await stream.send_all(request * 100)
        await trio.sleep(responses.STALL_S + http.LINGER_S)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(request)
        assert switch.failures.total == 0


async def follow(path: str, query: str = "", first: bytes = b":\n\n") -> trio.SocketStream:
    """A connection on which events come; it is read as far as `first`, usually the comment that it begins with."""
    stream = await trio.open_unix_socket(path)
    await stream.send_all(f"GET /v1/events/stream{query} HTTP/1.1\r\nhost: vswitch\r\n\r\n".encode())
    await receive_until(stream, first)
    return stream


async def receive_until(stream: trio.SocketStream, end: bytes) -> bytes:
    data = b""
    with trio.fail_after(TIMEOUT_S):
        while end not in data:
            more = await stream.receive_some()
            assert more, data
            data += more
    return data


async def test_events_are_followed_from_a_number_on(path: str) -> None:
    async with controlled(path) as switch, await Peer.plugged_into(switch, name="first"):
        [first] = (await ask(path, "/v1/events")).json
        assert (first["code"], first["ports"]) == ("up", ["first"])
        assert (await ask(path, "/v1/events?code=down")).json == []
        since = f"?since={first['number']}"
        async with await follow(path, first=b'"first up: ') as old, await follow(path, since) as new:
            await switch.attachments.detach("first")
            assert await receive_until(old, b'"first down: ')
            assert b"first up" not in await receive_until(new, b'"first down: ')


async def test_so_many_follow_events_at_most(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FOLLOWERS_MAX", 2)
    async with controlled(path):
        async with await follow(path), await follow(path):
            refused = await ask(path, "/v1/events/stream")
            assert (refused.status, refused.json) == (409, {"error": "2 clients follow events already; end some"})
        with trio.fail_after(TIMEOUT_S):
            while True:  # it takes a moment until those that are gone are known to be
                async with await trio.open_unix_socket(path) as stream:
                    await stream.send_all(b"GET /v1/events/stream HTTP/1.1\r\nhost: vswitch\r\n\r\n")
                    if b"200" in await receive_until(stream, b"\r\n\r\n"):
                        break


async def test_nothing_of_it_is_left(path: str) -> None:
    async with controlled(path):
        await ask(path)  # what is imported and opened once is there now
    before = descriptors()
    async with controlled(path):
        idle = await trio.open_unix_socket(path)
        await ask(path)
    await idle.aclose()
    assert opened_since(before) == {}
    assert not await trio.Path(path).exists()


async def test_a_path_that_is_taken_is_refused_plainly(path: str) -> None:
    await trio.Path(path).write_text("precious")
    with pytest.raises(RefusedError, match="not a socket"):
        async with controlled(path):
            pass
    assert await trio.Path(path).read_text() == "precious"


async def test_two_switches_cannot_have_the_same_path(path: str) -> None:
    async with controlled(path), VSwitch() as other:
        with pytest.raises(RefusedError, match="in use"):
            await other.serve_control(path)
        assert (await ask(path)).status == 200


async def test_the_socket_is_for_this_user_only(path: str) -> None:
    async with controlled(path):
        assert Path(path).stat().st_mode & 0o777 == 0o600  # noqa: ASYNC240
