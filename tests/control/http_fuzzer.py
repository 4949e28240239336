"""What clients do to an HTTP server on a unix socket: all of it from a seed, most of it wrong.

A `Composer` thinks up clients, and a `Fuzzer` is them, one after the other; it holds on to a few connections. Every
wait is bounded: a client that gets no answer leaves.
"""

import json
import random
import re
import socket
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import quote, urlencode

HELD_MAX = 8
CONNECT_S = 20.0  # a server that lets nobody in for so long has stopped
SEND_S = 0.1
ANSWER_S = 0.05
MOMENT_S = 0.002  # for what may get none
READ_MAX = 1 << 20

Ending = Literal["read", "half-close", "leave", "hold"]

PATHS = ["status", "ports", "macs", "vlans", "endpoints", "failures"]
METHODS = [
    "PUT", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "FROB", "get", "G" * 5000, "", "G ET", "GÉT", "\0",
]  # fmt: skip
HOSTS = [
    "[::", "[::1", "[::1]", "[::1]:80", "a:99999999", "a:", "a b", "", "\xff", "a/../b", "a@b", "x" * 3000, "[v1.a]",
]  # fmt: skip
ODD_TARGETS = [
    "*", "/", "//", "", "/v1", "/v1/", "/v1/status/", "/v2/status", "/%00", "/v1/%73tatus", "/v1/status%", "/%zz%",
    "/v1/st\xe4tus", "/v1/status#x", "/\xff\xfe\x80", "/v1/%ff%fe", "/..%2f..%2fetc%2fpasswd", "/v1/../v1/status",
    "http://[::1/v1/status", "http://a/v1/status", "a:1", "/v1/status?" + "a=b&" * 500, "/" + "x" * 8000, "/v1/ports?%",
    "/v1/endpoints//guests", "/v1/endpoints/%00/guests", "/v1/endpoints/" + "%ed%a0%80" * 9 + "/guests", "/v1/status\t",
]  # fmt: skip
NUMBERS = ["0", "1", "-1", "64", "1000", "2147483647", "2147483648", "9223372036854775808", "9" * 30, "9" * 4500]
NUMBERS += ["", "1e3", "0x10", "1_000", " 7 ", "nan", "inf", "-inf", "1e400", "0.001", "\u0661", "true", "null"]
SWITCHES = ["true", "false", "1", "0", "yes", "", "maybe", "null"]
# Nothing that is looked up by name, which might ask a server.
FILTERS = [
    "arp", "ip and tcp port 80", "vlan 10 and arp", "ether[0] & 1 != 0", "ether host 52:54:00:00:00:01", "not arp", "",
    "(", "ether[", "len > 1 and", "inbound", "port 99999", "ether[0xffffffff] = 1", "arp\0", "\x01", "1 2 3",
    "vlan 5000", "tcp[tcpflags] & tcp-syn != 0", "ip[0:3] = 1", "arp or " * 40 + "arp", "(" * 400,
    "net 10.0.0.0/33", "\U0001f512",
]  # fmt: skip
ODD_HEADERS = [
    "X: " + "y" * 10_000, "X:", ": x", "X : y", "no colon", "X: a\x00b", "X: \xff", "X\xff: y", " folded: x",
    "X: a\x0bb", "Connection: close", "Connection: keep-alive, close", "Connection: \xe4", "Expect: 100-continue",
    "Expect: nothing", "Upgrade: h2c", "Upgrade:", "Content-Type: multipart/form-data; boundary=",
    "Accept: */*", "Cookie: " + "a=b; " * 200, "Transfer-Encoding: gzip", "Transfer-Encoding: identity", "TE: trailers",
    "Range: bytes=-1", "X: y\r\n folded\r\n\tand again", "X: y\r\n\r\nGET /v1/status HTTP/1.1", "Host: another",
    "X: y\nZ: bare", "X: y\rZ: q",
]  # fmt: skip
LENGTHS = [
    "-1", "+1", "65536", "65537", "9" * 19, "9" * 21, "9" * 5000, "0x10", "1 1", "1,1", "1, 2", "", "\u0663", "00",
]  # fmt: skip
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TLS_HELLO = bytes.fromhex("1603010200010001fc0303")


