"""A TLS connection (RFC 8446), and the bytes that it carries to and from a port.

The port has one end of a pair of sockets, so that to the data plane it is a stream as any other. From the other end,
tasks of trio's move large pieces, each of which waits until the one before is taken: what is on its way is bounded, and
who does not read is noticed as if there was no TLS.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import trio

from vswitch.endpoints import inet
from vswitch.endpoints.stream import liveness
from vswitch.errors import printable

PIECE = 1 << 18
RECORD = 1 << 14  # RFC 8446, 5.1
VERDICT_S = 2.0
NAME_MAX = 100

_VERIFY = {  # OpenSSL include/openssl/x509_vfy.h
    **dict.fromkeys((18, 19, 20, 21), "its certificate is not from a CA in our ca.pem"),
    9: "its certificate is not valid yet, or a clock is wrong",
    10: "its certificate has expired",
    26: "its certificate is not for this use: it needs serverAuth to listen and clientAuth to connect",
}
_WRONG_NAME = (62, 64)
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"}
_ALERTS = {  # RFC 8446, 6.2
    "unknown ca": "it refuses our certificate: not from a CA that it knows",
    "certificate expired": "it refuses our certificate: expired",
    "bad certificate": "it refuses our certificate",
    "certificate unknown": "it refuses our certificate",
    "unsupported certificate": "it refuses our certificate: not for this use",
    "protocol version": "it has no version of TLS from 1.2 on",
}


class TlsConnection:
    """One over a connected socket, which stays the caller's. With a `server_name` it is the client's side, and that is
    the name, or the address, that the other's certificate is to have."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._early = b""  # what has come in with the handshake's end
        self._is_client = server_name is not None
        self._tls = context.wrap_bio(self._received, self._to_send, not self._is_client, server_name)

    @property
    def name(self) -> str:
        """The other side's, by its certificate."""
        return _name(self._tls.getpeercert() or {})

    async def handshake(self) -> None:
        """Have both sides verify each other. Raises OSError, which says why that fails."""
        try:
            while not await self._has_finished():
                await self._receive()
            if self._is_client and self._tls.version() == "TLSv1.3":
                await self._hear_verdict()
        except ssl.SSLError as error:
            with suppress(OSError):
                await self._send()  # it is told, too
            raise ConnectionRefusedError(why(error)) from None

    async def _has_finished(self) -> bool:
        """As far as it goes with what has been received."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            await self._send()
            return False
        await self._send()
        return True

    async def _hear_verdict(self) -> None:
        """A client has finished before the server has seen its certificate (RFC 8446, 2). What comes next is a refusal,
        or else a ticket or data; a server that gives no tickets may say nothing for long."""
        with trio.move_on_after(VERDICT_S):
            await self._receive()
            self._early, ended = self._decrypt()
            if ended:
                raise ConnectionRefusedError("it has closed the connection")

    async def carry(self, end: socket.socket) -> str:
        """Bytes to and from one end of a pair of sockets, until the connection ends; answers why it has."""
        end.setblocking(False)
        reasons: list[str] = []

        async def run(way: Callable[[socket.socket], Awaitable[str]]) -> None:
            try:
                reasons.append(await way(end))
            except ssl.SSLError as error:
                reasons.append(why(error))
            except OSError as error:
                reasons.append(inet.plain_reason(error))
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for way in (self._to_port, self._from_port, self._watch):
                nursery.start_soon(run, way)
        return reasons[0]

    async def _to_port(self, end: socket.socket) -> str:
        data, ended = self._early, False
        while not ended:
            await _send_all(end, data)
            await self._receive()
            data, ended = self._decrypt()
            if self._to_send.pending > PIECE:  # answers, which go with what the port sends
                return "it wants new keys again and again"
        await _send_all(end, data)
        return "closed by peer"

    async def _from_port(self, end: socket.socket) -> str:
        while data := memoryview(await _receive_some(end)):
            while data:
                data = data[self._tls.write(data) :]
            await self._send()
        with suppress(ssl.SSLError):
            self._tls.unwrap()  # says that this is the end; its answer is not waited for
        await self._send()
        return "closed here"

    async def _watch(self, _: socket.socket) -> str:
        return await liveness.death(self._sock)

    async def _receive(self) -> None:
        if data := await _receive_some(self._sock):
            self._received.write(data)
        else:
            self._received.write_eof()

    def _decrypt(self) -> tuple[bytes, bool]:
        """What has been received, and whether that was all. Raises ssl.SSLError."""
        pieces = []
        ended = True
        try:
            while piece := self._tls.read(RECORD):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            ended = False
        except ssl.SSLEOFError:
            pass  # as from a process that was killed; frames have lengths, so that none is taken for whole
        return b"".join(pieces), ended

    async def _send(self) -> None:
        await _send_all(self._sock, self._to_send.read())


# While the data plane is busy, each wait takes a millisecond, its turn: so there is one for each piece, and no more.


async def _receive_some(sock: socket.socket) -> bytes:
    while True:
        await trio.lowlevel.wait_readable(sock)
        with suppress(BlockingIOError):
            return sock.recv(PIECE)


async def _send_all(sock: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


def why(error: ssl.SSLError) -> str:
    """What is wrong with a connection, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _WRONG_NAME:
            said = error.verify_message.rstrip(".").replace("certificate is", "its certificate is")
            return f"{said.partition(', ')[2]}; add tls_name= with a name that it has"
        return _VERIFY.get(error.verify_code, f"its certificate is refused: {error.verify_message}")
    reason = error.reason or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it has shown no certificate"
    if isinstance(error, ssl.SSLEOFError):
        return "it has closed the connection in the middle of TLS; look whether it has tls=, too"
    if reason in _NO_TLS:
        return "it does not speak TLS"
    _, is_alert, alert = reason.partition("ALERT_")
    words = alert.replace("_", " ").lower()
    if is_alert:
        return _ALERTS.get(words, f"it ends TLS: {words}")
    return f"TLS: {(reason or 'no reason').replace('_', ' ').lower()}"


def _name(certificate: Mapping[str, Any]) -> str:
    """A name of whose certificate it is, safe to print."""
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address", "URI")]
    names += [value for parts in certificate.get("subject", ()) for kind, value in parts if kind == "commonName"]
    return printable(names[0][:NAME_MAX]) if names else "without a name"