class Client(NamedTuple):
    """What one does: what it writes, how it then ends, and how many answers it hopes for."""

    writes: list[bytes]
    ending: Ending
    answers: int
    patience_s: float


class Composer:
    """Thinks up clients. Captures are written below `directory` only."""

    def __init__(self, rng: random.Random, directory: Path, ports: list[str]) -> None:
        self._rng = rng
        self._directory = directory
        self._ports = [*ports, "nobody", "", "\xe4", "x" * 300]
        self._captures = 0
        self._prompt = True  # what the client has said so far is answered at once

    def client(self) -> Client:
        rng = self._rng
        kinds: list[Callable[[], bytes]] = [self._nonsense, self._web_socket, self._preface]
        self._prompt = True
        if rng.random() < 0.1:
            data, answers, self._prompt = rng.choice(kinds)(), 1, False
        else:
            answers = rng.choice([1, 1, 1, 1, 2, 3, 5, 8])
            data = b"".join([self._request() for _ in range(answers)])
        if rng.random() < 0.08:
            data, self._prompt = data[: rng.randrange(len(data) + 1)], False
        endings: list[Ending] = ["read", "half-close", "leave", "hold"]
        ending = rng.choices(endings, [75, 12, 10, 3])[0]
        patience_s = ANSWER_S if self._prompt or rng.random() < 0.1 else MOMENT_S
        return Client(self._split(data), ending, answers, patience_s)

    def _split(self, data: bytes) -> list[bytes]:
        if self._rng.random() < 0.8:
            return [data]
        cuts = sorted(self._rng.randrange(len(data) + 1) for _ in range(self._rng.randrange(1, 6)))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def _request(self) -> bytes:
        """One, whole if not well-formed."""
        rng = self._rng
        method, target, body = self._asked()
        if rng.random() < 0.1:
            method = rng.choice(METHODS)
        version = (
            "HTTP/1.1" if rng.random() < 0.95 else rng.choice(["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "http/1.1", ""])
        )
        host = "vswitch" if rng.random() < 0.93 else rng.choice(HOSTS)
        headers = [f"Host: {host}"] if rng.random() < 0.98 else []
        headers += rng.choices(ODD_HEADERS, k=rng.choice([1, 1, 2, 5])) if rng.random() < 0.15 else []
        framing, body = self._framed(body)
        headers += framing
        rng.shuffle(headers)
        end = "\r\n"
        if rng.random() < 0.03:
            end, self._prompt = rng.choice(["\n", "\r", "\r\r\n"]), False
        head = end.join([f"{method} {target} {version}", *headers, "", ""]).encode("latin-1", "replace")
        if rng.random() < 0.03:
            head, self._prompt = self._mangled(head), False
        return head + body

    def _asked(self) -> tuple[str, str, bytes]:
        """A method, a target and a body that may go together."""
        rng = self._rng
        kind = rng.choices(["plain", "capture", "file", "recording", "end", "guest", "odd"], [40, 10, 4, 2, 8, 1, 12])[
            0
        ]
        if kind == "capture":
            self._captures += 1
            self._prompt = False
            return "GET", f"/v1/capture{self._query()}", b""
        if kind == "file":
            self._captures += 1
            self._prompt = False
            return "POST", f"/v1/capture{self._query()}", self._file()
        if kind == "recording":
            return "GET", f"/v1/recording{self._query()}", b""
        if kind == "end":
            number = rng.choice([str(max(0, self._captures - rng.randrange(30))), *NUMBERS])
            return "DELETE", f"/v1/captures/{quote(number)}", b""
        if kind == "guest":
            return "POST", f"/v1/endpoints/{quote(rng.choice(self._ports))}/guests", b""
        if kind == "odd":
            return rng.choice(["GET", "POST", "DELETE"]), rng.choice(ODD_TARGETS), rng.choice([b"", b"{}"])
        return "GET", f"/v1/{rng.choice(PATHS)}", b"" if rng.random() < 0.9 else rng.randbytes(rng.randrange(3000))

    def _query(self) -> str:
        rng = self._rng
        values = {"ports": self._ports, "filter": FILTERS, "drops": SWITCHES, "lossless": SWITCHES}
        values |= dict.fromkeys(("snaplen", "count", "duration_s"), NUMBERS)
        values |= {"unknown": ["x"], "": ["", "="], "filter\0": ["arp"]}
        names = rng.choices(list(values), [3, 3, 1, 1, 2, 2, 2, 0.2, 0.2, 0.1], k=rng.choice([0, 0, 1, 1, 2, 4]))
        query = urlencode([(name, rng.choice(values[name])) for name in names])
        if rng.random() < 0.1:
            query = rng.choice(
                ["&&&", "=", "%", "filter=%ff%fe", "filter=%zz", "a" * 9000, "count=1;count=2", "?", query * 9]
            )
        return f"?{query}" if query else ""

    def _file(self) -> bytes:
        """The body that says a file; only its path is never spoilt."""
        rng = self._rng
        names = [
            "a.pcapng",
            "b.pcapng",
            "ä",
            "",
            ".",
            "none/a",
            "x" * 300,
            "a\0b",
            "a\n",
            "\ud800",
            "a.pcapng/b",
            "\x7f",
        ]
        name = rng.choice(names[:2] * 6 + names)
        file: dict[str, object] = {"path": f"{self._directory}/{name}"}
        odd: list[object] = [0, 1, -1, 2**31, 2**63, 2**64, 10**30, 1.5, "1", None, True, [], {}]
        if rng.random() < 0.2:
            limits = [
                "10frames",
                "0frames",
                "9" * 18 + "frames",
                "1kB",
                "60s",
                "1e3s",
                "nans",
                "1s,2s",
                "x",
                "",
                "1h",
                "9YB",
            ]
            file["rotate"] = rng.choice([[rng.choice(limits)], rng.choices(limits, k=2), rng.choice(odd), "10frames"])
        for field in ("keep", "floor"):
            if rng.random() < 0.1:
                file[field] = rng.choice(odd)
        if rng.random() < 0.05:
            file[rng.choice(["more", "", "\0"])] = rng.choice(odd)
        if rng.random() < 0.05:
            file["path"] = rng.choice([0, 1.5, None, True, [], {}])
        if rng.random() < 0.1:
            return rng.choice(
                [b"", b"{", b"[]", b"null", b'{"path":' + b"[" * 5000, b"\xff", b"[" * 60_000, b'{"path":"\xff"}']
            )
        return json.dumps(file).encode()

    def _framed(self, body: bytes) -> tuple[list[str], bytes]:
        """Headers that say where the body ends, and the body as it is sent."""
        rng = self._rng
        length = f"Content-Length: {len(body)}"
        if rng.random() < 0.88:
            return [length] if body or rng.random() < 0.1 else [], body
        self._prompt = False
        some = body or rng.randbytes(rng.choice([1, 10, 1000]))
        size = b"%x" % len(some)
        chunked = b"%b\r\n%b\r\n0\r\n\r\n" % (size, some)
        bad = rng.choice(
            [b"zz\r\n", b"-1\r\n", size, b"f" * 30 + b"\r\n", size + b";x\r\n" + some + b"no", b"0\r\nX: y\r\n\r\n"]
        )
        large = bytes(rng.choice([65536, 65537, 300_000]))
        choices: list[tuple[list[str], bytes]] = [
            (["Transfer-Encoding: chunked"], chunked),
            (["Transfer-Encoding: chunked"], bad),
            (["Transfer-Encoding: chunked", length], chunked),
            (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], chunked),
            ([f"Content-Length: {rng.choice(LENGTHS)}"], some),
            ([f"Content-Length: {len(some) + rng.choice([-1, 1, 7])}"], some),
            ([length, length], body),
            ([length, f"Content-Length: {len(body) + 1}"], body),
            ([f"Content-Length: {len(some)}", "Expect: 100-continue"], some),
            ([f"Content-Length: {len(large)}"], large),
        ]
        return rng.choice(choices)

    def _mangled(self, head: bytes) -> bytes:
        at = self._rng.randrange(len(head))
        what = self._rng.choice([b"", b"\0", b"\r\n", b"\n", b" ", b"\xff", self._rng.randbytes(3), b"\r\n\r\n"])
        return head[:at] + what + head[at + self._rng.randrange(2) :]

    def _nonsense(self) -> bytes:
        rng = self._rng
        return rng.choice([
            TLS_HELLO + rng.randbytes(200),
            rng.randbytes(rng.randrange(1, 3000)),
            bytes(rng.choice([1, 20_000])),
            b"\r\n" * rng.randrange(1, 5),
            b"GET /" + b"x" * 40_000,
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 5000,
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b" " * 15_000 + b"\x0b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n" + b" z\r\n" * 3000 + b"\r\n",
            b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n" * rng.randrange(20, 200),
            b"",
        ])  # fmt: skip

    def _web_socket(self) -> bytes:
        rng = self._rng
        headers = ["Host: a", "Connection: Upgrade", "Upgrade: websocket"]
        headers += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="][: rng.randrange(3)]
        request = "\r\n".join([f"{rng.choice(['GET', 'HEAD', 'POST'])} /v1/status HTTP/1.1", *headers, "", ""])
        return request.encode() + rng.randbytes(rng.choice([0, 1, 1, 6, 200]))

    def _preface(self) -> bytes:
        rng = self._rng
        return PREFACE[: rng.randrange(1, 30)] + rng.choice([b"", bytes(9), rng.randbytes(40), b"\0\0\6\4" + bytes(11)])


class Fuzzer:
    """Is one client after the other. `answers` counts those that came, by status."""

    def __init__(self, path: Path, composer: Composer) -> None:
        self._path = str(path)
        self._composer = composer
        self._held: deque[socket.socket] = deque()
        self.requests = 0
        self.answers: Counter[int] = Counter()

    def step(self) -> None:
        """The next client, from its first byte until it is gone or held on to. Raises OSError if nobody lets it in."""
        client = self._composer.client()
        self.requests += client.answers
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(CONNECT_S)
        try:
            sock.connect(self._path)
            self._act(sock, client)
        finally:
            if client.ending == "hold":
                self._held.append(sock)
            else:
                sock.close()
        if len(self._held) > HELD_MAX:
            self._held.popleft().close()

    def _act(self, sock: socket.socket, client: Client) -> None:
        try:
            sock.settimeout(SEND_S)
            for data in client.writes:
                sock.sendall(data)
            if client.ending == "half-close":
                sock.shutdown(socket.SHUT_WR)
        except OSError:  # it reads no more; there may be an answer yet
            pass
        if client.ending in ("read", "half-close"):
            self._note(_answer(sock, client))

    def _note(self, answer: bytes) -> None:
        assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:100]
        for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer):
            self.answers[int(status)] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._held:
            self._held.popleft().close()


def _answer(sock: socket.socket, client: Client) -> bytes:
    """What comes, until that is as many answers as were hoped for, or nothing comes for a while."""
    sock.settimeout(client.patience_s)
    answer = b""
    try:
        while len(answer) < READ_MAX and answer.count(b"HTTP/1.1 ") < client.answers:
            data = sock.recv(65536)
            if not data:
                break
            answer += data
    except OSError:  # nothing more in time, or it hung up on what we sent last
        pass
    return answer
